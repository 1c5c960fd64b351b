"""Bytes of SPQ files, field by field after the text; it knows no encoder and no decoder."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

DTYPES = ("f64", "f32", "f16", "bf16", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "bool")
ITEM_BYTES = (8, 4, 2, 2, 1, 2, 4, 8, 1, 2, 4, 8, 1)
RAW, ALIAS, DENSE, SPARSE, PLANES, CONSTANT = range(6)
MAGIC = b"\x93SPQ\r\n\x1a\n"
MANY_LANES_FROM_SYMBOLS = 8192


# --- 2 Conventions -----------------------------------------------------------------------------


def number(value: int, width: int) -> bytes:
    """Write an integer of fixed width."""
    return value.to_bytes(width, "little")


def varint(value: int) -> bytes:
    """Write an unsigned LEB128 integer (2.2)."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def signed_varint(value: int) -> bytes:
    """Write a folded integer (2.2)."""
    return varint(-2 * value - 1 if value < 0 else 2 * value)


def text(value: bytes) -> bytes:
    """Write a length and bytes (2.3)."""
    return varint(len(value)) + value


def crc(value: bytes) -> bytes:
    """Write a checksum (2.4)."""
    return number(zlib.crc32(value), 4)


# --- 7 Entropy coder ---------------------------------------------------------------------------


def stream(
    symbols: Sequence[int],
    frequencies: Sequence[Sequence[int]],
    freq_log2: int,
    contexts: Sequence[int] = (),
) -> bytes:
    """Code symbols (7.3)."""
    lane_count = 8 if len(symbols) >= MANY_LANES_FROM_SYMBOLS else 1
    states = [1 << 32] * lane_count
    words: list[int] = []
    for index in reversed(range(len(symbols))):
        turn, lane = divmod(index, lane_count)
        table = frequencies[contexts[index] if contexts else 0]
        frequency = table[symbols[index]]
        if turn % 2:
            before = index - lane_count
            other = frequencies[contexts[before] if contexts else 0][symbols[before]]
            if states[lane] >> (64 - 2 * freq_log2) >= frequency * other:
                words.insert(0, states[lane] & 0xFFFFFFFF)
                states[lane] >>= 32
        quotient, remainder = divmod(states[lane], frequency)
        states[lane] = (quotient << freq_log2) + remainder + sum(table[: symbols[index]])
    return b"".join([number(state, 8) for state in states] + [number(word, 4) for word in words])


# --- 6.2 Frequency tables ----------------------------------------------------------------------


def explicit(frequencies: Sequence[int]) -> bytes:
    """Write one frequency after the other (6.2.1)."""
    out, symbol = b"\0", 0
    while symbol < len(frequencies):
        out += varint(frequencies[symbol])
        symbol += 1
        if frequencies[symbol - 1] == 0:
            zeros = symbol
            while zeros < len(frequencies) and frequencies[zeros] == 0:
                zeros += 1
            out += varint(zeros - symbol)
            symbol = zeros
    return out


FLAT = b"\1"


def bernoulli(density: int, max_ones: int) -> bytes:
    """Write a Bernoulli table (6.2.3)."""
    return b"\2" + number(density, 2) + bytes([max_ones])


def markov(first: int, after_zero: int, after_one: int, max_ones: int) -> bytes:
    """Write a Markov table (6.2.3)."""
    densities = number(first, 2) + number(after_zero, 2) + number(after_one, 2)
    return b"\3" + densities + bytes([max_ones])


def only(alphabet: int, **frequencies: int) -> list[int]:
    """Return a table in which a few symbols occur, written as ``s7=2``."""
    table = [0] * alphabet
    for symbol, frequency in frequencies.items():
        table[int(symbol[1:])] = frequency
    return table


def chain(
    densities: tuple[int, int, int], max_ones: int, symbol_bits: int, freq_log2: int
) -> list[int]:
    """Return the frequencies of a Bernoulli or Markov table (6.2.3)."""
    first, after_zero, after_one = densities
    weights = []
    for symbol in range(1 << symbol_bits):
        weight, density = 1 << 32, first
        for bit in range(symbol_bits):
            one = symbol >> bit & 1
            weight = weight * (density if one else (1 << 16) - density) >> 16
            density = after_one if one else after_zero
        weights.append(weight if symbol.bit_count() <= max_ones else 0)
    total, weight_sum = 1 << freq_log2, max(1, sum(weights))
    table = [
        max(1, weight * total // weight_sum) if symbol.bit_count() <= max_ones else 0
        for symbol, weight in enumerate(weights)
    ]
    table[table.index(max(table))] += total - sum(table)
    return table


# --- 6.1 Codebooks -----------------------------------------------------------------------------


def full(levels: Sequence[int], width: int) -> bytes:
    """Write bit patterns of the element's width."""
    return b"\0" + varint(len(levels)) + b"".join(number(level, width) for level in levels)


def halves(kind: int, levels: Sequence[int]) -> bytes:
    """Write a bfloat16 (1) or float16 (2) codebook."""
    return bytes([kind]) + varint(len(levels)) + b"".join(number(level, 2) for level in levels)


def uniform(exponent: int, first: int, level_count: int) -> bytes:
    """Write integers times a power of two."""
    return b"\3" + varint(level_count) + signed_varint(exponent) + signed_varint(first)


# --- 3 to 5 The container ----------------------------------------------------------------------


@dataclass(frozen=True)
class Tensor:
    """A record of the directory, its parts, and what they stand for."""

    name: bytes
    encoding: int
    dtype: int = 0
    shape: tuple[int, ...] = ()
    elements: bytes = b""
    parts: tuple[bytes, ...] = ()
    target: int = 0
    record: bytes | None = None  # in place of the right one

    def written(self) -> bytes:
        """Return the record."""
        if self.record is not None:
            return self.record
        head = text(self.name) + bytes([self.encoding])
        if self.encoding == ALIAS:
            return head + varint(self.target)
        head += bytes([self.dtype, len(self.shape)]) + b"".join(map(varint, self.shape))
        head += crc(self.elements)
        if self.encoding == CONSTANT:
            return head + self.elements[: ITEM_BYTES[self.dtype]]
        head += b"" if self.encoding == RAW else varint(len(self.parts))
        return head + b"".join(varint(len(part)) + crc(part) for part in self.parts)


def raw(name: bytes, dtype: int, shape: tuple[int, ...], elements: bytes) -> Tensor:
    """Return a raw tensor."""
    return Tensor(name, RAW, dtype, shape, elements, (elements,))


def constant(name: bytes, dtype: int, shape: tuple[int, ...], element: bytes) -> Tensor:
    """Return a constant tensor."""
    return Tensor(name, CONSTANT, dtype, shape, element * math.prod(shape))


def stored_block(content: bytes, last: bool = False) -> bytes:
    """Return a block of DEFLATE that is stored (RFC 1951, 3.2.4), at the beginning of a byte."""
    length = number(len(content), 2)
    return bytes([last]) + length + bytes(byte ^ 0xFF for byte in length) + content


def metadata_of(body: bytes) -> bytes:
    """Return a metadata section (4.1)."""
    return body + crc(body)


@dataclass(frozen=True)
class Program:
    """A program's record (4.2)."""

    kind: bytes
    stored: bytes
    codec: int = 0
    decoded_bytes: int | None = None

    def written(self) -> bytes:
        """Return the record."""
        decoded_bytes = len(self.stored) if self.decoded_bytes is None else self.decoded_bytes
        lengths = varint(decoded_bytes) + varint(len(self.stored))
        return text(self.kind) + bytes([self.codec]) + lengths + crc(self.stored)


def programs_of(*programs: Program, records: bytes | None = None) -> bytes:
    """Return a program section (4.2)."""
    body = b"".join(program.written() for program in programs) if records is None else records
    section = body + crc(body)
    return number(len(section), 4) + section + b"".join(program.stored for program in programs)


@dataclass(frozen=True)
class Header:
    """Fields of the header in place of the right ones."""

    version_major: int = 1
    version_minor: int = 0
    required: int = 0
    optional: int = 0
    directory: bytes | None = None  # the section
    changes: dict[str, int] = field(default_factory=dict)


def file_of(
    *tensors: Tensor, metadata: bytes = b"", programs: bytes = b"", header: Header | None = None
) -> bytes:
    """Put a file together; all lengths and checksums are right unless the header says otherwise."""
    newer = any(tensor.encoding == CONSTANT for tensor in tensors)
    header = header or Header(version_minor=int(newer))
    directory = header.directory
    if directory is None:
        directory = b"".join(tensor.written() for tensor in tensors)
    data = b"".join(part for tensor in tensors for part in tensor.parts)
    after = directory + metadata + programs + data
    values = {
        "tensor_count": len(tensors),
        "file_bytes": 64 + len(after),
        "decoded_bytes": sum(len(tensor.elements) for tensor in tensors),
        "directory_bytes": len(directory),
        "metadata_bytes": len(metadata),
        "program_bytes": len(programs),
        **header.changes,
    }
    fixed = MAGIC + number(header.version_major, 2) + number(header.version_minor, 2)
    fixed += number(values["tensor_count"], 4) + number(header.required, 8)
    fixed += number(header.optional, 8) + number(values["file_bytes"], 8)
    fixed += number(values["decoded_bytes"], 8)
    for name in ("directory_bytes", "metadata_bytes", "program_bytes"):
        fixed += number(values[name], 4)
    return fixed + crc(fixed + directory) + after
