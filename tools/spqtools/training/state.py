"""What a training leaves, so that a killed one goes on from there: tensors by name."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

State = dict[str, Tensor]
"""Copies, which later steps leave alone."""

AfterStep = Callable[[float, Callable[[], State]], None]
"""Hears after each step of the share of a training that is done, and can ask for its state."""


def nobody(_share: float, _state: Callable[[], State]) -> None:
    """Hear nothing."""


def number(value: float) -> Tensor:
    """Return a number, or a truth, as a state holds it."""
    return torch.tensor(value, dtype=torch.float64)


def inside(folder: str, tensors: Mapping[str, Tensor]) -> State:
    """Return tensors under the names that they have inside a folder."""
    return {f"{folder}/{name}": tensor for name, tensor in tensors.items()}


def under(folder: str, tensors: Mapping[str, Tensor]) -> State:
    """Return the tensors whose names begin with a folder, without it."""
    prefix = f"{folder}/"
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
