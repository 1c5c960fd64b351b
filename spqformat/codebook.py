"""The levels of a coded tensor, parsed and written (spec 6.1)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spqformat.cursor import Cursor, signed_varint, varint
from spqformat.ids import MAX_LEVELS, CodebookKind, DType

_UNIFORM_MAX_INTEGER = 1 << 24
_UNIFORM_MAX_EXPONENT = 102  # 2**24 * 2**102 is finite in binary32
_UNIFORM_MIN_EXPONENT = -126


@dataclass(frozen=True)
class Codebook:
    """The levels of a tensor as bit patterns.

    Parameters
    ----------
    kind : CodebookKind
        How the levels are stored.
    levels : ndarray of uint8, uint16, uint32 or uint64, shape (level_count,)
        Bit patterns of the element type's width. Strictly ascending as unsigned integers, or as
        values for `UNIFORM`.
    exponent, first : int
        For `UNIFORM`: level ``i`` is ``(first + i) * 2**exponent``.
    """

    kind: CodebookKind
    levels: NDArray[np.generic]
    exponent: int = 0
    first: int = 0

    @property
    def level_count(self) -> int:
        """Number of levels."""
        return int(self.levels.size)


def read_codebook(cursor: Cursor, dtype: DType) -> Codebook:
    """Read a codebook for elements of `dtype`; refuses with `bad_tables`."""
    kind_id = cursor.u8()
    if kind_id not in frozenset(CodebookKind):
        raise cursor.refuse(f"codebook kind {kind_id} is unknown")
    kind = CodebookKind(kind_id)
    if kind is not CodebookKind.FULL and dtype is not DType.F32:
        raise cursor.refuse(f"codebook kind {kind_id} needs elements of type f32")
    level_count = cursor.varint(MAX_LEVELS)
    if level_count == 0:
        raise cursor.refuse("a codebook has no level")
    if kind is CodebookKind.UNIFORM:
        exponent = cursor.signed_varint(-_UNIFORM_MIN_EXPONENT)
        first = cursor.signed_varint(_UNIFORM_MAX_INTEGER)
        if exponent > _UNIFORM_MAX_EXPONENT or first + level_count - 1 > _UNIFORM_MAX_INTEGER:
            raise cursor.refuse("a uniform codebook leaves the range of exact values")
        return uniform_codebook(exponent, first, level_count)
    if kind is CodebookKind.BFLOAT16:
        halves = np.frombuffer(cursor.take(2 * level_count), "<u2")
        levels: NDArray[np.generic] = halves.astype(np.uint32) << np.uint32(16)
    elif kind is CodebookKind.FLOAT16:
        values = np.frombuffer(cursor.take(2 * level_count), "<f2")
        if not np.isfinite(values).all():
            raise cursor.refuse("a float16 codebook has a level that is not finite")
        levels = values.astype(np.float32).view(np.uint32)
    else:
        width = dtype.item_bytes
        levels = np.frombuffer(cursor.take(width * level_count), f"<u{width}").copy()
        if dtype is DType.BOOL and level_count and int(levels.max()) > 1:
            raise cursor.refuse("a codebook of booleans has a level above 1")
    if not (levels[1:] > levels[:-1]).all():  # type: ignore[operator]
        raise cursor.refuse("the levels of a codebook are not in strictly ascending order")
    return Codebook(kind, levels)


def write_codebook(codebook: Codebook) -> bytes:
    """Write a codebook in its canonical form."""
    head = bytes([codebook.kind]) + varint(codebook.level_count)
    levels = codebook.levels
    if codebook.kind is CodebookKind.UNIFORM:
        return head + signed_varint(codebook.exponent) + signed_varint(codebook.first)
    if codebook.kind is CodebookKind.BFLOAT16:
        return head + (levels.view(np.uint32) >> np.uint32(16)).astype("<u2").tobytes()
    if codebook.kind is CodebookKind.FLOAT16:
        return head + levels.view(np.float32).astype("<f2").tobytes()
    return head + levels.astype(levels.dtype.newbyteorder("<")).tobytes()


def uniform_codebook(exponent: int, first: int, level_count: int) -> Codebook:
    """Return the codebook of integers times a power of two; exact in binary32."""
    integers = np.arange(first, first + level_count, dtype=np.float64)
    # Multiplying in binary64 is exact; adding +0.0 turns a zero of either sign into +0.0.
    levels = (np.ldexp(integers, exponent) + 0.0).astype(np.float32).view(np.uint32)
    return Codebook(CodebookKind.UNIFORM, levels, exponent, first)


def spanning_codebook(levels: NDArray[np.generic]) -> Codebook | None:
    """Return the uniform codebook that contains levels, if few enough integers span them.

    Parameters
    ----------
    levels : ndarray of uint32, shape (level_count,)
        Bit patterns of binary32.
    """
    singles = levels.view(np.float32)
    if not np.isfinite(singles).all() or (levels == 0x80000000).any() or not singles.any():
        return None
    # Only now, because converting a signalling NaN warns.
    values = singles.astype(np.float64)
    mantissas, exponents = np.frexp(values[values != 0])
    integers = (np.abs(mantissas) * (1 << 24)).astype(np.int64)
    lowest_ones = np.log2(integers & -integers).astype(np.int64)
    exponent = int((exponents + lowest_ones).min()) - 24
    if not _UNIFORM_MIN_EXPONENT <= exponent <= _UNIFORM_MAX_EXPONENT:
        return None
    scaled = np.ldexp(values, -exponent)
    first, last = int(scaled.min()), int(scaled.max())
    if last - first >= MAX_LEVELS:
        return None
    # A full power of two costs nothing more and allows the flat table.
    level_count = 1 << (last - first).bit_length()
    if max(-first, first + level_count - 1) > _UNIFORM_MAX_INTEGER:
        return None
    return uniform_codebook(exponent, first, level_count)


def smallest_codebook(levels: NDArray[np.generic], dtype: DType) -> Codebook:
    """Return the first kind, as `CodebookKind` orders them, that stores levels in fewest bytes.

    Parameters
    ----------
    levels : ndarray of unsigned integers, shape (level_count,)
        Strictly ascending bit patterns of the element type's width.
    dtype : DType
        Element type.
    """
    if dtype is DType.F32:
        patterns = levels.view(np.uint32)
        if not (patterns & np.uint32(0xFFFF)).any():
            return Codebook(CodebookKind.BFLOAT16, levels)
        values = patterns.view(np.float32)
        if np.isfinite(values).all() and np.abs(values).max() <= np.finfo(np.float16).max:
            back = values.astype(np.float16).astype(np.float32).view(np.uint32)
            if np.array_equal(back, patterns):
                return Codebook(CodebookKind.FLOAT16, levels)
    return Codebook(CodebookKind.FULL, levels)
