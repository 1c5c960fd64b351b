"""Signed indices of levels, coded decision by decision under mixed predictions (spec 6.6 and 7.5).

Encoder and decoder are the same walk: what they differ in is where a decision comes from.
"""

import numpy as np
from numpy.typing import NDArray

from spq._jit import kernel
from spq._kernels.status import BAD_STATE, OK, STREAM_TOO_LONG, STREAM_TOO_SHORT
from spqformat.ids import MIXED_INPUTS, MIXED_STEPS

_INPUTS = np.uint64(MIXED_INPUTS)
_STEPS = np.uint64(MIXED_STEPS)
_PRESENT, _POSITIVE, _MORE, _DONE = 0, 1, 2, 3
_ZERO, _ONE, _TWO, _FOUR = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(4)
_MOST = np.int64(3)
_MOST_ONES = np.uint64(9)
_LEAST_RANGE = np.uint64(1 << 24)
_WHOLE = np.uint64((1 << 32) - 1)
_BYTE = np.uint64(8)
_SIXTEEN = np.uint64(16)
_TOP_BYTE = np.uint64(24)
_WORD = np.uint64(32)


@kernel
def _predict(
    chosen: NDArray[np.uint64],
    input_count: np.uint64,
    first_weight: np.uint64,
    stretch: NDArray[np.int16],
    squash: NDArray[np.uint16],
    counters: NDArray[np.uint32],
    weights: NDArray[np.int64],
    inputs: NDArray[np.int64],
) -> np.int64:
    """Return the probability of a one that some counters give, mixed."""
    total = np.int64(0)
    for number in range(input_count):
        inputs[number] = np.int64(stretch[counters[chosen[number]] >> np.uint32(12)])
        total += weights[first_weight + number] * inputs[number]
    mixed = min(max(total >> 16, np.int64(-2047)), np.int64(2047))
    return min(max(np.int64(squash[np.uint64(mixed + 2048)]), np.int64(32)), np.int64(65504))


@kernel
def _learn(
    decision: np.int64,
    probability: np.int64,
    chosen: NDArray[np.uint64],
    input_count: np.uint64,
    first_weight: np.uint64,
    rates: NDArray[np.int32],
    counters: NDArray[np.uint32],
    weights: NDArray[np.int64],
    inputs: NDArray[np.int64],
) -> int:
    """Move the counters and the weights of a prediction towards what has come."""
    error = (decision << 16) - probability
    wanted = (decision << 16) - decision
    for number in range(input_count):
        weights[first_weight + number] += (error * inputs[number] + 8192) >> 14
        counter = chosen[number]
        present = np.int64(counters[counter])
        seen = present & 255
        estimate = present >> 8
        estimate += ((wanted - estimate) * np.int64(rates[np.uint64(seen)])) >> 16
        counters[counter] = estimate << 8 | min(seen + 1, np.int64(255))
    return OK


@kernel
def _carry(stream: NDArray[np.uint8], position: np.uint64) -> int:
    """Add one to the number that ends before a position."""
    while position > _ZERO:
        position -= _ONE
        if stream[position] < 255:
            stream[position] += np.uint8(1)
            break
        stream[position] = 0
    return OK


@kernel
def code_signed_indices(
    encodes: bool,
    row_count: int,
    channel_count: int,
    place_count: int,
    kernel_width: int,
    positive_count: int,
    negative_count: int,
    stretch: NDArray[np.int16],
    squash: NDArray[np.uint16],
    rates: NDArray[np.int32],
    counters: NDArray[np.uint32],
    weights: NDArray[np.int64],
    chosen: NDArray[np.uint64],
    inputs: NDArray[np.int64],
    stream: NDArray[np.uint8],
    stream_bytes: NDArray[np.int64],
    signed: NDArray[np.int8],
) -> int:
    """Encode the signed indices of a tensor, or decode them.

    Parameters
    ----------
    encodes : bool
        Whether `signed` are encoded into `stream`, not decoded from it.
    row_count, channel_count, place_count : int
        Dimensions of the view, their product is the size of `signed`.
    kernel_width : int
        Places of a row of a kernel, at least 1.
    positive_count, negative_count : int
        Levels of either sign, together at least 1; signed indices lie between.
    stretch : ndarray of int16, shape (4096,)
        Logit of a probability of twelve bits, in units of 1/256.
    squash : ndarray of uint16, shape (4096,)
        Probability of the logit ``index - 2048`` in units of 2**-16.
    rates : ndarray of int32, shape (256,)
        Share of an error that a counter of so many decisions learns, in units of 2**-16.
    counters : ndarray of uint32, shape of `spq.mixed.counter_count`
        2**23 each; a probability of sixteen bits above the number of decisions.
    weights : ndarray of int64, shape ((2 + MIXED_STEPS) * MIXED_INPUTS,)
        Initial weights in units of 2**-16.
    chosen : ndarray of uint64, shape (MIXED_INPUTS,)
        Scratch.
    inputs : ndarray of int64, shape (MIXED_INPUTS,)
        Scratch.
    stream : ndarray of uint8
        Receives the stream, or is it.
    stream_bytes : ndarray of int64, shape (1,)
        Receives the length of the stream.
    signed : ndarray of int8, shape (row_count * channel_count * place_count,)
        Signed indices; zero for an element that is zero.

    Returns
    -------
    int
        Status: `OK`; `STREAM_TOO_SHORT` when the stream ends early or has no room; of a decoder
        also `STREAM_TOO_LONG`, and `BAD_STATE` when its value is no rest of a range.
    """
    rows, channels = np.uint64(row_count), np.uint64(channel_count)
    kernel_places, width = np.uint64(place_count), np.uint64(kernel_width)
    row_length = channels * kernel_places
    of_channels = rows
    of_places = of_channels + channels
    around = of_places + row_length
    of_kernels = around + np.uint64(256)
    signs_around = of_kernels + np.uint64(10) * kernel_places
    signs_in_kernels = signs_around + np.uint64(81)
    steps = signs_in_kernels + np.uint64(9) * kernel_places
    steps_of_rows = steps + _TWO * _STEPS
    steps_of_channels = steps_of_rows + _STEPS * rows
    steps_around = steps_of_channels + _STEPS * channels
    room = np.uint64(stream.size)
    position, interval, value = _ZERO, _WHOLE, _ZERO
    if not encodes:
        while position < min(_FOUR, room):
            value = value << _BYTE | np.uint64(stream[position])
            position += _ONE
        if position < _FOUR:
            return STREAM_TOO_SHORT
        if value >= _WHOLE:
            return BAD_STATE
    at = _ZERO
    for row in range(rows):
        for channel in range(channels):
            ones = _ZERO
            for place in range(kernel_places):
                left = up = before = above = np.int64(0)
                if channel >= _ONE:
                    left = np.int64(signed[at - kernel_places])
                if row >= _ONE:
                    up = np.int64(signed[at - row_length])
                if kernel_places == _ONE:
                    # A matrix has no kernels: the next but one.
                    if channel >= _TWO:
                        before = np.int64(signed[at - _TWO])
                    if row >= _TWO:
                        above = np.int64(signed[at - _TWO * row_length])
                else:
                    if place >= _ONE:
                        before = np.int64(signed[at - _ONE])
                    if place >= width:
                        above = np.int64(signed[at - width])
                in_kernel = np.uint64(min(abs(before), _MOST) * 4 + min(abs(above), _MOST))
                index = np.int64(signed[at]) if encodes else np.int64(0)
                index_size = np.uint64(abs(index))
                size, most = _ZERO, _ZERO
                positive = _ONE if positive_count else _ZERO
                kind = _PRESENT
                while kind != _DONE:
                    if kind == _PRESENT:
                        wanted = index != 0
                        nearest = np.uint64(min(abs(left), _MOST) * 4 + min(abs(up), _MOST))
                        # All places of a matrix are the only one of their kernel.
                        input_count = _INPUTS if kernel_places > _ONE else _INPUTS - _ONE
                        first_weight = _ZERO
                        chosen[0] = row
                        chosen[1] = of_channels + channel
                        chosen[2] = of_places + channel * kernel_places + place
                        chosen[3] = around + nearest * _SIXTEEN + in_kernel
                        chosen[4] = of_kernels + place * np.uint64(10) + min(ones, _MOST_ONES)
                    elif kind == _POSITIVE:
                        wanted = index > 0
                        signs = np.uint64((np.sign(before) + 1) * 3 + np.sign(above) + 1)
                        nearest = np.uint64((np.sign(left) + 1) * 3 + np.sign(up) + 1)
                        input_count, first_weight = _TWO, _INPUTS
                        chosen[0] = signs_around + nearest * np.uint64(9) + signs
                        chosen[1] = signs_in_kernels + place * np.uint64(9) + signs
                    else:
                        wanted = index_size > size
                        step = min(size, _STEPS) - _ONE
                        input_count, first_weight = _FOUR, _INPUTS * (_TWO + step)
                        chosen[0] = steps + step * _TWO + positive
                        chosen[1] = steps_of_rows + row * _STEPS + step
                        chosen[2] = steps_of_channels + channel * _STEPS + step
                        chosen[3] = steps_around + step * _SIXTEEN + in_kernel
                    probability = _predict(
                        chosen,
                        input_count,
                        first_weight,
                        stretch,
                        squash,
                        counters,
                        weights,
                        inputs,
                    )
                    bound = (interval * np.uint64(probability)) >> _SIXTEEN
                    if not encodes:
                        wanted = value < bound
                    if wanted:
                        interval = bound
                    else:
                        interval -= bound
                        if encodes:
                            value += bound
                            if value >> _WORD:
                                value &= _WHOLE
                                _carry(stream, position)
                        else:
                            value -= bound
                    while interval < _LEAST_RANGE:
                        if position >= room:
                            return STREAM_TOO_SHORT
                        interval <<= _BYTE
                        if encodes:
                            stream[position] = np.uint8(value >> _TOP_BYTE)
                            value = (value << _BYTE) & _WHOLE
                        else:
                            value = value << _BYTE | np.uint64(stream[position])
                        position += _ONE
                    _learn(
                        np.int64(wanted),
                        probability,
                        chosen,
                        input_count,
                        first_weight,
                        rates,
                        counters,
                        weights,
                        inputs,
                    )
                    if kind == _PRESENT:
                        size, kind = np.uint64(wanted), _DONE
                        if wanted and positive_count and negative_count:
                            kind = _POSITIVE
                        elif wanted:
                            most = np.uint64(positive_count + negative_count)
                            kind = _MORE if most > _ONE else _DONE
                    elif kind == _POSITIVE:
                        positive = np.uint64(wanted)
                        most = np.uint64(positive_count if wanted else negative_count)
                        kind = _MORE if most > _ONE else _DONE
                    else:
                        size += np.uint64(wanted)
                        kind = _MORE if wanted and size < most else _DONE
                ones += min(size, _ONE)
                if not encodes:
                    signed[at] = np.int64(size) if positive else -np.int64(size)
                at += _ONE
    if encodes:
        for _ in range(4):
            if position >= room:
                return STREAM_TOO_SHORT
            stream[position] = np.uint8(value >> _TOP_BYTE)
            value = (value << _BYTE) & _WHOLE
            position += _ONE
    stream_bytes[0] = np.int64(position)
    if position < room and not encodes:
        return STREAM_TOO_LONG
    return OK if encodes or value == _ZERO else BAD_STATE
