"""The tables of a tensor coded under mixed predictions, parsed and written (spec 6.6)."""

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np

from spqformat.codebook import Codebook, read_codebook, write_codebook
from spqformat.coded import check_chunk_count, tables_cursor
from spqformat.ids import MAX_MIXED_ELEMENTS, MAX_MIXED_LEVELS, CodebookKind, DType
from spqformat.model import TensorRecord

_FLOATS = frozenset({DType.F64, DType.F32, DType.F16, DType.BF16})


class MixedView(NamedTuple):
    """How a tensor is looked at: rows of channels, each a kernel of places.

    Parameters
    ----------
    row_count, channel_count, place_count : int
        Dimensions; their product is the element count.
    kernel_width : int
        Places of a row of a kernel; 1 in a matrix.
    """

    row_count: int
    channel_count: int
    place_count: int
    kernel_width: int


@dataclass(frozen=True)
class MixedTables:
    """Tables of a tensor whose elements are coded as signed indices under mixed predictions.

    Parameters
    ----------
    codebook : Codebook
        Levels of the non-zero elements, those with a clear sign bit first.
    positive_count : int
        Levels with a clear sign bit.
    view : MixedView
        How the tensor is looked at.
    """

    codebook: Codebook
    positive_count: int
    view: MixedView

    @property
    def negative_count(self) -> int:
        """Levels with a sign bit."""
        return self.codebook.level_count - self.positive_count


def can_be_mixed(dtype: DType, shape: tuple[int, ...]) -> bool:
    """Return whether tensors of a type and shape may be coded under mixed predictions."""
    return dtype in _FLOATS and len(shape) >= 2 and 0 < prod(shape) <= MAX_MIXED_ELEMENTS


def mixed_view(shape: tuple[int, ...]) -> MixedView:
    """Return how a tensor of at least two dimensions is looked at."""
    kernel = shape[2:]
    return MixedView(shape[0], shape[1], prod(kernel), kernel[-1] if kernel else 1)


def positive_count(codebook: Codebook) -> int:
    """Return the number of levels whose sign bit is clear."""
    levels = codebook.levels
    top = levels.dtype.type(1 << (8 * levels.dtype.itemsize - 1))
    # NumPy's stubs compare no generic scalars.
    return int(np.count_nonzero(levels < top))  # type: ignore[operator]


def read_mixed_tables(raw: bytes, record: TensorRecord) -> MixedTables:
    """Read and validate the tables of a mixed tensor; refuses with `bad_tables`."""
    cursor = tables_cursor(raw, record)
    if not can_be_mixed(record.dtype, record.shape):
        raise cursor.refuse("a tensor of this type and shape cannot be mixed")
    codebook = read_codebook(cursor, record.dtype)
    if codebook.kind is CodebookKind.UNIFORM:
        raise cursor.refuse("a mixed tensor has a uniform codebook")
    if codebook.level_count > MAX_MIXED_LEVELS:
        raise cursor.refuse(f"a mixed tensor has more than {MAX_MIXED_LEVELS} levels")
    if (codebook.levels == 0).any():
        raise cursor.refuse("a mixed tensor has zero among its levels")
    cursor.finish()
    check_chunk_count(record, 1, cursor)
    return MixedTables(codebook, positive_count(codebook), mixed_view(record.shape))


def write_mixed_tables(codebook: Codebook) -> bytes:
    """Write the tables of a mixed tensor."""
    return write_codebook(codebook)
