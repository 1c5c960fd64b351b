"""Masks of non-zero elements and their values, taken apart and put together (spec 6.4)."""

import numpy as np
from numpy.typing import NDArray

from spq._bits import count_ones, expand, trailing_zeros
from spq._jit import kernel
from spq._kernels.elements import look_up
from spq._kernels.rans import decode_symbols
from spq._kernels.status import BAD_PADDING, OK

_SIXTY_FOUR = np.uint64(64)


@kernel
def decode_mask(
    words: NDArray[np.uint32],
    freq_log2: int,
    slot_symbols: NDArray[np.uint16],
    freq_starts: NDArray[np.uint32],
    row_contexts: NDArray[np.uint8],
    row_classes: NDArray[np.uint8],
    contexts: NDArray[np.uint8],
    states: NDArray[np.uint64],
    mask: NDArray[np.uint16],
) -> int:
    """Decode the mask of a chunk and count its ones.

    Parameters
    ----------
    words, freq_log2, slot_symbols, freq_starts, states
        As in `decode_symbols`.
    row_contexts : ndarray of uint8, shape (row_class_count, row_symbols) or (0, 0), C-contiguous
        Contexts of the symbols of a row of each class; empty for context 0 throughout.
    row_classes : ndarray of uint8, shape (row_count,)
        Class of each row of the chunk, below `row_class_count`.
    contexts : ndarray of uint8, shape (row_count * row_symbols,), or (0,)
        Scratch; empty when `row_contexts` is.
    mask : ndarray of uint16, shape (row_count * row_symbols,)
        Receives the symbols.

    Returns
    -------
    int
        Number of ones, or a status of `decode_symbols` times -1.
    """
    row_symbols = np.uint64(row_contexts.shape[1])
    place = np.uint64(0)
    if contexts.size > 0:
        for row in range(np.uint64(row_classes.size)):
            row_class = np.uint64(row_classes[row])
            for symbol in range(row_symbols):
                contexts[place + np.uint64(symbol)] = row_contexts[row_class, np.uint64(symbol)]
            place += row_symbols
    status = decode_symbols(words, freq_log2, slot_symbols, freq_starts, contexts, states, mask)
    if status != OK:
        return -status
    ones = np.uint64(0)
    for index in range(np.uint64(mask.size)):
        ones += count_ones(np.uint64(mask[index]))
    return int(np.int64(ones))


@kernel
def decode_values(
    words: NDArray[np.uint32],
    freq_log2: int,
    slot_symbols: NDArray[np.uint16],
    freq_starts: NDArray[np.uint32],
    no_contexts: NDArray[np.uint8],
    states: NDArray[np.uint64],
    symbols: NDArray[np.uint16],
    symbol_levels: NDArray[np.generic],
    values: NDArray[np.generic],
    ones: int,
    mask: NDArray[np.uint16],
    symbol_bits: int,
    row_length: int,
    column_order: NDArray[np.uint32],
    elements: NDArray[np.generic],
) -> int:
    """Decode the values of a chunk and put each into its place.

    Parameters
    ----------
    words, freq_log2, slot_symbols, freq_starts, states
        As in `decode_symbols`.
    no_contexts : ndarray of uint8, shape (0,)
        Values have one context.
    symbols : ndarray of uint16, shape (ceil(ones / levels_per_symbol),)
        Scratch.
    symbol_levels : ndarray of unsigned integers, shape (alphabet, levels_per_symbol), C-contiguous
        Levels of each symbol, which holds one index of eight bits or two of four.
    values : ndarray of the same type, shape (symbol_count * levels_per_symbol,)
        Scratch.
    ones : int
        Ones in `mask`.
    mask : ndarray of uint16, shape (row_count * ceil(row_length / symbol_bits),)
        Mask symbols row by row, each below ``1 << symbol_bits``; bit 0 first.
    symbol_bits : int
        Places of a symbol, 1 to 9.
    row_length : int
        Elements of a row; the last row of `elements` may be shorter.
    column_order : ndarray of uint32, shape (row_length,), or (0,)
        Column of each place of a row; empty for the identity.
    elements : ndarray of the type of `values`, shape (element_count,)
        Receives the bit patterns of all elements.

    Returns
    -------
    int
        Status: as of `decode_symbols`, or `BAD_PADDING` when an index stands behind the last one of
        the mask or a one outside the tensor.
    """
    status = decode_symbols(
        words, freq_log2, slot_symbols, freq_starts, no_contexts, states, symbols
    )
    if status != OK:
        return status
    # The last of two indices is padding: 0, whatever its level.
    if ones < values.size and symbols[-1] >> 4:
        return BAD_PADDING
    look_up(symbols, symbol_levels, values)
    return _scatter(mask, symbol_bits, row_length, column_order, values, elements)


@kernel
def _scatter(
    mask: NDArray[np.uint16],
    symbol_bits: int,
    row_length: int,
    column_order: NDArray[np.uint32],
    values: NDArray[np.generic],
    elements: NDArray[np.generic],
) -> int:
    """Put each value where the mask has its one, zeros elsewhere."""
    is_ordered = column_order.size > 0
    length = np.uint64(row_length)
    bits = np.uint64(symbol_bits)
    element_count = np.uint64(elements.size)
    row_symbols = (length + bits - np.uint64(1)) // bits
    word_symbols = np.uint64(64) // bits
    one = np.uint64(1)
    none = elements.dtype.type(0)
    taken = np.uint64(0)
    row_start = np.uint64(0)
    symbol = np.uint64(0)
    while row_start < element_count:
        row_end = symbol + row_symbols
        first_place = np.uint64(0)
        if is_ordered:
            for place in range(row_start, min(row_start + length, element_count)):
                elements[np.uint64(place)] = none
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
            if not is_ordered:
                if position + _SIXTY_FOUR <= element_count:
                    expand(word, values, taken, elements, position)
                    taken += count_ones(word)
                    word = np.uint64(0)
                else:
                    for place in range(position, element_count):
                        elements[np.uint64(place)] = none
            while word != np.uint64(0):
                column = first_place + trailing_zeros(word)
                word &= word - one
                if is_ordered:
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
    column_order: NDArray[np.uint32],
    mask: NDArray[np.uint16],
    values: NDArray[np.uint8],
) -> int:
    """Take a tensor apart into mask symbols and the indices of its non-zero elements.

    The inverse of `decode_values`.

    Parameters
    ----------
    indices : ndarray of uint8, shape (element_count,)
        Number of each element's level, zero among the levels.
    zero_index : int
        Number of zero. Greater numbers are reduced by one in `values`.
    symbol_bits, row_length, column_order
        As in `decode_values`.
    mask : ndarray of uint16, shape (row_count * ceil(row_length / symbol_bits),)
        Zeros; receives the mask symbols.
    values : ndarray of uint8, shape (element_count,) or shorter
        Receives the level index of each non-zero element.

    Returns
    -------
    int
        Number of non-zero elements.
    """
    length = np.uint64(row_length)
    is_ordered = column_order.size > 0
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
                if is_ordered:
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
