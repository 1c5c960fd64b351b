"""The tables of a coded tensor (codebook, frequencies, density classes), parsed and written."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spqformat.cursor import Cursor, signed_varint, varint
from spqformat.errors import Reason, SpqError
from spqformat.ids import (
    MAX_CHUNK_ELEMENTS,
    MAX_CLASSES,
    MAX_CONTEXTS,
    MAX_ELEMENTS,
    MAX_FREQ_LOG2,
    MAX_LEVELS,
    MAX_SYMBOL_BITS,
    MIN_ROW_LENGTH,
    CodebookKind,
    DType,
    TableKind,
)
from spqformat.model import TensorRecord

BYTE_ALPHABET = 256

Frequencies = NDArray[np.uint32]
"""Frequencies of one context: uint32, shape (alphabet,), sum exactly ``2**freq_log2``."""

_UNIFORM_MAX_INTEGER = 1 << 24
_UNIFORM_MAX_EXPONENT = 102  # 2**24 * 2**102 is finite in binary32
_UNIFORM_MIN_EXPONENT = -126
_POPCOUNT = np.bitwise_count(np.arange(1 << MAX_SYMBOL_BITS, dtype=np.uint16))
_PROBABILITY_LOG2 = 16
_WEIGHT_LOG2 = 32


# --- codebook (spec 6.1) -------------------------------------------------------------------


@dataclass(frozen=True)
class Codebook:
    """The levels of a tensor as bit patterns.

    Parameters
    ----------
    kind : CodebookKind
        How the levels are stored.
    levels : ndarray of uint8, uint16, uint32 or uint64, shape (level_count,)
        Bit patterns of the element type's width. Strictly ascending as unsigned integers, or as
        values for `UNIFORM`.
    exponent, first : int
        For `UNIFORM`: level ``i`` is ``(first + i) * 2**exponent``.
    """

    kind: CodebookKind
    levels: NDArray[np.generic]
    exponent: int = 0
    first: int = 0

    @property
    def level_count(self) -> int:
        """Number of levels."""
        return int(self.levels.size)


def read_codebook(cursor: Cursor, dtype: DType) -> Codebook:
    """Read a codebook for elements of `dtype`; refuses with `bad_tables`."""
    kind_id = cursor.u8()
    if kind_id not in frozenset(CodebookKind):
        raise cursor.refuse(f"codebook kind {kind_id} is unknown")
    kind = CodebookKind(kind_id)
    if kind is not CodebookKind.FULL and dtype is not DType.F32:
        raise cursor.refuse(f"codebook kind {kind_id} needs elements of type f32")
    level_count = cursor.varint(MAX_LEVELS)
    if level_count == 0:
        raise cursor.refuse("a codebook has no level")
    if kind is CodebookKind.UNIFORM:
        exponent = cursor.signed_varint(-_UNIFORM_MIN_EXPONENT)
        first = cursor.signed_varint(_UNIFORM_MAX_INTEGER)
        if exponent > _UNIFORM_MAX_EXPONENT or first + level_count - 1 > _UNIFORM_MAX_INTEGER:
            raise cursor.refuse("a uniform codebook leaves the range of exact values")
        return uniform_codebook(exponent, first, level_count)
    if kind is CodebookKind.BFLOAT16:
        halves = np.frombuffer(cursor.take(2 * level_count), "<u2")
        levels: NDArray[np.generic] = halves.astype(np.uint32) << np.uint32(16)
    elif kind is CodebookKind.FLOAT16:
        values = np.frombuffer(cursor.take(2 * level_count), "<f2")
        if not np.isfinite(values).all():
            raise cursor.refuse("a float16 codebook has a level that is not finite")
        levels = values.astype(np.float32).view(np.uint32)
    else:
        width = dtype.item_bytes
        levels = np.frombuffer(cursor.take(width * level_count), f"<u{width}").copy()
        if dtype is DType.BOOL and level_count and int(levels.max()) > 1:
            raise cursor.refuse("a codebook of booleans has a level above 1")
    if not (levels[1:] > levels[:-1]).all():  # type: ignore[operator]
        raise cursor.refuse("the levels of a codebook are not in strictly ascending order")
    return Codebook(kind, levels)


def write_codebook(codebook: Codebook) -> bytes:
    """Write a codebook in its canonical form."""
    head = bytes([codebook.kind]) + varint(codebook.level_count)
    levels = codebook.levels
    if codebook.kind is CodebookKind.UNIFORM:
        return head + signed_varint(codebook.exponent) + signed_varint(codebook.first)
    if codebook.kind is CodebookKind.BFLOAT16:
        return head + (levels.view(np.uint32) >> np.uint32(16)).astype("<u2").tobytes()
    if codebook.kind is CodebookKind.FLOAT16:
        return head + levels.view(np.float32).astype("<f2").tobytes()
    return head + levels.astype(levels.dtype.newbyteorder("<")).tobytes()


def uniform_codebook(exponent: int, first: int, level_count: int) -> Codebook:
    """Return the codebook of integers times a power of two; exact in binary32."""
    integers = np.arange(first, first + level_count, dtype=np.float64)
    # Multiplying in binary64 is exact; adding +0.0 turns a zero of either sign into +0.0.
    levels = (np.ldexp(integers, exponent) + 0.0).astype(np.float32).view(np.uint32)
    return Codebook(CodebookKind.UNIFORM, levels, exponent, first)


def smallest_codebook(levels: NDArray[np.generic], dtype: DType) -> Codebook:
    """Return the first kind, as `CodebookKind` orders them, that stores levels in fewest bytes.

    Parameters
    ----------
    levels : ndarray of unsigned integers, shape (level_count,)
        Strictly ascending bit patterns of the element type's width.
    dtype : DType
        Element type.
    """
    if dtype is DType.F32:
        patterns = levels.view(np.uint32)
        if not (patterns & np.uint32(0xFFFF)).any():
            return Codebook(CodebookKind.BFLOAT16, levels)
        values = patterns.view(np.float32)
        if np.isfinite(values).all() and np.abs(values).max() <= np.finfo(np.float16).max:
            back = values.astype(np.float16).astype(np.float32).view(np.uint32)
            if np.array_equal(back, patterns):
                return Codebook(CodebookKind.FLOAT16, levels)
    return Codebook(CodebookKind.FULL, levels)


# --- frequency tables (spec 6.2) -----------------------------------------------------------


def read_frequencies(cursor: Cursor, alphabet: int, freq_log2: int) -> Frequencies:
    """Read the frequencies of one context over `alphabet` symbols; refuses with `bad_tables`."""
    kind_id = cursor.u8()
    if kind_id not in frozenset(TableKind):
        raise cursor.refuse(f"table kind {kind_id} is unknown")
    total = 1 << freq_log2
    if kind_id == TableKind.FLAT:
        if alphabet & (alphabet - 1) or alphabet > total:
            raise cursor.refuse("a flat table needs an alphabet that divides the total")
        return flat_frequencies(alphabet, freq_log2)
    if kind_id in (TableKind.BERNOULLI, TableKind.MARKOV):
        return _read_mask_frequencies(cursor, TableKind(kind_id), alphabet, freq_log2)
    peeked = _peek_explicit(cursor, alphabet, total)
    if peeked is not None:
        return peeked
    frequencies = np.zeros(alphabet, dtype=np.uint32)
    symbol, left = 0, total
    after_zeros = False
    while symbol < alphabet:
        frequency = cursor.varint(left)
        if frequency == 0:
            if after_zeros:
                raise cursor.refuse("a run of zeros in a table is split")
            after_zeros = True
            symbol += 1 + cursor.varint(alphabet - symbol - 1)
            continue
        after_zeros = False
        frequencies[symbol] = frequency
        left -= frequency
        symbol += 1
    if left:
        raise cursor.refuse("the frequencies of a table do not add up to their total")
    return frequencies


def _peek_explicit(cursor: Cursor, alphabet: int, total: int) -> Frequencies | None:
    """Read an ordinary explicit table fast; None, and nothing read, for whatever is unusual."""
    values, ends = cursor.peek_varints(2 * alphabet)
    frequencies = [0] * alphabet
    symbol = place = left = 0
    try:
        while symbol < alphabet:
            frequency = values[place]
            place += 1
            if frequency:
                frequencies[symbol] = frequency
                left += frequency
                symbol += 1
                continue
            symbol += 1 + values[place]
            place += 1
            if symbol < alphabet and not values[place]:
                return None
    except IndexError:
        return None
    if symbol != alphabet or left != total:
        return None
    cursor.take(ends[place - 1])
    return np.array(frequencies, dtype=np.uint32)


def write_explicit(frequencies: Frequencies) -> bytes:
    """Write a frequency table symbol by symbol, runs of zeros shortened."""
    out = bytearray([TableKind.EXPLICIT])
    symbol = 0
    while symbol < frequencies.size:
        frequency = int(frequencies[symbol])
        out += varint(frequency)
        symbol += 1
        if frequency == 0:
            run = 0
            while symbol + run < frequencies.size and frequencies[symbol + run] == 0:
                run += 1
            out += varint(run)
            symbol += run
    return bytes(out)


def write_flat() -> bytes:
    """Write the table in which every symbol is equally likely."""
    return bytes([TableKind.FLAT])


def write_bernoulli(density: int, max_ones: int) -> bytes:
    """Write the two parameters of a Bernoulli table."""
    return bytes([TableKind.BERNOULLI]) + density.to_bytes(2, "little") + bytes([max_ones])


def write_markov(first: int, after_zero: int, after_one: int, max_ones: int) -> bytes:
    """Write the four parameters of a Markov table."""
    densities = b"".join(value.to_bytes(2, "little") for value in (first, after_zero, after_one))
    return bytes([TableKind.MARKOV]) + densities + bytes([max_ones])


def _read_mask_frequencies(
    cursor: Cursor, kind: TableKind, alphabet: int, freq_log2: int
) -> Frequencies:
    """Read a table of mask symbols that is given by the densities of their bits."""
    symbol_bits = alphabet.bit_length() - 1
    if alphabet != 1 << symbol_bits or not 1 <= symbol_bits <= MAX_SYMBOL_BITS:
        raise cursor.refuse("a table of mask symbols needs an alphabet of masks")
    first = cursor.u16()
    after_zero, after_one = (first, first)
    if kind is TableKind.MARKOV:
        after_zero, after_one = cursor.u16(), cursor.u16()
    max_ones = cursor.u8()
    empty = kind is TableKind.BERNOULLI and max_ones == 0
    densities = (first, after_zero, after_one)
    if max_ones > symbol_bits or any((density == 0) != empty for density in densities):
        raise cursor.refuse("a table of mask symbols has parameters out of range")
    frequencies = markov_frequencies(first, after_zero, after_one, max_ones, symbol_bits, freq_log2)
    if frequencies is None:
        raise cursor.refuse("a table of mask symbols does not fit its total")
    return frequencies


def flat_frequencies(alphabet: int, freq_log2: int) -> Frequencies:
    """Return equal frequencies."""
    return np.full(alphabet, (1 << freq_log2) // alphabet, dtype=np.uint32)


def markov_frequencies(
    first: int, after_zero: int, after_one: int, max_ones: int, symbol_bits: int, freq_log2: int
) -> Frequencies | None:
    """Return the frequencies of mask symbols whose bits form a Markov chain (spec 6.2.3).

    Integer arithmetic only, so that every reader gets the same table. A symbol with at most
    `max_ones` ones weighs ``2**32``, multiplied for each bit, from bit 0 on, by the probability of
    that bit after the one before it and shifted right by 16. It gets the floor of its share of the
    total but at least one, and the first most frequent symbol takes what is left.

    Parameters
    ----------
    first, after_zero, after_one : int
        Probability of a one in bit 0, after a zero and after a one, in units of ``2**-16``; 0 to
        65535. All three are equal for a Bernoulli table.
    max_ones : int
        Symbols with more ones never occur.
    symbol_bits : int
        Bits of a symbol.
    freq_log2 : int
        The frequencies sum to ``2**freq_log2``.

    Returns
    -------
    ndarray of uint32, shape (1 << symbol_bits,), or None
        None when the floor of one leaves nothing for the most frequent symbol.
    """
    # Symbols of one bit more: those before with a zero behind them, then those with a one.
    weights = np.array([(1 << _PROBABILITY_LOG2) - first, first], dtype=np.int64)
    weights <<= _WEIGHT_LOG2 - _PROBABILITY_LOG2
    factors = [(1 << _PROBABILITY_LOG2) - density for density in (after_zero, after_one)]
    factors += [after_zero, after_one]
    for _ in range(symbol_bits - 1):
        # By the bit added and the bit before it, which is the last of the symbols so far.
        halves = np.concatenate([weights, weights]).reshape(4, -1)
        weights = (halves * np.array(factors)[:, None]).reshape(-1) >> _PROBABILITY_LOG2
    possible = _POPCOUNT[: weights.size] <= max_ones
    weights[~possible] = 0
    shares = np.maximum((weights << freq_log2) // max(int(weights.sum()), 1), 1)
    frequencies = np.where(possible, shares, 0)
    most = int(np.argmax(frequencies))
    frequencies[most] += (1 << freq_log2) - int(frequencies.sum())
    if frequencies[most] < 1:
        return None
    return frequencies.astype(np.uint32)


def read_freq_log2(cursor: Cursor) -> int:
    """Read the logarithm of a table's total."""
    freq_log2 = cursor.u8()
    if not 1 <= freq_log2 <= MAX_FREQ_LOG2:
        raise cursor.refuse(f"freq_log2 is {freq_log2}, allowed are 1 to {MAX_FREQ_LOG2}")
    return freq_log2


# --- dense tensors (spec 6.3) --------------------------------------------------------------


@dataclass(frozen=True)
class DenseTables:
    """Tables of a tensor whose elements are all coded as level indices.

    Parameters
    ----------
    codebook : Codebook
        All levels.
    index_bits : int
        Bits of one index in a symbol: 8 (one index a symbol), 4, 2 or 1 (several).
    chunk_elements : int
        Elements of each chunk but the last.
    freq_log2 : int
        Logarithm of the frequencies' total.
    frequencies : ndarray of uint32, shape (alphabet,)
        Frequencies of the symbols.
    """

    codebook: Codebook
    index_bits: int
    chunk_elements: int
    freq_log2: int
    frequencies: Frequencies


def dense_alphabet(index_bits: int, level_count: int) -> int:
    """Return the number of symbols: levels when each symbol is one index, else all bytes."""
    return level_count if index_bits == 8 else BYTE_ALPHABET


def _read_index_frequencies(
    cursor: Cursor, index_bits: int, level_count: int, freq_log2: int
) -> Frequencies:
    """Read the frequencies of symbols of level indices, each of which the codebook has."""
    frequencies = read_frequencies(cursor, dense_alphabet(index_bits, level_count), freq_log2)
    if index_bits < 8:
        possible = np.ones(1, dtype=bool)
        for _ in range(8 // index_bits):
            possible = np.outer(np.arange(1 << index_bits) < level_count, possible).ravel()
        if frequencies[~possible].any():
            raise cursor.refuse("a symbol stands for an index that the codebook lacks")
    return frequencies


def read_dense_tables(raw: bytes, record: TensorRecord) -> DenseTables:
    """Read and validate the tables of a dense tensor; refuses with `bad_tables`."""
    cursor = _tables_cursor(raw, record)
    codebook = read_codebook(cursor, record.dtype)
    index_bits = cursor.u8()
    if index_bits not in (1, 2, 4, 8) or codebook.level_count > 1 << index_bits:
        raise cursor.refuse("index_bits does not fit the codebook")
    chunk_elements = cursor.varint(MAX_CHUNK_ELEMENTS)
    if chunk_elements == 0 or chunk_elements % 8:
        raise cursor.refuse("chunk_elements is not a positive multiple of 8")
    freq_log2 = read_freq_log2(cursor)
    frequencies = _read_index_frequencies(cursor, index_bits, codebook.level_count, freq_log2)
    cursor.finish()
    _check_chunk_count(record, -(-record.element_count // chunk_elements), cursor)
    return DenseTables(codebook, index_bits, chunk_elements, freq_log2, frequencies)


def write_dense_head(codebook: Codebook, index_bits: int, chunk_elements: int) -> bytes:
    """Write everything of `DenseTables` before its frequencies."""
    return write_codebook(codebook) + bytes([index_bits]) + varint(chunk_elements)


# --- sparse tensors (spec 6.4) -------------------------------------------------------------


@dataclass(frozen=True)
class ClassStream:
    """Coded density classes, to be decoded by the entropy coder before the tables are complete.

    Parameters
    ----------
    count : int
        Number of rows or columns.
    freq_log2 : int
        Logarithm of the total.
    frequencies : ndarray of uint32, shape (class_count,)
        Frequencies of the classes.
    stream : bytes
        Coded classes.
    """

    count: int
    freq_log2: int
    frequencies: Frequencies
    stream: bytes


@dataclass(frozen=True)
class SparseTables:
    """Tables of a tensor stored as a mask of its non-zero elements and their level indices.

    Parameters
    ----------
    codebook : Codebook
        Levels of the non-zero elements.
    row_length : int
        Elements of a row of the two-dimensional view.
    rows_per_chunk : int
        Rows of each chunk but the last.
    symbol_bits : int
        Places of a mask symbol, 1 to 9.
    unit_columns : int
        Columns that share a class: 1, and then columns are put in order of their classes, or
        `symbol_bits`, and then they stay in their places.
    row_class_count, column_class_count : int
        Numbers of density classes.
    row_stream, column_stream : ClassStream or None
        Coded class of each row and of each unit of columns; None when there is one class.
    context_of_classes : ndarray of uint8, shape (row_class_count, column_class_count)
        Context of each pair of classes.
    mask_freq_log2, value_freq_log2 : int
        Logarithms of the totals.
    mask_frequencies : ndarray of uint32, shape (context_count, 1 << symbol_bits)
        Frequencies of the mask symbols in each context.
    index_bits : int
        Bits of one level index in a symbol of values: 8 (one index a symbol) or 4 (two).
    value_frequencies : ndarray of uint32, shape (alphabet,)
        Frequencies of the symbols of values.
    """

    codebook: Codebook
    row_length: int
    rows_per_chunk: int
    symbol_bits: int
    unit_columns: int
    row_class_count: int
    column_class_count: int
    row_stream: ClassStream | None
    column_stream: ClassStream | None
    context_of_classes: NDArray[np.uint8]
    mask_freq_log2: int
    mask_frequencies: NDArray[np.uint32]
    index_bits: int
    value_freq_log2: int
    value_frequencies: Frequencies


def read_sparse_tables(raw: bytes, record: TensorRecord) -> SparseTables:
    """Read and validate the tables of a sparse tensor; refuses with `bad_tables`."""
    cursor = _tables_cursor(raw, record)
    codebook = read_codebook(cursor, record.dtype)
    if (codebook.levels == 0).any():
        raise cursor.refuse("a sparse tensor has zero among its levels")
    row_length = cursor.varint(record.element_count)
    if row_length < min(MIN_ROW_LENGTH, record.element_count):
        # Shorter rows would cost more mask symbols than elements.
        raise cursor.refuse(f"row_length is {row_length}, less than {MIN_ROW_LENGTH}")
    row_count = -(-record.element_count // row_length)
    rows_per_chunk = cursor.varint(MAX_ELEMENTS)
    if rows_per_chunk == 0 or rows_per_chunk > max(1, MAX_CHUNK_ELEMENTS // row_length):
        raise cursor.refuse("rows_per_chunk is out of range")
    symbol_bits, unit_columns = cursor.u8(), cursor.u8()
    if not 1 <= symbol_bits <= MAX_SYMBOL_BITS or unit_columns not in (1, symbol_bits):
        raise cursor.refuse("symbol_bits or unit_columns is out of range")
    row_class_count, row_stream = _read_classes(cursor, row_count)
    column_class_count, column_stream = _read_classes(cursor, -(-row_length // unit_columns))
    context_of_classes = _read_contexts(cursor, row_class_count, column_class_count)
    mask_freq_log2 = read_freq_log2(cursor)
    mask_frequencies = np.stack(
        [
            read_frequencies(cursor, 1 << symbol_bits, mask_freq_log2)
            for _ in range(int(context_of_classes.max()) + 1)
        ]
    )
    index_bits = cursor.u8()
    if index_bits not in (4, 8) or codebook.level_count > 1 << index_bits:
        raise cursor.refuse("index_bits does not fit the codebook")
    value_freq_log2 = read_freq_log2(cursor)
    value_frequencies = _read_index_frequencies(
        cursor, index_bits, codebook.level_count, value_freq_log2
    )
    cursor.finish()
    _check_chunk_count(record, -(-row_count // rows_per_chunk), cursor)
    return SparseTables(
        codebook,
        row_length,
        rows_per_chunk,
        symbol_bits,
        unit_columns,
        row_class_count,
        column_class_count,
        row_stream,
        column_stream,
        context_of_classes,
        mask_freq_log2,
        mask_frequencies,
        index_bits,
        value_freq_log2,
        value_frequencies,
    )


def write_sparse_shape(
    codebook: Codebook, row_length: int, rows_per_chunk: int, symbol_bits: int, unit_columns: int
) -> bytes:
    """Write what stands before the density classes."""
    shape = varint(row_length) + varint(rows_per_chunk) + bytes([symbol_bits, unit_columns])
    return write_codebook(codebook) + shape


def write_contexts(context_of_classes: NDArray[np.uint8]) -> bytes:
    """Write the context of each pair of classes; nothing for a single pair."""
    return b"" if context_of_classes.size == 1 else context_of_classes.tobytes()


def _read_contexts(
    cursor: Cursor, row_class_count: int, column_class_count: int
) -> NDArray[np.uint8]:
    """Read the context of each pair of classes; contexts are numbered as they appear."""
    pairs = row_class_count * column_class_count
    contexts = np.zeros(pairs, dtype=np.uint8)
    if pairs > 1:
        contexts = np.frombuffer(cursor.take(pairs), dtype=np.uint8)
        before = np.maximum.accumulate(np.concatenate([[-1], contexts[:-1].astype(np.int64)]))
        if (contexts > before + 1).any() or int(contexts.max()) >= MAX_CONTEXTS:
            raise cursor.refuse("the contexts of density classes are not numbered in order")
    return contexts.reshape(row_class_count, column_class_count)


def write_one_class() -> bytes:
    """Write that all rows or all columns have the same class."""
    return bytes([1])


def write_classes(class_count: int, freq_log2: int, table: bytes, stream: bytes) -> bytes:
    """Write the coded classes of all rows or all columns and the table they were coded under."""
    return bytes([class_count, freq_log2]) + table + varint(len(stream)) + stream


def _read_classes(cursor: Cursor, count: int) -> tuple[int, ClassStream | None]:
    """Read the density classes of `count` rows or columns, still coded."""
    class_count = cursor.u8()
    if not 1 <= class_count <= MAX_CLASSES:
        raise cursor.refuse(f"{class_count} density classes, allowed are 1 to {MAX_CLASSES}")
    if class_count == 1:
        return 1, None
    freq_log2 = read_freq_log2(cursor)
    frequencies = read_frequencies(cursor, class_count, freq_log2)
    stream = cursor.take(cursor.varint(cursor.remaining_bytes))
    return class_count, ClassStream(count, freq_log2, frequencies, stream)


def _tables_cursor(raw: bytes, record: TensorRecord) -> Cursor:
    return Cursor(raw, record.name, record.parts[0].offset, Reason.BAD_TABLES)


def _check_chunk_count(record: TensorRecord, expected: int, cursor: Cursor) -> None:
    """Compare the number of chunks with the directory."""
    if len(record.parts) - 1 != expected:
        raise cursor.refuse(
            f"the tables ask for {expected} chunks, the directory has {len(record.parts) - 1}"
        )


def bad_stream(record: TensorRecord, part_index: int, why: str) -> SpqError:
    """Return the error for coded bytes that break a rule of spec 7."""
    return SpqError(
        Reason.BAD_STREAM,
        f"coded data are not valid: {why}; fetch the file again",
        offset=record.parts[part_index].offset,
        section=record.name,
    )
