"""The bits that a student may take while it is trained down to the size of a file."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from spqtools.training.pupil import Pupil

TensorBytes = Callable[[Mapping[str, Tensor]], int]
"""Bytes of the whole file that tensors would become."""

# Share of the training in which weights are real and the budget falls to its goal.
FALLING = 0.3
# Share of the budget that is aimed at, and how much less in each attempt to fit.
_AIM = 0.995
_LESS = 0.001
_FITTINGS = 20


class Budget:
    """The bits that a pupil may take so that its file fits."""

    def __init__(self, pupil: Pupil, target_bytes: int, file_bytes: TensorBytes) -> None:
        self._pupil, self._target, self._file_bytes = pupil, target_bytes, file_bytes
        self._first_bits = pupil.bits
        tensors = pupil.tensors()
        empty = {name: torch.zeros_like(tensors[name]) for name in pupil.names}
        self._overhead = file_bytes(tensors | empty)
        # What the foresight says of the bits that weights really take.
        self.foreseen = 1.0

    def allows(self, tensors: Mapping[str, Tensor], room: float = 0.0) -> bool:
        """Tell whether the file fits and leaves a share of the size free."""
        return self._file_bytes(tensors) <= (1.0 - room) * self._target

    def choose(self, share: float) -> None:
        """Choose what is kept at this share of the training."""
        goal = self._goal(_AIM)
        if share < FALLING:
            goal += max(self._first_bits - goal, 0.0) * (1.0 - share / FALLING) ** 3
        else:
            self._compare()
            goal = self._goal(_AIM)
        self._pupil.choose(goal)

    def fit(self, room: float) -> None:
        """Choose less and less until the file fits and leaves a share of the size free."""
        for attempt in range(_FITTINGS):
            if self.allows(self._pupil.tensors(), room):
                return
            self._compare()
            self._pupil.choose(self._goal(_AIM - room - _LESS * attempt**2))

    def _compare(self) -> None:
        taken = self._file_bytes(self._pupil.tensors()) - self._overhead
        self.foreseen = self._pupil.bits / (8.0 * max(taken, 1))

    def _goal(self, aim: float) -> float:
        return aim * self.foreseen * 8.0 * max(self._target - self._overhead, 0)
