"""Arrays and tensors as bytes, and which of them share their memory."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def memory_of(name: str, value: NDArray[Any] | Tensor) -> object:
    """Return what two tensors have in common that share their memory; of an empty one its name."""
    if isinstance(value, Tensor):
        if not value.numel():
            return name
        return value.data_ptr(), value.shape, value.stride(), value.dtype
    if not value.size:
        return name
    return value.__array_interface__["data"][0], value.shape, value.strides, value.dtype


def bits_of(value: NDArray[Any] | Tensor) -> bytes:
    """Return the elements as bytes in row-major order; NumPy has no bfloat16, PyTorch has."""
    if isinstance(value, Tensor):
        return _elements(value).tobytes()
    return value.tobytes()


def _elements(tensor: Tensor) -> NDArray[np.uint8]:
    """Return the bytes of the elements in row-major order, without a copy where they lie so."""
    # A tensor without dimensions cannot be viewed as narrower elements.
    elements: NDArray[np.uint8] = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return elements


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Return what tells tensors, with their names, from others."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(_elements(tensors[name]).data)
    return digest.hexdigest()
