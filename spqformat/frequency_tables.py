"""The frequencies of the symbols in one context, parsed and written (spec 6.2)."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from spqformat.cursor import Cursor
from spqformat.ids import MAX_FREQ_LOG2, MAX_SYMBOL_BITS, TableKind

BYTE_ALPHABET = 256

Frequencies = NDArray[np.uint32]
"""Frequencies of one context: uint32, shape (alphabet,), sum exactly ``2**freq_log2``."""

_POPCOUNT = np.bitwise_count(np.arange(1 << MAX_SYMBOL_BITS, dtype=np.uint16))
_PROBABILITY_LOG2 = 16
_WEIGHT_LOG2 = 32


TableRows = NDArray[np.uint32]
"""Frequencies of several contexts: uint32, shape (table_count, alphabet), C-contiguous."""

ReadTables = Callable[[Cursor, int, int, int], TableRows]
"""What reads tables: `read_tables`, or something faster that gives and refuses the same."""


def read_tables(cursor: Cursor, table_count: int, alphabet: int, freq_log2: int) -> TableRows:
    """Read frequency tables that follow each other; refuses with `bad_tables`.

    Parameters
    ----------
    cursor : Cursor
        Stands before the first table, and behind the last one afterwards.
    table_count, alphabet : int
        Number of tables, and of the symbols of each, 1 to 512.
    freq_log2 : int
        Logarithm of the total of each table.

    Returns
    -------
    ndarray of uint32, shape (table_count, alphabet), C-contiguous
        Frequencies.
    """
    return np.stack([_read_table(cursor, alphabet, freq_log2) for _ in range(table_count)])


def _read_table(cursor: Cursor, alphabet: int, freq_log2: int) -> Frequencies:
    """Read the frequencies of one context."""
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


def write_explicit(frequencies: Frequencies) -> bytes:
    """Write a frequency table symbol by symbol, runs of zeros shortened."""
    is_zero = frequencies == 0
    begins_run = is_zero.copy()
    begins_run[1:] &= ~is_zero[:-1]
    kept = np.flatnonzero(~is_zero | begins_run)
    run_lengths = np.diff(kept, append=frequencies.size)
    of_runs = np.flatnonzero(begins_run[kept])
    # A zero stands before the number of zeros that follow it.
    fields = np.insert(frequencies[kept], of_runs + 1, run_lengths[of_runs] - 1)
    return bytes([TableKind.EXPLICIT]) + _varints(fields)


def _varints(fields: NDArray[np.uint32]) -> bytes:
    """Write integers below ``2**21`` as `varint` does, all at once."""
    groups = np.stack([fields & 0x7F, fields >> 7 & 0x7F, fields >> 14], axis=1).astype(np.uint8)
    followed = np.stack([fields >= 1 << 7, fields >= 1 << 14], axis=1)
    groups[:, :2] |= followed.astype(np.uint8) << 7
    is_used = np.concatenate([np.ones((fields.size, 1), dtype=bool), followed], axis=1)
    written: bytes = groups[is_used].tobytes()
    return written


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
