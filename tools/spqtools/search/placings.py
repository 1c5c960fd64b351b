"""Keeps the layers that a search has put on levels, so that a killed one goes on behind them."""

import io
from collections.abc import Container, Mapping
from typing import NamedTuple

from torch import Tensor

import spq


class Placing(NamedTuple):
    """All that a placing depends on within one search.

    Parameters
    ----------
    student : str
        Digest of the student's tensors.
    manner : str
        The price of a bit, that which levels are initialised at, and what the student is to be near
        to.
    """

    student: str
    manner: str


class Placings:
    """Layers on levels, small as in a file, by the placing that they belong to."""

    def __init__(self) -> None:
        self.packed: dict[Placing, list[bytes]] = {}

    def of(self, placing: Placing) -> dict[str, Tensor]:
        """Return the tensors of the layers that a placing is through with."""
        return {
            name: tensor
            for packed in self.packed.get(placing, [])
            for name, tensor in spq.load_state_dict(packed).items()
        }

    def add(self, placing: Placing, layer: Mapping[str, Tensor]) -> None:
        """Keep the tensors of one more layer."""
        buffer = io.BytesIO()
        spq.save({name: tensor.numpy() for name, tensor in layer.items()}, buffer)
        self.packed.setdefault(placing, []).append(buffer.getvalue())

    def keep(self, students: Container[str]) -> None:
        """Forget the placings of all other students."""
        self.packed = {
            placing: layers
            for placing, layers in self.packed.items()
            if placing.student in students
        }
