"""A damaged file is refused: every prefix, every flipped bit, everything around it."""

import io
import zipfile

import pytest

import spq
from spqformat import Reason, SpqError

VICTIMS = ["dense", "sparse", "kernels", "planes", "mixed", "programs", "plain zstd"]


def refusal(data: bytes) -> Reason:
    """Open and verify a file that must be refused; return the reason."""
    with pytest.raises(SpqError) as caught, spq.open(data) as archive:
        archive.verify()
    return caught.value.code


@pytest.mark.parametrize("name", VICTIMS)
def test_sound(victims: dict[str, bytes], name: str) -> None:
    with spq.open(victims[name]) as archive:
        archive.verify()


@pytest.mark.parametrize("name", VICTIMS)
def test_every_prefix(victims: dict[str, bytes], name: str) -> None:
    data = victims[name]
    assert refusal(b"") is Reason.BAD_MAGIC
    reasons = {refusal(data[:length]) for length in range(1, len(data))}
    assert reasons == {Reason.TRUNCATED}


@pytest.mark.parametrize("name", VICTIMS)
def test_every_bit(victims: dict[str, bytes], name: str) -> None:
    data = victims[name]
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        refusal(bytes(changed))


@pytest.mark.parametrize("name", VICTIMS)
def test_every_missing_and_every_doubled_byte(victims: dict[str, bytes], name: str) -> None:
    data = victims[name]
    for position in range(len(data)):
        refusal(data[:position] + data[position + 1 :])
        refusal(data[: position + 1] + data[position:])


@pytest.mark.parametrize("name", VICTIMS)
def test_blocks_of_zeros_and_exchanged_blocks(victims: dict[str, bytes], name: str) -> None:
    data = victims[name]
    for start in range(0, len(data) - 32, 16):
        first, second = data[start : start + 16], data[start + 16 : start + 32]
        if first != bytes(16):
            refusal(data[:start] + bytes(16) + data[start + 16 :])
        if first != second:
            refusal(data[:start] + second + first + data[start + 32 :])


def zip_of(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, content)
    return stream.getvalue()


PDF = b"%PDF-1.7\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF\n"


@pytest.mark.parametrize("name", VICTIMS)
@pytest.mark.parametrize(
    "other", [zip_of("a", b"b"), PDF, b"\x7fELF", b"#!/bin/sh\n", b"\x80\x04.", b"\0", b"\n"]
)
def test_two_formats_in_one(victims: dict[str, bytes], name: str, other: bytes) -> None:
    data = victims[name]
    assert refusal(data + other) is Reason.TRAILING_BYTES
    assert refusal(other + data) is Reason.BAD_MAGIC
    assert refusal(data[:64] + other + data[64:]) is Reason.TRAILING_BYTES


@pytest.mark.parametrize("name", VICTIMS)
def test_zip_with_the_file_inside_and_before(victims: dict[str, bytes], name: str) -> None:
    data = victims[name]
    assert refusal(zip_of("model.spq", data)) is Reason.BAD_MAGIC
    # A zip is read from its end, so that this one would be both.
    stream = io.BytesIO()
    stream.write(data)
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("a", b"b")
    with zipfile.ZipFile(stream) as archive:
        assert archive.read("a") == b"b"
    assert refusal(stream.getvalue()) is Reason.TRAILING_BYTES


@pytest.mark.parametrize("name", VICTIMS)
def test_damage_of_text_transfers(victims: dict[str, bytes], name: str) -> None:
    data = victims[name]
    assert refusal(data.replace(b"\r\n", b"\n")) is Reason.BAD_MAGIC
    assert refusal(data.replace(b"\n", b"\r\n")) is Reason.BAD_MAGIC
    assert refusal(bytes(byte & 0x7F for byte in data)) is Reason.BAD_MAGIC
    assert refusal(data.decode("latin-1").encode("utf-8")) is Reason.BAD_MAGIC
    assert refusal(data[: data.index(b"\x1a")]) is Reason.TRUNCATED
