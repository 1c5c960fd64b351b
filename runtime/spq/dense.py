"""Tensors of few values as level indices under one table, encoder and decoder (spec 6.3)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spq import rans
from spq.chunks import CHUNK_ELEMENTS
from spq.floats import Convert
from spq.frequencies import CodedTable
from spq.indices import as_wide_elements, index_table, levels_of_symbols, pack_indices
from spq.scratch import Scratch
from spqformat.codebook import Codebook
from spqformat.coded import bad_stream
from spqformat.dense_tables import dense_alphabet, read_dense_tables, write_dense_head
from spqformat.model import TensorRecord

# --- decoder ---------------------------------------------------------------------------------


class DenseDecoder:
    """Level indices under one table.

    Parameters
    ----------
    record : TensorRecord
        The tensor.
    read_part : callable
        Returns the checked bytes of a tensor's part.
    convert : callable
        Makes the wanted element type of the stored one.

    Raises
    ------
    SpqError
        `bad_tables`, and what `read_part` raises.
    """

    def __init__(
        self,
        record: TensorRecord,
        read_part: Callable[[TensorRecord, int], bytes],
        convert: Convert,
    ) -> None:
        self._record = record
        self._read_part = read_part
        tables = read_dense_tables(read_part(record, 0), record, rans.read_tables)
        self._tables = tables
        self._rans = rans.build_tables(tables.frequencies[None, :], tables.freq_log2)
        self._per_symbol = 8 // tables.index_bits
        self._symbol_levels = levels_of_symbols(convert(tables.codebook.levels), tables.index_bits)
        self.chunk_count = len(record.parts) - 1

    def decode_chunk(self, chunk: int, elements: NDArray[np.generic], scratch: Scratch) -> None:
        """Decode the symbols of one chunk and look their levels up; refuses with `bad_stream`."""
        from spq._kernels import look_up

        first = chunk * self._tables.chunk_elements
        target = elements[first : first + self._tables.chunk_elements]
        symbol_count = -(-target.size // self._per_symbol)
        stored = self._read_part(self._record, 1 + chunk)
        status, symbols = rans.decode(stored, self._rans, rans.NO_CONTEXTS, symbol_count)
        if status:
            raise bad_stream(self._record, 1 + chunk, rans.DECODE_FAULTS[status])
        whole = symbols[: target.size // self._per_symbol]
        wide = as_wide_elements(self._symbol_levels)
        look_up(whole, wide, target[: whole.size * self._per_symbol].view(wide.dtype))
        if whole.size < symbol_count:
            used = target.size - whole.size * self._per_symbol
            if int(symbols[-1]) >> (used * self._tables.index_bits):
                raise bad_stream(self._record, 1 + chunk, "padding is not zero")
            target[-used:] = self._symbol_levels[symbols[-1], :used]


# --- encoder ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Coded:
    """Symbols of so many bits of indices, and the table that codes them."""

    index_bits: int
    symbols: NDArray[np.uint8]
    freq_log2: int
    table: CodedTable


def encode_dense(indices: NDArray[np.uint8], codebook: Codebook) -> list[bytes]:
    """Encode level indices, several in a symbol where that is as small.

    Parameters
    ----------
    indices : ndarray of uint8, shape (element_count,)
        Indices into the codebook's levels; at least one.
    codebook : Codebook
        The levels.

    Returns
    -------
    list of bytes
        The parts of the tensor: the tables, then the chunks.
    """
    wide = [bits for bits in (1, 2, 4) if codebook.level_count <= 1 << bits][:1]
    options = [_coded(indices, index_bits, codebook.level_count) for index_bits in (*wide, 8)]
    best = min(options, key=lambda option: option.table.bits)
    coder = rans.build_tables(best.table.frequencies[None, :], best.freq_log2)
    head = write_dense_head(codebook, best.index_bits, CHUNK_ELEMENTS)
    symbols_per_chunk = CHUNK_ELEMENTS * best.index_bits // 8
    return [
        head + bytes([best.freq_log2]) + best.table.written,
        *(
            rans.encode(best.symbols[first : first + symbols_per_chunk], coder, rans.NO_CONTEXTS)
            for first in range(0, best.symbols.size, symbols_per_chunk)
        ),
    ]


def _coded(indices: NDArray[np.uint8], index_bits: int, level_count: int) -> _Coded:
    symbols = pack_indices(indices, index_bits)
    counts = np.bincount(symbols, minlength=dense_alphabet(index_bits, level_count))
    return _Coded(index_bits, symbols, *index_table(counts, index_bits, level_count))
