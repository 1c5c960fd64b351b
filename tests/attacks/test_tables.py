"""Small tensors whose tables are large: the tables of few tensors are in memory at a time."""

import threading
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray

import spq
from spq import decode, rans
from spq.floats import Convert
from spq.scratch import Scratch
from spqformat.codebook import Codebook
from spqformat.dense_tables import write_dense_head
from spqformat.frequency_tables import flat_frequencies, write_flat
from spqformat.ids import CodebookKind, DType, Encoding
from spqformat.model import Part, TensorRecord
from spqformat.writer import EncodedTensor, serialise

TENSORS = 200
LAID_OUT_BYTES = 1 << 15


def greedy_tensor() -> EncodedTensor:
    """A single level, whose symbol takes 2**15 slots."""
    codebook = Codebook(CodebookKind.FULL, np.array([7], dtype=np.uint8))
    frequencies = flat_frequencies(1, 15)
    tables = write_dense_head(codebook, 8, 8) + bytes([15]) + write_flat()
    coder = rans.build_tables(frequencies[None, :], 15)
    chunk = rans.encode(np.zeros(1, dtype=np.uint8), coder, rans.NO_CONTEXTS)
    return EncodedTensor(DType.U8, Encoding.DENSE, (1,), zlib.crc32(b"\7"), [tables, chunk])


@pytest.fixture(scope="module")
def greedy() -> bytes:
    tensor = greedy_tensor()
    data = b"".join(serialise({f"{n:03}": tensor for n in range(TENSORS)}, {}, {}, {}))
    assert len(data) < 50 * TENSORS
    return data


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_memory_of_tables(greedy: bytes, threads: int | None) -> None:
    with spq.open(greedy) as archive:
        archive.get_tensor("000")  # imports and compiles
        tracemalloc.start()
        try:
            tensors = archive.tensors(threads)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert {array.tobytes() for array in tensors.values()} == {b"\7"}
    # Threads take some memory of their own, and tables take more than their size for a moment.
    assert peak < TENSORS * LAID_OUT_BYTES // 4


class Counted:
    """Stands for the decoder of a tensor of three chunks and counts the ones alive."""

    lock = threading.Lock()
    alive = 0
    most = 0
    opened = 0
    chunk_count = 3

    def __init__(self, record: TensorRecord, read_part: decode.ReadPart, convert: Convert) -> None:
        self._number = int(record.name)
        with Counted.lock:
            Counted.alive += 1
            Counted.opened += 1
            Counted.most = max(Counted.most, Counted.alive)
        time.sleep(0.0005)
        if self._number >= 100 and self._number % 10 == 8:
            raise MemoryError(record.name)

    def __del__(self) -> None:
        with Counted.lock:
            Counted.alive -= 1

    def decode_chunk(self, chunk: int, elements: NDArray[np.generic], scratch: Scratch) -> None:
        time.sleep(0.001 * ((self._number + chunk) % 3))
        if self._number >= 100 and self._number % 10 == 7 and chunk:
            raise ArithmeticError(f"{self._number}.{chunk}")
        elements.view(np.uint8)[chunk] = chunk + 1


def wanted(first: int, count: int) -> list[decode.Wanted]:
    parts = (Part(0, 0, 0),) * 4
    numbers = range(first, first + count)
    records = [TensorRecord(str(n), DType.U8, Encoding.DENSE, (3,), 0, parts) for n in numbers]
    return [decode.Wanted(record, DType.U8) for record in records]


def no_part(record: TensorRecord, index: int) -> bytes:
    raise AssertionError


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    Counted.alive = Counted.most = Counted.opened = 0
    monkeypatch.setattr(decode, "_DECODERS", {Encoding.DENSE: Counted})


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize("threads", [1, 2, 5, 1000])
def test_no_more_open_tensors_than_threads(threads: int) -> None:
    decoded = decode.decode_tensors(wanted(0, 40), no_part, threads)
    assert [*decoded] == [str(n) for n in range(40)]
    assert {array.tobytes() for array in decoded.values()} == {b"\1\2\3"}
    assert (Counted.opened, Counted.alive) == (40, 0)
    assert Counted.most <= threads
    assert Counted.most > 1 or threads == 1


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_refusals_do_not_depend_on_threads(threads: int) -> None:
    for _ in range(5):
        with pytest.raises(ArithmeticError, match=r"^107\.1$"):
            decode.decode_tensors(wanted(100, 40), no_part, threads)
    with pytest.raises(MemoryError, match=r"^118$"):
        decode.decode_tensors(wanted(118, 40), no_part, threads)
    assert Counted.opened <= 6 * (8 + threads)


def test_one_tensor_occupies_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    meeting = threading.Barrier(3, timeout=30)
    monkeypatch.setattr(decode, "_DECODERS", {Encoding.DENSE: Counted})
    monkeypatch.setattr(Counted, "decode_chunk", lambda *_: meeting.wait())
    decode.decode_tensors(wanted(0, 1), no_part, 3)
