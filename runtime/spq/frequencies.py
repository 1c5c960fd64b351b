"""Chooses static frequency tables: integers that sum to a power of two, and what they cost."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spqformat.frequency_tables import (
    Frequencies,
    flat_frequencies,
    markov_frequencies,
    write_bernoulli,
    write_explicit,
    write_flat,
    write_markov,
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

    What rounding leaves is given to, or taken from, the symbols whose code length changes the best,
    one unit each, half of it at a time.

    Parameters
    ----------
    counts : ndarray of int64, shape (alphabet,)
        Occurrences; at least one is positive and at most ``2**freq_log2`` are.
    freq_log2 : int
        Logarithm of the total.
    """
    total = 1 << freq_log2
    used = counts > 0
    # Rounded shares leave little to give or take.
    shares = (2 * total * counts + counts.sum()) // (2 * counts.sum())
    frequencies = np.where(used, np.maximum(shares, 1), 0)
    weights = counts.astype(np.float64)
    while (left := total - int(frequencies.sum())) != 0:
        step = 1 if left > 0 else -1
        movable = np.flatnonzero(used & (frequencies + step >= 1))
        gain = weights[movable] * np.log2((frequencies[movable] + step) / frequencies[movable])
        best = np.argsort(-gain, kind="stable")[: max(1, abs(left) // 2)]
        frequencies[movable[best]] += step
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
    """Return the cheapest of a Bernoulli, a Markov and an explicit table for mask symbols.

    Parameters
    ----------
    counts : ndarray of int64, shape (1 << symbol_bits,)
        Occurrences of mask symbols in one context.
    freq_log2 : int
        Logarithm of the total.
    """
    symbol_bits = counts.size.bit_length() - 1
    symbols = np.arange(counts.size)
    bits = (symbols[:, None] >> np.arange(symbol_bits)) & 1
    options = (
        [] if np.count_nonzero(counts) > 1 << freq_log2 else [explicit_table(counts, freq_log2)]
    )
    ones = int((counts[:, None] * bits).sum())
    max_ones = int(bits.sum(axis=1)[counts > 0].max(initial=0))
    density = _density(ones, int(counts.sum()) * symbol_bits) if ones else 0
    bernoulli = markov_frequencies(density, density, density, max_ones, symbol_bits, freq_log2)
    if bernoulli is not None:
        written = write_bernoulli(density, max_ones)
        options.append(_coded(counts, bernoulli, freq_log2, lambda _: written))
    if ones and symbol_bits > 1:
        before, after = bits[:, :-1], bits[:, 1:]
        weights = counts[:, None]
        densities = (
            _density(int((counts * bits[:, 0]).sum()), int(counts.sum())),
            _density(
                int((weights * after * (1 - before)).sum()), int((weights * (1 - before)).sum())
            ),
            _density(int((weights * after * before).sum()), int((weights * before).sum())),
        )
        markov = markov_frequencies(*densities, max_ones, symbol_bits, freq_log2)
        if markov is not None:
            chain = write_markov(*densities, max_ones)
            options.append(_coded(counts, markov, freq_log2, lambda _: chain))
    return min(options, key=lambda option: option.bits)


def _density(ones: int, places: int) -> int:
    """Return the share of ones in units of ``2**-16``, neither nothing nor everything."""
    return min(max(round(ones * 65536 / max(places, 1)), 1), 65535)


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
