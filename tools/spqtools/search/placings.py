"""Keeps the layers that a search has put on levels, so that a killed one goes on behind them."""

import io
from collections.abc import Mapping

from torch import Tensor

import spq


class Placings:
    """Layers on levels, small as in a file, by the placing that they belong to.

    A placing is known by all that it depends on within one search: the student, the price of a bit,
    the kinds of levels and what it is to be near to.
    """

    def __init__(self) -> None:
        self.packed: dict[str, list[bytes]] = {}

    def of(self, placing: str) -> dict[str, Tensor]:
        """Return the tensors of the layers that a placing is through with."""
        return {
            name: tensor
            for packed in self.packed.get(placing, [])
            for name, tensor in spq.load_state_dict(packed).items()
        }

    def add(self, placing: str, layer: Mapping[str, Tensor]) -> None:
        """Keep the tensors of one more layer."""
        buffer = io.BytesIO()
        spq.save({name: tensor.numpy() for name, tensor in layer.items()}, buffer)
        self.packed.setdefault(placing, []).append(buffer.getvalue())
