"""Tensors in planes of bytes: bit for bit, never larger, and refused when damaged."""

import io
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import spq
from spq import planes, rans
from spq._kernels import OK, join_planes
from spq.encode import encode_tensor
from spq.planes import encode_planes, split_planes
from spqformat import Reason, SpqError
from spqformat.cursor import varint
from spqformat.frequency_tables import write_explicit
from spqformat.ids import DType, Encoding
from spqformat.model import Part, TensorRecord
from spqformat.plane_tables import (
    PlaneTable,
    read_planes_tables,
    sign_last,
    write_coded_plane,
    write_planes_tables,
    write_stored_plane,
)
from spqformat.writer import EncodedTensor, serialise
from tests.runtime.twins import twin

FLOATS = [DType.F64, DType.F32, DType.F16, DType.BF16]
COUNTS = (1, 2, 7, 8, 9, 255, 2047, 2048, 5003)


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def whole_file(tensors: dict[str, NDArray[Any]]) -> bytes:
    stream = io.BytesIO()
    spq.save(tensors, stream)
    return stream.getvalue()


def file_of(tensor: EncodedTensor) -> bytes:
    return b"".join(serialise({"w": tensor}, {}, {}, {}))


def weights(random: np.random.Generator, dtype: DType, count: int) -> NDArray[Any]:
    """Elements as a trained tensor has them, or integers of a similar spread."""
    normal = random.normal(0, 0.05, count)
    if dtype is DType.BF16:
        return (normal.astype("f4").view("u4") >> np.uint32(16)).astype("u2")
    if dtype in FLOATS:
        return normal.astype(dtype.numpy)
    if dtype is DType.BOOL:
        return normal > 0.1
    return np.abs(normal * 200).astype(dtype.numpy)


# --- round trip ------------------------------------------------------------------------------


def check(elements: NDArray[Any], dtype: DType) -> bool:
    """Encode in planes where that gains anything, decode, compare; return whether it did."""
    bits = elements.view(f"u{dtype.item_bytes}")
    crc = zlib.crc32(elements.tobytes())
    tensor = encode_planes(bits, dtype, elements.shape, crc)
    if tensor is None:
        return False
    with spq.open(file_of(tensor)) as archive:
        assert archive.info("w").encoding == "planes"
        assert archive.info("w").dtype == dtype.label
        archive.verify()
        again = archive.get_tensor("w")
    assert again.dtype == dtype.numpy
    assert again.tobytes() == elements.tobytes()
    assert again.flags.writeable
    return True


@pytest.mark.parametrize("dtype", DType)
def test_every_element_type(dtype: DType) -> None:
    random = generator(int(dtype))
    taken = [check(weights(random, dtype, count), dtype) for count in COUNTS]
    assert taken[-1]


SPECIAL = {
    DType.F64: [0, 1 << 63, 0x7FF0 << 48, 0xFFF0 << 48, 1, 0x7FF0_0000_0000_0001, 0xFFFF << 40],
    DType.F32: [0, 0x80000000, 0x7F800000, 0xFF800000, 1, 0x7F800001, 0xFFC12345, 0x807FFFFF],
    DType.F16: [0, 0x8000, 0x7C00, 0xFC00, 1, 0x7C01, 0xFE55, 0x83FF],
    DType.BF16: [0, 0x8000, 0x7F80, 0xFF80, 1, 0x7F81, 0xFFC1, 0x807F],
}


@pytest.mark.parametrize("dtype", FLOATS)
def test_special_values(dtype: DType) -> None:
    """NaNs keep their payloads, zeros their signs; infinities and subnormals are kept."""
    elements = weights(generator(1), dtype, 4001)
    patterns = np.array(SPECIAL[dtype], dtype=f"u{dtype.item_bytes}")
    bits = elements.view(patterns.dtype)
    bits[5 : 5 + 11 * patterns.size] = np.tile(patterns, 11)
    assert check(bits, dtype)


def test_saved_tensors_are_in_planes() -> None:
    random = generator(2)
    tensors: dict[str, NDArray[Any]] = {
        dtype.label: weights(random, dtype, 9000).reshape(30, 300)
        for dtype in (DType.F64, DType.F32, DType.F16)
    }
    tensors["integers"] = random.integers(-9000, 9000, (90, 100))
    data = whole_file(tensors)
    with spq.open(data) as archive:
        assert {archive.info(name).encoding for name in tensors} == {"planes"}
        for name, array in archive.tensors().items():
            assert array.dtype == tensors[name].dtype
            assert array.shape == tensors[name].shape
            assert array.tobytes() == tensors[name].tobytes()


def test_same_tensors_same_bytes() -> None:
    elements = weights(generator(3), DType.F32, 5000)
    assert whole_file({"w": elements}) == whole_file({"w": elements.copy()})


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("count", [(1 << 19) - 1, 1 << 19, (1 << 19) + 1, 1_300_003])
def test_several_chunks(threads: int, count: int) -> None:
    elements = weights(generator(4), DType.F16, count)
    data = whole_file({"w": elements})
    with spq.open(data) as archive:
        record = archive._container.tensors["w"]
        assert record.encoding is Encoding.PLANES
        assert len(record.parts) == 1 + -(-count // (1 << 19))
        assert archive.tensors(threads)["w"].tobytes() == elements.tobytes()


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_small_chunks(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setattr(planes, "CHUNK_ELEMENTS", 2048)
    elements = weights(generator(5), DType.F32, 20 * 2048 + 17)
    data = whole_file({"w": elements})
    with spq.open(data) as archive:
        assert len(archive._container.tensors["w"].parts) == 22
        assert archive.tensors(threads)["w"].tobytes() == elements.tobytes()


# --- sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [DType.F64, DType.F32, DType.F16, DType.I16, DType.U64])
@pytest.mark.parametrize("count", [2, 9, 300, 2047, 2048, 20_000])
def test_random_bits_never_grow(dtype: DType, count: int) -> None:
    random = generator(count)
    bits = np.frombuffer(random.bytes(count * dtype.item_bytes), dtype=dtype.numpy)
    with spq.open(whole_file({"w": bits})) as archive:
        assert archive.info("w").encoding == "raw"
        assert archive.get_tensor("w").tobytes() == bits.tobytes()
        # The header, and one record with two varints of at most three bytes.
        assert archive.file_bytes <= 64 + 20 + bits.nbytes


def test_random_floats_do_not_grow() -> None:
    bits = np.frombuffer(generator(6).bytes(1 << 20), dtype="f4")
    assert len(whole_file({"w": bits})) <= 1.001 * bits.nbytes


@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0, 4.0, 12.0])
@pytest.mark.parametrize("count", [20, 60, 200, 1000])
def test_planes_are_never_larger_than_raw(spread: float, count: int) -> None:
    random = generator(count)
    elements = np.exp(random.normal(0, spread, count)).astype("f4")
    raw = EncodedTensor(
        DType.F32, Encoding.RAW, (count,), zlib.crc32(elements.tobytes()), [elements.tobytes()]
    )
    assert len(file_of(encode_tensor(elements, DType.F32))) <= len(file_of(raw))


@pytest.mark.parametrize(
    ("dtype", "ratio"),
    [(DType.F64, 0.88), (DType.F32, 0.84), (DType.F16, 0.85), (DType.BF16, 0.67)],
)
def test_weights_get_smaller(dtype: DType, ratio: float) -> None:
    elements = weights(generator(7), dtype, 200_000)
    tensor = encode_tensor(elements, dtype)
    assert tensor.encoding is Encoding.PLANES
    assert len(file_of(tensor)) < ratio * elements.nbytes


def test_trained_network_gets_smaller() -> None:
    neural_network = pytest.importorskip("sklearn.neural_network")
    random = generator(8)
    labels = random.integers(0, 4, 600)
    points = random.normal(size=(4, 40))[labels] + random.normal(size=(600, 40))
    network = neural_network.MLPClassifier((96, 64), max_iter=15, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fifteen steps are too few, it says
        network.fit(points, labels)
    tensors = {
        f"{kind}{number}": array.astype("f4")
        for kind, arrays in (("w", network.coefs_), ("b", network.intercepts_))
        for number, array in enumerate(arrays)
    }
    decoded_bytes = sum(array.nbytes for array in tensors.values())
    assert len(whole_file(tensors)) < 0.88 * decoded_bytes


def test_empty_upper_bytes_cost_nothing() -> None:
    indices = generator(9).integers(0, 10_000, 50_000)
    assert len(whole_file({"w": indices})) < 0.22 * indices.nbytes


def test_random_planes_are_stored() -> None:
    elements = weights(generator(10), DType.F32, 100_000)
    tensor = encode_tensor(elements, DType.F32)
    record = TensorRecord("w", DType.F32, Encoding.PLANES, (100_000,), 0, (Part(0, 0, 0),) * 2)
    modes = [plane is not None for plane in read_planes_tables(tensor.parts[0], record).planes]
    assert modes == [False, False, False, True]


# --- kernel ----------------------------------------------------------------------------------


def joined(kernel: Any, split: NDArray[np.uint8], rotated: bool) -> bytes:
    """Join planes between guard zones."""
    width, count = split.shape
    elements = np.full(count + 64, (1 << (8 * width)) - 1, dtype=f"u{width}")
    assert kernel(split, rotated, elements[32 : 32 + count]) == OK
    guards = np.concatenate([elements[:32], elements[32 + count :]])
    assert (guards == (1 << (8 * width)) - 1).all()
    return elements[32 : 32 + count].tobytes()


@pytest.mark.parametrize(
    ("width", "rotated"),
    [(1, False), *((width, rotated) for width in (2, 4, 8) for rotated in (False, True))],
)
@pytest.mark.parametrize("count", [0, 1, 7, 8, 33, 200])
def test_kernel(width: int, rotated: bool, count: int) -> None:
    random = generator(count)
    bits = np.frombuffer(random.bytes(width * count), dtype=f"u{width}")
    split = split_planes(bits, rotated)
    assert split.shape == (width, count)
    assert joined(join_planes, split, rotated) == bits.tobytes()
    assert joined(twin(join_planes), split, rotated) == bits.tobytes()


def test_sign_goes_last_and_exponent_first() -> None:
    bits = np.array([0xBF800000, 0x3F800001], dtype="u4")  # -1 and the next number above 1
    assert split_planes(bits, rotate=True)[:, 0].tolist() == [1, 0, 0, 0x7F]
    assert split_planes(bits, rotate=True)[:, 1].tolist() == [2, 0, 0, 0x7F]
    assert split_planes(bits, rotate=False)[:, 0].tolist() == [0, 0, 0x80, 0xBF]
    assert [dtype for dtype in DType if sign_last(dtype)] == FLOATS


# --- tables ----------------------------------------------------------------------------------

CONSTANT = np.zeros(256, dtype=np.uint32)
CONSTANT[7] = 2
CODED = write_coded_plane(1, write_explicit(CONSTANT))
STORED = write_stored_plane()
TABLES = write_planes_tables(8, [STORED, CODED])


def record(chunks: int = 3, elements: int = 20, dtype: DType = DType.I16) -> TensorRecord:
    parts = tuple(Part(64, 0, 0) for _ in range(1 + chunks))
    return TensorRecord("w", dtype, Encoding.PLANES, (elements,), 0, parts)


def test_tables() -> None:
    tables = read_planes_tables(TABLES, record())
    assert tables.chunk_elements == 8
    stored, coded = tables.planes
    assert stored is None
    assert isinstance(coded, PlaneTable)
    assert coded.freq_log2 == 1
    assert np.array_equal(coded.frequencies, CONSTANT)


@pytest.mark.parametrize(
    ("data", "chunks", "part"),
    [
        (write_planes_tables(0, [STORED, CODED]), 3, "chunk_elements"),
        (write_planes_tables(12, [STORED, CODED]), 3, "chunk_elements"),
        (write_planes_tables((1 << 24) + 8, [STORED, CODED]), 1, "at most"),
        (write_planes_tables(8, [STORED]), 3, "0 are left"),
        (write_planes_tables(8, [STORED, STORED, STORED]), 3, "left over"),
        (write_planes_tables(8, [STORED, b"\2"]), 3, "plane mode 2"),
        (write_planes_tables(8, [STORED, b"\xff"]), 3, "plane mode 255"),
        (write_planes_tables(8, [STORED, b"\1\0"]), 3, "freq_log2"),
        (write_planes_tables(8, [STORED, b"\1\x10\1"]), 3, "freq_log2"),
        (write_planes_tables(8, [STORED, b"\1\7\1"]), 3, "flat table"),
        (write_planes_tables(8, [STORED, b"\1\1\x09"]), 3, "table kind 9"),
        (TABLES[:-1], 3, "0 are left"),
        (TABLES, 2, "ask for 3 chunks, the directory has 2"),
        (TABLES, 4, "ask for 3 chunks, the directory has 4"),
        (b"", 3, "0 are left"),
    ],
)
def test_refused_tables(data: bytes, chunks: int, part: str) -> None:
    with pytest.raises(SpqError, match=part) as caught:
        read_planes_tables(data, record(chunks))
    assert caught.value.code is Reason.BAD_TABLES
    assert caught.value.section == "w"


# --- damage ----------------------------------------------------------------------------------


def refusal(tables: bytes, chunks: list[bytes], dtype: DType, count: int) -> Reason | None:
    """Decode handmade parts; return the reason of the refusal, if any."""
    tensor = EncodedTensor(dtype, Encoding.PLANES, (count,), 0, [tables, *chunks])
    with spq.open(file_of(tensor)) as archive:
        try:
            archive.get_tensor("w")
        except SpqError as error:
            return error.code
    return None


STREAM = b"\x08" + bytes(4) + b"\1\0\0\0"


@pytest.mark.parametrize(
    "chunk",
    [
        b"",
        b"12345678",
        b"1234567" + STREAM,
        b"123456789" + STREAM,
        b"12345678" + STREAM + b"\0",
        b"12345678" + STREAM[:-1],
        b"12345678\0",
        b"12345678\7" + STREAM[1:-1],
        b"12345678\x09" + STREAM[1:] + b"\0",
        b"12345678\x0c" + STREAM[1:] + bytes(4),
        b"12345678\x08" + bytes(4) + b"\2\0\0\0",
        b"12345678\x08" + bytes(8),
        b"12345678\x88\0" + STREAM[1:],
        b"12345678\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    ],
)
def test_refused_chunks(chunk: bytes) -> None:
    assert refusal(TABLES, [b"12345678" + STREAM], DType.I16, 8) is None
    assert refusal(TABLES, [chunk], DType.I16, 8) is Reason.BAD_STREAM
    sound = b"12345678" + STREAM
    assert refusal(TABLES, [sound, chunk], DType.I16, 16) is Reason.BAD_STREAM


def test_booleans_are_zero_or_one() -> None:
    tables = write_planes_tables(8, [STORED])
    assert refusal(tables, [b"\0\1\1\0"], DType.BOOL, 4) is None
    assert refusal(tables, [b"\0\1\2\0"], DType.BOOL, 4) is Reason.BAD_STREAM
    assert refusal(write_planes_tables(8, [CODED]), [STREAM], DType.BOOL, 4) is Reason.BAD_STREAM


@pytest.mark.parametrize("dtype", [DType.F32, DType.I64])
def test_damaged_streams(dtype: DType) -> None:
    random = generator(11)
    count = 2100  # several lanes
    elements = weights(random, dtype, count)
    bits = elements.view(f"u{dtype.item_bytes}")
    tensor = encode_planes(bits, dtype, (count,), 0)
    assert tensor is not None
    tables, chunk = tensor.parts
    reasons: dict[Reason | None, int] = {}
    for number in range(1200):
        damaged = [bytearray(tables), bytearray(chunk)]
        target = damaged[number % 2]
        place = int(random.integers(len(target)))
        action = int(random.integers(4))
        if action == 0:
            del target[place]
        elif action == 1:
            target.insert(place, int(random.integers(256)))
        elif action == 2:
            target[place] ^= 1 << int(random.integers(8))
        else:
            del target[place:]
        reason = refusal(bytes(damaged[0]), [bytes(damaged[1])], dtype, count)
        reasons[reason] = reasons.get(reason, 0) + 1
    # Stored planes hold any bytes.
    assert reasons.keys() == {Reason.BAD_TABLES, Reason.BAD_STREAM, None}
    assert reasons[Reason.BAD_TABLES] > 100
    assert reasons[Reason.BAD_STREAM] > 100


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_damage_is_found_by_any_number_of_threads(threads: int) -> None:
    data = bytearray(whole_file({"w": weights(generator(12), DType.F32, 1_200_000)}))
    data[len(data) // 2] ^= 1
    with spq.open(bytes(data)) as archive, pytest.raises(SpqError) as caught:
        archive.tensors(threads)
    assert caught.value.code is Reason.CHECKSUM_MISMATCH


def test_every_symbol_of_a_plane_may_be_certain() -> None:
    """A stream of a single symbol takes its states alone, however many elements there are."""
    table = np.zeros(256, dtype=np.uint32)
    table[255] = 1 << 15
    tables = write_planes_tables(1 << 14, [write_coded_plane(15, write_explicit(table))] * 2)
    coder = rans.build_tables(table[None, :], 15)
    symbols = np.full(1 << 14, 255, dtype=np.uint8)
    stream = rans.encode(symbols, coder, rans.NO_CONTEXTS)
    chunk = (varint(len(stream)) + stream) * 2
    assert len(chunk) == 2 * 65
    tensor = EncodedTensor(DType.I16, Encoding.PLANES, (1 << 14,), 0, [tables, chunk])
    with spq.open(file_of(tensor)) as archive:
        assert (archive.get_tensor("w") == -1).all()
