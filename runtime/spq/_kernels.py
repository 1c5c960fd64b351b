"""Kernels of the codec, encoding and decoding side by side (spec 7).

Each is a typed function that allocates nothing and raises nothing; `.py_func` is its plain-Python
twin. Callers prove every precondition that a docstring states: a kernel has no bounds checks.
Indices are unsigned throughout, because a signed one would be tested for wrap-around.
"""

import numpy as np
from numpy.typing import NDArray

from spq._bits import count_ones, expand, trailing_zeros
from spq._jit import kernel
from spqformat.ids import STATE_LOWER_BOUND

OK = 0
STREAM_TOO_SHORT = 1
STREAM_TOO_LONG = 2
BAD_STATE = 3
BAD_PADDING = 4

_LOWER = np.uint32(STATE_LOWER_BOUND)
_SIXTEEN = np.uint32(16)
_LOW_HALF = np.uint32(0xFFFF)
_EIGHT = np.uint64(8)
_SIXTY_FOUR = np.uint64(64)
_CONTEXT_SHIFT = np.uint32(8)


@kernel
def _step(
    state: np.uint32,
    context: np.uint32,
    freq_log2: np.uint32,
    symbol_log2: np.uint32,
    slot_symbols: NDArray[np.unsignedinteger],
    freq_starts: NDArray[np.uint32],
) -> tuple[np.unsignedinteger, np.uint32]:
    """Decode one symbol and return it with the state before renormalisation."""
    slot = state & ((np.uint32(1) << freq_log2) - np.uint32(1))
    symbol = slot_symbols[(context << freq_log2) + slot]
    packed = freq_starts[(context << symbol_log2) + np.uint32(symbol)]
    state = (packed & _LOW_HALF) * (state >> freq_log2) + slot - (packed >> _SIXTEEN)
    return symbol, np.uint32(state)


@kernel
def _word(stream: NDArray[np.uint8], position: np.uint64) -> np.uint32:
    """Read the two bytes at `position`."""
    return np.uint32(stream[position]) | (
        np.uint32(stream[position + np.uint64(1)]) << _CONTEXT_SHIFT
    )


@kernel
def _refill(
    state: np.uint32, stream: NDArray[np.uint8], position: np.uint64
) -> tuple[np.uint32, np.uint64]:
    """Renormalise a state; the word is read in any case, so that no jump can be mispredicted."""
    word = _word(stream, position)
    short = state < _LOWER
    refilled = (state << _SIXTEEN) | word
    return (
        refilled if short else state,
        position + (np.uint64(2) if short else np.uint64(0)),
    )


@kernel
def decode_symbols(
    stream: NDArray[np.uint8],
    freq_log2: int,
    slot_symbols: NDArray[np.unsignedinteger],
    freq_starts: NDArray[np.uint32],
    contexts: NDArray[np.uint8] | None,
    states: NDArray[np.uint32],
    symbols: NDArray[np.unsignedinteger],
) -> int:
    """Decode an interleaved rANS stream (spec 7.2; Duda, arXiv 1311.2540).

    Parameters
    ----------
    stream : ndarray of uint8, shape (stream_bytes,)
        Final encoder states, four bytes each, then words of two bytes.
    freq_log2 : int
        Logarithm of the total of each table.
    slot_symbols : ndarray of uint8 or uint16, shape (context_count << freq_log2,)
        Symbol of each slot, context by context.
    freq_starts : ndarray of uint32, shape (context_count << symbol_log2,)
        Frequency (low half) and first slot (high half) of each symbol; `symbol_log2` is 8 for
        symbols of one byte and 9 for wider ones.
    contexts : ndarray of uint8, shape (symbol_count,), or None
        Context of each symbol, below `context_count`; None stands for context 0 throughout.
    states : ndarray of uint32, shape (lane_count,)
        Scratch. Its size is the number of lanes: 8 (fast path) or fewer.
    symbols : ndarray of the type of `slot_symbols`, shape (symbol_count,)
        Decoded symbols.

    Returns
    -------
    int
        Status: `OK`, `STREAM_TOO_SHORT`, `STREAM_TOO_LONG` or `BAD_STATE`.
    """
    stream_bytes = np.uint64(stream.size)
    symbol_count = np.uint64(symbols.size)
    lane_count = np.uint64(states.size)
    bits = np.uint32(freq_log2)
    symbol_log2 = np.uint32(7 + slot_symbols.itemsize)
    position = np.uint64(4) * lane_count
    if stream_bytes < position:
        return STREAM_TOO_SHORT
    for first in range(states.size):
        start = np.uint64(4) * np.uint64(first)
        state = _word(stream, start) | (_word(stream, start + np.uint64(2)) << _SIXTEEN)
        if state < _LOWER:
            return BAD_STATE
        states[first] = state

    index = np.uint64(0)
    if lane_count == _EIGHT:
        x0, x1, x2, x3 = states[0], states[1], states[2], states[3]
        x4, x5, x6, x7 = states[4], states[5], states[6], states[7]
        c0 = c1 = c2 = c3 = c4 = c5 = c6 = c7 = np.uint32(0)
        # Eight symbols take at most eight words.
        while index + _EIGHT <= symbol_count and position + np.uint64(16) <= stream_bytes:
            if contexts is not None:
                c0 = np.uint32(contexts[index])
                c1 = np.uint32(contexts[index + np.uint64(1)])
                c2 = np.uint32(contexts[index + np.uint64(2)])
                c3 = np.uint32(contexts[index + np.uint64(3)])
                c4 = np.uint32(contexts[index + np.uint64(4)])
                c5 = np.uint32(contexts[index + np.uint64(5)])
                c6 = np.uint32(contexts[index + np.uint64(6)])
                c7 = np.uint32(contexts[index + np.uint64(7)])
            s0, x0 = _step(x0, c0, bits, symbol_log2, slot_symbols, freq_starts)
            s1, x1 = _step(x1, c1, bits, symbol_log2, slot_symbols, freq_starts)
            s2, x2 = _step(x2, c2, bits, symbol_log2, slot_symbols, freq_starts)
            s3, x3 = _step(x3, c3, bits, symbol_log2, slot_symbols, freq_starts)
            s4, x4 = _step(x4, c4, bits, symbol_log2, slot_symbols, freq_starts)
            s5, x5 = _step(x5, c5, bits, symbol_log2, slot_symbols, freq_starts)
            s6, x6 = _step(x6, c6, bits, symbol_log2, slot_symbols, freq_starts)
            s7, x7 = _step(x7, c7, bits, symbol_log2, slot_symbols, freq_starts)
            symbols[index] = s0
            symbols[index + np.uint64(1)] = s1
            symbols[index + np.uint64(2)] = s2
            symbols[index + np.uint64(3)] = s3
            symbols[index + np.uint64(4)] = s4
            symbols[index + np.uint64(5)] = s5
            symbols[index + np.uint64(6)] = s6
            symbols[index + np.uint64(7)] = s7
            x0, position = _refill(x0, stream, position)
            x1, position = _refill(x1, stream, position)
            x2, position = _refill(x2, stream, position)
            x3, position = _refill(x3, stream, position)
            x4, position = _refill(x4, stream, position)
            x5, position = _refill(x5, stream, position)
            x6, position = _refill(x6, stream, position)
            x7, position = _refill(x7, stream, position)
            index += _EIGHT
        states[0], states[1], states[2], states[3] = x0, x1, x2, x3
        states[4], states[5], states[6], states[7] = x4, x5, x6, x7

    while index < symbol_count:
        lane = index % lane_count
        context = np.uint32(0)
        if contexts is not None:
            context = np.uint32(contexts[index])
        symbol, state = _step(states[lane], context, bits, symbol_log2, slot_symbols, freq_starts)
        symbols[index] = symbol
        if state < _LOWER:
            if position + np.uint64(2) > stream_bytes:
                return STREAM_TOO_SHORT
            state = (state << _SIXTEEN) | _word(stream, position)
            position += np.uint64(2)
        states[lane] = state
        index += np.uint64(1)

    if position != stream_bytes:
        return STREAM_TOO_LONG
    for state in states:
        if state != _LOWER:
            return BAD_STATE
    return OK


@kernel
def encode_symbols(
    symbols: NDArray[np.unsignedinteger],
    freq_log2: int,
    freq_starts: NDArray[np.uint32],
    contexts: NDArray[np.uint8] | None,
    states: NDArray[np.uint32],
    buffer: NDArray[np.uint8],
) -> int:
    """Encode symbols from the last to the first into the end of a buffer (spec 7.2).

    Parameters
    ----------
    symbols : ndarray of uint8 or uint16, shape (symbol_count,)
        Symbols, each with a frequency above zero in its context.
    freq_log2, freq_starts, contexts, states
        As in `decode_symbols`.
    buffer : ndarray of uint8, shape (4 * lane_count + 2 * symbol_count,) or longer
        Receives the stream at its end.

    Returns
    -------
    int
        Index of the first byte of the stream in `buffer`.
    """
    bits = np.uint32(freq_log2)
    symbol_log2 = np.uint32(7 + symbols.itemsize)
    lane_count = np.uint64(states.size)
    states[:] = _LOWER
    end = np.uint64(buffer.size)
    index = np.uint64(symbols.size)
    while index > np.uint64(0):
        index -= np.uint64(1)
        lane = index % lane_count
        context = np.uint32(0)
        if contexts is not None:
            context = np.uint32(contexts[index])
        packed = freq_starts[(context << symbol_log2) + np.uint32(symbols[index])]
        frequency = packed & _LOW_HALF
        state = states[lane]
        # The state must stay below 2**32 after growing by total / frequency.
        if (state >> (np.uint32(32) - bits)) >= frequency:
            end -= np.uint64(2)
            buffer[end] = np.uint8(state & np.uint32(0xFF))
            buffer[end + np.uint64(1)] = np.uint8((state >> _CONTEXT_SHIFT) & np.uint32(0xFF))
            state >>= _SIXTEEN
        quotient = np.uint32(state // frequency)
        remainder = np.uint32(state - quotient * frequency)
        states[lane] = (quotient << bits) + remainder + (packed >> _SIXTEEN)
    lane = lane_count
    while lane > np.uint64(0):
        lane -= np.uint64(1)
        end -= np.uint64(4)
        state = states[lane]
        for byte in range(np.uint64(4)):
            shift = np.uint32(8) * np.uint32(byte)
            buffer[end + np.uint64(byte)] = np.uint8((state >> shift) & np.uint32(0xFF))
    return int(end)


@kernel
def scatter_values(
    mask: NDArray[np.unsignedinteger],
    symbol_bits: int,
    row_length: int,
    column_order: NDArray[np.uint32] | None,
    values: NDArray[np.generic],
    elements: NDArray[np.generic],
) -> int:
    """Put each non-zero element in its place (spec 6.4).

    Parameters
    ----------
    mask : ndarray of uint8 or uint16, shape (row_count * ceil(row_length / symbol_bits),)
        Mask symbols row by row, each below ``1 << symbol_bits``; bit 0 first.
    symbol_bits : int
        Places of a symbol, 1 to 9.
    row_length : int
        Elements of a row; the last row of `elements` may be shorter.
    column_order : ndarray of uint32, shape (row_length,), or None
        Column of each place of a row; None stands for the identity.
    values : ndarray of unsigned integers, shape (ones in mask,)
        Bit patterns of the non-zero elements in the order of their ones.
    elements : ndarray of unsigned integers, shape (element_count,)
        Zeros; receives the bit patterns.

    Returns
    -------
    int
        Status: `OK` or `BAD_PADDING` when a one stands outside the tensor.
    """
    length = np.uint64(row_length)
    bits = np.uint64(symbol_bits)
    element_count = np.uint64(elements.size)
    row_symbols = (length + bits - np.uint64(1)) // bits
    word_symbols = np.uint64(64) // bits
    one = np.uint64(1)
    taken = np.uint64(0)
    row_start = np.uint64(0)
    symbol = np.uint64(0)
    while row_start < element_count:
        row_end = symbol + row_symbols
        first_place = np.uint64(0)
        while symbol < row_end:
            word = np.uint64(0)
            shift = np.uint64(0)
            for _ in range(min(word_symbols, row_end - symbol)):
                word |= np.uint64(mask[symbol]) << shift
                symbol += one
                shift += bits
            # Only the last word of a row can have ones outside it.
            if first_place + shift > length and word >> (length - first_place):
                return BAD_PADDING
            position = row_start + first_place
            if column_order is None and position + _SIXTY_FOUR <= element_count:
                expand(word, values, taken, elements, position)
                taken += count_ones(word)
                word = np.uint64(0)
            while word != np.uint64(0):
                column = first_place + trailing_zeros(word)
                word &= word - one
                if column_order is not None:
                    column = np.uint64(column_order[column])
                position = row_start + column
                if position >= element_count:
                    return BAD_PADDING
                elements[position] = values[taken]
                taken += one
            first_place += shift
        row_start += length
    return OK


@kernel
def count_ones_by_class(
    ones: NDArray[np.uint8],
    row_classes: NDArray[np.uint8],
    column_classes: NDArray[np.uint8],
    by_row: NDArray[np.int64],
    by_column: NDArray[np.int64],
) -> int:
    """Count the ones of each row per column class and of each column per row class.

    Parameters
    ----------
    ones : ndarray of uint8, shape (row_count, column_count), C-contiguous
        Non-zero elements of each cell.
    row_classes, column_classes : ndarray of uint8
        Classes of rows and of columns.
    by_row : ndarray of int64, shape (row_count, column_class_count)
        Zeros; receives the counts of rows.
    by_column : ndarray of int64, shape (column_count, row_class_count)
        Zeros; receives the counts of columns.

    Returns
    -------
    int
        `OK`.
    """
    for row in range(np.uint64(ones.shape[0])):
        row_class = np.uint64(row_classes[row])
        for column in range(np.uint64(ones.shape[1])):
            cell = np.int64(ones[row, column])
            if cell:
                by_row[row, np.uint64(column_classes[column])] += cell
                by_column[column, row_class] += cell
    return OK


@kernel
def gather_values(
    indices: NDArray[np.uint8],
    zero_index: int,
    symbol_bits: int,
    row_length: int,
    column_order: NDArray[np.uint32] | None,
    mask: NDArray[np.unsignedinteger],
    values: NDArray[np.uint8],
) -> int:
    """Take a tensor apart into mask symbols and the indices of its non-zero elements.

    The inverse of `scatter_values`.

    Parameters
    ----------
    indices : ndarray of uint8, shape (element_count,)
        Number of each element's level, zero among the levels.
    zero_index : int
        Number of zero. Greater numbers are reduced by one in `values`.
    symbol_bits, row_length, column_order
        As in `scatter_values`.
    mask : ndarray of uint8 or uint16, shape (row_count * ceil(row_length / symbol_bits),)
        Zeros; receives the mask symbols.
    values : ndarray of uint8, shape (element_count,) or shorter
        Receives the level index of each non-zero element.

    Returns
    -------
    int
        Number of non-zero elements.
    """
    length = np.uint64(row_length)
    bits = np.uint64(symbol_bits)
    element_count = np.uint64(indices.size)
    zero = np.uint8(zero_index)
    one = np.uint64(1)
    taken = np.uint64(0)
    row_start = np.uint64(0)
    symbol = np.uint64(0)
    while row_start < element_count:
        place = np.uint64(0)
        while place < length:
            word = np.uint64(0)
            for bit in range(min(bits, length - place)):
                column = place + np.uint64(bit)
                if column_order is not None:
                    column = np.uint64(column_order[column])
                position = row_start + column
                if position < element_count:
                    index = indices[position]
                    if index != zero:
                        word |= one << np.uint64(bit)
                        values[taken] = index - np.uint8(index > zero)
                        taken += one
            mask[symbol] = word
            symbol += one
            place += bits
        row_start += length
    return int(taken)


@kernel
def index_levels(
    elements: NDArray[np.generic],
    slots: NDArray[np.int16],
    levels: NDArray[np.generic],
    indices: NDArray[np.uint8],
) -> int:
    """Number the distinct values of a tensor in the order of their first appearance.

    Parameters
    ----------
    elements : ndarray of unsigned integers, shape (element_count,)
        Bit patterns.
    slots : ndarray of int16, shape (1024,)
        Hash table, filled with -1.
    levels : ndarray of the same type, shape (256,)
        Receives the distinct values.
    indices : ndarray of uint8, shape (element_count,)
        Receives the number of each element's value.

    Returns
    -------
    int
        Number of distinct values, or -1 when there are more than 256.
    """
    count = 0
    for index in range(np.uint64(elements.size)):
        element = elements[index]
        # Fibonacci hashing (Knuth, The Art of Computer Programming 3, 6.4) on 32 bits, so that the
        # product fits 64 bits in Python as well.
        key = np.uint64(element)
        folded = (key ^ (key >> np.uint64(32))) & np.uint64(0xFFFFFFFF)
        slot = ((folded * np.uint64(0x9E3779B1)) & np.uint64(0xFFFFFFFF)) >> np.uint64(22)
        while slots[slot] >= 0 and levels[np.uint64(slots[slot])] != element:
            slot = (slot + np.uint64(1)) & np.uint64(1023)
        if slots[slot] < 0:
            if count == 256:
                return -1
            slots[slot] = count
            levels[count] = element
            count += 1
        indices[index] = slots[slot]
    return count


@kernel
def _two_planes(planes: NDArray[np.uint8], first: np.uint64, index: np.uint64) -> np.uint64:
    """Join byte `index` of a plane and of the next."""
    high = np.uint64(planes[first + np.uint64(1), index])
    return np.uint64(planes[first, index]) | (high << _EIGHT)


@kernel
def _four_planes(planes: NDArray[np.uint8], first: np.uint64, index: np.uint64) -> np.uint64:
    """Join byte `index` of four planes."""
    high = _two_planes(planes, first + np.uint64(2), index)
    return _two_planes(planes, first, index) | (high << np.uint64(16))


@kernel
def join_planes(planes: NDArray[np.uint8], sign_last: bool, elements: NDArray[np.generic]) -> int:
    """Put elements together from their bytes (spec 6.5).

    Parameters
    ----------
    planes : ndarray of uint8, shape (item_bytes, element_count)
        Byte ``p`` of each element in row ``p``; 1, 2, 4 or 8 rows.
    sign_last : bool
        Whether bit 0 of the joined bytes belongs on top: rotates right by one.
    elements : ndarray of unsigned integers of `item_bytes` bytes, shape (element_count,)
        Receives the bit patterns.

    Returns
    -------
    int
        `OK`.
    """
    plane_count = np.uint64(planes.shape[0])
    none = np.uint64(0)
    # Without rotation, the shift to the right and the mask of bit 0 are both zero.
    turn = np.uint64(1) if sign_last else none
    top = _EIGHT * plane_count - np.uint64(1)
    # One loop for each width: only loops without another inside are vectorised.
    if plane_count == _EIGHT:
        for index in range(np.uint64(elements.size)):
            high = _four_planes(planes, np.uint64(4), np.uint64(index))
            joined = _four_planes(planes, none, np.uint64(index)) | (high << np.uint64(32))
            elements[index] = (joined >> turn) | ((joined & turn) << top)
    elif plane_count == np.uint64(4):
        for index in range(np.uint64(elements.size)):
            joined = _four_planes(planes, none, np.uint64(index))
            elements[index] = (joined >> turn) | ((joined & turn) << top)
    elif plane_count == np.uint64(2):
        for index in range(np.uint64(elements.size)):
            joined = _two_planes(planes, none, np.uint64(index))
            elements[index] = (joined >> turn) | ((joined & turn) << top)
    else:
        for index in range(np.uint64(elements.size)):
            elements[index] = planes[none, index]
    return OK
