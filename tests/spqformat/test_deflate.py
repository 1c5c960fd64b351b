"""Directories as streams of DEFLATE."""

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spqformat import Limits, Reason, SpqError
from spqformat.cursor import varint
from spqformat.deflate import deflated, inflated
from spqformat.ids import MAX_NAME_BYTES, VERSION_MINOR, DType, Encoding
from spqformat.model import Container
from spqformat.reader import read_container
from spqformat.writer import EncodedTensor, serialise

NAMES = [f"layer{layer}.norm.{what}" for layer in range(9) for what in ("mean", "variance")]


def file_of(names: list[str]) -> bytes:
    zeros = EncodedTensor(DType.F32, Encoding.CONSTANT, (16,), zlib.crc32(bytes(64)), [], bytes(4))
    return b"".join(serialise(dict.fromkeys(names, zeros), {}, {}, {}))


def read(data: bytes, limits: Limits | None = None) -> Container:
    return read_container(
        lambda start, count: data[start : start + count], len(data), limits or Limits()
    )


def refused(section: bytes, reason: Reason, limits: Limits | None = None) -> SpqError:
    with pytest.raises(SpqError) as caught:
        inflated(section, 64, limits or Limits())
    assert caught.value.code is reason
    return caught.value


@settings(deadline=None, derandomize=True, database=None, max_examples=60)
@given(st.binary(max_size=60), st.integers(3, 12))
def test_round_trip(piece: bytes, times: int) -> None:
    directory = (bytes(range(40)) + piece) * times
    section = deflated(directory)
    assert section is not None
    assert len(section) < len(directory)
    assert inflated(section, 64, Limits()) == directory


def test_what_is_too_much_shorter_stays_plain() -> None:
    sections = {count: deflated(bytes(count)) for count in range(100, 4000, 100)}
    written = [count for count, section in sections.items() if section is not None]
    assert written == list(range(100, written[-1] + 1, 100))
    assert 600 <= written[-1] < 1000


def test_readers_refuse_what_writers_leave_plain() -> None:
    directory = bytes(4000)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    section = varint(len(directory)) + packer.compress(directory) + packer.flush()
    assert 64 * len(section) < len(directory)
    error = refused(section, Reason.BAD_DIRECTORY)
    assert "less than one in 64" in str(error)


def test_nothing_and_noise_stay_plain() -> None:
    assert deflated(b"") is None
    assert deflated(bytes(range(256))) is None


def test_files_of_many_alike_tensors_are_short() -> None:
    data = file_of(NAMES)
    assert data[16:24] == bytes([1, 0, 0, 0, 0, 0, 0, 0])
    plain = sum(len(name) + 13 for name in NAMES)
    assert len(data) - 64 < plain / 4
    container = read(data)
    assert list(container.tensors) == sorted(NAMES)
    assert {record.element for record in container.tensors.values()} == {bytes(4)}
    assert all(record.stored_bytes == 0 for record in container.tensors.values())


def test_minor_version_is_the_lowest_that_has_everything() -> None:
    raw = EncodedTensor(DType.U8, Encoding.RAW, (2,), 5, [b"\1\2"])
    constant = EncodedTensor(DType.U8, Encoding.CONSTANT, (2,), 5, [], b"\1")
    mixed = EncodedTensor(DType.F32, Encoding.MIXED, (2, 1), 5, [b"", b""])
    for tensors, minor in (
        ({}, 0),
        ({"w": raw}, 0),
        ({"w": constant}, 1),
        ({"w": mixed}, VERSION_MINOR),
        ({"v": mixed, "w": raw, "x": constant}, 2),
        ({"v": constant, "w": mixed}, 2),
    ):
        assert b"".join(serialise(tensors, {}, {}, {}))[10] == minor
    assert file_of(NAMES)[10] == 1
    long = b"".join(serialise({"w" * MAX_NAME_BYTES: raw}, {}, {}, {}))
    assert (long[10], long[16]) == (1, 1)
    long = b"".join(serialise({"w" * MAX_NAME_BYTES: mixed}, {}, {}, {}))
    assert (long[10], long[16]) == (2, 1)


def test_limit_is_compared_before_anything_is_unpacked() -> None:
    directory = bytes(range(40)) * 25
    section = deflated(directory)
    assert section is not None
    assert inflated(section, 64, Limits(max_directory_bytes=1000)) == directory
    refused(section, Reason.LIMIT_EXCEEDED, Limits(max_directory_bytes=999))
    broken = varint(1000) + b"\7" * 40
    refused(broken, Reason.LIMIT_EXCEEDED, Limits(max_directory_bytes=999))
    refused(broken, Reason.BAD_DIRECTORY, Limits(max_directory_bytes=1000))


def test_positions_are_those_of_the_section() -> None:
    names = b"".join(b"\1w\0" for _ in range(100))
    head = bytearray(file_of(NAMES)[:60])
    section = deflated(names)
    assert section is not None
    head[48:52] = len(section).to_bytes(4, "little")
    head[32:40] = (64 + len(section)).to_bytes(8, "little")
    crc = zlib.crc32(section, zlib.crc32(head)).to_bytes(4, "little")
    with pytest.raises(SpqError) as caught:
        read(bytes(head) + crc + section)
    assert (caught.value.code, caught.value.offset) == (Reason.BAD_DIRECTORY, 64)
