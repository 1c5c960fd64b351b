"""From coded tensors to the bytes of a file: canonical form only."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from spqformat import zstd
from spqformat.cursor import varint
from spqformat.deflate import deflated
from spqformat.errors import Reason, SpqError
from spqformat.ids import (
    HEADER_BYTES,
    MAGIC,
    MAX_ELEMENTS,
    MAX_NAME_BYTES,
    MAX_RANK,
    VERSION_MAJOR,
    DType,
    Encoding,
    ProgramCodec,
    RequiredFeature,
)
from spqformat.limits import Limits

# Minor versions that encodings came with; the others are as old as the format.
_MINOR_OF_ENCODINGS = {Encoding.CONSTANT: 1, Encoding.MIXED: 2}


@dataclass(frozen=True)
class EncodedTensor:
    """A tensor ready to be stored.

    Parameters
    ----------
    dtype : DType
        Element type.
    encoding : Encoding
        `RAW`, `DENSE`, `SPARSE`, `PLANES`, `CONSTANT` or `MIXED`.
    shape : tuple of int
        Dimensions.
    decoded_crc32 : int
        CRC-32 of the decoded elements.
    parts : sequence of bytes
        One part for `RAW`, none for `CONSTANT`; the tables and then the chunks for the others.
    element : bytes
        The element that a `CONSTANT` tensor repeats, little-endian; empty for the others.
    """

    dtype: DType
    encoding: Encoding
    shape: tuple[int, ...]
    decoded_crc32: int
    parts: Sequence[bytes]
    element: bytes = b""

    @property
    def decoded_bytes(self) -> int:
        """Bytes of the decoded tensor."""
        return prod(self.shape) * self.dtype.item_bytes

    @property
    def stored_bytes(self) -> int:
        """Bytes of all parts."""
        return sum(len(part) for part in self.parts)


def serialise(
    tensors: Mapping[str, EncodedTensor],
    aliases: Mapping[str, str],
    metadata: Mapping[str, str],
    programs: Mapping[str, bytes],
) -> Iterator[bytes]:
    """Yield the pieces of a file from front to back.

    Parameters
    ----------
    tensors : mapping of str to EncodedTensor
        Stored tensors; any order.
    aliases : mapping of str to str
        Tied names and the stored tensor that each stands for.
    metadata : mapping of str to str
        Flat string map.
    programs : mapping of str to bytes
        Programs by registered kind.

    Yields
    ------
    bytes
        Header, directory, metadata, programs and the parts of the tensors.

    Raises
    ------
    SpqError
        `bad_argument` for a name, shape or metadata that the format cannot hold.
    """
    names = sorted([*tensors, *aliases], key=checked_utf8)
    position = {name: index for index, name in enumerate(names)}
    records = bytearray()
    for name in names:
        records += _name_bytes(name)
        if name in aliases:
            records += bytes([Encoding.ALIAS]) + varint(position[aliases[name]])
        else:
            records += _write_record(name, tensors[name])
    directory = bytes(records)
    metadata_section = _write_metadata(metadata)
    program_section = _write_programs(programs)
    limits = Limits()
    _check_size("directory", len(directory), limits.max_directory_bytes)
    packed = deflated(directory)
    section = directory if packed is None else packed
    required_features = 0 if packed is None else 1 << RequiredFeature.DEFLATED_DIRECTORY
    _check_size("metadata", len(metadata_section), limits.max_metadata_bytes)
    _check_size("programs", sum(map(len, programs.values())), limits.max_program_bytes)
    stored = [tensors[name] for name in names if name in tensors]
    file_bytes = (
        HEADER_BYTES
        + len(section)
        + len(metadata_section)
        + len(program_section)
        + sum(tensor.stored_bytes for tensor in stored)
    )
    header = (
        MAGIC
        + VERSION_MAJOR.to_bytes(2, "little")
        + _version_minor(required_features, stored).to_bytes(2, "little")
        + len(names).to_bytes(4, "little")
        + required_features.to_bytes(8, "little")
        + bytes(8)  # no optional features
        + file_bytes.to_bytes(8, "little")
        + sum(tensor.decoded_bytes for tensor in stored).to_bytes(8, "little")
        + len(section).to_bytes(4, "little")
        + len(metadata_section).to_bytes(4, "little")
        + len(program_section).to_bytes(4, "little")
    )
    yield header + _u32(zlib.crc32(section, zlib.crc32(header)))
    yield section
    yield metadata_section
    yield program_section
    for tensor in stored:
        yield from tensor.parts


def _version_minor(required_features: int, stored: Sequence[EncodedTensor]) -> int:
    """Return the lowest minor version that has all that a file uses (spec 3.3)."""
    oldest = 1 if required_features else 0
    return max([oldest, *(_MINOR_OF_ENCODINGS.get(tensor.encoding, 0) for tensor in stored)])


def _check_size(what: str, size: int, most: int) -> None:
    """Refuse, with `bad_argument`, what readers refuse unless their limits are raised."""
    if size > most:
        raise SpqError(
            Reason.BAD_ARGUMENT, f"{what}: {size} bytes, and readers take {most}; store less"
        )


def check_shape(name: str, shape: Sequence[int]) -> None:
    """Refuse, with `bad_argument`, a shape that the format cannot hold."""
    if len(shape) > MAX_RANK:
        raise SpqError(
            Reason.BAD_ARGUMENT, f"tensor {name!r} has more than {MAX_RANK} dimensions; reshape it"
        )
    if prod(dimension or 1 for dimension in shape) > MAX_ELEMENTS:
        raise SpqError(
            Reason.BAD_ARGUMENT,
            f"tensor {name!r} has dimensions whose product is above {MAX_ELEMENTS}; reshape it",
        )


def _write_record(name: str, tensor: EncodedTensor) -> bytes:
    """Write the fields of one stored tensor after its name."""
    check_shape(name, tensor.shape)
    record = bytearray([tensor.encoding, tensor.dtype, len(tensor.shape)])
    for dimension in tensor.shape:
        record += varint(dimension)
    record += _u32(tensor.decoded_crc32)
    if tensor.encoding is Encoding.CONSTANT:
        return bytes(record) + tensor.element
    if tensor.encoding is not Encoding.RAW:
        record += varint(len(tensor.parts))
    for part in tensor.parts:
        record += varint(len(part)) + _u32(zlib.crc32(part))
    return bytes(record)


def _write_metadata(metadata: Mapping[str, str]) -> bytes:
    if not metadata:
        return b""
    body = bytearray()
    for key in sorted(metadata, key=checked_utf8):
        value = _utf8(metadata[key])
        if value is None:
            raise SpqError(
                Reason.BAD_ARGUMENT,
                f"metadata is UTF-8 text without NUL: {_start(metadata[key])} of {key!r}",
            )
        body += _name_bytes(key) + varint(len(value)) + value
    return bytes(body) + _u32(zlib.crc32(body))


def _write_programs(programs: Mapping[str, bytes]) -> bytes:
    if not programs:
        return b""
    records, payload = bytearray(), bytearray()
    for kind in sorted(programs, key=checked_utf8):
        program = _checked_program(kind, programs[kind])
        codec, stored = _packed(program)
        records += _name_bytes(kind) + bytes([codec])
        records += varint(len(program)) + varint(len(stored)) + _u32(zlib.crc32(stored))
        payload += stored
    records += _u32(zlib.crc32(records))
    return _u32(len(records)) + bytes(records) + bytes(payload)


def _packed(program: bytes) -> tuple[ProgramCodec, bytes]:
    """Return the fewest bytes that hold a program, and what they are."""
    codec, packed = ProgramCodec.ZSTD_DICTIONARY, zstd.blocks_of(program)
    if packed is None:
        codec, packed = ProgramCodec.ZSTD, zstd.frame_of(program)
    if len(packed) >= len(program):
        return ProgramCodec.STORED, program
    return codec, packed


def _name_bytes(name: str) -> bytes:
    raw = checked_utf8(name)
    return varint(len(raw)) + raw


def checked_utf8(name: object) -> bytes:
    """Return a name as UTF-8, which also is its sorting key, or refuse it."""
    raw = _utf8(name)
    if raw is None or not 1 <= len(raw) <= MAX_NAME_BYTES:
        raise SpqError(
            Reason.BAD_ARGUMENT,
            f"a name takes 1 to {MAX_NAME_BYTES} bytes of UTF-8 without NUL: {_start(name)}",
        )
    return raw


def _checked_program(kind: str, program: object) -> bytes:
    if not isinstance(program, bytes | bytearray | memoryview):
        raise SpqError(
            Reason.BAD_ARGUMENT,
            f"the {kind} program is a {type(program).__name__}; pass bytes",
        )
    return bytes(program)


def _utf8(text: object) -> bytes | None:
    """Return text as UTF-8, or None for what is no text that the format can hold."""
    if not isinstance(text, str):
        return None
    raw = text.encode("utf-8", "replace")
    return None if b"\0" in raw or raw.decode("utf-8") != text else raw


def _start(value: object) -> str:
    """Return the beginning of what was refused, for a message."""
    return repr(value[:80]) if isinstance(value, str) else f"a {type(value).__name__}"


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")
