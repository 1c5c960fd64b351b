"""Keeps what the alternatives of a layer have reached, so that an interrupted one goes on there."""

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor

from spqtools.levels.alternatives import Levels


@dataclass(frozen=True)
class Round:
    """An alternative between two rounds of assignment and placement.

    Parameters
    ----------
    number : int
        Rounds that it is through with.
    levels : Levels
        Where its weights are to go next.
    mask : Tensor of bool, shape (rows, columns)
        Weights that are not zero.
    weights, gradient : Tensor of float32, shape (rows, features)
        See `search_rows`.
    """

    number: int
    levels: Levels
    mask: Tensor
    weights: Tensor
    gradient: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Return all but the number by name."""
        return {
            "values": torch.from_numpy(self.levels.values),
            "bits": torch.from_numpy(self.levels.bits),
            "mask": self.mask,
            "weights": self.weights,
            "gradient": self.gradient,
        }

    @classmethod
    def from_tensors(cls, number: int, tensors: Mapping[str, Tensor]) -> "Round":
        """Return what has left these tensors."""
        levels = Levels(tensors["values"].numpy(), tensors["bits"].numpy())
        return cls(number, levels, tensors["mask"], tensors["weights"], tensors["gradient"])


class Abandoned(Exception):
    """Ends an alternative that nobody waits for any more."""


class Rounds:
    """The last round of each alternative of the layer that is being put on levels.

    Parameters
    ----------
    reached : mutable mapping of str to Round
        By the alternative; rounds that are in it are not done again.
    after_round : callable
        Called after each further one, on the thread of its alternative, but never on two threads
        at once: while it runs, others go on.
    """

    def __init__(
        self, reached: MutableMapping[str, Round], after_round: Callable[[], None]
    ) -> None:
        self._reached, self._after_round = reached, after_round
        self._calling = Lock()
        self._is_abandoned = False

    def of(self, name: str) -> Round | None:
        """Return the last round of an alternative, or None before the first."""
        return self._reached.get(name)

    def abandon(self) -> None:
        """Let each alternative end with its next round."""
        self._is_abandoned = True

    def keep(self, name: str, reached: Round) -> None:
        """Keep one more round of an alternative; raises `Abandoned` when that was the last."""
        self._reached[name] = reached
        if self._is_abandoned:
            raise Abandoned
        if self._calling.acquire(blocking=False):
            try:
                self._after_round()
            finally:
                self._calling.release()
