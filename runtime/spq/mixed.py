"""Small tensors of few levels under mixed predictions, encoder and decoder (spec 6.6 and 7.5).

Nothing but the codebook is stored beside the stream: predictions begin the same for all tensors
and learn from what has been coded. Each element takes many times the work of a static table.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spq.floats import Convert
from spq.rans import DECODE_FAULTS
from spq.scratch import Scratch
from spqformat.codebook import Codebook
from spqformat.coded import bad_stream
from spqformat.ids import MAX_MIXED_LEVELS, MIXED_INPUTS, MIXED_STEPS
from spqformat.mixed_tables import (
    MixedView,
    mixed_view,
    positive_count,
    read_mixed_tables,
    write_mixed_tables,
)
from spqformat.model import TensorRecord

# The logistic function at the multiples of 1/2 from -8 to 8, in units of 2**-16.
_LOGISTIC = (
    *(22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743, 32768),
    *(40793, 47911, 53581, 57724, 60565, 62428, 63615, 64357, 64816, 65097, 65269, 65374, 65438),
    *(65476, 65500, 65514),
)
_LOGITS = 2048
_FIRST_COUNTER = 1 << 23
_FIRST_WEIGHT = 20_480


class _Constants(NamedTuple):
    """The tables of spec 7.5."""

    stretch: NDArray[np.int16]
    squash: NDArray[np.uint16]
    rates: NDArray[np.int32]


@cache
def _constants() -> _Constants:
    knots = np.array(_LOGISTIC)
    whole, rest = np.divmod(np.arange(2 * _LOGITS), 128)
    squash = (knots[whole] * (128 - rest) + knots[whole + 1] * rest + 64) >> 7
    # Ascending: the first logit whose probability reaches that of the middle of each piece.
    middles = 16 * np.arange(4096) + 8
    stretch = np.searchsorted(squash[1:], middles) + 1 - _LOGITS
    rates = (1 << 17) // (2 * np.arange(256) + 3)
    return _Constants(
        np.minimum(stretch, _LOGITS - 1).astype(np.int16),
        squash.astype(np.uint16),
        rates.astype(np.int32),
    )


def counter_count(view: MixedView) -> int:
    """Return how many counters a tensor has (spec 6.6)."""
    lines = (1 + MIXED_STEPS) * (view.row_count + view.channel_count)
    by_place = (view.channel_count + 10 + 9) * view.place_count
    return lines + by_place + 256 + 81 + (2 + 16) * MIXED_STEPS


def _code(
    encodes: bool,
    view: MixedView,
    signs: tuple[int, int],
    stream: NDArray[np.uint8],
    signed: NDArray[np.int8],
    scratch: Scratch,
) -> tuple[int, int]:
    """Run the kernel; returns its status and the bytes of the stream."""
    from spq._kernels import code_signed_indices

    constants = _constants()
    counters = scratch.array("counters", counter_count(view), np.uint32)
    counters[:] = _FIRST_COUNTER
    stream_bytes = np.zeros(1, dtype=np.int64)
    status = code_signed_indices(
        encodes,
        *view,
        *signs,
        constants.stretch,
        constants.squash,
        constants.rates,
        counters,
        np.full((2 + MIXED_STEPS) * MIXED_INPUTS, _FIRST_WEIGHT, dtype=np.int64),
        np.empty(MIXED_INPUTS, dtype=np.uint64),
        np.empty(MIXED_INPUTS, dtype=np.int64),
        stream,
        stream_bytes,
        signed,
    )
    return status, int(stream_bytes[0])


# --- decoder ---------------------------------------------------------------------------------


class MixedDecoder:
    """Signed indices under mixed predictions.

    Parameters
    ----------
    record : TensorRecord
        The tensor.
    read_part : callable
        Returns the checked bytes of a tensor's part.
    convert : callable
        Makes the wanted element type of the stored one.

    Raises
    ------
    SpqError
        `bad_tables`, and what `read_part` raises.
    """

    chunk_count = 1

    def __init__(
        self,
        record: TensorRecord,
        read_part: Callable[[TensorRecord, int], bytes],
        convert: Convert,
    ) -> None:
        self._record = record
        self._read_part = read_part
        tables = read_mixed_tables(read_part(record, 0), record)
        self._tables = tables
        # By signed index: zero, the positive levels, and from behind the negative ones.
        levels = convert(tables.codebook.levels)
        self._levels = np.zeros(1 + levels.size, dtype=levels.dtype)
        self._levels[1 : 1 + tables.positive_count] = levels[: tables.positive_count]
        self._levels[1 + tables.positive_count :] = levels[tables.positive_count :][::-1]

    def decode_chunk(self, chunk: int, elements: NDArray[np.generic], scratch: Scratch) -> None:
        """Decode the signed indices and look their levels up; refuses with `bad_stream`."""
        tables, part_index = self._tables, 1 + chunk
        # A copy: the kernel takes streams that it may write to.
        stream = np.frombuffer(bytearray(self._read_part(self._record, part_index)), dtype=np.uint8)
        signed = scratch.array("signed", elements.size, np.int8)
        signs = tables.positive_count, tables.negative_count
        status, _ = _code(False, tables.view, signs, stream, signed, scratch)
        if status:
            raise bad_stream(self._record, part_index, DECODE_FAULTS[status])
        np.take(self._levels, signed, out=elements, mode="wrap")


# --- encoder ---------------------------------------------------------------------------------


def encode_mixed(
    indices: NDArray[np.uint8], zero_index: int | None, codebook: Codebook, shape: tuple[int, ...]
) -> list[bytes] | None:
    """Encode the signed indices of a tensor's elements.

    Parameters
    ----------
    indices : ndarray of uint8, shape (element_count,)
        Number of each element's level, zero among the levels.
    zero_index : int or None
        Number of zero; None where no element is zero.
    codebook : Codebook
        The other levels, in order.
    shape : tuple of int
        Dimensions, of which `spqformat.mixed_tables.can_be_mixed` says yes.

    Returns
    -------
    list of bytes or None
        Tables and the chunk; None when there are too many levels, or a byte for each element does
        not suffice.
    """
    if codebook.level_count > MAX_MIXED_LEVELS:
        return None
    positives = positive_count(codebook)
    signs = positives, codebook.level_count - positives
    by_index = np.arange(1, 1 + codebook.level_count)
    by_index[positives:] = positives - by_index[positives:]
    if zero_index is not None:
        by_index = np.insert(by_index, zero_index, 0)
    signed = by_index.astype(np.int8)[indices]
    stream = np.empty(indices.size, dtype=np.uint8)
    status, stream_bytes = _code(True, mixed_view(shape), signs, stream, signed, Scratch())
    if status:
        return None
    return [write_mixed_tables(codebook), stream[:stream_bytes].tobytes()]
