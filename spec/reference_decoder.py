"""Reference decoder of SPQ-1: the text of SPQ-1.md as a program, obvious rather than fast.

It needs the standard library alone and follows the sections of the text in their order. It decodes
every tensor to little-endian bytes in row-major order and checks every checksum. Two things it
leaves out, because the standard library lacks what they need: a program stored with zstd is checked
as far as its stored length and checksum go and is returned undecoded, and no program is interpreted
(section 8).

    python reference_decoder.py FILE

prints the names, shapes and checksums of a file.
"""

import math
import struct
import sys
import zlib
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise, product
from pathlib import Path

# --- 1 Scope ---------------------------------------------------------------------------------


class Refusal(Exception):
    """The file is refused.

    Parameters
    ----------
    code : str
        Reason of section 10.1.
    why : str
        One sentence for people.
    """

    def __init__(self, code: str, why: str) -> None:
        self.code = code
        super().__init__(f"{why} [{code}]")


# --- 2 Conventions ---------------------------------------------------------------------------


class Cursor:
    """Reads a section from front to back (2.1, 2.2).

    Parameters
    ----------
    data : bytes
        The whole section.
    fault : str
        Reason for a section that breaks a rule.
    """

    def __init__(self, data: bytes, fault: str) -> None:
        self._data = data
        self._fault = fault
        self._position = 0

    @property
    def remaining_bytes(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._position

    def require(self, condition: bool, rule: str) -> None:
        """Refuse the section unless a rule holds."""
        if not condition:
            raise Refusal(self._fault, f"broken rule: {rule}")

    def take(self, count: int) -> bytes:
        """Read exactly `count` bytes."""
        self.require(count <= self.remaining_bytes, "a field ends within its section")
        self._position += count
        return self._data[self._position - count : self._position]

    def integer(self, width: int) -> int:
        """Read an unsigned integer of `width` bytes."""
        return int.from_bytes(self.take(width), "little")

    def varint(self, maximum: int) -> int:
        """Read an unsigned LEB128 integer in its shortest form (2.2)."""
        value = 0
        for index in range(9):
            byte = self.integer(1)
            value += (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                self.require(byte != 0 or index == 0, "a varint has its shortest form")
                self.require(value <= maximum, f"a varint is at most {maximum}")
                return value
        raise Refusal(self._fault, "broken rule: a varint has at most 9 bytes")

    def signed_varint(self, magnitude: int) -> int:
        """Read a zigzag integer of at most `magnitude` in absolute value (2.2)."""
        folded = self.varint(2 * magnitude)
        return folded // 2 if folded % 2 == 0 else -(folded + 1) // 2

    def text(self, raw: bytes) -> str:
        """Return text that has been read: UTF-8 without NUL (2.3)."""
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise Refusal(self._fault, "broken rule: text is UTF-8") from None
        self.require("\0" not in text, "text has no NUL")
        return text

    def name(self, previous: bytes) -> bytes:
        """Read the bytes of a name, which come after those of the name before (2.3)."""
        raw = self.take(self.varint(MAX_NAME_BYTES))
        self.require(raw > previous, "names are in strictly ascending order and not empty")
        return raw

    def finish(self) -> None:
        """Refuse bytes that no field accounts for."""
        self.require(self.remaining_bytes == 0, "a section ends with its last field")


def split_checksum(section: bytes, fault: str) -> bytes:
    """Return a section without the CRC-32 that ends it, after comparing both (2.4)."""
    if len(section) < 4:
        raise Refusal(fault, "broken rule: a section with a checksum has at least 4 bytes")
    if zlib.crc32(section[:-4]) != int.from_bytes(section[-4:], "little"):
        raise Refusal("checksum_mismatch", "a section does not match its checksum")
    return section[:-4]


# --- 3 Header --------------------------------------------------------------------------------

MAGIC = bytes.fromhex("93 53 50 51 0D 0A 1A 0A")
VERSION_MAJOR = 1
HEADER_BYTES = 64
# 3.4: bit 0 of `required_features`.
DEFLATED_DIRECTORY = 1
KNOWN_REQUIRED_FEATURES = DEFLATED_DIRECTORY


@dataclass(frozen=True)
class Limits:
    """What a reader is willing to spend (9.2)."""

    max_decoded_bytes: int = 8 << 30
    max_tensors: int = 1 << 20
    max_directory_bytes: int = 64 << 20
    max_metadata_bytes: int = 1 << 20
    max_program_bytes: int = 256 << 20


@dataclass(frozen=True)
class Header:
    """The fields of the header (3.2), in their order."""

    version_major: int
    version_minor: int
    tensor_count: int
    required_features: int
    optional_features: int
    file_bytes: int
    decoded_bytes: int
    directory_bytes: int
    metadata_bytes: int
    program_bytes: int
    header_crc32: int

    @property
    def data_offset(self) -> int:
        """First byte of the data section."""
        return HEADER_BYTES + self.directory_bytes + self.metadata_bytes + self.program_bytes


def read_header(data: bytes, limits: Limits) -> Header:
    """Read and check the header; the order of the checks is normative (3.5)."""
    if not data or data[:8] != MAGIC[: len(data)]:
        raise Refusal("bad_magic", "this is not an SPQ file")
    if len(data) < HEADER_BYTES:
        raise Refusal("truncated", "the header is not complete")
    header = Header(*struct.unpack("<HHIQQQQIIII", data[len(MAGIC) : HEADER_BYTES]))
    if header.version_major != VERSION_MAJOR:
        raise Refusal("unsupported_version", f"the major version is {header.version_major}")
    unknown = header.required_features & ~KNOWN_REQUIRED_FEATURES
    if unknown:
        bit = (unknown & -unknown).bit_length() - 1
        raise Refusal("unsupported_feature", f"the file needs feature bit {bit}")
    if header.file_bytes > MAX_FILE_BYTES or header.data_offset > header.file_bytes:
        raise Refusal("bad_header", "the sections do not fit the file")
    if len(data) < header.file_bytes:
        raise Refusal("truncated", f"{len(data)} of {header.file_bytes} bytes are there")
    if len(data) > header.file_bytes:
        raise Refusal("trailing_bytes", "bytes follow the end of the file")
    for value, maximum in (
        (header.decoded_bytes, limits.max_decoded_bytes),
        (header.tensor_count, limits.max_tensors),
        (header.directory_bytes, limits.max_directory_bytes),
        (header.metadata_bytes, limits.max_metadata_bytes),
        (header.program_bytes, limits.max_program_bytes),
    ):
        if value > maximum:
            raise Refusal("limit_exceeded", f"{value} is more than the limit {maximum}")
    # The checksum, which ends the header, covers what stands around it.
    directory = data[HEADER_BYTES : HEADER_BYTES + header.directory_bytes]
    if zlib.crc32(directory, zlib.crc32(data[: HEADER_BYTES - 4])) != header.header_crc32:
        raise Refusal("checksum_mismatch", "header and directory do not match their checksum")
    return header


# --- 4 Metadata and programs -----------------------------------------------------------------

PROGRAM_CODECS = {0: "stored", 1: "zstd", 2: "zstd_dictionary"}


@dataclass(frozen=True)
class Part:
    """A contiguous run of stored bytes (5.4)."""

    offset: int
    stored_bytes: int
    stored_crc32: int


@dataclass(frozen=True)
class ProgramRecord:
    """One stored program (4.2)."""

    codec: str
    decoded_bytes: int
    part: Part


def read_metadata(section: bytes) -> dict[str, str]:
    """Read the flat string map (4.1)."""
    metadata: dict[str, str] = {}
    if not section:
        return metadata
    cursor = Cursor(split_checksum(section, "bad_metadata"), "bad_metadata")
    cursor.require(cursor.remaining_bytes > 0, "an empty map has no section")
    key = b""
    while cursor.remaining_bytes:
        key = cursor.name(key)
        value = cursor.take(cursor.varint(cursor.remaining_bytes))
        metadata[cursor.text(key)] = cursor.text(value)
    return metadata


def read_programs(section: bytes, offset: int, limits: Limits) -> dict[str, ProgramRecord]:
    """Read the records of all programs (4.2); `offset` is where the section stands in the file."""
    programs: dict[str, ProgramRecord] = {}
    if not section:
        return programs
    whole = Cursor(section, "bad_program")
    records_bytes = whole.integer(4)
    cursor = Cursor(split_checksum(whole.take(records_bytes), "bad_program"), "bad_program")
    cursor.require(cursor.remaining_bytes > 0, "a program section has a program")
    part_offset = offset + 4 + records_bytes
    kind = b""
    decoded_total = 0
    while cursor.remaining_bytes:
        kind = cursor.name(kind)
        codec_id = cursor.integer(1)
        cursor.require(codec_id in PROGRAM_CODECS, "a program codec is registered")
        decoded_bytes = cursor.varint(MAX_FILE_BYTES)
        stored_bytes = cursor.varint(MAX_FILE_BYTES)
        cursor.require(codec_id != 0 or decoded_bytes == stored_bytes, "a stored length is exact")
        decoded_total += decoded_bytes
        if decoded_total > limits.max_program_bytes:
            raise Refusal("limit_exceeded", "the programs are longer than the limit")
        part = Part(part_offset, stored_bytes, cursor.integer(4))
        part_offset += stored_bytes
        record = ProgramRecord(PROGRAM_CODECS[codec_id], decoded_bytes, part)
        programs[cursor.text(kind)] = record
    whole.require(part_offset == offset + len(section), "the programs fill their section")
    return programs


# --- 5 Directory -----------------------------------------------------------------------------

# 5.2: name and width in bytes of each element type.
DTYPES = {
    0: ("f64", 8),
    1: ("f32", 4),
    2: ("f16", 2),
    3: ("bf16", 2),
    4: ("i8", 1),
    5: ("i16", 2),
    6: ("i32", 4),
    7: ("i64", 8),
    8: ("u8", 1),
    9: ("u16", 2),
    10: ("u32", 4),
    11: ("u64", 8),
    12: ("bool", 1),
}
# 5.3
ENCODINGS = {
    0: "raw",
    1: "alias",
    2: "dense",
    3: "sparse",
    4: "planes",
    5: "constant",
    6: "mixed",
}


@dataclass(frozen=True)
class TensorRecord:
    """One stored tensor (5.1)."""

    name: str
    encoding: str
    dtype: str
    item_bytes: int
    shape: tuple[int, ...]
    decoded_crc32: int
    parts: tuple[Part, ...]
    element: bytes  # of a constant tensor

    @property
    def element_count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Container:
    """Everything that a file says about itself."""

    header: Header
    metadata: dict[str, str]
    programs: dict[str, ProgramRecord]
    tensors: dict[str, TensorRecord]
    aliases: dict[str, str]


def read_container(data: bytes, limits: Limits) -> Container:
    """Check the structure of a whole file; nothing is decoded (3 to 5)."""
    header = read_header(data, limits)
    metadata_offset = HEADER_BYTES + header.directory_bytes
    program_offset = metadata_offset + header.metadata_bytes
    directory = data[HEADER_BYTES:metadata_offset]
    if header.required_features & DEFLATED_DIRECTORY:
        directory = inflate_directory(directory, limits)
    tensors, aliases = read_directory(directory, header)
    metadata = read_metadata(data[metadata_offset:program_offset])
    programs = read_programs(data[program_offset : header.data_offset], program_offset, limits)
    return Container(header, metadata, programs, tensors, aliases)


def inflate_directory(section: bytes, limits: Limits) -> bytes:
    """Return the records of a deflated directory (5.5)."""
    cursor = Cursor(section, "bad_directory")
    unpacked_bytes = cursor.varint(2**32 - 1)
    if unpacked_bytes > limits.max_directory_bytes:
        raise Refusal("limit_exceeded", "the directory is longer than the limit")
    cursor.require(unpacked_bytes > len(section), "a deflated directory is shorter")
    most = MAX_DIRECTORY_RATIO * len(section)
    cursor.require(unpacked_bytes <= most, "a deflated directory is at most 64 times shorter")
    inflate = zlib.decompressobj(wbits=-15)
    try:
        records = inflate.decompress(cursor.take(cursor.remaining_bytes), unpacked_bytes + 1)
    except zlib.error:
        raise Refusal("bad_directory", "broken rule: a stream of DEFLATE is valid") from None
    cursor.require(inflate.eof and not inflate.unused_data, "a stream ends with its section")
    cursor.require(len(records) == unpacked_bytes, "a directory has the length that it announces")
    return records


def read_directory(
    section: bytes, header: Header
) -> tuple[dict[str, TensorRecord], dict[str, str]]:
    """Read all records: stored tensors, and tied names with the tensor of each (5.1)."""
    cursor = Cursor(section, "bad_directory")
    tensors: dict[str, TensorRecord] = {}
    names: list[str] = []
    targets: dict[str, int] = {}
    offset = header.data_offset
    decoded_bytes = 0
    raw_name = b""
    for _ in range(header.tensor_count):
        raw_name = cursor.name(raw_name)
        name = cursor.text(raw_name)
        names.append(name)
        encoding_id = cursor.integer(1)
        cursor.require(encoding_id in ENCODINGS, "an encoding is registered")
        if ENCODINGS[encoding_id] == "alias":
            targets[name] = cursor.varint(header.tensor_count - 1)
            continue
        record = read_record(cursor, name, ENCODINGS[encoding_id], offset)
        tensors[name] = record
        offset += sum(part.stored_bytes for part in record.parts)
        decoded_bytes += record.element_count * record.item_bytes
        cursor.require(offset <= header.file_bytes, "a tensor ends within the file")
    cursor.finish()
    cursor.require(offset == header.file_bytes, "the tensors fill the data section")
    cursor.require(decoded_bytes == header.decoded_bytes, "the decoded sizes add up")
    for target in targets.values():
        cursor.require(names[target] in tensors, "an alias stands for a stored tensor")
    return tensors, {name: names[target] for name, target in targets.items()}


def read_record(cursor: Cursor, name: str, encoding: str, offset: int) -> TensorRecord:
    """Read the fields of a stored tensor that follow its encoding (5.1)."""
    dtype_id = cursor.integer(1)
    cursor.require(dtype_id in DTYPES, "an element type is registered")
    dtype, item_bytes = DTYPES[dtype_id]
    rank = cursor.integer(1)
    cursor.require(rank <= MAX_RANK, "a rank is at most 32")
    shape = tuple(cursor.varint(MAX_ELEMENTS) for _ in range(rank))
    extent = math.prod(dimension for dimension in shape if dimension)
    cursor.require(extent <= MAX_ELEMENTS, "the dimensions but zeros multiply to at most 2**48")
    element_count = math.prod(shape)
    cursor.require(element_count > 0 or encoding == "raw", "an empty tensor is raw")
    decoded_crc32 = cursor.integer(4)
    element = b""
    if encoding == "constant":
        element = cursor.take(item_bytes)
        cursor.require(dtype != "bool" or element in (b"\0", b"\1"), "a boolean is 0 or 1")
    part_count = {"raw": 1, "constant": 0}.get(encoding)
    if part_count is None:
        part_count = cursor.varint(cursor.remaining_bytes // 5)
        cursor.require(part_count >= 2, "a coded tensor has tables and a chunk")
    parts = []
    for _ in range(part_count):
        stored_bytes = cursor.varint(MAX_FILE_BYTES)
        parts.append(Part(offset, stored_bytes, cursor.integer(4)))
        offset += stored_bytes
    if encoding == "raw":
        right = parts[0].stored_bytes == element_count * item_bytes
        cursor.require(right, "a raw tensor has the length of its elements")
    return TensorRecord(
        name, encoding, dtype, item_bytes, shape, decoded_crc32, tuple(parts), element
    )


def read_part(data: bytes, part: Part) -> bytes:
    """Return the bytes of a part after comparing its checksum (5.4)."""
    stored = data[part.offset : part.offset + part.stored_bytes]
    if zlib.crc32(stored) != part.stored_crc32:
        raise Refusal("checksum_mismatch", "stored bytes do not match their checksum")
    return stored


# --- 6 Encodings -----------------------------------------------------------------------------


def decode_tensor(data: bytes, record: TensorRecord) -> bytes:
    """Return the elements of a tensor, little-endian and row-major (6)."""
    if record.encoding == "raw":
        elements = read_part(data, record.parts[0])
        if record.dtype == "bool" and max(elements, default=0) > 1:
            raise Refusal("bad_stream", "broken rule: a boolean is 0 or 1")
        return elements
    if record.encoding == "constant":
        return record.element * record.element_count
    decode = {
        "dense": decode_dense,
        "sparse": decode_sparse,
        "planes": decode_planes,
        "mixed": decode_mixed,
    }
    return decode[record.encoding](data, record)


def check_decoded(record: TensorRecord, elements: bytes) -> None:
    """Compare decoded elements with their checksum (5.4)."""
    if zlib.crc32(elements) != record.decoded_crc32:
        raise Refusal("checksum_mismatch", "decoded elements do not match their checksum")


# 6.1 Codebooks


def read_codebook(cursor: Cursor, record: TensorRecord) -> list[bytes]:
    """Read a codebook; each level comes as the little-endian bytes of one element (6.1)."""
    kind = cursor.integer(1)
    cursor.require(kind <= 3, "a codebook kind is registered")
    cursor.require(kind == 0 or record.dtype == "f32", "only f32 has short codebooks")
    level_count = cursor.varint(MAX_LEVELS)
    cursor.require(level_count > 0, "a codebook has a level")
    if kind == 3:
        return read_uniform(cursor, level_count)
    if kind == 1:
        levels = [b"\0\0" + cursor.take(2) for _ in range(level_count)]
    elif kind == 2:
        values = [struct.unpack("<e", cursor.take(2))[0] for _ in range(level_count)]
        cursor.require(all(map(math.isfinite, values)), "a float16 level is finite")
        levels = [struct.pack("<f", value) for value in values]
    else:
        levels = [cursor.take(record.item_bytes) for _ in range(level_count)]
        if record.dtype == "bool":
            cursor.require(max(levels) <= b"\1", "a boolean level is 0 or 1")
    patterns = [int.from_bytes(level, "little") for level in levels]
    ascending = all(low < high for low, high in pairwise(patterns))
    cursor.require(ascending, "the levels are in strictly ascending order")
    return levels


def read_uniform(cursor: Cursor, level_count: int) -> list[bytes]:
    """Read the two numbers that give all levels of a uniform codebook (6.1)."""
    exponent = cursor.signed_varint(126)
    first = cursor.signed_varint(1 << 24)
    cursor.require(exponent <= 102, "the exponent is at most 102")
    cursor.require(first + level_count - 1 <= 1 << 24, "the last integer is at most 2**24")
    return [
        struct.pack("<f", math.ldexp(integer, exponent))
        for integer in range(first, first + level_count)
    ]


# 6.2 Frequency tables


def read_freq_log2(cursor: Cursor) -> int:
    """Read the logarithm of the total of a table (6.2)."""
    freq_log2 = cursor.integer(1)
    cursor.require(1 <= freq_log2 <= MAX_FREQ_LOG2, "freq_log2 is 1 to 15")
    return freq_log2


def read_frequencies(cursor: Cursor, alphabet: int, freq_log2: int) -> list[int]:
    """Read the frequencies of one context (6.2)."""
    kind = cursor.integer(1)
    cursor.require(kind <= 3, "a table kind is registered")
    total = 1 << freq_log2
    if kind == 1:
        divides = alphabet & (alphabet - 1) == 0 and alphabet <= total
        cursor.require(divides, "the alphabet of a flat table divides its total")
        return [total // alphabet] * alphabet
    if kind in (2, 3):
        return read_mask_frequencies(cursor, kind, alphabet, total)
    frequencies: list[int] = []
    left = total
    after_zeros = False
    while len(frequencies) < alphabet:
        frequency = cursor.varint(left)
        frequencies.append(frequency)
        left -= frequency
        if frequency == 0:
            cursor.require(not after_zeros, "a run of zeros is not split")
            frequencies.extend([0] * cursor.varint(alphabet - len(frequencies)))
        after_zeros = frequency == 0
    cursor.require(left == 0, "the frequencies add up to their total")
    return frequencies


def read_mask_frequencies(cursor: Cursor, kind: int, alphabet: int, total: int) -> list[int]:
    """Read the densities that give all frequencies of a table of mask symbols (6.2.3)."""
    symbol_bits = alphabet.bit_length() - 1
    masks = alphabet == 1 << symbol_bits and 1 <= symbol_bits <= MAX_SYMBOL_BITS
    cursor.require(masks, "the alphabet is one of masks")
    first = after_zero = after_one = cursor.integer(2)
    if kind == 3:
        after_zero, after_one = cursor.integer(2), cursor.integer(2)
    max_ones = cursor.integer(1)
    cursor.require(max_ones <= symbol_bits, "a symbol has at most symbol_bits ones")
    if kind == 2:
        cursor.require((first == 0) == (max_ones == 0), "density and max_ones are zero together")
    else:
        cursor.require(min(first, after_zero, after_one) > 0, "a density is not zero")
    weights = []
    for symbol in range(alphabet):
        weight, density = 1 << 32, first
        for bit in range(symbol_bits):
            one = symbol >> bit & 1
            weight = weight * (density if one else 65536 - density) >> 16
            density = after_one if one else after_zero
        weights.append(weight if symbol.bit_count() <= max_ones else 0)
    weight_sum = max(1, sum(weights))
    frequencies = [
        max(1, weight * total // weight_sum) if symbol.bit_count() <= max_ones else 0
        for symbol, weight in enumerate(weights)
    ]
    most = frequencies.index(max(frequencies))
    frequencies[most] += total - sum(frequencies)
    cursor.require(frequencies[most] >= 1, "the most frequent symbol keeps a frequency")
    return frequencies


# 6.3 Dense tensors


def decode_dense(data: bytes, record: TensorRecord) -> bytes:
    """Decode a tensor whose elements are all coded as level indices (6.3)."""
    cursor = Cursor(read_part(data, record.parts[0]), "bad_tables")
    levels = read_codebook(cursor, record)
    index_bits = cursor.integer(1)
    cursor.require(index_bits in (1, 2, 4, 8), "index_bits is 1, 2, 4 or 8")
    cursor.require(len(levels) <= 1 << index_bits, "an index reaches every level")
    chunk_elements = cursor.varint(MAX_CHUNK_ELEMENTS)
    cursor.require(chunk_elements > 0, "a chunk has elements")
    cursor.require(chunk_elements % 8 == 0, "chunk_elements is a multiple of 8")
    freq_log2 = read_freq_log2(cursor)
    frequencies = read_index_frequencies(cursor, len(levels), index_bits, freq_log2)
    cursor.finish()
    chunk_count = -(-record.element_count // chunk_elements)
    cursor.require(len(record.parts) - 1 == chunk_count, "the directory has all chunks")

    coder = Coder([frequencies], freq_log2)
    per_symbol = 8 // index_bits
    elements = bytearray()
    for chunk, part in enumerate(record.parts[1:]):
        count = min(chunk_elements, record.element_count - chunk * chunk_elements)
        symbol_count = -(-count // per_symbol)
        symbols = coder.decode(read_part(data, part), [0] * symbol_count)
        indices = [index for symbol in symbols for index in split_symbol(symbol, index_bits)]
        if any(indices[count:]):
            raise Refusal("bad_stream", "the indices behind the last element are not zero")
        elements += b"".join(levels[index] for index in indices[:count])
    return bytes(elements)


def read_index_frequencies(
    cursor: Cursor, level_count: int, index_bits: int, freq_log2: int
) -> list[int]:
    """Read the frequencies of symbols that hold level indices (6.3.1)."""
    alphabet = level_count if index_bits == 8 else 256
    frequencies = read_frequencies(cursor, alphabet, freq_log2)
    for symbol, frequency in enumerate(frequencies):
        if frequency:
            known = all(index < level_count for index in split_symbol(symbol, index_bits))
            cursor.require(known, "a symbol with a frequency holds indices of levels")
    return frequencies


def split_symbol(symbol: int, index_bits: int) -> list[int]:
    """Return the indices that a symbol holds, the first in the lowest bits (6.3)."""
    mask = (1 << index_bits) - 1
    return [(symbol >> shift) & mask for shift in range(0, 8, index_bits)]


# 6.4 Sparse tensors


@dataclass(frozen=True)
class CodedClasses:
    """Density classes of all rows or all units of columns, not decoded yet (6.4.2)."""

    class_count: int
    freq_log2: int
    frequencies: list[int]
    stream: bytes

    def decode(self, count: int) -> list[int]:
        """Return the class of each of `count` rows or units of columns."""
        if self.class_count == 1:
            return [0] * count
        return Coder([self.frequencies], self.freq_log2).decode(self.stream, [0] * count)


def read_classes(cursor: Cursor) -> CodedClasses:
    """Read the density classes of rows or of units of columns (6.4.2)."""
    class_count = cursor.integer(1)
    cursor.require(1 <= class_count <= MAX_CLASSES, "there are 1 to 16 classes")
    if class_count == 1:
        return CodedClasses(1, 0, [], b"")
    freq_log2 = read_freq_log2(cursor)
    frequencies = read_frequencies(cursor, class_count, freq_log2)
    stream = cursor.take(cursor.varint(cursor.remaining_bytes))
    return CodedClasses(class_count, freq_log2, frequencies, stream)


def read_contexts(cursor: Cursor, pair_count: int) -> list[int]:
    """Read the context of each pair of a row class and a column class (6.4.2)."""
    if pair_count == 1:
        return [0]
    contexts: list[int] = []
    for _ in range(pair_count):
        context = cursor.integer(1)
        cursor.require(context <= max(contexts, default=-1) + 1, "contexts are numbered in order")
        cursor.require(context < MAX_CONTEXTS, "there are at most 64 contexts")
        contexts.append(context)
    return contexts


def decode_sparse(data: bytes, record: TensorRecord) -> bytes:
    """Decode a tensor stored as a mask of its non-zero elements and their levels (6.4)."""
    cursor = Cursor(read_part(data, record.parts[0]), "bad_tables")
    levels = read_codebook(cursor, record)
    cursor.require(bytes(record.item_bytes) not in levels, "zero is no level")
    row_length = cursor.varint(record.element_count)
    longest = min(MIN_ROW_LENGTH, record.element_count)
    cursor.require(row_length >= longest, "a row has at least 8 elements or all")
    row_count = -(-record.element_count // row_length)
    rows_per_chunk = cursor.varint(MAX_ELEMENTS)
    most_rows = max(1, MAX_CHUNK_ELEMENTS // row_length)
    cursor.require(1 <= rows_per_chunk <= most_rows, "rows_per_chunk is in its range")
    symbol_bits = cursor.integer(1)
    cursor.require(1 <= symbol_bits <= MAX_SYMBOL_BITS, "a symbol has 1 to 9 places")
    unit_columns = cursor.integer(1)
    cursor.require(unit_columns in (1, symbol_bits), "a unit is one column or those of a symbol")
    coded_rows = read_classes(cursor)
    coded_units = read_classes(cursor)
    pair_count = coded_rows.class_count * coded_units.class_count
    context_of_classes = read_contexts(cursor, pair_count)
    mask_freq_log2 = read_freq_log2(cursor)
    mask_tables = [
        read_frequencies(cursor, 1 << symbol_bits, mask_freq_log2)
        for _ in range(max(context_of_classes) + 1)
    ]
    index_bits = cursor.integer(1)
    cursor.require(index_bits in (4, 8), "index_bits is 4 or 8")
    cursor.require(len(levels) <= 1 << index_bits, "an index reaches every level")
    value_freq_log2 = read_freq_log2(cursor)
    value_table = read_index_frequencies(cursor, len(levels), index_bits, value_freq_log2)
    cursor.finish()
    chunk_count = -(-row_count // rows_per_chunk)
    cursor.require(len(record.parts) - 1 == chunk_count, "the directory has all chunks")

    row_classes = coded_rows.decode(row_count)
    unit_classes = coded_units.decode(-(-row_length // unit_columns))
    column_order = list(range(row_length))
    symbol_classes = unit_classes
    if unit_columns == 1:
        # A stable sort: columns of the same class keep their order.
        column_order.sort(key=unit_classes.__getitem__)
        symbol_classes = [unit_classes[column] for column in column_order[::symbol_bits]]
    mask_coder = Coder(mask_tables, mask_freq_log2)
    value_coder = Coder([value_table], value_freq_log2)
    width = record.item_bytes
    elements = bytearray(record.element_count * width)
    for chunk, part in enumerate(record.parts[1:]):
        stored = Cursor(read_part(data, part), "bad_stream")
        mask_stream = stored.take(stored.varint(stored.remaining_bytes))
        value_stream = stored.take(stored.remaining_bytes)
        rows = range(chunk * rows_per_chunk, min((chunk + 1) * rows_per_chunk, row_count))
        contexts = [
            context_of_classes[row_classes[row] * coded_units.class_count + symbol_class]
            for row in rows
            for symbol_class in symbol_classes
        ]
        mask = mask_coder.decode(mask_stream, contexts)
        positions = []
        for number, symbol in enumerate(mask):
            row, symbol_of_row = divmod(number, len(symbol_classes))
            for bit in range(symbol_bits):
                if symbol >> bit & 1:
                    place = symbol_bits * symbol_of_row + bit
                    stored.require(place < row_length, "no one stands behind a row")
                    position = rows[row] * row_length + column_order[place]
                    stored.require(position < record.element_count, "no one stands behind the end")
                    positions.append(position)
        value_count = -(-len(positions) * index_bits // 8)
        values = value_coder.decode(value_stream, [0] * value_count)
        indices = [index for symbol in values for index in split_symbol(symbol, index_bits)]
        padding = indices[len(positions) :]
        stored.require(not any(padding), "the indices behind the last value are zero")
        for position, index in zip(positions, indices[: len(positions)], strict=True):
            elements[position * width : (position + 1) * width] = levels[index]
    return bytes(elements)


# 6.5 Tensors in planes


def read_plane(cursor: Cursor) -> "Coder | None":
    """Read how one plane is stored: None for plain bytes (6.5.1)."""
    mode = cursor.integer(1)
    cursor.require(mode <= 1, "a plane mode is registered")
    if mode == 0:
        return None
    freq_log2 = read_freq_log2(cursor)
    return Coder([read_frequencies(cursor, 256, freq_log2)], freq_log2)


def decode_planes(data: bytes, record: TensorRecord) -> bytes:
    """Decode a tensor whose elements are split into planes of bytes (6.5)."""
    cursor = Cursor(read_part(data, record.parts[0]), "bad_tables")
    chunk_elements = cursor.varint(MAX_CHUNK_ELEMENTS)
    cursor.require(chunk_elements > 0, "a chunk has elements")
    cursor.require(chunk_elements % 8 == 0, "chunk_elements is a multiple of 8")
    width = record.item_bytes
    coders = [read_plane(cursor) for _ in range(width)]
    cursor.finish()
    chunk_count = -(-record.element_count // chunk_elements)
    cursor.require(len(record.parts) - 1 == chunk_count, "the directory has all chunks")

    elements = bytearray()
    for chunk, part in enumerate(record.parts[1:]):
        count = min(chunk_elements, record.element_count - chunk * chunk_elements)
        stored = Cursor(read_part(data, part), "bad_stream")
        pieces = [
            stored.take(stored.varint(stored.remaining_bytes) if coder else count)
            for coder in coders
        ]
        stored.finish()
        planes = [
            coder.decode(piece, [0] * count) if coder else list(piece)
            for coder, piece in zip(coders, pieces, strict=True)
        ]
        for place in zip(*planes, strict=True):
            element = int.from_bytes(bytes(place), "little")
            if record.dtype in ("f64", "f32", "f16", "bf16"):
                element = (element >> 1) + (element % 2 << (8 * width - 1))
            stored.require(record.dtype != "bool" or element <= 1, "a boolean is 0 or 1")
            elements += element.to_bytes(width, "little")
    return bytes(elements)


# 6.6 Mixed tensors


def decode_mixed(data: bytes, record: TensorRecord) -> bytes:
    """Decode a small tensor whose signed indices are coded by mixed predictions (6.6)."""
    tables = read_part(data, record.parts[0])
    cursor = Cursor(tables, "bad_tables")
    cursor.require(record.dtype in ("f64", "f32", "f16", "bf16"), "only floats are mixed")
    cursor.require(len(record.shape) >= 2, "a mixed tensor has rows and channels")
    small = record.element_count <= MAX_MIXED_ELEMENTS
    cursor.require(small, "a mixed tensor has at most 2**19 elements")
    levels = read_codebook(cursor, record)
    cursor.require(tables[0] != 3, "levels of a mixed tensor ascend as bit patterns")
    cursor.require(len(levels) <= MAX_MIXED_LEVELS, "a mixed tensor has at most 64 levels")
    zero = bytes(record.item_bytes)
    cursor.require(zero not in levels, "zero is no level")
    cursor.finish()
    cursor.require(len(record.parts) == 2, "a mixed tensor has one chunk")

    positive_count = sum(level[-1] < 0x80 for level in levels)
    level_of = {0: zero}
    for i, level in enumerate(levels):
        level_of[i + 1 if i < positive_count else positive_count - i - 1] = level
    signed = decode_signed_indices(
        read_part(data, record.parts[1]),
        record.shape,
        positive_count,
        len(levels) - positive_count,
    )
    return b"".join(level_of[index] for index in signed)


def decode_signed_indices(
    stream: bytes, shape: tuple[int, ...], positive_count: int, negative_count: int
) -> list[int]:
    """Decode the signed index of each element in turn (6.6.2)."""
    row_count, channel_count = shape[:2]
    place_count = math.prod(shape[2:])
    kernel_width = shape[-1] if len(shape) > 2 else 1
    predictions = MixedPredictions(stream)
    decide = predictions.decide
    signed: dict[tuple[int, int, int], int] = {}
    ones = 0  # of the kernel
    for row, channel, place in product(range(row_count), range(channel_count), range(place_count)):
        if place_count > 1:
            before, above = (row, channel, place - 1), (row, channel, place - kernel_width)
        else:
            before, above = (row, channel - 2, place), (row - 2, channel, place)
        left, up = (row, channel - 1, place), (row - 1, channel, place)
        near = [signed.get(at, 0) for at in (left, up, before, above)]
        sizes = tuple(min(abs(index), 3) for index in near)
        signs = tuple((index > 0) - (index < 0) for index in near)
        ones = 0 if place == 0 else ones
        names: list[Hashable] = [
            ("row", row),
            ("channel", channel),
            ("place", channel, place),
            ("around", sizes),
        ]
        if place_count > 1:
            names.append(("kernel", place, min(ones, 9)))
        index = decide("present", names)
        if index == 1:
            ones += 1
            positive = 1 if positive_count > 0 else 0
            if positive_count > 0 and negative_count > 0:
                names = [("signs", signs), ("signs in kernel", place, signs[2:])]
                positive = decide("positive", names)
            while index < (positive_count if positive else negative_count):
                step = min(index, MIXED_STEPS)
                names = [
                    ("step", step, positive),
                    ("step in row", step, row),
                    ("step in channel", step, channel),
                    ("step around", step, sizes[2:]),
                ]
                if decide(("step", step), names) == 0:
                    break
                index += 1
            index = index if positive else -index
        signed[row, channel, place] = index
    predictions.finish()
    return list(signed.values())


# --- 7 Entropy coder -------------------------------------------------------------------------

STATE_LOWER_BOUND = 1 << 32


class Coder:
    """Decodes streams under one static table per context (7).

    Parameters
    ----------
    tables : list of list of int
        Frequencies by context and symbol; those of each context add up to ``2**freq_log2``.
    freq_log2 : int
        Logarithm of the total.
    """

    def __init__(self, tables: list[list[int]], freq_log2: int) -> None:
        self._freq_log2 = freq_log2
        self._frequencies = tables
        # 7.1: slots go to symbols in ascending order.
        self._starts = [list(accumulate(table, initial=0)) for table in tables]
        self._slot_symbols = [
            [symbol for symbol, frequency in enumerate(table) for _ in range(frequency)]
            for table in tables
        ]

    def decode(self, stream: bytes, contexts: Sequence[int]) -> list[int]:
        """Decode one symbol for each context and the whole stream (7.2)."""
        lane_count = 8 if len(contexts) >= 8192 else 1
        cursor = Cursor(stream, "bad_stream")
        states = [cursor.integer(8) for _ in range(lane_count)]
        for state in states:
            cursor.require(state >= STATE_LOWER_BOUND, "a state is at least 2**32")
        symbols = []
        for index, context in enumerate(contexts):
            turn, lane = divmod(index, lane_count)
            slot = states[lane] % (1 << self._freq_log2)
            symbol = self._slot_symbols[context][slot]
            frequency = self._frequencies[context][symbol]
            start = self._starts[context][symbol]
            state = frequency * (states[lane] >> self._freq_log2) + slot - start
            if turn % 2 == 1 and state < STATE_LOWER_BOUND:
                state = (state << 32) + cursor.integer(4)
            states[lane] = state
            symbols.append(symbol)
        cursor.finish()
        for state in states:
            cursor.require(state == STATE_LOWER_BOUND, "a coder ends in its initial state")
        return symbols


# 7.5 Mixed predictions

MIXED_STEPS = 4
# fmt: off
LOGISTIC = (
    22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743, 32768,
    40793, 47911, 53581, 57724, 60565, 62428, 63615, 64357, 64816, 65097, 65269, 65374, 65438,
    65476, 65500, 65514,
)
# fmt: on


def squash(logit: int) -> int:
    """Return the probability, in units of 2**-16, of a logit in units of 1/256 (7.5.1)."""
    knot, rest = divmod(logit + 2048, 128)
    return (LOGISTIC[knot] * (128 - rest) + LOGISTIC[knot + 1] * rest + 64) >> 7


@cache
def stretch(probability: int) -> int:
    """Return the logit of a probability (7.5.1)."""
    middle = 16 * (probability >> 4) + 8
    return next((logit for logit in range(-2047, 2047) if squash(logit) >= middle), 2047)


@dataclass
class Counter:
    """What has been seen where something was the same (7.5.2)."""

    probability: int = 1 << 15
    seen: int = 0


class MixedPredictions:
    """Decodes decisions under predictions that learn from them (7.5).

    Parameters
    ----------
    stream : bytes
        The whole stream.
    """

    def __init__(self, stream: bytes) -> None:
        self._counters: defaultdict[Hashable, Counter] = defaultdict(Counter)
        self._weights: defaultdict[Hashable, list[int]] = defaultdict(lambda: [20480] * 5)
        self._cursor = Cursor(stream, "bad_stream")
        self._value = int.from_bytes(self._cursor.take(4), "big")
        self._range = 2**32 - 1
        self._cursor.require(self._value < self._range, "a value is below the range")

    def decide(self, kind: Hashable, names: list[Hashable]) -> int:
        """Decode a decision that counters of these names predict, and let them learn (7.5.2)."""
        weights = self._weights[kind]
        inputs = [stretch(self._counters[name].probability) for name in names]
        mixed = sum(weights[number] * inputs[number] for number in range(len(names))) >> 16
        probability = squash(max(-2047, min(2047, mixed)))
        probability = max(32, min(65504, probability))
        decision = self._decode_decision(probability)
        error = 65536 * decision - probability
        for number, name in enumerate(names):
            weights[number] += (error * inputs[number] + 8192) >> 14
            counter = self._counters[name]
            rate = 2**17 // (2 * counter.seen + 3)
            counter.probability += (65535 * decision - counter.probability) * rate >> 16
            counter.seen = min(counter.seen + 1, 255)
        return decision

    def _decode_decision(self, probability: int) -> int:
        """Decode a decision whose probability of a one is known (7.5.3)."""
        bound = self._range * probability >> 16
        decision = 1 if self._value < bound else 0
        if decision:
            self._range = bound
        else:
            self._range -= bound
            self._value -= bound
        while self._range < 2**24:
            self._range <<= 8
            self._value = (self._value << 8) + self._cursor.integer(1)
        return decision

    def finish(self) -> None:
        """Refuse what an encoder would not have left behind the last decision (7.5.3)."""
        self._cursor.finish()
        self._cursor.require(self._value == 0, "a value ends at zero")


# --- 9 Limits --------------------------------------------------------------------------------

MAX_NAME_BYTES = 1024
MAX_RANK = 32
MAX_ELEMENTS = 1 << 48
MAX_FILE_BYTES = 1 << 62
MAX_LEVELS = 256
MAX_FREQ_LOG2 = 15
MAX_CLASSES = 16
MAX_SYMBOL_BITS = 9
MAX_CONTEXTS = 64
MAX_CHUNK_ELEMENTS = 1 << 24
MAX_DIRECTORY_RATIO = 64
MAX_MIXED_ELEMENTS = 1 << 19
MAX_MIXED_LEVELS = 64
MIN_ROW_LENGTH = 8


# --- 12 Conformance: everything at once ------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """The bytes of a program: as they are stored, so still compressed unless that is "stored"."""

    codec: str
    decoded_bytes: int
    stored: bytes


@dataclass(frozen=True)
class DecodedFile:
    """A file with every tensor decoded and every checksum compared."""

    container: Container
    tensors: dict[str, bytes]
    programs: dict[str, Program]


def decode_file(data: bytes, limits: Limits | None = None) -> DecodedFile:
    """Decode a whole file.

    Parameters
    ----------
    data : bytes
        The file.
    limits : Limits, optional
        What the reader is willing to spend.

    Returns
    -------
    DecodedFile
        Elements by name, tied names left out, and programs by kind.

    Raises
    ------
    Refusal
        With a reason of section 10.1.
    """
    container = read_container(data, limits or Limits())
    tensors: dict[str, bytes] = {}
    for name, record in container.tensors.items():
        tensors[name] = decode_tensor(data, record)
        check_decoded(record, tensors[name])
    programs = {
        kind: Program(record.codec, record.decoded_bytes, read_part(data, record.part))
        for kind, record in container.programs.items()
    }
    return DecodedFile(container, tensors, programs)


def describe(decoded: DecodedFile) -> list[str]:
    """Return one line for each name of a file; names are escaped, as terminals obey some."""
    lines = []
    for name, record in decoded.container.tensors.items():
        shape = "x".join(map(str, record.shape)) or "scalar"
        crc = zlib.crc32(decoded.tensors[name])
        lines.append(f"{name!a} {record.dtype} {shape} {record.encoding} crc32 {crc:08x}")
    for name, target in decoded.container.aliases.items():
        lines.append(f"{name!a} is {target!a}")
    for kind, program in decoded.programs.items():
        crc = zlib.crc32(program.stored)
        lines.append(f"program {kind!a} {program.codec} {len(program.stored)} crc32 {crc:08x}")
    return lines


def main(arguments: Sequence[str]) -> int:
    """Print what a file holds; return 0, or 1 for a file that is refused."""
    if len(arguments) != 1:
        sys.stderr.write("usage: reference_decoder.py FILE\n")
        return 2
    try:
        decoded = decode_file(Path(arguments[0]).read_bytes())
    except Refusal as refusal:
        sys.stderr.write(f"{refusal}\n")
        return 1
    sys.stdout.writelines(f"{line}\n" for line in describe(decoded))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
