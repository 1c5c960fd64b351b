"""Operations on the bits of a word: few machine instructions in kernels, plain Python in twins."""

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils as _untyped_cgutils
from numba.core import config
from numba.core.extending import intrinsic, overload
from numba.np import arrayobj as _untyped_arrayobj
from numpy.typing import NDArray

# Numba says it is typed; these parts are not.
_arrayobj: Any = _untyped_arrayobj
_cgutils: Any = _untyped_cgutils
_VECTOR_LANES = 16


def trailing_zeros(word: np.uint64) -> np.uint64:
    """Return the position of the lowest one of a uint64 that is not zero."""
    value = int(word)
    return np.uint64((value & -value).bit_length() - 1)


def count_ones(word: np.uint64) -> np.uint64:
    """Return the number of ones of a uint64."""
    return np.uint64(int(word).bit_count())


def expand(
    word: np.uint64,
    values: NDArray[np.generic],
    taken: np.uint64,
    elements: NDArray[np.generic],
    position: np.uint64,
) -> None:
    """Put the next values where a word has its ones, in the 64 elements from `position` on.

    The other elements become zero; both arrays are C-contiguous and of the same type.
    """
    for bit in range(64):
        elements[int(position) + bit] = 0
        if int(word) >> bit & 1:
            elements[int(position) + bit] = values[int(taken)]
            taken = np.uint64(int(taken) + 1)


def _type_cttz(typing_context: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), generate


_cttz: Any = intrinsic(_type_cttz)


@overload(trailing_zeros)
def _overload_trailing_zeros(word):  # type: ignore[no-untyped-def]  # Numba compares signatures
    if word == types.uint64:
        return lambda word: _cttz(word)
    return None


def _type_ctpop(typing_context: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


_ctpop: Any = intrinsic(_type_ctpop)


@overload(count_ones)
def _overload_count_ones(word):  # type: ignore[no-untyped-def]  # Numba compares signatures
    if word == types.uint64:
        return lambda word: _ctpop(word)
    return None


def _has_expanding_loads() -> bool:
    """Tell whether kernels are compiled for a processor that expands vectors in one instruction."""
    chosen = vars(config)
    if chosen["CPU_NAME"] or chosen["CPU_FEATURES"]:
        return "+avx512f" in (chosen["CPU_FEATURES"] or "")
    return bool(binding.get_host_cpu_features().get("avx512f", False))


def _type_expand_16(
    typing_context: Any, word: Any, values: Any, taken: Any, elements: Any, position: Any
) -> Any:
    """Store 16 elements of four bytes: values where the low half of `word` has ones, else zeros."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        mask, source, first, target, place = arguments
        element = ir.IntType(32)
        vector = ir.VectorType(element, _VECTOR_LANES)
        lanes = ir.VectorType(ir.IntType(1), _VECTOR_LANES)
        pointers = []
        for index, array, offset in ((1, source, first), (3, target, place)):
            data = _arrayobj.make_array(signature.args[index])(context, builder, array).data
            pointers.append(builder.gep(builder.bitcast(data, element.as_pointer()), [offset]))
        load = _cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(vector, [element.as_pointer(), lanes, vector]),
            f"llvm.masked.expandload.v{_VECTOR_LANES}i32",
        )
        chosen = builder.bitcast(builder.trunc(mask, ir.IntType(_VECTOR_LANES)), lanes)
        expanded = builder.call(load, [pointers[0], chosen, ir.Constant(vector, None)])
        builder.store(expanded, builder.bitcast(pointers[1], vector.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.uint64, values, types.uint64, elements, types.uint64), generate


_expand_16: Any = intrinsic(_type_expand_16)


# Numba compares signatures and infers the types of what it compiles: annotations mean nothing here.
@overload(expand)
def _overload_expand(word, values, taken, elements, position):  # type: ignore[no-untyped-def]
    if _has_expanding_loads() and values.dtype.bitwidth == elements.dtype.bitwidth == 32:

        def expand_vectors(word, values, taken, elements, position):  # type: ignore[no-untyped-def]
            for step in range(np.uint64(4)):
                shift = np.uint64(16) * np.uint64(step)
                part = (word >> shift) & np.uint64(0xFFFF)
                _expand_16(part, values, taken, elements, position + shift)
                taken += _ctpop(part)

        return expand_vectors

    def expand_ones(word, values, taken, elements, position):  # type: ignore[no-untyped-def]
        for place in range(np.uint64(64)):
            elements[position + np.uint64(place)] = 0
        while word != np.uint64(0):
            elements[position + _cttz(word)] = values[taken]
            word &= word - np.uint64(1)
            taken += np.uint64(1)

    return expand_ones
