"""Integers are read in bounds and in their shortest form."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spqformat import Reason, SpqError
from spqformat.cursor import Cursor, signed_varint, varint

LARGEST = (1 << 63) - 1
quick = settings(deadline=None, derandomize=True, database=None, max_examples=200)


def cursor(data: bytes, base: int = 100) -> Cursor:
    return Cursor(data, "directory", base, Reason.BAD_DIRECTORY)


def refusal(data: bytes, maximum: int = LARGEST) -> str:
    """Read an integer that must be refused; return the sentence."""
    with pytest.raises(SpqError) as caught:
        cursor(data).varint(maximum)
    assert caught.value.code is Reason.BAD_DIRECTORY
    assert caught.value.section == "directory"
    return caught.value.message


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, b"\x00"),
        (1, b"\x01"),
        (127, b"\x7f"),
        (128, b"\x80\x01"),
        (300, b"\xac\x02"),
        (16383, b"\xff\x7f"),
        (16384, b"\x80\x80\x01"),
        (LARGEST, b"\xff" * 8 + b"\x7f"),
    ],
)
def test_varint_bytes(value: int, written: bytes) -> None:
    assert varint(value) == written
    assert cursor(written).varint(LARGEST) == value


@pytest.mark.parametrize(
    ("value", "written"),
    [(0, b"\x00"), (-1, b"\x01"), (1, b"\x02"), (-2, b"\x03"), (64, b"\x80\x01"), (-64, b"\x7f")],
)
def test_signed_varint_bytes(value: int, written: bytes) -> None:
    assert signed_varint(value) == written
    assert cursor(written).signed_varint(64) == value


@quick
@given(st.integers(0, LARGEST))
def test_varint_round_trip(value: int) -> None:
    written = varint(value)
    reader = cursor(written)
    assert reader.varint(value) == value
    reader.finish()
    assert len(written) == max(1, -(-value.bit_length() // 7))
    if value:
        assert "is allowed" in refusal(written, value - 1)


@quick
@given(st.integers(-(1 << 40), 1 << 40))
def test_signed_varint_round_trip(value: int) -> None:
    assert cursor(signed_varint(value)).signed_varint(abs(value)) == value
    if value:
        with pytest.raises(SpqError):
            cursor(signed_varint(value)).signed_varint(abs(value) - 1)


@quick
@given(st.binary(max_size=12))
def test_what_is_read_is_what_would_be_written(data: bytes) -> None:
    reader = cursor(data)
    try:
        value = reader.varint(LARGEST)
    except SpqError:
        return
    assert data == varint(value) + data[len(data) - reader.remaining_bytes :]


@pytest.mark.parametrize("data", [b"\x80\x00", b"\xff\x00", b"\x81\x80\x00"])
def test_longer_forms_are_refused(data: bytes) -> None:
    assert "shortest form" in refusal(data)


def test_more_than_63_bits_are_refused() -> None:
    assert "63 bits" in refusal(b"\x80" * 9 + b"\x01")
    assert "63 bits" in refusal(b"\xff" * 12)


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff\xff"])
def test_end_within_an_integer(data: bytes) -> None:
    assert "1 bytes are announced where 0 are left" in refusal(data)


def test_fixed_widths_are_little_endian() -> None:
    reader = cursor(bytes(range(1, 16)))
    assert reader.u8() == 1
    assert reader.u16() == 0x0302
    assert reader.u32() == 0x07060504
    assert reader.u64() == 0x0F0E0D0C0B0A0908
    assert reader.remaining_bytes == 0
    reader.finish()


@pytest.mark.parametrize("method", ["u8", "u16", "u32", "u64"])
def test_no_read_passes_the_end(method: str) -> None:
    width = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}[method]
    reader = cursor(bytes(width - 1))
    with pytest.raises(SpqError) as caught:
        getattr(reader, method)()
    assert caught.value.code is Reason.BAD_DIRECTORY
    assert reader.remaining_bytes == width - 1


def test_refused_take_changes_nothing() -> None:
    reader = cursor(b"abc")
    with pytest.raises(SpqError):
        reader.take(1 << 62)
    assert reader.take(3) == b"abc"
    assert reader.take(0) == b""


def test_refusal_says_where() -> None:
    reader = cursor(b"abcdef", base=1000)
    reader.take(4)
    error = reader.refuse("no")
    assert (error.offset, error.section, error.code) == (1004, "directory", Reason.BAD_DIRECTORY)


def test_bytes_left_over_are_refused() -> None:
    reader = cursor(b"ab")
    reader.u8()
    with pytest.raises(SpqError, match="1 bytes are left over"):
        reader.finish()
