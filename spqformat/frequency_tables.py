"""The frequencies of the symbols in one context, parsed and written (spec 6.2)."""

import numpy as np
from numpy.typing import NDArray

from spqformat.cursor import Cursor, varint
from spqformat.ids import MAX_FREQ_LOG2, MAX_SYMBOL_BITS, TableKind

BYTE_ALPHABET = 256

Frequencies = NDArray[np.uint32]
"""Frequencies of one context: uint32, shape (alphabet,), sum exactly ``2**freq_log2``."""

_POPCOUNT = np.bitwise_count(np.arange(1 << MAX_SYMBOL_BITS, dtype=np.uint16))
_PROBABILITY_LOG2 = 16
_WEIGHT_LOG2 = 32


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
