"""From bytes to a validated `Container`: every structural rule of the spec, nothing decoded."""

import zlib
from collections.abc import Callable, Mapping
from math import prod
from types import MappingProxyType

from spqformat import zstd
from spqformat.cursor import Cursor
from spqformat.deflate import inflated
from spqformat.errors import Reason, SpqError
from spqformat.ids import (
    HEADER_BYTES,
    KNOWN_REQUIRED_FEATURES,
    MAGIC,
    MAX_ELEMENTS,
    MAX_FILE_BYTES,
    MAX_NAME_BYTES,
    MAX_RANK,
    VERSION_MAJOR,
    DType,
    Encoding,
    ProgramCodec,
    RequiredFeature,
)
from spqformat.limits import Limits
from spqformat.model import Container, Part, ProgramRecord, TensorRecord

Read = Callable[[int, int], bytes]
"""``read(offset, count)`` returns exactly the bytes that are there: fewer only past the end."""

_DTYPES = frozenset(DType)
_ENCODINGS = frozenset(Encoding)
_PROGRAM_CODECS = frozenset(ProgramCodec)


def read_container(read: Read, available_bytes: int, limits: Limits) -> Container:
    """Read and validate header, directory, metadata and the list of programs (spec 3 to 5).

    Parameters
    ----------
    read : callable
        ``read(offset, count)``, byte offset and byte count.
    available_bytes : int
        Length of the file or buffer in bytes.
    limits : Limits
        What the reader is willing to spend.

    Returns
    -------
    Container
        The validated structure.

    Raises
    ------
    SpqError
        `bad_magic`, `unsupported_version`, `unsupported_feature`, `truncated`, `trailing_bytes`,
        `checksum_mismatch`, `bad_header`, `bad_directory`, `bad_metadata`, `bad_program`,
        `limit_exceeded`.
    """
    header = _read_header(read, available_bytes, limits)
    directory_bytes = read(HEADER_BYTES, header.directory_bytes)
    if zlib.crc32(directory_bytes, header.crc32_before_directory) != header.header_crc32:
        raise SpqError(
            Reason.CHECKSUM_MISMATCH,
            "the directory does not match its checksum; fetch the file again",
            offset=HEADER_BYTES,
            section="directory",
        )
    if header.deflated_directory:
        directory_bytes = inflated(directory_bytes, HEADER_BYTES, limits)
    tensors, aliases = _read_directory(directory_bytes, header)
    metadata_offset = HEADER_BYTES + header.directory_bytes
    metadata = _read_metadata(
        read(metadata_offset, header.metadata_bytes), metadata_offset, header.metadata_bytes
    )
    program_offset = metadata_offset + header.metadata_bytes
    programs = _read_programs(read, program_offset, header.program_bytes, limits.max_program_bytes)
    return Container(
        file_bytes=header.file_bytes,
        decoded_bytes=header.decoded_bytes,
        tensors=MappingProxyType(tensors),
        aliases=MappingProxyType(aliases),
        metadata=MappingProxyType(metadata),
        programs=MappingProxyType(programs),
    )


def check_part(stored: bytes, part: Part, section: str) -> bytes:
    """Return the bytes of a part after checking their length and checksum.

    Raises
    ------
    SpqError
        `truncated` or `checksum_mismatch`.
    """
    if len(stored) != part.stored_bytes:
        raise SpqError(
            Reason.TRUNCATED,
            f"{part.stored_bytes} bytes are announced where {len(stored)} are there; "
            "fetch the file again",
            offset=part.offset,
            section=section,
        )
    if zlib.crc32(stored) != part.stored_crc32:
        raise SpqError(
            Reason.CHECKSUM_MISMATCH,
            "stored bytes do not match their checksum; fetch the file again",
            offset=part.offset,
            section=section,
        )
    return stored


def decode_program(stored: bytes, record: ProgramRecord) -> bytes:
    """Return a program's bytes; never more than its record announces (spec 4.2).

    Raises
    ------
    SpqError
        `truncated`, `checksum_mismatch` or `bad_program`.
    """
    check_part(stored, record.part, "program")
    if record.codec is ProgramCodec.STORED:
        return stored

    with_dictionary = record.codec is ProgramCodec.ZSTD_DICTIONARY
    frame = zstd.frame_of_blocks(stored, record.decoded_bytes) if with_dictionary else stored
    try:
        return zstd.unpack(frame, record.decoded_bytes, with_dictionary=with_dictionary)
    except zstd.ZstdError as error:
        raise SpqError(
            Reason.BAD_PROGRAM,
            f"the {record.kind} program is not a valid zstd frame: {error}",
            offset=record.part.offset,
            section="program",
        ) from error


class _Header:
    """The fixed fields of spec 3, validated against each other and the file's length."""

    def __init__(self, raw: bytes) -> None:
        fields = Cursor(raw, "header", 0, Reason.BAD_HEADER)
        fields.take(len(MAGIC))
        self.version_major = fields.u16()
        self.version_minor = fields.u16()
        self.tensor_count = fields.u32()
        self.required_features = fields.u64()
        self.optional_features = fields.u64()
        self.file_bytes = fields.u64()
        self.decoded_bytes = fields.u64()
        self.directory_bytes = fields.u32()
        self.metadata_bytes = fields.u32()
        self.program_bytes = fields.u32()
        self.header_crc32 = fields.u32()
        self.crc32_before_directory = zlib.crc32(raw[:-4])

    @property
    def deflated_directory(self) -> bool:
        """Whether the records are a stream of DEFLATE (spec 5.5)."""
        return bool(self.required_features & 1 << RequiredFeature.DEFLATED_DIRECTORY)

    @property
    def data_offset(self) -> int:
        """First byte of the data section."""
        return HEADER_BYTES + self.directory_bytes + self.metadata_bytes + self.program_bytes


def _read_header(read: Read, available_bytes: int, limits: Limits) -> _Header:
    """Read the header and compare it with the file's length and the reader's limits."""
    raw = read(0, HEADER_BYTES)
    if raw[: len(MAGIC)] != MAGIC[: len(raw)] or not raw:
        raise SpqError(
            Reason.BAD_MAGIC,
            "this is not an SPQ file; give one that spq pack or spq.save wrote",
            offset=0,
            section="header",
        )
    if len(raw) < HEADER_BYTES:
        raise _truncated(HEADER_BYTES, available_bytes)
    header = _Header(raw)
    if header.version_major != VERSION_MAJOR:
        raise SpqError(
            Reason.UNSUPPORTED_VERSION,
            f"the file has format version {header.version_major}.{header.version_minor}, "
            f"this reader knows {VERSION_MAJOR}; update spqformat",
            offset=8,
            section="header",
        )
    unknown = header.required_features & ~KNOWN_REQUIRED_FEATURES
    if unknown:
        bit = (unknown & -unknown).bit_length() - 1
        raise SpqError(
            Reason.UNSUPPORTED_FEATURE,
            f"the file needs feature bit {bit}, which this reader lacks; update spqformat",
            offset=16,
            section="header",
        )
    if header.file_bytes > MAX_FILE_BYTES or header.data_offset > header.file_bytes:
        raise SpqError(
            Reason.BAD_HEADER, "the sections do not fit the file", offset=32, section="header"
        )
    if available_bytes < header.file_bytes:
        raise _truncated(header.file_bytes, available_bytes)
    if available_bytes > header.file_bytes:
        raise SpqError(
            Reason.TRAILING_BYTES,
            f"{available_bytes - header.file_bytes} bytes follow the end of the file",
            offset=header.file_bytes,
            section="header",
        )
    for name, value, maximum in (
        ("decoded tensors", header.decoded_bytes, limits.max_decoded_bytes),
        ("tensors", header.tensor_count, limits.max_tensors),
        ("directory", header.directory_bytes, limits.max_directory_bytes),
        ("metadata", header.metadata_bytes, limits.max_metadata_bytes),
        ("program section", header.program_bytes, limits.max_program_bytes),
    ):
        if value > maximum:
            unit = "" if name == "tensors" else " bytes"
            raise SpqError(
                Reason.LIMIT_EXCEEDED,
                f"the file declares {value}{unit} of {name}, the limit is {maximum}; "
                "raise Limits if you trust it",
                section="header",
            )
    return header


def _truncated(expected_bytes: int, available_bytes: int) -> SpqError:
    return SpqError(
        Reason.TRUNCATED,
        f"the file has {available_bytes} of {expected_bytes} bytes; fetch it again",
        offset=available_bytes,
        section="header",
    )


def _read_directory(raw: bytes, header: _Header) -> tuple[dict[str, TensorRecord], dict[str, str]]:
    """Read all tensor records; offsets follow from the order (spec 5)."""
    cursor = Cursor(
        raw,
        "directory",
        HEADER_BYTES,
        Reason.BAD_DIRECTORY,
        unpacked=header.deflated_directory,
    )
    names: list[str] = []
    records: dict[str, TensorRecord] = {}
    alias_targets: dict[str, int] = {}
    previous_name = b""
    offset = header.data_offset
    decoded_bytes = 0
    for _ in range(header.tensor_count):
        name_bytes = cursor.take(cursor.varint(MAX_NAME_BYTES))
        if name_bytes <= previous_name:
            raise cursor.refuse("tensor names are not in strictly ascending order")
        previous_name = name_bytes
        name = _utf8(name_bytes, cursor)
        names.append(name)
        encoding_id = cursor.u8()
        if encoding_id not in _ENCODINGS:
            raise cursor.refuse(f"encoding {encoding_id} is unknown")
        encoding = Encoding(encoding_id)
        if encoding is Encoding.ALIAS:
            alias_targets[name] = cursor.varint(header.tensor_count - 1)
            continue
        record = _read_record(cursor, name, encoding, offset)
        records[name] = record
        offset += record.stored_bytes
        decoded_bytes += record.decoded_bytes
        if offset > header.file_bytes:
            raise cursor.refuse(f"tensor {name!r} ends after the file")
    cursor.finish()
    if offset != header.file_bytes:
        raise cursor.refuse("the tensors do not fill the data section")
    if decoded_bytes != header.decoded_bytes:
        raise cursor.refuse("the tensors' sizes do not add up to the header's decoded_bytes")
    aliases: dict[str, str] = {}
    for name, target in alias_targets.items():
        if names[target] not in records:
            raise cursor.refuse(f"tied tensor {name!r} does not point to a stored tensor")
        aliases[name] = names[target]
    return records, aliases


def _read_record(cursor: Cursor, name: str, encoding: Encoding, offset: int) -> TensorRecord:
    """Read the fields of one stored tensor after its encoding."""
    dtype_id = cursor.u8()
    if dtype_id not in _DTYPES:
        raise cursor.refuse(f"element type {dtype_id} is unknown")
    dtype = DType(dtype_id)
    rank = cursor.u8()
    if rank > MAX_RANK:
        raise cursor.refuse(f"rank {rank} is more than {MAX_RANK}")
    shape = tuple(cursor.varint(MAX_ELEMENTS) for _ in range(rank))
    # NumPy and fixed-width products do not forgive a huge dimension for the sake of an empty one.
    if prod(dimension or 1 for dimension in shape) > MAX_ELEMENTS:
        raise cursor.refuse(f"tensor {name!r} has more than {MAX_ELEMENTS} elements")
    if 0 in shape and encoding is not Encoding.RAW:
        raise cursor.refuse(f"empty tensor {name!r} is not stored raw")
    decoded_crc32 = cursor.u32()
    if encoding is Encoding.CONSTANT:
        element = cursor.take(dtype.item_bytes)
        if dtype is DType.BOOL and element[0] > 1:
            raise cursor.refuse(f"the boolean of tensor {name!r} is neither 0 nor 1")
        return TensorRecord(name, dtype, encoding, shape, decoded_crc32, (), element)
    # Each part takes at least five bytes of the directory, which bounds the loop.
    part_count = 1 if encoding is Encoding.RAW else cursor.varint(cursor.remaining_bytes // 5)
    if part_count < 2 and encoding is not Encoding.RAW:
        raise cursor.refuse(f"tensor {name!r} has no chunk")
    parts: list[Part] = []
    for _ in range(part_count):
        stored_bytes = cursor.varint(MAX_FILE_BYTES)
        parts.append(Part(offset, stored_bytes, cursor.u32()))
        offset += stored_bytes
    record = TensorRecord(name, dtype, encoding, shape, decoded_crc32, tuple(parts))
    if encoding is Encoding.RAW and record.stored_bytes != record.decoded_bytes:
        raise cursor.refuse(f"raw tensor {name!r} has another length than its shape says")
    return record


def _read_metadata(raw: bytes, offset: int, stored_bytes: int) -> dict[str, str]:
    """Read the flat string map, keys strictly ascending, checksum last (spec 4.1)."""
    if stored_bytes == 0:
        return {}
    body = _checked_section(raw, "metadata", offset, Reason.BAD_METADATA)
    cursor = Cursor(body, "metadata", offset, Reason.BAD_METADATA)
    if not body:
        raise cursor.refuse("an empty map has no section")
    metadata: dict[str, str] = {}
    previous_key = b""
    while cursor.remaining_bytes:
        key = cursor.take(cursor.varint(MAX_NAME_BYTES))
        if key <= previous_key:
            raise cursor.refuse("metadata keys are not in strictly ascending order")
        previous_key = key
        value = cursor.take(cursor.varint(cursor.remaining_bytes))
        metadata[_utf8(key, cursor)] = _utf8(value, cursor)
    return metadata


def _read_programs(
    read: Read, offset: int, section_bytes: int, max_program_bytes: int
) -> Mapping[str, ProgramRecord]:
    """Read the records of the program section, not the programs that follow them (spec 4.2)."""
    if section_bytes == 0:
        return {}
    if section_bytes < 4:
        raise SpqError(
            Reason.BAD_PROGRAM, "the program section is too short", offset=offset, section="program"
        )
    cursor = Cursor(read(offset, 4), "program", offset, Reason.BAD_PROGRAM)
    records_bytes = cursor.u32()
    if records_bytes > section_bytes - 4:
        raise cursor.refuse(
            f"{records_bytes} bytes of records are announced where {section_bytes - 4} are left"
        )
    raw = read(offset + 4, records_bytes)
    body = _checked_section(raw, "program", offset + 4, Reason.BAD_PROGRAM)
    records = Cursor(body, "program", offset + 4, Reason.BAD_PROGRAM)
    if not body:
        raise records.refuse("the program section has no program")
    part_offset = offset + 4 + records_bytes
    programs: dict[str, ProgramRecord] = {}
    previous_kind = b""
    decoded_total = 0
    while records.remaining_bytes:
        kind = records.take(records.varint(MAX_NAME_BYTES))
        if kind <= previous_kind:
            raise records.refuse("program kinds are not in strictly ascending order")
        previous_kind = kind
        codec_id = records.u8()
        if codec_id not in _PROGRAM_CODECS:
            raise records.refuse(f"program codec {codec_id} is unknown")
        codec = ProgramCodec(codec_id)
        decoded_bytes = records.varint(MAX_FILE_BYTES)
        stored_bytes = records.varint(MAX_FILE_BYTES)
        if codec is ProgramCodec.STORED and decoded_bytes != stored_bytes:
            raise records.refuse("a stored program has two lengths")
        decoded_total += decoded_bytes
        if decoded_total > max_program_bytes:
            raise SpqError(
                Reason.LIMIT_EXCEEDED,
                f"the programs take more than {max_program_bytes} bytes; "
                "raise Limits if you trust the file",
                section="program",
            )
        part = Part(part_offset, stored_bytes, records.u32())
        part_offset += stored_bytes
        programs[_utf8(kind, records)] = ProgramRecord(
            _utf8(kind, records), codec, decoded_bytes, part
        )
    if part_offset != offset + section_bytes:
        raise records.refuse("the programs do not fill their section")
    return programs


def _checked_section(raw: bytes, section: str, offset: int, fault: Reason) -> bytes:
    """Return a section without the CRC-32 that ends it."""
    if len(raw) < 4:
        raise SpqError(fault, "the section is too short", offset=offset, section=section)
    body, stored = raw[:-4], int.from_bytes(raw[-4:], "little")
    if zlib.crc32(body) != stored:
        raise SpqError(
            Reason.CHECKSUM_MISMATCH,
            "the section does not match its checksum; fetch the file again",
            offset=offset,
            section=section,
        )
    return body


def _utf8(raw: bytes, cursor: Cursor) -> str:
    """Decode a name: UTF-8 without NUL."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise cursor.refuse("a name is not UTF-8") from None
    if "\0" in text:
        raise cursor.refuse("a name contains NUL")
    return text
