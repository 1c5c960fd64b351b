"""Level indices in symbols of the entropy coder: one in a symbol, or several side by side."""

import numpy as np
from numpy.typing import NDArray

from spq.frequencies import CodedTable, cheapest_table
from spqformat.dense_tables import dense_alphabet


def pack_indices(indices: NDArray[np.uint8], index_bits: int) -> NDArray[np.uint8]:
    """Return symbols of ``8 // index_bits`` indices, first index lowest, zeros behind the last."""
    per_symbol = 8 // index_bits
    if per_symbol == 1:
        return indices
    padded = np.zeros(-(-indices.size // per_symbol) * per_symbol, dtype=np.uint8)
    padded[: indices.size] = indices
    symbols = np.zeros(padded.size // per_symbol, dtype=np.uint8)
    for place in range(per_symbol):
        symbols |= padded[place::per_symbol] << np.uint8(place * index_bits)
    return symbols


def levels_of_symbols(levels: NDArray[np.generic], index_bits: int) -> NDArray[np.generic]:
    """Return the levels that each symbol stands for, shape (symbols, 8 // index_bits)."""
    if index_bits == 8:
        return levels[:, None]
    symbols = np.arange(256, dtype=np.int64)[:, None]
    shifts = np.arange(0, 8, index_bits, dtype=np.int64)
    indices = (symbols >> shifts) & ((1 << index_bits) - 1)
    # Symbols beyond the codebook have no frequency; any level fills their place.
    expanded: NDArray[np.generic] = levels[np.minimum(indices, levels.size - 1)]
    return expanded


def as_wide_elements(symbol_levels: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return all levels of a symbol as one integer, shape (symbols, 1), where one is wide enough.

    Looking one wide level up is faster than several; what is stored is the same.
    """
    symbol_bytes = symbol_levels.itemsize * symbol_levels.shape[1]
    return symbol_levels if symbol_bytes > 8 else symbol_levels.view(f"u{symbol_bytes}")


def index_table(
    counts: NDArray[np.int64], index_bits: int, level_count: int
) -> tuple[int, CodedTable]:
    """Return the total's logarithm and the cheapest table for counted symbols of indices."""
    # Flat tables also promise the symbols that stand for no level.
    complete = level_count in (dense_alphabet(index_bits, level_count), 1 << index_bits)
    return cheapest_table(counts, complete)
