"""The tables of a tensor of mostly zeros, parsed and written (spec 6.4)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spqformat.codebook import Codebook, read_codebook, write_codebook
from spqformat.coded import check_chunk_count, tables_cursor
from spqformat.cursor import Cursor, varint
from spqformat.dense_tables import read_index_frequencies
from spqformat.frequency_tables import Frequencies, ReadTables, read_freq_log2, read_tables
from spqformat.ids import (
    MAX_CHUNK_ELEMENTS,
    MAX_CLASSES,
    MAX_CONTEXTS,
    MAX_ELEMENTS,
    MAX_SYMBOL_BITS,
    MIN_ROW_LENGTH,
)
from spqformat.model import TensorRecord


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


def read_sparse_tables(
    raw: bytes, record: TensorRecord, reader: ReadTables = read_tables
) -> SparseTables:
    """Read and validate the tables of a sparse tensor; refuses with `bad_tables`."""
    cursor = tables_cursor(raw, record)
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
    row_class_count, row_stream = _read_classes(cursor, row_count, reader)
    unit_count = -(-row_length // unit_columns)
    column_class_count, column_stream = _read_classes(cursor, unit_count, reader)
    context_of_classes = _read_contexts(cursor, row_class_count, column_class_count)
    mask_freq_log2 = read_freq_log2(cursor)
    context_count = int(context_of_classes.max()) + 1
    mask_frequencies = reader(cursor, context_count, 1 << symbol_bits, mask_freq_log2)
    index_bits = cursor.u8()
    if index_bits not in (4, 8) or codebook.level_count > 1 << index_bits:
        raise cursor.refuse("index_bits does not fit the codebook")
    value_freq_log2 = read_freq_log2(cursor)
    value_frequencies = read_index_frequencies(
        cursor, index_bits, codebook.level_count, value_freq_log2, reader
    )
    cursor.finish()
    check_chunk_count(record, -(-row_count // rows_per_chunk), cursor)
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


def _read_classes(cursor: Cursor, count: int, reader: ReadTables) -> tuple[int, ClassStream | None]:
    """Read the density classes of `count` rows or columns, still coded."""
    class_count = cursor.u8()
    if not 1 <= class_count <= MAX_CLASSES:
        raise cursor.refuse(f"{class_count} density classes, allowed are 1 to {MAX_CLASSES}")
    if class_count == 1:
        return 1, None
    freq_log2 = read_freq_log2(cursor)
    frequencies = reader(cursor, 1, class_count, freq_log2)[0]
    stream = cursor.take(cursor.varint(cursor.remaining_bytes))
    return class_count, ClassStream(count, freq_log2, frequencies, stream)
