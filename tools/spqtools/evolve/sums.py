"""Sums over a student's batches, which a killed search goes on with."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_TINY = 1e-30
_PRODUCTS, _PLAIN, _WEIGHTED, _TOTALS = "products", "plain", "weighted", "totals"
_COSTS, _LENGTHS = "costs", "lengths"


@dataclass
class Places:
    """What errors at the places of one layer cost, and what the layer sees there.

    Parameters
    ----------
    plain : Tensor of float32, shape (groups,)
        Squared features of each group over all samples and places.
    weighted : Tensor of float32, shape (groups,)
        The same, each place times what errors cost there; zero where costs do not matter.
    totals : Tensor of float64, shape (2,)
        Sum of what errors cost, and at how many places.
    costs : Tensor of float32, one-dimensional
        What they cost at each place, batch after batch; there may be room for more.
    lengths : tuple of int
        Places of each batch in `costs`; none where costs do not matter one by one.
    """

    plain: Tensor
    weighted: Tensor
    totals: Tensor
    costs: Tensor
    lengths: tuple[int, ...] = ()

    @classmethod
    def nothing(cls, groups: int) -> "Places":
        """Return what there is before the first batch."""
        nothing = torch.zeros(groups)
        return cls(nothing, nothing.clone(), torch.zeros(2, dtype=torch.float64), torch.zeros(0))

    def add(self, batch: "Places", batches: int) -> None:
        """Add a batch; its costs stay if `batches`, how many there will be, is not 0."""
        self.plain += batch.plain
        self.weighted += batch.weighted
        self.totals += batch.totals
        if not batches or not batch.lengths:
            return
        done, more = sum(self.lengths), len(batch.costs)
        if len(self.costs) < done + more:
            # One block for all: many that stay, taken between large ones that go, would leave
            # memory in pieces.
            costs = torch.zeros(max(more * batches, done + more))
            costs[:done] = self.costs[:done]
            self.costs = costs
        self.costs[done : done + more] = batch.costs
        self.lengths = (*self.lengths, more)

    def shares(self, attention: float) -> list[Tensor]:
        """Return how much each place counts, batch by batch, `attention` of it by its costs."""
        counts = self.costs[: sum(self.lengths)] * (attention * self._scale)
        counts += 1.0 - attention
        return list(torch.split(counts, list(self.lengths))) if self.lengths else []

    def power(self, attention: float) -> Tensor:
        """Return the sum of each group's squared features, places counting by their shares."""
        return (1.0 - attention) * self.plain + attention * self._scale * self.weighted

    @property
    def _scale(self) -> float:
        """What makes one of the mean cost."""
        cost, places = (float(total) for total in self.totals)
        return 1.0 / max(cost / max(places, 1.0), _TINY)


def places_of(errors: Tensor, features: Tensor, *, attends: bool) -> Places:
    """Return what one batch says.

    Parameters
    ----------
    errors : Tensor of float32, shape (groups, samples, rows of a group, places)
        Gradients at a layer's outputs.
    features : Tensor of float32, shape (groups, samples, places, columns)
        What its rows are multiplied with.
    attends : bool
        Whether costs matter.
    """
    power = features.square().sum(3)
    found = Places.nothing(len(power))
    found.plain = power.sum((1, 2))
    if attends:
        costs = errors.square().sum((0, 2))
        found.weighted = (costs * power).sum((1, 2))
        found.costs, found.lengths = costs.flatten(), (costs.numel(),)
        found.totals = torch.stack([costs.sum(dtype=torch.float64), torch.tensor(costs.numel())])
    return found


@dataclass
class Sums:
    """What the gradients of a student have added up to after some of its batches.

    Parameters
    ----------
    student : str
        What tells the student from others.
    products : dict of str to Tensor of float32, one-dimensional
        By the weight's name, what products of gradients add up to.
    places : dict of str to Places
        By the weight's name.
    done : int
        Batches.
    """

    student: str
    products: dict[str, Tensor]
    places: dict[str, Places]
    done: int = 0

    def tensors(self) -> dict[str, Tensor]:
        """Return all sums by names that `from_tensors` understands."""
        named = {f"{_PRODUCTS}/{name}": product for name, product in self.products.items()}
        for name, places in self.places.items():
            named[f"{_PLAIN}/{name}"] = places.plain
            named[f"{_WEIGHTED}/{name}"] = places.weighted
            named[f"{_TOTALS}/{name}"] = places.totals
            named[f"{_COSTS}/{name}"] = places.costs[: sum(places.lengths)]
            named[f"{_LENGTHS}/{name}"] = torch.tensor(places.lengths, dtype=torch.int64)
        return named

    @classmethod
    def from_tensors(cls, student: str, done: int, tensors: Mapping[str, Tensor]) -> "Sums":
        """Return what `tensors` were taken from."""
        found = cls(student, {}, {}, done)
        for key, product in tensors.items():
            kind, name = key.split("/", 1)
            if kind == _PRODUCTS:
                plain, weighted, totals, costs, lengths = (
                    tensors[f"{part}/{name}"]
                    for part in (_PLAIN, _WEIGHTED, _TOTALS, _COSTS, _LENGTHS)
                )
                found.products[name] = product
                found.places[name] = Places(plain, weighted, totals, costs, (*lengths.tolist(),))
        return found
