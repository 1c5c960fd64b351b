"""Floating-point bit patterns of one element type as those of another."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from spqformat.ids import DType

FLOATS = (DType.F64, DType.F32, DType.F16, DType.BF16)

Convert = Callable[[NDArray[np.generic]], NDArray[np.generic]]
"""Maps bit patterns, unsigned integers of the element's width, to those of another type."""


def as_is(patterns: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return the patterns themselves."""
    return patterns


def conversion(source: DType, target: DType) -> Convert:
    """Return what rounds patterns to the nearest of another type, ties to even.

    As PyTorch does, binary64 becomes a half type by way of binary32, and values out of range
    become infinite; a NaN stays one.

    Parameters
    ----------
    source, target : DType
        Types among `FLOATS`.

    Returns
    -------
    callable
        Takes and returns unsigned integers of the types' widths, shape (element_count,).
    """
    if source is target:
        return as_is

    def convert(patterns: NDArray[np.generic]) -> NDArray[np.generic]:
        if source is DType.BF16:
            values: NDArray[np.generic] = (patterns.astype(np.uint32) << np.uint32(16)).view("f4")
        else:
            values = patterns.view(source.numpy)
        # Neither a value out of range nor a signalling NaN is worth a warning here.
        with np.errstate(all="ignore"):
            if target in (DType.F16, DType.BF16):
                values = values.astype(np.float32)
            if target is DType.BF16:
                return _bfloat16_patterns(values.view(np.float32))
            return values.astype(target.numpy).view(f"u{target.item_bytes}")

    return convert


def _bfloat16_patterns(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to the upper half of the pattern; a NaN could become infinite so."""
    patterns = values.view(np.uint32)
    last_kept = (patterns >> np.uint32(16)) & np.uint32(1)
    rounded = (patterns + np.uint32(0x7FFF) + last_kept) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)
