"""Chooses static frequency tables: integers that sum to a power of two, and what they cost."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spqformat.tables import (
    Frequencies,
    bernoulli_frequencies,
    flat_frequencies,
    write_bernoulli,
    write_explicit,
    write_flat,
)

_EXPLICIT_LOG2 = (8, 10, 12, 14)


@dataclass(frozen=True)
class CodedTable:
    """A frequency table with its bytes in the file.

    Parameters
    ----------
    frequencies : ndarray of uint32, shape (alphabet,)
        Frequencies, summing to a power of two.
    written : bytes
        The table as stored.
    bits : float
        Ideal length of the counted symbols plus the stored table.
    """

    frequencies: Frequencies
    written: bytes
    bits: float


def normalise(counts: NDArray[np.int64], freq_log2: int) -> Frequencies:
    """Return frequencies near `counts` with sum ``2**freq_log2``, each counted symbol at least 1.

    What rounding leaves is given to, or taken from, the symbol whose code length changes the best,
    one unit at a time.

    Parameters
    ----------
    counts : ndarray of int64, shape (alphabet,)
        Occurrences; at least one is positive and at most ``2**freq_log2`` are.
    freq_log2 : int
        Logarithm of the total.
    """
    total = 1 << freq_log2
    used = counts > 0
    frequencies = np.where(used, np.maximum(counts * total // counts.sum(), 1), 0)
    weights = counts.astype(np.float64)
    while (left := total - int(frequencies.sum())) != 0:
        step = 1 if left > 0 else -1
        movable = used & (frequencies + step >= 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            gain = weights * np.log2((frequencies + step) / frequencies)
        frequencies[int(np.argmax(np.where(movable, gain, -np.inf)))] += step
    return frequencies.astype(np.uint32)


def explicit_table(counts: NDArray[np.int64], freq_log2: int) -> CodedTable:
    """Return the table with one frequency per symbol; an unused table keeps symbol 0."""
    if not counts.any():
        counts = np.zeros_like(counts)
        counts[0] = 1
    return _coded(counts, normalise(counts, freq_log2), freq_log2, write_explicit)


def cheapest_table(counts: NDArray[np.int64], complete: bool = True) -> tuple[int, CodedTable]:
    """Return the total's logarithm and the table, explicit or flat, of the fewest bits.

    Parameters
    ----------
    counts : ndarray of int64, shape (alphabet,)
        Occurrences.
    complete : bool
        Whether every symbol may occur; otherwise no table is flat.
    """
    alphabet = counts.size
    used = int(np.count_nonzero(counts))
    options = [
        (freq_log2, explicit_table(counts, freq_log2))
        for freq_log2 in _EXPLICIT_LOG2
        if used <= 1 << freq_log2
    ]
    if complete and alphabet & (alphabet - 1) == 0 and alphabet > 1:
        freq_log2 = alphabet.bit_length() - 1
        flat = _coded(
            counts, flat_frequencies(alphabet, freq_log2), freq_log2, lambda _: write_flat()
        )
        options.append((freq_log2, flat))
    return min(options, key=lambda option: option[1].bits)


def mask_table(counts: NDArray[np.int64], freq_log2: int) -> CodedTable:
    """Return the cheaper of a Bernoulli and an explicit table for mask bytes.

    Parameters
    ----------
    counts : ndarray of int64, shape (256,)
        Occurrences of mask bytes in one context.
    freq_log2 : int
        Logarithm of the total.
    """
    ones_of_byte = np.bitwise_count(np.arange(256, dtype=np.uint8)).astype(np.int64)
    symbol_count = int(counts.sum())
    ones = int((counts * ones_of_byte).sum())
    explicit = explicit_table(counts, freq_log2)
    density = 0
    max_ones = 0
    if ones:
        density = min(max(round(ones * 65536 / (8 * symbol_count)), 1), 65535)
        max_ones = int(ones_of_byte[counts > 0].max())
    frequencies = bernoulli_frequencies(density, max_ones, freq_log2)
    if frequencies is None:
        return explicit
    bernoulli = _coded(counts, frequencies, freq_log2, lambda _: write_bernoulli(density, max_ones))
    return bernoulli if bernoulli.bits <= explicit.bits else explicit


def _coded(
    counts: NDArray[np.int64],
    frequencies: Frequencies,
    freq_log2: int,
    write: Callable[[Frequencies], bytes],
) -> CodedTable:
    """Write a table and add up its bits."""
    written = write(frequencies)
    used = counts > 0
    length = counts[used] * (freq_log2 - np.log2(frequencies[used]))
    return CodedTable(frequencies, written, float(length.sum()) + 8.0 * len(written))
