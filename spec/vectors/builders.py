"""Bytes of SPQ files, field by field after the text; it knows no encoder and no decoder."""

import math
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

DTYPES = ("f64", "f32", "f16", "bf16", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "bool")
ITEM_BYTES = (8, 4, 2, 2, 1, 2, 4, 8, 1, 2, 4, 8, 1)
RAW, ALIAS, DENSE, SPARSE, PLANES, CONSTANT, MIXED = range(7)
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


# --- 7.5 Mixed predictions ---------------------------------------------------------------------

# fmt: off
LOGISTIC = [
    22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743, 32768,
    40793, 47911, 53581, 57724, 60565, 62428, 63615, 64357, 64816, 65097, 65269, 65374, 65438,
    65476, 65500, 65514,
]
# fmt: on
# Probabilities of the logits from -2047 to 2047; they ascend.
SQUASHED = [
    (LOGISTIC[at // 128] * (128 - at % 128) + LOGISTIC[at // 128 + 1] * (at % 128) + 64) // 128
    for at in range(1, 4096)
]


@dataclass(frozen=True)
class Decision:
    """One decision, with the weights and counters that predict it (6.6.2)."""

    kind: str
    names: Sequence[str]
    wanted: bool


class MixedStream:
    """Codes decisions (7.5.2, 7.5.3); the stream is one integer, in which a carry goes by itself.

    Attributes
    ----------
    probabilities : list of int
        Of a one, of each decision.
    carries : list of int
        For each carry into bytes that were written before, how many bytes 255 it ran through.
    """

    def __init__(self) -> None:
        self._counters: dict[str, tuple[int, int]] = {}
        self._weights: dict[tuple[str, int], int] = {}
        self._low = 0
        self._range = (1 << 32) - 1
        self._stream_bytes = 4
        self.probabilities: list[int] = []
        self.carries: list[int] = []

    def code(self, decision: Decision) -> None:
        """Code a decision and learn from it."""
        counters = [self._counters.get(name, (1 << 15, 0)) for name in decision.names]
        logits = [min(bisect_left(SQUASHED, p // 16 * 16 + 8) - 2047, 2047) for p, _ in counters]
        places = [(decision.kind, place) for place in range(len(counters))]
        weights = [self._weights.get(place, 20480) for place in places]
        mixed = sum(w * logit for w, logit in zip(weights, logits, strict=True)) // (1 << 16)
        probability = SQUASHED[sorted((-2047, mixed, 2047))[1] + 2047]
        probability = sorted((32, probability, 65504))[1]
        self._narrow(probability, decision.wanted)
        error = (65536 if decision.wanted else 0) - probability
        for place, weight, logit in zip(places, weights, logits, strict=True):
            self._weights[place] = weight + (error * logit + (1 << 13)) // (1 << 14)
        target = 65535 if decision.wanted else 0
        for name, (estimate, seen) in zip(decision.names, counters, strict=True):
            moved = estimate + (target - estimate) * ((1 << 17) // (2 * seen + 3)) // (1 << 16)
            self._counters[name] = (moved, min(seen + 1, 255))

    def _narrow(self, probability: int, wanted: bool) -> None:
        """Leave of the range what stands for a decision."""
        self.probabilities.append(probability)
        bound = self._range * probability // (1 << 16)
        if wanted:
            self._range = bound
        else:
            before = self._low >> 32
            self._low += bound
            self._range -= bound
            if self._low >> 32 != before:
                self.carries.append(((before ^ before + 1).bit_length() - 1) // 8)
        while self._range < 1 << 24:
            self._range <<= 8
            self._low <<= 8
            self._stream_bytes += 1

    def written(self) -> bytes:
        """Return the stream."""
        return self._low.to_bytes(self._stream_bytes, "big")


def decisions(
    shape: tuple[int, ...], signed: Sequence[int], positive_count: int, negative_count: int
) -> Iterator[Decision]:
    """Take signed indices apart (6.6.2)."""
    channels, places = shape[1], math.prod(shape[2:])
    width = shape[-1] if len(shape) > 2 else 1
    for at, index in enumerate(signed):
        line, place = divmod(at, places)
        row, channel = divmod(line, channels)
        back = [(places, channel >= 1), (channels * places, row >= 1)]
        if places > 1:
            back += [(1, place >= 1), (width, place >= width)]
        else:
            back += [(2, channel >= 2), (2 * channels, row >= 2)]
        near = [signed[at - distance] if inside else 0 for distance, inside in back]
        sizes = [min(abs(neighbour), 3) for neighbour in near]
        signs = [(neighbour > 0) - (neighbour < 0) for neighbour in near]
        names = [f"row {row}", f"channel {channel}", f"place {channel} {place}", f"around {sizes}"]
        if places > 1:
            ones = sum(map(bool, signed[at - place : at]))
            names.append(f"kernel {place} {min(ones, 9)}")
        yield Decision("present", names, index != 0)
        if index == 0:
            continue
        if positive_count and negative_count:
            names = [f"signs {signs}", f"signs {signs[2:]} in kernel {place}"]
            yield Decision("positive", names, index > 0)
        for size in range(1, positive_count if index > 0 else negative_count):
            step = min(size, 4)
            names = [f"step {step} {index > 0}", f"step {step} in row {row}"]
            names += [f"step {step} in channel {channel}", f"step {step} around {sizes[2:]}"]
            yield Decision(f"step {step}", names, abs(index) > size)
            if abs(index) == size:
                break


def mixed_stream(
    shape: tuple[int, ...], signed: Sequence[int], positive_count: int, negative_count: int
) -> MixedStream:
    """Code signed indices."""
    stream = MixedStream()
    for decision in decisions(shape, signed, positive_count, negative_count):
        stream.code(decision)
    return stream


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


def version_minor(*tensors: Tensor, least: int = 0) -> int:
    """Return the lowest minor version that has all encodings, and what needs `least` (3.3)."""
    came_with = {CONSTANT: 1, MIXED: 2}
    return max([least, *(came_with.get(tensor.encoding, 0) for tensor in tensors)])


def file_of(
    *tensors: Tensor, metadata: bytes = b"", programs: bytes = b"", header: Header | None = None
) -> bytes:
    """Put a file together; all lengths and checksums are right unless the header says otherwise."""
    header = header or Header(version_minor=version_minor(*tensors))
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
