"""Values of ONNX operators at run time: tensors, or the numbers of integer constants."""

from typing import Any

import torch
from torch import Tensor


def as_tensor(value: Any) -> Tensor:
    """Return a value as a tensor; a list of nothing is one of integers, as shapes are."""
    if isinstance(value, Tensor):
        return value
    return torch.tensor(value, dtype=torch.int64 if value == [] else None)


def as_numbers(value: Any) -> list[Any]:
    """Return a value of at most one dimension as a list of Python numbers."""
    numbers = value.tolist() if isinstance(value, Tensor) else value
    return list(numbers) if isinstance(numbers, list | tuple) else [numbers]


def as_sizes(value: Any) -> list[int]:
    """Return a value of at most one dimension as a list of Python integers."""
    return [int(number) for number in as_numbers(value)]
