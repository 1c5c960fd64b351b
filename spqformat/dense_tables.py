"""The tables of a tensor stored as level indices, parsed and written (spec 6.3)."""

from dataclasses import dataclass

import numpy as np

from spqformat.codebook import Codebook, read_codebook, write_codebook
from spqformat.coded import check_chunk_count, read_chunk_elements, tables_cursor
from spqformat.cursor import Cursor, varint
from spqformat.frequency_tables import (
    BYTE_ALPHABET,
    Frequencies,
    ReadTables,
    read_freq_log2,
    read_tables,
)
from spqformat.model import TensorRecord


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


def read_index_frequencies(
    cursor: Cursor, index_bits: int, level_count: int, freq_log2: int, reader: ReadTables
) -> Frequencies:
    """Read the frequencies of symbols of level indices, each of which the codebook has."""
    alphabet = dense_alphabet(index_bits, level_count)
    frequencies: Frequencies = reader(cursor, 1, alphabet, freq_log2)[0]
    if level_count < 1 << index_bits and index_bits < 8:
        possible = np.ones(1, dtype=bool)
        for _ in range(8 // index_bits):
            possible = np.outer(np.arange(1 << index_bits) < level_count, possible).ravel()
        if frequencies[~possible].any():
            raise cursor.refuse("a symbol stands for an index that the codebook lacks")
    return frequencies


def read_dense_tables(
    raw: bytes, record: TensorRecord, reader: ReadTables = read_tables
) -> DenseTables:
    """Read and validate the tables of a dense tensor; refuses with `bad_tables`."""
    cursor = tables_cursor(raw, record)
    codebook = read_codebook(cursor, record.dtype)
    index_bits = cursor.u8()
    if index_bits not in (1, 2, 4, 8) or codebook.level_count > 1 << index_bits:
        raise cursor.refuse("index_bits does not fit the codebook")
    chunk_elements = read_chunk_elements(cursor)
    freq_log2 = read_freq_log2(cursor)
    frequencies = read_index_frequencies(
        cursor, index_bits, codebook.level_count, freq_log2, reader
    )
    cursor.finish()
    check_chunk_count(record, -(-record.element_count // chunk_elements), cursor)
    return DenseTables(codebook, index_bits, chunk_elements, freq_log2, frequencies)


def write_dense_head(codebook: Codebook, index_bits: int, chunk_elements: int) -> bytes:
    """Write everything of `DenseTables` before its frequencies."""
    return write_codebook(codebook) + bytes([index_bits]) + varint(chunk_elements)
