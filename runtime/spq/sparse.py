"""Tensors of mostly zeros: a mask under density classes, and the levels of what is left."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spq import rans
from spq.chunks import CHUNK_ELEMENTS, SMALL_ELEMENTS
from spq.classes import DensityClasses, find_density_classes, one_class
from spq.floats import Convert
from spq.frequencies import CodedTable, cheapest_table, mask_table
from spq.indices import index_table, levels_of_symbols, pack_indices
from spq.scratch import Scratch
from spqformat import Reason
from spqformat.codebook import Codebook
from spqformat.coded import bad_stream
from spqformat.cursor import Cursor, varint
from spqformat.dense_tables import dense_alphabet
from spqformat.ids import MIN_ROW_LENGTH
from spqformat.model import TensorRecord
from spqformat.sparse_tables import (
    ClassStream,
    SparseTables,
    read_sparse_tables,
    write_classes,
    write_contexts,
    write_one_class,
    write_sparse_shape,
)

_FLAT_ROW_LENGTH = 4096
_BYTE_BITS = 8
_CONTEXT_COUNTS = (1, 2, 4, 8)
_MASK_FREQ_LOG2 = 12
# Finer frequencies take four times the memory, which the decoder has to look up in.
_FINE_FREQ_LOG2 = 14
_FINE_GAIN = 0.99
_PAIR_BITS = 4
_IN_PLACE = np.empty(0, dtype=np.uint32)


@dataclass(frozen=True)
class View:
    """How a tensor is looked at as rows of mask symbols.

    Parameters
    ----------
    row_length : int
        Elements of a row.
    symbol_bits : int
        Places of a symbol.
    unit_columns : int
        Columns that share a class; 0 for one class altogether.
    """

    row_length: int
    symbol_bits: int
    unit_columns: int


# --- decoding --------------------------------------------------------------------------------


class SparseDecoder:
    """Decodes the chunks of one sparse tensor (spec 6.4).

    Parameters
    ----------
    record : TensorRecord
        The tensor.
    read_part : callable
        Source of stored bytes.
    convert : callable
        Makes the wanted element type of the stored one.

    Raises
    ------
    SpqError
        `truncated`, `checksum_mismatch`, `bad_tables`, `bad_stream`.
    """

    def __init__(
        self,
        record: TensorRecord,
        read_part: Callable[[TensorRecord, int], bytes],
        convert: Convert,
    ) -> None:
        self._record = record
        self._read_part = read_part
        tables = read_sparse_tables(read_part(record, 0), record, rans.read_tables)
        self._tables: SparseTables = tables
        row_count = -(-record.element_count // tables.row_length)
        unit_count = -(-tables.row_length // tables.unit_columns)
        row_classes = _decode_classes(record, tables.row_stream, row_count)
        units = _decode_classes(record, tables.column_stream, unit_count)
        self._column_order = _IN_PLACE
        if tables.unit_columns == 1:
            self._column_order = _column_order(units)
        symbol_classes = _symbol_classes(units, tables.unit_columns, tables.symbol_bits)
        self._row_symbols = symbol_classes.size
        self._row_classes, self._row_contexts = _row_contexts(
            row_classes, symbol_classes, tables.context_of_classes
        )
        self._mask_rans = rans.build_tables(tables.mask_frequencies, tables.mask_freq_log2)
        self._value_rans = rans.build_tables(
            tables.value_frequencies[None, :], tables.value_freq_log2
        )
        self._symbol_levels = levels_of_symbols(convert(tables.codebook.levels), tables.index_bits)
        self.chunk_count = len(record.parts) - 1

    def decode_chunk(self, chunk: int, elements: NDArray[np.generic], scratch: Scratch) -> None:
        """Decode mask and indices of one chunk and put its levels and zeros in their places."""
        from spq._kernels import decode_mask, decode_values

        tables, part_index = self._tables, 1 + chunk
        first_row = chunk * tables.rows_per_chunk
        row_classes = self._row_classes[first_row : first_row + tables.rows_per_chunk]
        first = first_row * tables.row_length
        target = elements[first : first + row_classes.size * tables.row_length]
        stored = self._read_part(self._record, part_index)
        offset = self._record.parts[part_index].offset
        cursor = Cursor(stored, self._record.name, offset, Reason.BAD_STREAM)
        mask_words = rans.as_words(cursor.take(cursor.varint(cursor.remaining_bytes)))
        value_words = rans.as_words(cursor.take(cursor.remaining_bytes))
        if mask_words is None or value_words is None:
            raise bad_stream(self._record, part_index, "a stream ends within a word")
        symbol_count = row_classes.size * self._row_symbols
        states = rans.new_states()
        mask = scratch.array("mask", symbol_count, np.uint16)
        ones = decode_mask(
            mask_words,
            self._mask_rans.freq_log2,
            self._mask_rans.slot_symbols,
            self._mask_rans.freq_starts,
            self._row_contexts,
            row_classes,
            scratch.array("contexts", symbol_count if self._row_contexts.size else 0, np.uint8),
            states,
            mask,
        )
        status = -ones
        if ones >= 0:
            per_symbol = 8 // tables.index_bits
            value_count = -(-ones // per_symbol)
            status = decode_values(
                value_words,
                self._value_rans.freq_log2,
                self._value_rans.slot_symbols,
                self._value_rans.freq_starts,
                rans.NO_CONTEXTS,
                states,
                scratch.array("values", value_count, np.uint16),
                self._symbol_levels,
                scratch.array("levels", value_count * per_symbol, elements.dtype.type),
                ones,
                mask,
                tables.symbol_bits,
                tables.row_length,
                self._column_order,
                target,
            )
        if status:
            raise bad_stream(self._record, part_index, rans.DECODE_FAULTS[status])


def _decode_classes(
    record: TensorRecord, coded: ClassStream | None, count: int
) -> NDArray[np.uint8]:
    """Return the density class of each row or of each unit of columns."""
    if coded is None:
        return np.zeros(count, dtype=np.uint8)
    coder = rans.build_tables(coded.frequencies[None, :], coded.freq_log2)
    status, classes = rans.decode(coded.stream, coder, rans.NO_CONTEXTS, count)
    if status:
        raise bad_stream(record, 0, rans.DECODE_FAULTS[status])
    return classes.astype(np.uint8, copy=False)


def _column_order(column_classes: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return columns in ascending order of class, ties in place; empty for the identity."""
    if (column_classes[1:] >= column_classes[:-1]).all():
        return _IN_PLACE
    return np.argsort(column_classes, kind="stable").astype(np.uint32)


def _symbol_classes(
    unit_classes: NDArray[np.uint8], unit_columns: int, symbol_bits: int
) -> NDArray[np.uint8]:
    """Return the class of each symbol of a row: that of its first place."""
    if unit_columns > 1:
        return unit_classes
    return np.sort(unit_classes, kind="stable")[::symbol_bits].copy()


def _row_contexts(
    row_classes: NDArray[np.uint8],
    symbol_classes: NDArray[np.uint8],
    context_of_classes: NDArray[np.uint8],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the kind of each row, and the contexts of the symbols of a row of each kind.

    The contexts are empty when there is only context 0. Kinds are classes, but where there are
    fewer rows than classes: a long row must not be laid out for classes without members.
    """
    if not context_of_classes.any():
        return row_classes, np.empty((0, 0), dtype=np.uint8)
    if row_classes.size < len(context_of_classes):
        context_of_classes = context_of_classes[row_classes]
        row_classes = np.arange(row_classes.size, dtype=np.uint8)
    return row_classes, np.ascontiguousarray(context_of_classes[:, symbol_classes])


# --- encoding --------------------------------------------------------------------------------


def views(shape: tuple[int, ...], element_count: int) -> Iterator[View]:
    """Yield the ways to look at a tensor that are worth trying, the most promising first.

    A symbol covers whole kernels of a convolution where it can, so that what their places have in
    common is in its frequency; the columns of a matrix have no neighbours and are sorted by class.

    Parameters
    ----------
    shape : tuple of int
        Dimensions.
    element_count : int
        Number of elements.
    """
    row_length = element_count // shape[0] if len(shape) > 1 else 0
    if row_length >= MIN_ROW_LENGTH:
        kernel = int(np.prod(shape[2:])) if len(shape) > 2 else 1
        if kernel > 1:
            bits = _symbol_bits(kernel)
            yield View(row_length, bits, bits)
        if kernel == 1 or element_count <= SMALL_ELEMENTS:
            yield View(row_length, _BYTE_BITS, 1)
    if row_length < MIN_ROW_LENGTH or element_count <= SMALL_ELEMENTS:
        yield View(min(_FLAT_ROW_LENGTH, element_count), _BYTE_BITS, 0)


def encode_sparse(
    indices: NDArray[np.uint8], zero_index: int, codebook: Codebook, view: View
) -> list[bytes]:
    """Encode a mask of the non-zero elements and their level indices.

    Parameters
    ----------
    indices : ndarray of uint8, shape (element_count,)
        Number of each element's level, zero among the levels.
    zero_index : int
        Number of zero.
    codebook : Codebook
        The other levels, in order.
    view : View
        How to look at the tensor.

    Returns
    -------
    list of bytes
        Tables and chunks.
    """
    row_length, symbol_bits = view.row_length, view.symbol_bits
    row_count = -(-indices.size // row_length)
    unit_columns = view.unit_columns or symbol_bits
    unit_count = -(-row_length // unit_columns)
    if view.unit_columns == 1:
        mask = np.zeros((row_count, row_length), dtype=np.uint8)
        mask.reshape(-1)[: indices.size] = indices != zero_index
        classes = find_density_classes(mask, 1)
        order = _column_order(classes.columns)
        symbols, values = _take_apart(indices, zero_index, view, order)
    else:
        symbols, values = _take_apart(indices, zero_index, view, _IN_PLACE)
        classes = one_class(row_count, unit_count)
        if view.unit_columns:
            classes = find_density_classes(np.bitwise_count(symbols), unit_columns)
    by_symbol = _symbol_classes(classes.columns, unit_columns, symbol_bits)
    context_of_classes, mask_freq_log2, mask_tables = _choose_contexts(
        symbols, classes, by_symbol, 1 << symbol_bits
    )
    mask_coder = rans.build_tables(
        np.stack([table.frequencies for table in mask_tables]), mask_freq_log2
    )
    rows_per_chunk = max(1, CHUNK_ELEMENTS // row_length)
    starts = range(0, row_count, rows_per_chunk)
    value_parts = _split_values(symbols, values, starts)
    index_bits, value_freq_log2, value_table, value_symbols = _choose_values(
        value_parts, codebook.level_count
    )
    value_coder = rans.build_tables(value_table.frequencies[None, :], value_freq_log2)
    parts = [
        write_sparse_shape(codebook, row_length, rows_per_chunk, symbol_bits, unit_columns)
        + _write_classes(classes.rows)
        + _write_classes(classes.columns)
        + write_contexts(context_of_classes)
        + bytes([mask_freq_log2])
        + b"".join(table.written for table in mask_tables)
        + bytes([index_bits, value_freq_log2])
        + value_table.written
    ]
    kinds, row_contexts = _row_contexts(classes.rows, by_symbol, context_of_classes)
    for first, chunk_values in zip(starts, value_symbols, strict=True):
        rows = slice(first, first + rows_per_chunk)
        contexts = rans.NO_CONTEXTS
        if row_contexts.size:
            contexts = row_contexts[kinds[rows]].reshape(-1)
        mask_stream = rans.encode(symbols[rows].reshape(-1), mask_coder, contexts)
        value_stream = rans.encode(chunk_values, value_coder, rans.NO_CONTEXTS)
        parts.append(varint(len(mask_stream)) + mask_stream + value_stream)
    return parts


def _symbol_bits(kernel: int) -> int:
    """Return the places of a symbol: whole kernels where they fit, else an even part of one."""
    if kernel <= 9:
        return kernel * (9 // kernel)
    return next((bits for bits in range(9, 4, -1) if kernel % bits == 0), _BYTE_BITS)


def _take_apart(
    indices: NDArray[np.uint8], zero_index: int, view: View, order: NDArray[np.uint32]
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Return mask symbols, shape (row_count, symbols of a row), and level indices."""
    from spq._kernels import gather_values

    row_count = -(-indices.size // view.row_length)
    row_symbols = -(-view.row_length // view.symbol_bits)
    symbols = np.zeros((row_count, row_symbols), dtype=np.uint16)
    values = np.empty(indices.size, dtype=np.uint8)
    count = gather_values(
        indices, zero_index, view.symbol_bits, view.row_length, order, symbols.reshape(-1), values
    )
    return symbols, values[:count]


def _choose_contexts(
    symbols: NDArray[np.uint16],
    classes: DensityClasses,
    symbol_classes: NDArray[np.uint8],
    alphabet: int,
) -> tuple[NDArray[np.uint8], int, list[CodedTable]]:
    """Let pairs of classes of like density share a context where that is cheaper."""
    shape = (classes.row_class_count, classes.column_class_count)
    pair_count = shape[0] * shape[1]
    pairs = classes.rows.astype(np.int64)[:, None] * shape[1] + symbol_classes
    keys = pairs * alphabet + symbols
    counts = np.bincount(keys.reshape(-1), minlength=pair_count * alphabet)
    counts = counts.reshape(pair_count, alphabet)
    totals = counts.sum(axis=1)
    ones = counts @ np.bitwise_count(np.arange(alphabet)).astype(np.int64)
    order = np.argsort(ones / np.maximum(totals, 1), kind="stable")
    reached = np.cumsum(totals[order]) - totals[order] / 2
    best: tuple[float, NDArray[np.uint8], NDArray[np.int64]] | None = None
    for context_count in _CONTEXT_COUNTS:
        if context_count > pair_count:
            break
        groups = np.empty(pair_count, dtype=np.int64)
        groups[order] = (reached * context_count / totals.sum()).astype(np.int64)
        _, first, group = np.unique(groups, return_index=True, return_inverse=True)
        # Contexts are numbered as they appear.
        contexts = np.argsort(np.argsort(first, kind="stable"), kind="stable")[group]
        merged = np.zeros((first.size, alphabet), dtype=np.int64)
        np.add.at(merged, contexts, counts)
        bits = sum(mask_table(row, _MASK_FREQ_LOG2).bits for row in merged)
        if best is None or bits < best[0]:
            best = bits, contexts.astype(np.uint8).reshape(shape), merged
    assert best is not None
    _, context_of_classes, merged = best
    coarse, fine = (
        [mask_table(row, freq_log2) for row in merged]
        for freq_log2 in (_MASK_FREQ_LOG2, _FINE_FREQ_LOG2)
    )
    if sum(table.bits for table in fine) < _FINE_GAIN * sum(table.bits for table in coarse):
        return context_of_classes, _FINE_FREQ_LOG2, fine
    return context_of_classes, _MASK_FREQ_LOG2, coarse


def _split_values(
    symbols: NDArray[np.uint16], values: NDArray[np.uint8], starts: range
) -> list[NDArray[np.uint8]]:
    """Return the level indices of each chunk."""
    ones = np.bitwise_count(symbols).sum(axis=1, dtype=np.int64)
    ends = np.cumsum(np.add.reduceat(ones, starts))
    return np.split(values, ends[:-1])


def _choose_values(
    value_parts: list[NDArray[np.uint8]], level_count: int
) -> tuple[int, int, CodedTable, list[NDArray[np.uint8]]]:
    """Code level indices one by one or in pairs, whichever is smaller with its table."""
    options = []
    for index_bits in (8, _PAIR_BITS):
        if level_count > 1 << index_bits:
            continue
        parts = [pack_indices(part, index_bits) for part in value_parts]
        alphabet = dense_alphabet(index_bits, level_count)
        counts = np.zeros(alphabet, dtype=np.int64)
        for part in parts:
            counts += np.bincount(part, minlength=alphabet)
        freq_log2, table = index_table(counts, index_bits, level_count)
        options.append((index_bits, freq_log2, table, parts))
    return min(options, key=lambda option: option[2].bits)


def _write_classes(classes: NDArray[np.uint8]) -> bytes:
    """Code and write the density class of each row or of each unit of columns."""
    if not classes.any():
        return write_one_class()
    counts = np.bincount(classes)
    freq_log2, table = cheapest_table(counts)
    coder = rans.build_tables(table.frequencies[None, :], freq_log2)
    return write_classes(
        counts.size, freq_log2, table.written, rans.encode(classes, coder, rans.NO_CONTEXTS)
    )
