"""What a training leaves, so that a killed one goes on from there: tensors by name."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from spqtools.memory import digest_of
from spqtools.progress import Progress

State = dict[str, Tensor]
"""Tensors that later steps leave alone."""

AfterStep = Callable[[float, Callable[[], State]], None]
"""Hears after each step of the share of a training that is done, and can ask for its state."""


def nobody(_share: float, _state: Callable[[], State]) -> None:
    """Hear nothing."""


class Subject:
    """Who is trained on what: a state belongs to no other training.

    Parameters
    ----------
    student : mapping of str to Tensor
        Where the training begins.
    inputs : sequence of Tensor
        What it learns from.
    """

    def __init__(self, student: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> None:
        self._student, self._inputs = student, inputs

    @cached_property
    def _digest(self) -> Tensor:
        inputs = {
            f"{index} {tensor.dtype} {list(tensor.shape)}": tensor
            for index, tensor in enumerate(self._inputs)
        }
        digest = digest_of(self._student) + digest_of(inputs)
        return torch.frombuffer(bytearray.fromhex(digest), dtype=torch.uint8)

    def state(self) -> State:
        """Return what tells whether a state belongs to this training."""
        return {"subject": self._digest}

    def own(self, begun: State | None, progress: Progress) -> State | None:
        """Return a state that was left, or None where it belongs to another training."""
        if begun is None or torch.equal(begun["subject"], self._digest):
            return begun
        progress.note("the training begins anew: what was stopped had another student or inputs")
        return None


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
