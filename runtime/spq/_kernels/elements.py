"""Elements, their levels and their bytes (spec 6.1, 6.5)."""

import numpy as np
from numpy.typing import NDArray

from spq._jit import kernel
from spq._kernels.status import OK

_EIGHT = np.uint64(8)


@kernel
def look_up(
    symbols: NDArray[np.uint16], symbol_levels: NDArray[np.generic], elements: NDArray[np.generic]
) -> int:
    """Replace symbols of level indices by their levels.

    Parameters
    ----------
    symbols : ndarray of uint16, shape (symbol_count,)
        Symbols, each below `alphabet`.
    symbol_levels : ndarray of unsigned integers, shape (alphabet, levels_per_symbol), C-contiguous
        Levels of each symbol.
    elements : ndarray of the same type, shape (symbol_count * levels_per_symbol,)
        Receives the levels.

    Returns
    -------
    int
        `OK`.
    """
    per_symbol = np.uint64(symbol_levels.shape[1])
    # A loop of constant length is unrolled.
    if per_symbol == np.uint64(1):
        for index in range(np.uint64(symbols.size)):
            elements[np.uint64(index)] = symbol_levels[np.uint64(symbols[index]), np.uint64(0)]
    elif per_symbol == np.uint64(2):
        for index in range(np.uint64(symbols.size)):
            first = np.uint64(2) * np.uint64(index)
            symbol = np.uint64(symbols[index])
            elements[first] = symbol_levels[symbol, np.uint64(0)]
            elements[first + np.uint64(1)] = symbol_levels[symbol, np.uint64(1)]
    else:
        for index in range(np.uint64(symbols.size)):
            first = per_symbol * np.uint64(index)
            symbol = np.uint64(symbols[index])
            for place in range(per_symbol):
                elements[first + np.uint64(place)] = symbol_levels[symbol, np.uint64(place)]
    return OK


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
