"""Sums over a student's samples, batch by batch, which a killed search goes on with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_TINY = 1e-30
_PRODUCTS, _COSTS, _PLAIN, _WEIGHTED = "products", "costs", "plain", "weighted"


@dataclass
class Places:
    """What errors at the places of one layer cost, and what the layer sees there.

    Parameters
    ----------
    plain : Tensor of float32, shape (groups,)
        Squared features of each group over all samples and places.
    weighted : Tensor of float32, shape (groups,)
        The same, each place times what errors cost there; zero where costs do not matter.
    costs : Tensor of float32, shape (samples, places), optional
        What errors cost; rows of samples that are still to come mean nothing. None where costs do
        not matter.
    """

    plain: Tensor
    weighted: Tensor
    costs: Tensor | None = None

    def add(self, batch: "Places", done: int, samples: int) -> None:
        """Add the next batch, when so many of all samples are done."""
        self.plain += batch.plain
        self.weighted += batch.weighted
        if batch.costs is None:
            return
        if self.costs is None or len(self.costs) < samples:
            # One block for all: many that stay, taken between large ones that go, would leave
            # memory in pieces.
            costs = torch.zeros(samples, batch.costs.shape[1])
            if self.costs is not None:
                costs[:done] = self.costs[:done]
            self.costs = costs
        self.costs[done : done + len(batch.costs)] = batch.costs

    def shares(self, attention: float) -> Tensor | None:
        """Return how much each place of each sample counts, `attention` of it by its costs."""
        if self.costs is None:
            return None
        return 1.0 - attention + attention * self._scale * self.costs

    def power(self, attention: float) -> Tensor:
        """Return the sum of each group's squared features, places counting by their shares."""
        return (1.0 - attention) * self.plain + attention * self._scale * self.weighted

    @property
    def _scale(self) -> float:
        """What makes one of the mean cost."""
        if self.costs is None:
            return 0.0
        return 1.0 / max(float(self.costs.mean(dtype=torch.float64)), _TINY)


def places_of(errors: Tensor, features: Tensor, *, attends: bool) -> Places:
    """Return the sums of one batch.

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
    plain = power.sum((1, 2))
    if not attends:
        return Places(plain, torch.zeros_like(plain))
    costs = errors.square().sum((0, 2))
    return Places(plain, (costs * power).sum((1, 2)), costs)


@dataclass
class Sums:
    """What the gradients of a student have added up to after some of its samples.

    Parameters
    ----------
    student : str
        Digest of the student's tensors.
    products : dict of str to list of Tensor
        By the weight's name, what products of gradients add up to.
    places : dict of str to Places
        By the weight's name.
    done : int
        Samples.
    """

    student: str
    products: dict[str, list[Tensor]]
    places: dict[str, Places]
    done: int = 0

    def add(self, name: str, products: Sequence[Tensor], places: Places, samples: int) -> None:
        """Add what the next batch says of a layer; there are so many samples in all."""
        for total, product in zip(self.products[name], products, strict=True):
            total += product
        self.places[name].add(places, self.done, samples)

    def tensors(self) -> dict[str, Tensor]:
        """Return all sums by names that `from_tensors` understands."""
        named = {
            f"{_PRODUCTS}/{index}/{name}": product
            for name, products in self.products.items()
            for index, product in enumerate(products)
        }
        for name, places in self.places.items():
            named[f"{_PLAIN}/{name}"] = places.plain
            named[f"{_WEIGHTED}/{name}"] = places.weighted
            if places.costs is not None:
                named[f"{_COSTS}/{name}"] = places.costs[: self.done]
        return named

    @classmethod
    def from_tensors(cls, student: str, done: int, tensors: Mapping[str, Tensor]) -> "Sums":
        """Return what `tensors` were taken from."""
        found = cls(student, {}, {}, done)
        for key, plain in tensors.items():
            kind, name = key.split("/", 1)
            if kind != _PLAIN:
                continue
            costs = tensors.get(f"{_COSTS}/{name}")
            found.places[name] = Places(plain, tensors[f"{_WEIGHTED}/{name}"], costs)
            products = found.products[name] = []
            while (product := tensors.get(f"{_PRODUCTS}/{len(products)}/{name}")) is not None:
                products.append(product)
        return found
