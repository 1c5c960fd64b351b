"""Keeps what a search has put on levels, so that a killed one goes on behind it."""

import io
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

import spq
from spqtools.levels.rounds import Round


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


@dataclass
class Placings:
    """What each placing has reached.

    Parameters
    ----------
    packed : dict of Placing to list of bytes
        Layers on levels, small as in a file.
    rounds : dict of Placing to dict of str to Round
        Of the last placing what the alternatives of the layer behind those have reached.
    """

    packed: dict[Placing, list[bytes]] = field(default_factory=dict)
    rounds: dict[Placing, dict[str, Round]] = field(default_factory=dict)

    def copy(self) -> "Placings":
        """Return what is there now, also while other threads add rounds."""
        return Placings(
            {placing: list(layers) for placing, layers in self.packed.items()},
            {placing: dict(rounds) for placing, rounds in self.rounds.items()},
        )

    def of(self, placing: Placing) -> dict[str, Tensor]:
        """Return the tensors of the layers that a placing is through with."""
        return {
            name: tensor
            for packed in self.packed.get(placing, [])
            for name, tensor in spq.load_state_dict(packed).items()
        }

    def rounds_of(self, placing: Placing) -> dict[str, Round]:
        """Return the rounds of a placing, to be added to; those of others are forgotten."""
        self.rounds = {placing: self.rounds.get(placing, {})}
        return self.rounds[placing]

    def add(self, placing: Placing, layer: Mapping[str, Tensor]) -> None:
        """Keep the tensors of one more layer, instead of its rounds."""
        self.rounds_of(placing).clear()
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
