"""Frequency tables: parsed from a file and laid out for the entropy coder (spec 6.2, 7.1)."""

import numpy as np
from numpy.typing import NDArray

from spq._bits import count_ones
from spq._jit import kernel
from spq._kernels.rans import SYMBOL_LOG2
from spq._kernels.status import OK
from spqformat.ids import MAX_SYMBOL_BITS, TableKind

_EXPLICIT = int(TableKind.EXPLICIT)
_FLAT = int(TableKind.FLAT)
_MARKOV = int(TableKind.MARKOV)
_ONE = np.uint64(1)
_SIXTEEN = np.uint64(16)
_CERTAIN = np.uint64(1 << 16)
_START_SHIFT = np.uint32(16)


@kernel
def _varint(raw: NDArray[np.uint8], position: np.uint64) -> tuple[np.int64, np.uint64]:
    """Read an integer of up to three bytes in its shortest form; -1 for any other."""
    value = np.int64(0)
    for index in range(3):
        if position >= np.uint64(raw.size):
            return np.int64(-1), position
        byte = np.int64(raw[position])
        position += _ONE
        value |= (byte & np.int64(0x7F)) << np.int64(7 * index)
        if byte < np.int64(0x80):
            if byte == np.int64(0) and index > 0:
                return np.int64(-1), position
            return value, position
    return np.int64(-1), position


@kernel
def _read_explicit(
    raw: NDArray[np.uint8], position: np.uint64, total: np.int64, frequencies: NDArray[np.uint32]
) -> np.uint64:
    """Read one frequency after the other; returns the end of the table, or 0."""
    alphabet = np.int64(frequencies.size)
    symbol = np.int64(0)
    left = total
    after_zeros = False
    while symbol < alphabet:
        frequency, position = _varint(raw, position)
        if frequency < np.int64(0) or frequency > left:
            return np.uint64(0)
        frequencies[np.uint64(symbol)] = np.uint32(frequency)
        symbol += np.int64(1)
        left -= frequency
        if frequency > np.int64(0):
            after_zeros = False
            continue
        if after_zeros:
            return np.uint64(0)
        after_zeros = True
        zeros, position = _varint(raw, position)
        if zeros < np.int64(0) or zeros > alphabet - symbol:
            return np.uint64(0)
        for _ in range(zeros):
            frequencies[np.uint64(symbol)] = np.uint32(0)
            symbol += np.int64(1)
    return position if left == np.int64(0) else np.uint64(0)


@kernel
def _weigh_chain(
    first: np.uint64,
    after_zero: np.uint64,
    after_one: np.uint64,
    symbol_bits: np.uint64,
    weights: NDArray[np.uint64],
) -> None:
    """Give each symbol its probability in units of ``2**-32``, its bits being a Markov chain."""
    weights[0] = (_CERTAIN - first) << _SIXTEEN
    weights[1] = first << _SIXTEEN
    half = np.uint64(2)
    while half < _ONE << symbol_bits:
        for symbol in range(half):
            weight = weights[np.uint64(symbol)]
            # Symbols whose last bit is zero come first.
            density = after_zero if np.uint64(symbol) < half >> _ONE else after_one
            weights[half + np.uint64(symbol)] = (weight * density) >> _SIXTEEN
            weights[np.uint64(symbol)] = (weight * (_CERTAIN - density)) >> _SIXTEEN
        half <<= _ONE


@kernel
def _share_out(
    weights: NDArray[np.uint64],
    max_ones: np.uint64,
    freq_log2: np.uint64,
    frequencies: NDArray[np.uint32],
) -> bool:
    """Turn weights into frequencies; False when the most frequent symbol is left without one."""
    weight_sum = np.uint64(0)
    for symbol in range(np.uint64(frequencies.size)):
        if count_ones(np.uint64(symbol)) <= max_ones:
            weight_sum += weights[np.uint64(symbol)]
    weight_sum = max(weight_sum, _ONE)
    left = np.int64(1) << np.int64(freq_log2)
    most = np.uint64(0)
    for symbol in range(np.uint64(frequencies.size)):
        share = np.uint64(0)
        if count_ones(np.uint64(symbol)) <= max_ones:
            share = max((weights[np.uint64(symbol)] << freq_log2) // weight_sum, _ONE)
        frequencies[np.uint64(symbol)] = np.uint32(share)
        left -= np.int64(share)
        if frequencies[np.uint64(symbol)] > frequencies[most]:
            most = np.uint64(symbol)
    largest = np.int64(frequencies[most]) + left
    frequencies[most] = np.uint32(max(largest, np.int64(0)))
    return bool(largest >= np.int64(1))


@kernel
def _read_chain(
    raw: NDArray[np.uint8],
    position: np.uint64,
    is_markov: bool,
    freq_log2: np.uint64,
    weights: NDArray[np.uint64],
    frequencies: NDArray[np.uint32],
) -> np.uint64:
    """Read a Bernoulli or Markov table; returns its end, or 0."""
    alphabet = np.uint64(frequencies.size)
    symbol_bits = count_ones(alphabet - _ONE)
    field_bytes = np.uint64(7) if is_markov else np.uint64(3)
    if (
        alphabet & (alphabet - _ONE) != np.uint64(0)
        or symbol_bits < _ONE
        or symbol_bits > np.uint64(MAX_SYMBOL_BITS)
        or position + field_bytes > np.uint64(raw.size)
    ):
        return np.uint64(0)
    first = np.uint64(raw[position]) | (np.uint64(raw[position + _ONE]) << np.uint64(8))
    after_zero = after_one = first
    if is_markov:
        place = position + np.uint64(2)
        after_zero = np.uint64(raw[place]) | (np.uint64(raw[place + _ONE]) << np.uint64(8))
        place = position + np.uint64(4)
        after_one = np.uint64(raw[place]) | (np.uint64(raw[place + _ONE]) << np.uint64(8))
    max_ones = np.uint64(raw[position + field_bytes - _ONE])
    empty = not is_markov and max_ones == np.uint64(0)
    if (
        max_ones > symbol_bits
        or (first == np.uint64(0)) != empty
        or (after_zero == np.uint64(0)) != empty
        or (after_one == np.uint64(0)) != empty
    ):
        return np.uint64(0)
    _weigh_chain(first, after_zero, after_one, symbol_bits, weights)
    if not _share_out(weights, max_ones, freq_log2, frequencies):
        return np.uint64(0)
    return position + field_bytes


@kernel
def read_tables(
    raw: NDArray[np.uint8],
    freq_log2: int,
    weights: NDArray[np.uint64],
    frequencies: NDArray[np.uint32],
) -> int:
    """Read and validate frequency tables that follow each other.

    Does what `spqformat.frequency_tables.read_tables` does, which says what is wrong as well.

    Parameters
    ----------
    raw : ndarray of uint8, shape (raw_bytes,)
        The tables and what follows them.
    freq_log2 : int
        Logarithm of the total of each table, 1 to 15.
    weights : ndarray of uint64, shape (512,)
        Scratch.
    frequencies : ndarray of uint32, shape (table_count, alphabet), C-contiguous
        Receives the frequencies; 1 to 512 symbols.

    Returns
    -------
    int
        Bytes of the tables, or 0 when they break a rule.
    """
    position = np.uint64(0)
    alphabet = np.int64(frequencies.shape[1])
    total = np.int64(1) << np.int64(freq_log2)
    for number in range(np.uint64(frequencies.shape[0])):
        if position >= np.uint64(raw.size):
            return 0
        kind = np.int64(raw[position])
        position += _ONE
        table = frequencies[np.uint64(number)]
        if kind == _EXPLICIT:
            position = _read_explicit(raw, position, total, table)
        elif kind == _FLAT:
            if alphabet & (alphabet - np.int64(1)) != np.int64(0) or alphabet > total:
                return 0
            for symbol in range(np.uint64(alphabet)):
                table[np.uint64(symbol)] = np.uint32(total // alphabet)
        elif kind <= _MARKOV:
            position = _read_chain(
                raw, position, kind == _MARKOV, np.uint64(freq_log2), weights, table
            )
        else:
            return 0
        if position == np.uint64(0):
            return 0
    return int(np.int64(position))


@kernel
def lay_out_tables(
    frequencies: NDArray[np.uint32],
    freq_log2: int,
    slot_symbols: NDArray[np.uint16],
    freq_starts: NDArray[np.uint32],
) -> int:
    """Lay frequencies out as `decode_symbols` and `encode_symbols` read them.

    Parameters
    ----------
    frequencies : ndarray of uint32, shape (context_count, alphabet), C-contiguous
        Frequencies; those of a context add up to ``1 << freq_log2``.
    freq_log2, slot_symbols, freq_starts
        As in `decode_symbols`; the arrays are filled. `freq_starts` holds zeros before.

    Returns
    -------
    int
        `OK`.
    """
    for context in range(np.uint64(frequencies.shape[0])):
        slots = np.uint64(context) << np.uint64(freq_log2)
        symbols = np.uint64(context) << np.uint64(SYMBOL_LOG2)
        start = np.uint64(0)
        for symbol in range(np.uint64(frequencies.shape[1])):
            frequency = frequencies[np.uint64(context), np.uint64(symbol)]
            packed = frequency | (np.uint32(start) << _START_SHIFT)
            freq_starts[symbols + np.uint64(symbol)] = packed
            for _ in range(np.uint64(frequency)):
                slot_symbols[slots + start] = np.uint16(symbol)
                start += _ONE
    return OK
