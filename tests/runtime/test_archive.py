"""The open file answers for what is in it and for nothing else."""

import inspect
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

import spq
from spqformat import Limits, Reason, SpqError
from spqformat.cursor import varint
from spqformat.ids import MAGIC, DType, Encoding
from spqformat.writer import EncodedTensor, serialise

WEIGHT = (np.arange(4000, dtype="f4").reshape(40, 100) % 7 > 4) * np.float32(1.5)


@pytest.fixture
def packed() -> bytes:
    bias = np.arange(3, dtype="i8")
    stream = io.BytesIO()
    spq.save(
        {"weight": WEIGHT, "bias": bias, "a.tied": bias, "z": np.zeros(0)},
        stream,
        metadata={"b": "2", "a": "1"},
        programs={"other": b"text"},
    )
    return stream.getvalue()


def test_contents(packed: bytes) -> None:
    with spq.open(packed) as archive:
        assert archive.keys() == ["a.tied", "bias", "weight", "z"]
        assert dict(archive.aliases) == {"bias": "a.tied"}
        assert dict(archive.metadata) == {"a": "1", "b": "2"}
        assert archive.program_kinds == ("other",)
        assert archive.program("other") == b"text"
        assert archive.program("torch") is None
        assert archive.file_bytes == len(packed)
        assert archive.decoded_bytes == 4 * 4000 + 8 * 3
        assert set(archive.tensors()) == {"a.tied", "weight", "z"}
        archive.verify()


def test_info(packed: bytes) -> None:
    with spq.open(packed) as archive:
        weight = archive.info("weight")
        assert (weight.name, weight.dtype, weight.shape) == ("weight", "f32", (40, 100))
        assert weight.encoding in ("dense", "sparse")
        assert weight.decoded_bytes == 16_000
        assert 0 < weight.stored_bytes < 2000
        bias = archive.info("bias")
        assert (bias.name, bias.dtype, bias.shape) == ("bias", "i64", (3,))


def test_keys_are_ordered_by_their_bytes() -> None:
    names = ["b", "B", "ä", "\uffff", "\U0001f600", "a.b", "a"]
    stream = io.BytesIO()
    spq.save({name: np.zeros(1) for name in names}, stream)
    with spq.open(stream.getvalue()) as archive:
        assert archive.keys() == sorted(names, key=lambda name: name.encode())


@pytest.mark.parametrize("name", ["", "missing", "Weight", "weight\0"])
def test_unknown_names(packed: bytes, name: str) -> None:
    with spq.open(packed) as archive:
        for ask in (archive.get_tensor, archive.info):
            with pytest.raises(SpqError) as caught:
                ask(name)
            assert caught.value.code is Reason.KEY_NOT_FOUND
            assert repr(name) in caught.value.message


def test_tied_names_give_equal_tensors(packed: bytes) -> None:
    with spq.open(packed) as archive:
        first, second = archive.get_tensor("bias"), archive.get_tensor("a.tied")
        assert first.tobytes() == second.tobytes()
        first[0] = 99
        assert archive.get_tensor("bias")[0] == 0


def test_maps_do_not_change(packed: bytes) -> None:
    with spq.open(packed) as archive:
        for mapping in (archive.metadata, archive.aliases):
            with pytest.raises(TypeError):
                mapping["x"] = "y"  # type: ignore[index]


def test_limits_reach_the_reader(packed: bytes) -> None:
    with pytest.raises(SpqError) as caught:
        spq.open(packed, Limits(max_decoded_bytes=100))
    assert caught.value.code is Reason.LIMIT_EXCEEDED


@pytest.mark.parametrize("name", ["open", "load", "load_state_dict", "load_onnx", "save"])
def test_no_option_promises_safety(name: str) -> None:
    # A flag that says "safe" says that there is another way.
    parameters = inspect.signature(getattr(spq, name)).parameters
    assert not [word for word in parameters if "safe" in word or "trust" in word]
    with pytest.raises(TypeError, match="unexpected keyword"):
        getattr(spq, name)(b"", safe=True)


def faulty(values: bytes, crc: int) -> bytes:
    """A file whose stored bytes are sound and whose decoded checksum is not theirs."""
    tensor = EncodedTensor(DType.U8, Encoding.RAW, (len(values),), crc, [values])
    return b"".join(serialise({"w": tensor}, {}, {}, {}))


def test_verify_compares_decoded_elements() -> None:
    sound = faulty(b"abc", zlib.crc32(b"abc"))
    with spq.open(sound) as archive:
        archive.verify()
    with spq.open(faulty(b"abc", 1)) as archive:
        assert archive.get_tensor("w").tobytes() == b"abc"
        with pytest.raises(SpqError) as caught:
            archive.verify()
    assert (caught.value.code, caught.value.section) == (Reason.CHECKSUM_MISMATCH, "w")


@pytest.mark.parametrize("values", [b"\2", b"\0\1\2\1", b"\1" * 5000 + b"\xff"])
def test_stored_booleans_are_0_or_1(values: bytes) -> None:
    crc = zlib.crc32(values)
    tensor = EncodedTensor(DType.BOOL, Encoding.RAW, (len(values),), crc, [values])
    data = b"".join(serialise({"w": tensor}, {}, {}, {}))
    with spq.open(data) as archive:
        for use in (archive.tensors, archive.verify, lambda: archive.get_tensor("w")):
            with pytest.raises(SpqError) as caught:
                use()
            assert (caught.value.code, caught.value.section) == (Reason.BAD_STREAM, "w")


@pytest.mark.parametrize("threads", [0, -1, -(1 << 70)])
def test_less_than_one_thread(packed: bytes, threads: int) -> None:
    with spq.open(packed) as archive, pytest.raises(SpqError) as caught:
        archive.tensors(threads)
    assert caught.value.code is Reason.BAD_ARGUMENT


def test_verify_looks_at_programs(packed: bytes) -> None:
    position = packed.index(b"text")
    changed = packed[:position] + b"tent" + packed[position + 4 :]
    with spq.open(changed) as archive:
        archive.tensors()
        with pytest.raises(SpqError) as caught:
            archive.verify()
    assert (caught.value.code, caught.value.section) == (Reason.CHECKSUM_MISMATCH, "program")


@pytest.mark.parametrize(
    "statement",
    [
        *("spq.load_onnx", "spq.warmup()", "import spq.save, spq.session, spq.warmup"),
        *("from spq.session import session", "from spq.save import save", "pass"),
    ],
)
def test_functions_are_not_hidden_by_their_modules(statement: str) -> None:
    script = f"import spq; {statement}; print(*(callable(getattr(spq, n)) for n in spq._HOMES))"
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert set(child.stdout.split()) == {"True"}, child.stderr


def test_public_names() -> None:
    for name in spq.__all__:
        assert getattr(spq, name) is not None
    assert dir(spq) == sorted(spq.__all__)
    with pytest.raises(AttributeError, match="no attribute 'pickle'"):
        spq.pickle  # noqa: B018


@pytest.mark.skipif(sys.platform != "linux", reason="reads its own size from /proc")
def test_more_than_the_memory(tmp_path: Path) -> None:
    # Four sound GiB, nearly all of them a hole on the disk, for a process that may take 256 MiB.
    count = 4 << 30
    entry = bytes([1, ord("w"), Encoding.RAW, DType.U8, 1]) + varint(count) + bytes(4)
    entry += varint(count) + bytes(4)
    head = MAGIC + struct.pack("<HHIQQ", 1, 0, 1, 0, 0)
    head += struct.pack("<QQIII", 64 + len(entry) + count, count, len(entry), 0, 0)
    path = tmp_path / "large.spq"
    with path.open("wb") as stream:
        stream.write(head + struct.pack("<I", zlib.crc32(entry, zlib.crc32(head))) + entry)
        stream.truncate(64 + len(entry) + count)
    script = f"""
import resource
import spq, spq.decode
with spq.open({str(path)!r}) as archive:
    pages = int(open("/proc/self/statm").read().split()[0])
    ceiling = pages * resource.getpagesize() + (256 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (ceiling, ceiling))
    try:
        archive.tensors()
    except spq.SpqError as error:
        print(error.code)
"""
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert child.stdout.strip() == Reason.LIMIT_EXCEEDED, child.stderr
