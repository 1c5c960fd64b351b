"""Interleaved rANS streams, decoded and encoded (spec 7.2; Duda, arXiv 1311.2540)."""

import numpy as np
from numpy.typing import NDArray

from spq._jit import kernel
from spq._kernels.status import BAD_STATE, OK, STREAM_TOO_LONG, STREAM_TOO_SHORT
from spqformat.ids import MANY_LANES, MANY_LANES_FROM_SYMBOLS, STATE_LOWER_BOUND

SYMBOL_LOG2 = 9
"""Logarithm of the room that each context has in `freq_starts`."""

_LOWER = np.uint64(STATE_LOWER_BOUND)
_ONE = np.uint64(1)
_TWO = np.uint64(2)
_SIXTEEN = np.uint64(16)
_THIRTY_TWO = np.uint64(32)
_LOW_HALF = np.uint64(0xFFFFFFFF)
_FREQUENCY = np.uint64(0xFFFF)
_SYMBOL_LOG2 = np.uint64(SYMBOL_LOG2)
_MANY = np.uint64(MANY_LANES)
_MANY_FROM = np.uint64(MANY_LANES_FROM_SYMBOLS)


@kernel
def _step(
    state: np.uint64,
    context: np.uint8,
    freq_log2: np.uint64,
    slot_symbols: NDArray[np.uint16],
    freq_starts: NDArray[np.uint32],
) -> tuple[np.uint16, np.uint64]:
    """Decode one symbol and return it with the state before renormalisation."""
    wide = np.uint64(context)
    slot = state & ((_ONE << freq_log2) - _ONE)
    symbol = slot_symbols[(wide << freq_log2) + slot]
    packed = np.uint64(freq_starts[(wide << _SYMBOL_LOG2) + np.uint64(symbol)])
    return symbol, (packed & _FREQUENCY) * (state >> freq_log2) + slot - (packed >> _SIXTEEN)


@kernel
def _refill(
    state: np.uint64, words: NDArray[np.uint32], position: np.uint64
) -> tuple[np.uint64, np.uint64]:
    """Renormalise a state; the word is read in any case, so that no jump can be mispredicted."""
    word = np.uint64(words[position])
    short = state < _LOWER
    refilled = (state << _THIRTY_TWO) | word
    return refilled if short else state, position + np.uint64(short)


@kernel
def decode_symbols(
    words: NDArray[np.uint32],
    freq_log2: int,
    slot_symbols: NDArray[np.uint16],
    freq_starts: NDArray[np.uint32],
    contexts: NDArray[np.uint8],
    states: NDArray[np.uint64],
    symbols: NDArray[np.uint16],
) -> int:
    """Decode a stream.

    Parameters
    ----------
    words : ndarray of uint32, shape (word_count,)
        Final encoder states, two words each, low half first, then the words of the stream.
    freq_log2 : int
        Logarithm of the total of each table.
    slot_symbols : ndarray of uint16, shape (context_count << freq_log2,)
        Symbol of each slot, context by context.
    freq_starts : ndarray of uint32, shape (context_count << SYMBOL_LOG2,)
        Frequency (low half) and first slot (high half) of each symbol.
    contexts : ndarray of uint8, shape (symbol_count,) or longer, or (0,)
        Context of each symbol, below `context_count`; empty for context 0 throughout.
    states : ndarray of uint64, shape (8,)
        Scratch.
    symbols : ndarray of uint16, shape (symbol_count,)
        Decoded symbols.

    Returns
    -------
    int
        Status: `OK`, `STREAM_TOO_SHORT`, `STREAM_TOO_LONG` or `BAD_STATE`.
    """
    word_count = np.uint64(words.size)
    symbol_count = np.uint64(symbols.size)
    lane_count = _MANY if symbol_count >= _MANY_FROM else _ONE
    bits = np.uint64(freq_log2)
    position = _TWO * lane_count
    if word_count < position:
        return STREAM_TOO_SHORT
    for number in range(lane_count):
        low = _TWO * np.uint64(number)
        state = np.uint64(words[low]) | (np.uint64(words[low + _ONE]) << _THIRTY_TWO)
        if state < _LOWER:
            return BAD_STATE
        states[np.uint64(number)] = state

    has_contexts = contexts.size > 0
    none = np.uint8(0)
    index = np.uint64(0)
    if lane_count == _MANY:
        x0, x1, x2, x3 = states[0], states[1], states[2], states[3]
        x4, x5, x6, x7 = states[4], states[5], states[6], states[7]
        # A lane takes at most one word for two symbols. One loop with contexts and one without:
        # looking up context 0 would take a fifth of the time.
        if has_contexts:
            while index + _TWO * _MANY <= symbol_count and position + _MANY <= word_count:
                s0, x0 = _step(x0, contexts[index], bits, slot_symbols, freq_starts)
                s1, x1 = _step(x1, contexts[index + np.uint64(1)], bits, slot_symbols, freq_starts)
                s2, x2 = _step(x2, contexts[index + np.uint64(2)], bits, slot_symbols, freq_starts)
                s3, x3 = _step(x3, contexts[index + np.uint64(3)], bits, slot_symbols, freq_starts)
                s4, x4 = _step(x4, contexts[index + np.uint64(4)], bits, slot_symbols, freq_starts)
                s5, x5 = _step(x5, contexts[index + np.uint64(5)], bits, slot_symbols, freq_starts)
                s6, x6 = _step(x6, contexts[index + np.uint64(6)], bits, slot_symbols, freq_starts)
                s7, x7 = _step(x7, contexts[index + np.uint64(7)], bits, slot_symbols, freq_starts)
                symbols[index] = s0
                symbols[index + np.uint64(1)] = s1
                symbols[index + np.uint64(2)] = s2
                symbols[index + np.uint64(3)] = s3
                symbols[index + np.uint64(4)] = s4
                symbols[index + np.uint64(5)] = s5
                symbols[index + np.uint64(6)] = s6
                symbols[index + np.uint64(7)] = s7
                s0, x0 = _step(x0, contexts[index + np.uint64(8)], bits, slot_symbols, freq_starts)
                s1, x1 = _step(x1, contexts[index + np.uint64(9)], bits, slot_symbols, freq_starts)
                s2, x2 = _step(x2, contexts[index + np.uint64(10)], bits, slot_symbols, freq_starts)
                s3, x3 = _step(x3, contexts[index + np.uint64(11)], bits, slot_symbols, freq_starts)
                s4, x4 = _step(x4, contexts[index + np.uint64(12)], bits, slot_symbols, freq_starts)
                s5, x5 = _step(x5, contexts[index + np.uint64(13)], bits, slot_symbols, freq_starts)
                s6, x6 = _step(x6, contexts[index + np.uint64(14)], bits, slot_symbols, freq_starts)
                s7, x7 = _step(x7, contexts[index + np.uint64(15)], bits, slot_symbols, freq_starts)
                symbols[index + np.uint64(8)] = s0
                symbols[index + np.uint64(9)] = s1
                symbols[index + np.uint64(10)] = s2
                symbols[index + np.uint64(11)] = s3
                symbols[index + np.uint64(12)] = s4
                symbols[index + np.uint64(13)] = s5
                symbols[index + np.uint64(14)] = s6
                symbols[index + np.uint64(15)] = s7
                x0, position = _refill(x0, words, position)
                x1, position = _refill(x1, words, position)
                x2, position = _refill(x2, words, position)
                x3, position = _refill(x3, words, position)
                x4, position = _refill(x4, words, position)
                x5, position = _refill(x5, words, position)
                x6, position = _refill(x6, words, position)
                x7, position = _refill(x7, words, position)
                index += _TWO * _MANY
        else:
            while index + _TWO * _MANY <= symbol_count and position + _MANY <= word_count:
                s0, x0 = _step(x0, none, bits, slot_symbols, freq_starts)
                s1, x1 = _step(x1, none, bits, slot_symbols, freq_starts)
                s2, x2 = _step(x2, none, bits, slot_symbols, freq_starts)
                s3, x3 = _step(x3, none, bits, slot_symbols, freq_starts)
                s4, x4 = _step(x4, none, bits, slot_symbols, freq_starts)
                s5, x5 = _step(x5, none, bits, slot_symbols, freq_starts)
                s6, x6 = _step(x6, none, bits, slot_symbols, freq_starts)
                s7, x7 = _step(x7, none, bits, slot_symbols, freq_starts)
                symbols[index] = s0
                symbols[index + np.uint64(1)] = s1
                symbols[index + np.uint64(2)] = s2
                symbols[index + np.uint64(3)] = s3
                symbols[index + np.uint64(4)] = s4
                symbols[index + np.uint64(5)] = s5
                symbols[index + np.uint64(6)] = s6
                symbols[index + np.uint64(7)] = s7
                s0, x0 = _step(x0, none, bits, slot_symbols, freq_starts)
                s1, x1 = _step(x1, none, bits, slot_symbols, freq_starts)
                s2, x2 = _step(x2, none, bits, slot_symbols, freq_starts)
                s3, x3 = _step(x3, none, bits, slot_symbols, freq_starts)
                s4, x4 = _step(x4, none, bits, slot_symbols, freq_starts)
                s5, x5 = _step(x5, none, bits, slot_symbols, freq_starts)
                s6, x6 = _step(x6, none, bits, slot_symbols, freq_starts)
                s7, x7 = _step(x7, none, bits, slot_symbols, freq_starts)
                symbols[index + np.uint64(8)] = s0
                symbols[index + np.uint64(9)] = s1
                symbols[index + np.uint64(10)] = s2
                symbols[index + np.uint64(11)] = s3
                symbols[index + np.uint64(12)] = s4
                symbols[index + np.uint64(13)] = s5
                symbols[index + np.uint64(14)] = s6
                symbols[index + np.uint64(15)] = s7
                x0, position = _refill(x0, words, position)
                x1, position = _refill(x1, words, position)
                x2, position = _refill(x2, words, position)
                x3, position = _refill(x3, words, position)
                x4, position = _refill(x4, words, position)
                x5, position = _refill(x5, words, position)
                x6, position = _refill(x6, words, position)
                x7, position = _refill(x7, words, position)
                index += _TWO * _MANY
        states[0], states[1], states[2], states[3] = x0, x1, x2, x3
        states[4], states[5], states[6], states[7] = x4, x5, x6, x7

    while index < symbol_count:
        lane = index % lane_count
        context = contexts[index] if has_contexts else none
        symbol, state = _step(states[lane], context, bits, slot_symbols, freq_starts)
        symbols[index] = symbol
        if state < _LOWER and (index // lane_count) & _ONE:
            if position >= word_count:
                return STREAM_TOO_SHORT
            state = (state << _THIRTY_TWO) | np.uint64(words[position])
            position += _ONE
        states[lane] = state
        index += _ONE

    if position != word_count:
        return STREAM_TOO_LONG
    for number in range(lane_count):
        if states[np.uint64(number)] != _LOWER:
            return BAD_STATE
    return OK


@kernel
def encode_symbols(
    symbols: NDArray[np.uint16],
    freq_log2: int,
    freq_starts: NDArray[np.uint32],
    contexts: NDArray[np.uint8],
    states: NDArray[np.uint64],
    words: NDArray[np.uint32],
) -> int:
    """Encode symbols from the last to the first into the end of a buffer.

    Parameters
    ----------
    symbols : ndarray of uint16, shape (symbol_count,)
        Symbols, each with a frequency above zero in its context.
    freq_log2, freq_starts, contexts, states
        As in `decode_symbols`.
    words : ndarray of uint32, shape (16 + ceil(symbol_count / 2),) or longer
        Receives the stream at its end.

    Returns
    -------
    int
        Index of the first word of the stream in `words`.
    """
    bits = np.uint64(freq_log2)
    symbol_count = np.uint64(symbols.size)
    lane_count = _MANY if symbol_count >= _MANY_FROM else _ONE
    has_contexts = contexts.size > 0
    states[:] = _LOWER
    end = np.uint64(words.size)
    index = symbol_count
    while index > np.uint64(0):
        index -= _ONE
        lane = index % lane_count
        context = np.uint64(contexts[index]) if has_contexts else np.uint64(0)
        packed = np.uint64(freq_starts[(context << _SYMBOL_LOG2) + np.uint64(symbols[index])])
        frequency = packed & _FREQUENCY
        state = states[lane]
        if (index // lane_count) & _ONE:
            before = index - lane_count
            context = np.uint64(contexts[before]) if has_contexts else np.uint64(0)
            other = np.uint64(freq_starts[(context << _SYMBOL_LOG2) + np.uint64(symbols[before])])
            # The state must stay below 2**64 while both symbols are coded.
            if (state >> (np.uint64(64) - _TWO * bits)) >= frequency * (other & _FREQUENCY):
                end -= _ONE
                words[end] = np.uint32(state & _LOW_HALF)
                state >>= _THIRTY_TWO
        quotient = state // frequency
        remainder = state - quotient * frequency
        states[lane] = (quotient << bits) + remainder + (packed >> _SIXTEEN)
    lane = lane_count
    while lane > np.uint64(0):
        lane -= _ONE
        end -= _TWO
        words[end] = np.uint32(states[lane] & _LOW_HALF)
        words[end + _ONE] = np.uint32(states[lane] >> _THIRTY_TWO)
    return int(end)
