"""Every structural rule of a file, broken once; limits count before anything is allocated."""

import struct
import subprocess
import sys
import zlib
from dataclasses import dataclass, replace

import pytest
import zstandard

from spqformat import Limits, Reason, SpqError, zstd
from spqformat.cursor import varint
from spqformat.ids import MAGIC, DType, Encoding, ProgramCodec
from spqformat.model import Container, Part, ProgramRecord
from spqformat.reader import check_part, decode_program, read_container


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def with_crc(body: bytes) -> bytes:
    return body + u32(zlib.crc32(body))


@dataclass(frozen=True)
class File:
    """A file in parts: fields that are None follow from the others."""

    directory: bytes = b""
    metadata: bytes = b""
    programs: bytes = b""
    data: bytes = b""
    tensor_count: int = 0
    decoded_bytes: int = 0
    magic: bytes = MAGIC
    major: int = 1
    minor: int = 0
    required: int = 0
    optional: int = 0
    file_bytes: int | None = None
    directory_bytes: int | None = None
    metadata_bytes: int | None = None
    program_bytes: int | None = None
    header_crc32: int | None = None

    def written(self) -> bytes:
        body = self.directory + self.metadata + self.programs + self.data

        def or_else(field: int | None, found: int) -> int:
            return found if field is None else field

        head = self.magic + struct.pack(
            "<HHIQQQQIII",
            self.major,
            self.minor,
            self.tensor_count,
            self.required,
            self.optional,
            or_else(self.file_bytes, 64 + len(body)),
            self.decoded_bytes,
            or_else(self.directory_bytes, len(self.directory)),
            or_else(self.metadata_bytes, len(self.metadata)),
            or_else(self.program_bytes, len(self.programs)),
        )
        crc = zlib.crc32(self.directory, zlib.crc32(head))
        return head + u32(or_else(self.header_crc32, crc)) + body


def read(data: bytes, limits: Limits | None = None) -> Container:
    return read_container(
        lambda offset, count: data[offset : offset + count], len(data), limits or Limits()
    )


def refused(
    file: File | bytes, reason: Reason, part: str = "", limits: Limits | None = None
) -> None:
    with pytest.raises(SpqError) as caught:
        read(file if isinstance(file, bytes) else file.written(), limits)
    assert (caught.value.code, part in str(caught.value)) == (reason, True), caught.value


def raw(
    name: bytes,
    data: bytes = b"abcd",
    *,
    dtype: int = DType.U8,
    shape: tuple[int, ...] = (4,),
    stored_bytes: int | None = None,
) -> bytes:
    """The directory's entry of a raw tensor."""
    return (
        varint(len(name))
        + name
        + bytes([Encoding.RAW, dtype, len(shape)])
        + b"".join(varint(dimension) for dimension in shape)
        + u32(zlib.crc32(data))
        + varint(len(data) if stored_bytes is None else stored_bytes)
        + u32(zlib.crc32(data))
    )


def alias(name: bytes, target: int) -> bytes:
    return varint(len(name)) + name + bytes([Encoding.ALIAS]) + varint(target)


def coded(name: bytes, part_sizes: tuple[int, ...], shape: tuple[int, ...] = (4,)) -> bytes:
    """The directory's entry of a dense tensor."""
    return (
        varint(len(name))
        + name
        + bytes([Encoding.DENSE, DType.U8, len(shape)])
        + b"".join(varint(dimension) for dimension in shape)
        + bytes(4)
        + varint(len(part_sizes))
        + b"".join(varint(size) + bytes(4) for size in part_sizes)
    )


ONE = File(directory=raw(b"w"), data=b"abcd", tensor_count=1, decoded_bytes=4)


def test_one_tensor() -> None:
    container = read(ONE.written())
    record = container.tensors["w"]
    assert (record.shape, record.dtype, record.encoding) == ((4,), DType.U8, Encoding.RAW)
    (part,) = record.parts
    assert part == Part(64 + len(ONE.directory), 4, zlib.crc32(b"abcd"))
    assert (container.file_bytes, container.decoded_bytes) == (len(ONE.written()), 4)
    assert (dict(container.metadata), dict(container.programs)) == ({}, {})


def test_container_does_not_change() -> None:
    container = read(ONE.written())
    for mapping in (container.tensors, container.aliases, container.metadata, container.programs):
        with pytest.raises(TypeError):
            mapping["w"] = None  # type: ignore[index]


def test_offsets_follow_from_the_order() -> None:
    file = File(
        directory=raw(b"a", b"") + coded(b"b", (3, 5, 7), (2, 2)) + alias(b"c", 1) + raw(b"d"),
        data=bytes(19),
        tensor_count=4,
        decoded_bytes=8,
    )
    file = replace(
        file, directory=file.directory.replace(raw(b"a", b""), raw(b"a", b"", shape=(0,)))
    )
    container = read(file.written())
    start = 64 + len(file.directory)
    assert [part.offset for part in container.tensors["b"].parts] == [start, start + 3, start + 8]
    assert container.tensors["d"].parts[0].offset == start + 15
    assert dict(container.aliases) == {"c": "b"}


# --- header --------------------------------------------------------------------------------


@pytest.mark.parametrize("position", range(8))
def test_magic(position: int) -> None:
    magic = bytearray(MAGIC)
    magic[position] ^= 1
    refused(replace(ONE, magic=bytes(magic)), Reason.BAD_MAGIC, "at byte 0")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\0" * 64, b"%PDF-1.7" + bytes(200)])
def test_other_files(data: bytes) -> None:
    refused(data, Reason.BAD_MAGIC)


@pytest.mark.parametrize("major", [0, 2, 65535])
def test_other_major_versions(major: int) -> None:
    refused(replace(ONE, major=major), Reason.UNSUPPORTED_VERSION, f"version {major}.0")


def test_other_minor_versions_and_optional_features_are_read() -> None:
    assert "w" in read(replace(ONE, minor=65535, optional=(1 << 64) - 1).written()).tensors


@pytest.mark.parametrize("bit", [1, 7, 63])
def test_required_features(bit: int) -> None:
    features = 1 << bit | 1 << 63
    refused(replace(ONE, required=features), Reason.UNSUPPORTED_FEATURE, f"feature bit {bit},")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"file_bytes": (1 << 62) + 1}, Reason.BAD_HEADER),
        ({"file_bytes": (1 << 64) - 1}, Reason.BAD_HEADER),
        ({"file_bytes": 63}, Reason.BAD_HEADER),
        ({"file_bytes": 1 << 62}, Reason.TRUNCATED),
        ({"file_bytes": len(ONE.written()) + 1}, Reason.TRUNCATED),
        ({"file_bytes": len(ONE.written()) - 1}, Reason.TRAILING_BYTES),
        ({"directory_bytes": 0xFFFFFFFF}, Reason.BAD_HEADER),
        ({"metadata_bytes": 0xFFFFFFFF}, Reason.BAD_HEADER),
        ({"program_bytes": 0xFFFFFFFF}, Reason.BAD_HEADER),
        ({"header_crc32": 0}, Reason.CHECKSUM_MISMATCH),
        ({"tensor_count": 0}, Reason.BAD_DIRECTORY),
        ({"tensor_count": 2}, Reason.BAD_DIRECTORY),
        ({"decoded_bytes": 3}, Reason.BAD_DIRECTORY),
        ({"decoded_bytes": 5}, Reason.BAD_DIRECTORY),
    ],
)
def test_header_fields(change: dict[str, int], reason: Reason) -> None:
    refused(replace(ONE, **change), reason)  # type: ignore[arg-type]


def test_every_bit_of_header_and_directory_counts() -> None:
    whole = ONE.written()
    for bit in range(8 * (64 + len(ONE.directory))):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SpqError):
            read(bytes(changed))


def test_every_prefix_is_truncated() -> None:
    whole = ONE.written()
    for length in range(1, len(whole)):
        refused(whole[:length], Reason.TRUNCATED, f"{length} of")


def test_trailing_bytes() -> None:
    refused(ONE.written() + b"\0", Reason.TRAILING_BYTES, "1 bytes follow")


# --- directory -----------------------------------------------------------------------------


def directory(*entries: bytes, data: bytes = b"abcd", decoded_bytes: int = 4) -> File:
    return File(
        directory=b"".join(entries),
        data=data,
        tensor_count=len(entries),
        decoded_bytes=decoded_bytes,
    )


HUGE = (1 << 48,)


@pytest.mark.parametrize(
    ("file", "part"),
    [
        (directory(raw(b"")), "ascending order"),
        (directory(raw(b"b"), raw(b"a", b"", shape=(0,))), "ascending order"),
        (directory(raw(b"a"), raw(b"a", b"", shape=(0,))), "ascending order"),
        (directory(raw(b"a\0b")), "contains NUL"),
        (directory(raw(b"\xff")), "not UTF-8"),
        (directory(raw(b"\xed\xa0\x80")), "not UTF-8"),
        (directory(raw(b"\xc0\x80")), "not UTF-8"),
        (directory(raw(b"n" * 1025)), "at most 1024"),
        (directory(b"\1w\7"), "encoding 7 is unknown"),
        (directory(raw(b"w", dtype=13)), "element type 13 is unknown"),
        (directory(raw(b"w", shape=(1,) * 33)), "rank 33"),
        (directory(raw(b"w", shape=((1 << 48) + 1,))), "at most"),
        (directory(raw(b"w", shape=(*HUGE, 2))), "more than"),
        (directory(raw(b"w", b"", shape=(0, *HUGE, *HUGE)), data=b""), "more than"),
        (directory(raw(b"w", b"", shape=(*HUGE, 2, 0)), data=b""), "more than"),
        (directory(raw(b"w", shape=(1 << 32, 1 << 32))), "more than"),
        (directory(raw(b"w", shape=(5,))), "another length"),
        (directory(raw(b"w", shape=(3,))), "another length"),
        (directory(raw(b"w", dtype=DType.F32)), "another length"),
        (directory(raw(b"w"), data=b"abcde"), "do not fill"),
        (directory(raw(b"w"), data=b"abc"), "ends after the file"),
        (directory(raw(b"w")[:-1]), "are announced"),
        (directory(raw(b"w") + b"\0"), "left over"),
        (directory(raw(b"w").replace(b"\1w", b"\x81\0w")), "shortest form"),
        (directory(coded(b"w", ()), data=b""), "no chunk"),
        (directory(coded(b"w", (4,))), "no chunk"),
        (directory(coded(b"w", (2, 2), (0,)), decoded_bytes=0), "not stored raw"),
        (directory(coded(b"w", (2, 2)), data=b""), "ends after the file"),
        (directory(coded(b"w", (2, (1 << 62) + 1))), "at most"),
        (directory(coded(b"w", (2, 2)).replace(b"\x02\x02", b"\x7f\x02")), "at most"),
        (directory(alias(b"a", 0), data=b"", decoded_bytes=0), "does not point"),
        (directory(alias(b"a", 1), alias(b"b", 0), data=b"", decoded_bytes=0), "does not point"),
        (directory(alias(b"a", 2), raw(b"b")), "at most 1"),
        (directory(raw(b"w"), decoded_bytes=1 << 30), "do not add up"),
    ],
)
def test_directory_rules(file: File, part: str) -> None:
    refused(file, Reason.BAD_DIRECTORY, part)


def test_the_largest_name_and_rank_are_read() -> None:
    name = "ä" * 512
    container = read(directory(raw(name.encode(), shape=(1,) * 31 + (4,))).written())
    assert len(container.tensors[name].shape) == 32


def test_empty_and_scalar() -> None:
    file = directory(
        raw(b"empty", b"", dtype=DType.F32, shape=(1 << 30, 0, 1 << 18)),
        raw(b"scalar", dtype=DType.F32, shape=()),
    )
    container = read(file.written())
    assert container.tensors["empty"].element_count == 0
    assert container.tensors["scalar"].element_count == 1


# --- metadata ------------------------------------------------------------------------------


def pairs(*entries: tuple[bytes, bytes]) -> bytes:
    return b"".join(varint(len(key)) + key + varint(len(value)) + value for key, value in entries)


def test_metadata() -> None:
    file = File(metadata=with_crc(pairs((b"a", b""), (b"b", "ü".encode()))))
    assert dict(read(file.written()).metadata) == {"a": "", "b": "ü"}


@pytest.mark.parametrize(
    ("section", "reason", "part"),
    [
        (b"abc", Reason.BAD_METADATA, "too short"),
        (pairs((b"a", b"")) + b"abcd", Reason.CHECKSUM_MISMATCH, "metadata"),
        (with_crc(pairs((b"b", b""), (b"a", b""))), Reason.BAD_METADATA, "ascending"),
        (with_crc(pairs((b"a", b""), (b"a", b""))), Reason.BAD_METADATA, "ascending"),
        (with_crc(pairs((b"", b"x"))), Reason.BAD_METADATA, "ascending"),
        (with_crc(pairs((b"a", b"\xff"))), Reason.BAD_METADATA, "UTF-8"),
        (with_crc(pairs((b"\xff", b"a"))), Reason.BAD_METADATA, "UTF-8"),
        (with_crc(pairs((b"a", b"\0"))), Reason.BAD_METADATA, "NUL"),
        (with_crc(pairs((b"a" * 1025, b""))), Reason.BAD_METADATA, "at most 1024"),
        (with_crc(b"\1a"), Reason.BAD_METADATA, "0 are left"),
        (with_crc(b"\1a\5abcd"), Reason.BAD_METADATA, "4 are left"),
        (with_crc(b""), Reason.BAD_METADATA, "empty map"),
    ],
)
def test_metadata_rules(section: bytes, reason: Reason, part: str) -> None:
    refused(File(metadata=section), reason, part)


# --- programs ------------------------------------------------------------------------------


def program(kind: bytes, payload: bytes, *, codec: int = 0, decoded: int | None = None) -> bytes:
    """One entry of the program section."""
    decoded_bytes = len(payload) if decoded is None else decoded
    head = varint(len(kind)) + kind + bytes([codec])
    return head + varint(decoded_bytes) + varint(len(payload)) + u32(zlib.crc32(payload))


def programs(*entries: bytes, payload: bytes) -> bytes:
    records = with_crc(b"".join(entries))
    return u32(len(records)) + records + payload


def test_programs() -> None:
    section = programs(program(b"onnx", b"abc"), program(b"torch", b"de"), payload=b"abcde")
    data = File(programs=section).written()
    found = read(data).programs
    assert list(found) == ["onnx", "torch"]
    for kind, expected in (("onnx", b"abc"), ("torch", b"de")):
        part = found[kind].part
        stored = data[part.offset : part.offset + part.stored_bytes]
        assert decode_program(stored, found[kind]) == expected


@pytest.mark.parametrize(
    ("section", "reason", "part"),
    [
        (b"abc", Reason.BAD_PROGRAM, "too short"),
        (u32(3) + b"abc", Reason.BAD_PROGRAM, "too short"),
        (u32(99) + b"abcd", Reason.BAD_PROGRAM, "are announced"),
        (programs(payload=b""), Reason.BAD_PROGRAM, "has no program"),
        (u32(8) + b"abcdabcd", Reason.CHECKSUM_MISMATCH, "program"),
        (
            programs(program(b"b", b""), program(b"a", b""), payload=b""),
            Reason.BAD_PROGRAM,
            "ascending",
        ),
        (
            programs(program(b"a", b""), program(b"a", b""), payload=b""),
            Reason.BAD_PROGRAM,
            "ascending",
        ),
        (programs(program(b"", b""), payload=b""), Reason.BAD_PROGRAM, "ascending"),
        (programs(program(b"\xff", b""), payload=b""), Reason.BAD_PROGRAM, "UTF-8"),
        (programs(program(b"a", b"", codec=3), payload=b""), Reason.BAD_PROGRAM, "codec 3"),
        (
            programs(program(b"a", b"xy", decoded=3), payload=b"xy"),
            Reason.BAD_PROGRAM,
            "two lengths",
        ),
        (programs(program(b"a", b"xy"), payload=b"x"), Reason.BAD_PROGRAM, "do not fill"),
        (programs(program(b"a", b"xy"), payload=b"xyz"), Reason.BAD_PROGRAM, "do not fill"),
        (programs(program(b"a", b"")[:-1], payload=b""), Reason.BAD_PROGRAM, "are announced"),
    ],
)
def test_program_rules(section: bytes, reason: Reason, part: str) -> None:
    refused(File(programs=section), reason, part)


def zstd_record(
    stored: bytes, decoded_bytes: int, codec: ProgramCodec = ProgramCodec.ZSTD
) -> ProgramRecord:
    part = Part(64, len(stored), zlib.crc32(stored))
    return ProgramRecord("torch", codec, decoded_bytes, part)


def compress(data: bytes, *, size: bool = True) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=size).compress(data)


BOMB = compress(bytes(1 << 26))
WHOLE = compress(b"program" * 99)
SKIPPABLE = b"\x50\x2a\x4d\x18\3\0\0\0abc"


def test_zstd_program() -> None:
    assert decode_program(WHOLE, zstd_record(WHOLE, 693)) == b"program" * 99


@pytest.mark.parametrize("window_log2", [10, 27, 28, 31])
def test_frames_with_large_windows(window_log2: int) -> None:
    head = b"\x28\xb5\x2f\xfd" + bytes([0x80, (window_log2 - 10) << 3]) + u32(600)
    stored = head + (600 << 3 | 1).to_bytes(3, "little") + bytes(600)
    assert decode_program(stored, zstd_record(stored, 600)) == bytes(600)


@pytest.mark.parametrize("codec", [ProgramCodec.ZSTD, ProgramCodec.ZSTD_DICTIONARY])
def test_long_programs_in_one_segment(codec: ProgramCodec) -> None:
    # Its window is the whole program, longer than zstd takes by default.
    block_count = (1 << 10) + 1
    stored = RUN_ON * (block_count - 1) + RUN
    decoded_bytes = block_count << 17
    if codec is ProgramCodec.ZSTD:
        stored = zstd.frame_of_blocks(stored, decoded_bytes)
    assert decode_program(stored, zstd_record(stored, decoded_bytes, codec)) == bytes(decoded_bytes)


@pytest.mark.parametrize(
    ("stored", "decoded_bytes"),
    [
        (BOMB, 1000),
        (WHOLE, 692),
        (WHOLE, 694),
        (WHOLE[:-1], 693),
        (WHOLE + b"\0", 693),
        (WHOLE + WHOLE, 693),
        (compress(b"program" * 99, size=False), 693),
        (b"", 0),
        (b"", 1),
        (b"not a frame at all", 18),
        *((SKIPPABLE, 0), (SKIPPABLE + WHOLE, 693), (WHOLE + SKIPPABLE, 693)),
        (WHOLE[:7] + bytes([WHOLE[7] | 6]) + WHOLE[8:], 693),  # a reserved type of block
        # A frame that declares 1 TiB, and a record that agrees with it.
        (b"\x28\xb5\x2f\xfd\xe0" + (1 << 40).to_bytes(8, "little") + b"\1\0\0", 1 << 40),
    ],
)
def test_refused_zstd_programs(stored: bytes, decoded_bytes: int) -> None:
    with pytest.raises(SpqError) as caught:
        decode_program(stored, zstd_record(stored, decoded_bytes))
    assert caught.value.code is Reason.BAD_PROGRAM
    assert caught.value.section == "program"


def blocks_of(data: bytes) -> bytes:
    blocks = zstd.blocks_of(data)
    assert blocks is not None
    return blocks


BLOCKS = blocks_of(b"program" * 99)
# A block of 128 KiB zeros, the last one, and one that is not; a raw block of nothing, which is not.
RUN = (131072 << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\0"
RUN_ON = (131072 << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
NOTHING = bytes(3)


def test_program_with_the_dictionary() -> None:
    for data in (b"program" * 99, zstd.dictionary().as_bytes()[100:900], b"", bytes(1 << 22)):
        stored = blocks_of(data)
        record = zstd_record(stored, len(data), ProgramCodec.ZSTD_DICTIONARY)
        assert decode_program(stored, record) == data


@pytest.mark.parametrize(
    ("stored", "decoded_bytes"),
    [
        *((BLOCKS, 692), (BLOCKS, 694), (BLOCKS, 0), (BLOCKS[:-1], 693), (BLOCKS + b"\0", 693)),
        *((BLOCKS + BLOCKS, 693), (b"", 0), (b"", 1), (b"no blocks at all", 18)),
        *((RUN, 131071), (RUN, 1000), (RUN, 1 << 20), (RUN, 1 << 40), (RUN, 1 << 62)),
        (NOTHING * 100_000, 0),
        (blocks_of(bytes(1 << 22)), 1000),
        (WHOLE, 693),  # with the header that codec 1 has
        (WHOLE[zstandard.frame_header_size(WHOLE) : -1], 693),
    ],
)
def test_refused_programs_with_the_dictionary(stored: bytes, decoded_bytes: int) -> None:
    with pytest.raises(SpqError) as caught:
        decode_program(stored, zstd_record(stored, decoded_bytes, ProgramCodec.ZSTD_DICTIONARY))
    assert caught.value.code is Reason.BAD_PROGRAM
    assert caught.value.section == "program"


def test_blocks_may_not_reach_behind_the_dictionary() -> None:
    # The same blocks under a shorter dictionary would begin before its start.
    stored = blocks_of(zstd.dictionary().as_bytes()[:300])
    frame = zstd.frame_of_blocks(stored, 300)
    with pytest.raises(zstd.ZstdError):
        zstd.unpack(frame, 300, with_dictionary=False)


def test_frames_of_more_than_their_size_are_refused() -> None:
    # Thousand runs of 128 KiB behind a header that declares seven bytes.
    stored = b"\x28\xb5\x2f\xfd\xa0" + u32(7) + RUN_ON * 1000
    with pytest.raises(SpqError) as caught:
        decode_program(stored, zstd_record(stored, 7))
    assert caught.value.code is Reason.BAD_PROGRAM


def test_parts_are_checked() -> None:
    part = Part(70, 4, zlib.crc32(b"abcd"))
    assert check_part(b"abcd", part, "w") == b"abcd"
    for stored, reason in ((b"abc", Reason.TRUNCATED), (b"abcx", Reason.CHECKSUM_MISMATCH)):
        with pytest.raises(SpqError) as caught:
            check_part(stored, part, "w")
        assert caught.value.code is reason
        assert (caught.value.offset, caught.value.section) == (70, "w")


# --- limits --------------------------------------------------------------------------------

EVERYTHING = replace(
    ONE,
    metadata=with_crc(pairs((b"a", b"bc"))),
    programs=programs(program(b"a", b"xy"), payload=b"xy"),
)


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("max_decoded_bytes", 4),
        ("max_tensors", 1),
        ("max_directory_bytes", len(ONE.directory)),
        ("max_metadata_bytes", len(EVERYTHING.metadata)),
        ("max_program_bytes", len(EVERYTHING.programs)),
    ],
)
def test_each_limit(limit: str, value: int) -> None:
    data = EVERYTHING.written()
    assert "w" in read(data, Limits(**{limit: value})).tensors
    refused(data, Reason.LIMIT_EXCEEDED, str(value - 1), Limits(**{limit: value - 1}))


def test_limit_on_decompressed_programs() -> None:
    entry = program(b"a", BOMB, codec=ProgramCodec.ZSTD, decoded=1 << 26)
    file = File(programs=programs(entry, payload=BOMB))
    limits = Limits(max_program_bytes=(1 << 26) - 1)
    refused(file, Reason.LIMIT_EXCEEDED, "programs", limits)
    assert "a" in read(file.written(), replace(limits, max_program_bytes=1 << 26)).programs


def test_limit_on_all_programs_together() -> None:
    first, second = (
        program(kind, BOMB, codec=ProgramCodec.ZSTD, decoded=1 << 26) for kind in (b"a", b"b")
    )
    file = File(programs=programs(first, second, payload=BOMB + BOMB))
    refused(file, Reason.LIMIT_EXCEEDED, "programs", Limits(max_program_bytes=(1 << 27) - 1))


TEBIBYTE = directory(coded(b"w", (2, 2), (1 << 20, 1 << 20)), data=b"abcd", decoded_bytes=1 << 40)


def test_nothing_is_read_before_the_limits_are_checked() -> None:
    data = TEBIBYTE.written()
    asked: list[tuple[int, int]] = []

    def spy(offset: int, count: int) -> bytes:
        asked.append((offset, count))
        return data[offset : offset + count]

    with pytest.raises(SpqError) as caught:
        read_container(spy, len(data), Limits())
    assert caught.value.code is Reason.LIMIT_EXCEEDED
    assert asked == [(0, 64)]


UNDER_A_CEILING = """
import resource, sys
from spqformat import Limits, SpqError
from spqformat.reader import read_container
data = sys.stdin.buffer.read()
pages = int(open("/proc/self/statm").read().split()[0])
ceiling = pages * resource.getpagesize() + (32 << 20)
resource.setrlimit(resource.RLIMIT_AS, (ceiling, ceiling))
try:
    {statement}
    print("read")
except SpqError as error:
    print(error.code)
except MemoryError:
    print("memory")
"""


def under_a_ceiling(statement: str, data: bytes) -> str:
    """Run a statement in a child that may take 32 MiB more; return how it ended."""
    child = subprocess.run(
        [sys.executable, "-c", UNDER_A_CEILING.format(statement=statement)],
        input=data,
        capture_output=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr.decode()
    return child.stdout.decode().strip()


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads its own size from /proc")


@linux
@pytest.mark.parametrize(
    ("file", "limits", "outcome"),
    [
        (TEBIBYTE, "Limits()", Reason.LIMIT_EXCEEDED),
        (TEBIBYTE, "Limits(max_decoded_bytes=1 << 62)", "read"),
        (
            replace(ONE, tensor_count=0xFFFFFFFF),
            "Limits(max_tensors=1 << 32)",
            Reason.BAD_DIRECTORY,
        ),
        (replace(ONE, directory_bytes=0xFFFFFFFF, file_bytes=1 << 40), "Limits()", "truncated"),
        (directory(coded(b"w", (2, 1 << 40))), "Limits()", Reason.BAD_DIRECTORY),
        (
            File(
                programs=programs(
                    program(b"a", BOMB, codec=ProgramCodec.ZSTD, decoded=1 << 40), payload=BOMB
                )
            ),
            "Limits()",
            Reason.LIMIT_EXCEEDED,
        ),
    ],
)
def test_small_files_claim_no_memory(file: File, limits: str, outcome: str) -> None:
    read_it = f"read_container(lambda start, count: data[start:start + count], len(data), {limits})"
    assert under_a_ceiling(read_it, file.written()) == outcome


@linux
def test_the_ceiling_is_felt() -> None:
    assert under_a_ceiling("bytearray(64 << 20)", b"") == "memory"
