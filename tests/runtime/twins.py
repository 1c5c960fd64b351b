"""Plain-Python twins of kernels, and kernels with another constant."""

from types import FunctionType
from typing import Any

import numba


def twin(kernel: Any, **constants: Any) -> Any:
    """Return the plain-Python function of a kernel, which calls those of other kernels.

    Parameters
    ----------
    kernel : compiled kernel
        What `spq._jit.kernel` has returned.
    **constants
        Globals of its module that are to have another value.
    """
    function = kernel.py_func
    namespace = dict(function.__globals__)
    for name in function.__code__.co_names:
        if hasattr(namespace.get(name), "py_func"):
            namespace[name] = twin(namespace[name])
    return FunctionType(function.__code__, {**namespace, **constants})


def recompiled(kernel: Any, **constants: Any) -> Any:
    """Return a kernel compiled anew where globals of its module have another value."""
    function = kernel.py_func
    changed = FunctionType(function.__code__, {**function.__globals__, **constants})
    return numba.njit(nogil=True, error_model="numpy")(changed)
