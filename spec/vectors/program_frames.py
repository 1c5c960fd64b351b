"""Programs in frames of zstd that are made by hand, after RFC 8878, and frames that are broken."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from builders import Program, file_of, number, programs_of
from invalid_files import Invalid
from valid_files import Valid, zstd_block, zstd_frame

MAGIC = b"\x28\xb5\x2f\xfd"
SKIPPABLE_MAGIC = b"\x50\x2a\x4d\x18"
# The registry names this file: what is in it is part of the format.
DICTIONARY = (Path(__file__).parents[2] / "spqformat" / "program_dictionary.bin").read_bytes()
CHECKSUM_OF_NOTHING = b"\x99\xe9\xd8\x51"  # RFC 8878, 3.1.1: the low bytes of XXH64


def block(content: bytes, kind: int = 0, last: bool = False, size: int | None = None) -> bytes:
    """Return a block (RFC 8878, 3.1.1.2): raw (0), a run (1), compressed (2) or reserved (3)."""
    return number(last | kind << 1 | (len(content) if size is None else size) << 3, 3) + content


def match(distance: int, count: int) -> bytes:
    """Return a last block that copies 3 to 34 bytes from so far back (RFC 8878, 3.1.1.3).

    It has no literals and one sequence, each of whose codes is the only one of its kind. The offset
    code counts the bits of `distance + 3` behind the highest; they, and the one that ends the
    bitstream, are `distance + 3` itself.
    """
    value = distance + 3
    content = b"\0\1\x54" + bytes([0, value.bit_length() - 1, count - 3])
    return block(content + number(value, -(-value.bit_length() // 8)), 2, last=True)


def window_frame(window_log2: int, content_bytes: int, blocks: bytes) -> bytes:
    """Return a frame with a window and four bytes of content size (RFC 8878, 3.1.1.1)."""
    return MAGIC + bytes([0x80, (window_log2 - 10) << 3]) + number(content_bytes, 4) + blocks


def _valid() -> Iterator[tuple[str, Valid]]:
    """Frames that other compressors write."""
    blocks = block(b"ab") + block(b"x", 1, size=700) + zstd_block(b"")
    content = b"ab" + b"x" * 700
    programs = {
        "x-checksum": (MAGIC + b"\x24\0" + zstd_block(b"") + CHECKSUM_OF_NOTHING, b""),
        "x-large-window": (window_frame(23, 702, blocks), content),
        "x-window": (window_frame(10, 702, blocks), content),
    }
    yield (
        "program_frames",
        Valid(
            "frames with a window, several blocks, a run and a checksum",
            file_of(programs=programs_of(*_records(programs, 1))),
            programs={kind: decoded for kind, (_, decoded) in programs.items()},
        ),
    )
    programs = {
        "x-first": (match(len(DICTIONARY), 34), DICTIONARY[:34]),
        "x-last": (match(20, 34), DICTIONARY[-20:] + DICTIONARY[-20:-6]),
        "x-middle": (
            block(b"ab") + match(4002, 30),
            b"ab" + DICTIONARY[len(DICTIONARY) - 4000 :][:30],
        ),
        "x-none": (zstd_block(b""), b""),
        "x-plain": (block(b"ab") + block(b"x", 1, size=700) + zstd_block(b""), content),
    }
    yield (
        "program_dictionary",
        Valid(
            "blocks that copy from the first byte of the dictionary, its middle and its end",
            file_of(programs=programs_of(*_records(programs, 2))),
            programs={kind: decoded for kind, (_, decoded) in programs.items()},
        ),
    )


def _records(programs: dict[str, tuple[bytes, bytes]], codec: int) -> list[Program]:
    """Return the records of programs, stored and decoded."""
    return [
        Program(kind.encode(), stored, codec, len(decoded))
        for kind, (stored, decoded) in programs.items()
    ]


def _invalid() -> Iterator[tuple[str, str, Program]]:
    """Frames that break a rule of 4.2 or of RFC 8878."""
    frame = zstd_frame(b"hello")
    plain = Program(b"onnx", frame, 1, 5)
    by_dictionary = Program(b"onnx", zstd_block(b"hello"), 2, 5)
    skippable = SKIPPABLE_MAGIC + number(3, 4) + b"abc"
    changed: dict[str, tuple[str, Program]] = {
        "skippable": ("a skippable frame as a program of no bytes", Program(b"a", skippable, 1, 0)),
        "skippable_first": ("a skippable frame first", replace(plain, stored=skippable + frame)),
        "skippable_last": ("a skippable frame last", replace(plain, stored=frame + skippable)),
        "nothing": ("no byte as a program of no bytes", Program(b"a", b"", 1, 0)),
        "id": ("a frame of dictionary 1", replace(plain, stored=MAGIC + b"\x21\1\5" + frame[6:])),
        "checksum": (
            "a wrong checksum in the frame",
            Program(b"a", MAGIC + b"\x24\0" + zstd_block(b"") + bytes(4), 1, 0),
        ),
        "reserved": (
            "a reserved type of block",
            replace(plain, stored=frame[:6] + block(b"hello", 3, last=True)),
        ),
        "match": (
            "a match before the content, without the dictionary",
            Program(b"a", MAGIC + b"\x20\x14" + match(20, 20), 1, 20),
        ),
        "block_match": (
            "a match before the dictionary",
            Program(b"a", match(len(DICTIONARY) + 1, 20), 2, 20),
        ),
        "block_head": ("blocks with the header of a frame", replace(by_dictionary, stored=frame)),
        "block_cut": ("no last block", replace(by_dictionary, stored=block(b"hello"))),
        "block_none": ("no block as a program of no bytes", Program(b"a", b"", 2, 0)),
        "block_more": (
            "blocks of one byte more than the record",
            replace(by_dictionary, decoded_bytes=4),
        ),
        "block_tail": (
            "a byte behind the last block",
            Program(b"a", zstd_block(b"") + b"\0", 2, 0),
        ),
    }
    for name, (purpose, program) in changed.items():
        yield f"program_frame_{name}", purpose, program


def valid_files() -> dict[str, Valid]:
    """Return the valid files by name."""
    return dict(_valid())


def invalid_files() -> dict[str, Invalid]:
    """Return the invalid files by name."""
    return {
        name: Invalid(purpose, "bad_program", file_of(programs=programs_of(program)))
        for name, purpose, program in _invalid()
    }
