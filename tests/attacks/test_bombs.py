"""Small files that promise much: refused before anything of that size is allocated."""

import io
import json
import struct
import subprocess
import sys
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest
import zstandard

import spq
from spq.mixed import encode_mixed
from spqformat.codebook import Codebook
from spqformat.cursor import varint
from spqformat.ids import (
    MAGIC,
    MAX_MIXED_ELEMENTS,
    MAX_MIXED_LEVELS,
    CodebookKind,
    DType,
    Encoding,
    ProgramCodec,
)
from spqformat.writer import EncodedTensor, serialise

MAXIMUM = "spq.Limits(max_decoded_bytes=1 << 62, max_program_bytes=1 << 62)"


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def whole(
    entry: bytes,
    data: bytes,
    decoded_bytes: int,
    *,
    tensors: int = 1,
    programs: bytes = b"",
    required: int = 0,
) -> bytes:
    """A file with a sound header."""
    body = entry + programs + data
    head = MAGIC + struct.pack("<HHIQQ", 1, 0, tensors, required, 0)
    head += struct.pack("<QQIII", 64 + len(body), decoded_bytes, len(entry), 0, len(programs))
    return head + u32(zlib.crc32(entry, zlib.crc32(head))) + body


def enlarged(encoding: Encoding, shape: tuple[int, ...]) -> bytes:
    """The parts of a small tensor under a shape of a TiB."""
    random = np.random.Generator(np.random.PCG64(12))
    values = random.integers(1, 3, (200, 64))
    if encoding is Encoding.SPARSE:
        values *= random.random(values.shape) < 0.02
    stream = io.BytesIO()
    spq.save({"w": values.astype("f4")}, stream)
    data = stream.getvalue()
    with spq.open(data) as archive:
        record = archive._container.tensors["w"]
    assert record.encoding is encoding
    entry = b"\1w" + bytes([encoding, record.dtype, len(shape)])
    entry += b"".join(varint(dimension) for dimension in shape) + u32(record.decoded_crc32)
    entry += varint(len(record.parts))
    for part in record.parts:
        entry += varint(part.stored_bytes) + u32(part.stored_crc32)
    return whole(entry, data[record.parts[0].offset :], 4 * int(np.prod(shape, dtype=object)))


def program(frame: bytes, decoded_bytes: int, codec: ProgramCodec = ProgramCodec.ZSTD) -> bytes:
    records = b"\5torch" + bytes([codec]) + varint(decoded_bytes)
    records += varint(len(frame)) + u32(zlib.crc32(frame))
    records += u32(zlib.crc32(records))
    return whole(b"", b"", 0, tensors=0, programs=u32(len(records)) + records + frame)


def certain(dtype: DType, level_count: int, shape: tuple[int, ...]) -> EncodedTensor:
    """A mixed tensor as large as may be, all of whose elements are the last level."""
    levels = np.arange(1, 1 + level_count, dtype=f"u{dtype.item_bytes}")
    indices = np.full(MAX_MIXED_ELEMENTS, level_count - 1, dtype=np.uint8)
    parts = encode_mixed(indices, None, Codebook(CodebookKind.FULL, levels), shape)
    assert parts is not None
    crc = zlib.crc32(np.full(MAX_MIXED_ELEMENTS, levels[-1]).tobytes())
    return EncodedTensor(dtype, Encoding.MIXED, shape, crc, parts)


def many(tensor: EncodedTensor, count: int) -> bytes:
    return b"".join(serialise({f"{number:04}": tensor for number in range(count)}, {}, {}, {}))


FRAME = zstandard.ZstdCompressor().compress(bytes(1 << 28))
BLOCKS = FRAME[zstandard.frame_header_size(FRAME) :]
TEBIBYTE_FRAME = b"\x28\xb5\x2f\xfd\xe0" + (1 << 40).to_bytes(8, "little") + FRAME[9:]
SHAPE = (1 << 19, 1 << 19)
# Elements of the most decisions; most bytes of few stored ones.
MOST_DECISIONS = certain(DType.F16, MAX_MIXED_LEVELS, (512, 1024))
MOST_BYTES = certain(DType.F64, 1, (1, MAX_MIXED_ELEMENTS))


def stored(data: bytes) -> bytes:
    """A stored block of DEFLATE that is not the last."""
    return b"\0" + struct.pack("<HH", len(data), len(data) ^ 0xFFFF) + data


NAMES = zlib.compress(bytes(60 << 20), level=9, wbits=-15)
PARTS = b"\1w" + bytes([Encoding.DENSE, 8, 1, 1]) + bytes(4) + varint(100_000) + bytes(500_000)
# Not as short as can be: readers refuse more than 64 times.
PACKED_PARTS = stored(PARTS[:8000]) + zlib.compress(PARTS[8000:], level=9, wbits=-15)
CONSTANT = b"\1w" + bytes([Encoding.CONSTANT, 1, 2]) + varint(1 << 19) * 2 + bytes(8)

BOMBS: dict[str, tuple[bytes, str, str]] = {
    "constant": (whole(CONSTANT, b"", 1 << 40), "spq.Limits()", "limit_exceeded"),
    "constant, trusted": (whole(CONSTANT, b"", 1 << 40), MAXIMUM, "limit_exceeded"),
    "directory": (
        whole(varint(60 << 20) + NAMES, b"", 0, tensors=0, required=1),
        "spq.Limits()",
        "bad_directory",
    ),
    "lying directory": (
        whole(varint(1 << 17) + NAMES, b"", 0, tensors=0, required=1),
        "spq.Limits()",
        "bad_directory",
    ),
    "parts": (
        whole(varint(len(PARTS)) + PACKED_PARTS, b"", 1, required=1),
        "spq.Limits()",
        "bad_tables",
    ),
    "sparse": (enlarged(Encoding.SPARSE, SHAPE), "spq.Limits()", "limit_exceeded"),
    "sparse, trusted": (enlarged(Encoding.SPARSE, SHAPE), MAXIMUM, "bad_tables"),
    "dense": (enlarged(Encoding.DENSE, SHAPE), "spq.Limits()", "limit_exceeded"),
    "dense, trusted": (enlarged(Encoding.DENSE, SHAPE), MAXIMUM, "bad_tables"),
    "mixed, most decisions": (many(MOST_DECISIONS, 1), "spq.Limits()", "opened"),
    "mixed, most bytes": (many(MOST_BYTES, 1), "spq.Limits()", "opened"),
    "many mixed": (
        many(MOST_BYTES, 257),
        "spq.Limits(max_decoded_bytes=1 << 30)",
        "limit_exceeded",
    ),
    "mixed, too large": (
        many(replace(MOST_BYTES, shape=(1 << 19, 1 << 19)), 1),
        MAXIMUM,
        "bad_tables",
    ),
    "program": (program(FRAME, 1 << 28 | 1), "spq.Limits()", "limit_exceeded"),
    "lying program": (program(FRAME, 100), "spq.Limits()", "bad_program"),
    "endless program": (program(TEBIBYTE_FRAME, 1 << 40), "spq.Limits()", "limit_exceeded"),
    "program, dictionary": (
        program(BLOCKS, 1 << 28 | 1, ProgramCodec.ZSTD_DICTIONARY),
        "spq.Limits()",
        "limit_exceeded",
    ),
    "lying program, dictionary": (
        program(BLOCKS, 100, ProgramCodec.ZSTD_DICTIONARY),
        "spq.Limits()",
        "bad_program",
    ),
    "endless program, dictionary": (
        program(BLOCKS, 1 << 40, ProgramCodec.ZSTD_DICTIONARY),
        MAXIMUM,
        "bad_program",
    ),
    "names": (whole(b"", b"", 0, tensors=0xFFFFFFFF), "spq.Limits()", "limit_exceeded"),
    "many small ones": (
        whole(
            b"".join(
                varint(4) + b"%04d" % number + b"\0\1\1" + varint(1 << 20) + bytes(9)
                for number in range(3000)
            ),
            b"",
            3000 << 22,
            tensors=3000,
        ),
        "spq.Limits()",
        "limit_exceeded",
    ),
}

SCRIPT = """
import json, resource, sys
import spq
bombs = json.load(sys.stdin)
spq.warmup()
pages = int(open("/proc/self/statm").read().split()[0])
ceiling = pages * resource.getpagesize() + (64 << 20)
resource.setrlimit(resource.RLIMIT_AS, (ceiling, ceiling))
codes = {}
for name, (data, limits) in bombs.items():
    try:
        with spq.open(bytes.fromhex(data), eval(limits)) as archive:
            archive.verify()
        codes[name] = "opened"
    except (spq.SpqError, MemoryError) as error:
        codes[name] = getattr(error, "code", "out of memory")
json.dump(codes, sys.stdout)
"""


@pytest.fixture(scope="module")
def codes() -> dict[str, str]:
    """Open every bomb in one process that may take 64 MiB more than its warm kernels have."""
    bombs = {name: (data.hex(), limits) for name, (data, limits, _) in BOMBS.items()}
    child = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(bombs),
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    outcome: dict[str, str] = json.loads(child.stdout)
    return outcome


@pytest.mark.skipif(sys.platform != "linux", reason="reads its own size from /proc")
@pytest.mark.parametrize("name", BOMBS)
def test_bomb(codes: dict[str, str], name: str) -> None:
    data, _, reason = BOMBS[name]
    assert len(data) < 64 << 10
    assert codes[name] == reason


def test_memory_of_counters() -> None:
    """The shape with the most counters: twenty of four bytes for each element."""
    data = many(certain(DType.F16, 1, (1, 1, MAX_MIXED_ELEMENTS)), 1)
    assert len(data) < 200
    with spq.open(data) as archive:
        tracemalloc.start()
        try:
            array = archive.get_tensor("0000")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert set(array.view("u2").reshape(-1).tolist()) == {1}
    assert peak < 84 * MAX_MIXED_ELEMENTS + (4 << 20)
