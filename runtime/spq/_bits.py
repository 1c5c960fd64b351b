"""Counting trailing zeros: one machine instruction in kernels, plain Python in their twins."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.extending import intrinsic, overload


def trailing_zeros(word: np.uint64) -> np.uint64:
    """Return the position of the lowest one of a uint64 that is not zero."""
    value = int(word)
    return np.uint64((value & -value).bit_length() - 1)


@intrinsic
def _cttz(typing_context: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), generate


@overload(trailing_zeros)
def _overload_trailing_zeros(word):  # type: ignore[no-untyped-def]  # Numba compares signatures
    if word == types.uint64:
        return lambda word: _cttz(word)  # type: ignore[call-arg]  # Numba adds the context
    return None
