"""What the network's output says about its layers, from gradients sample by sample."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from spqtools.evolve.divergence import Divergence
from spqtools.evolve.rng import Draws
from spqtools.evolve.sparse import Sparse
from spqtools.evolve.student import Layer, Student
from spqtools.evolve.sums import Places, Sums, places_of
from spqtools.memory import digest_of

AfterBatch = Callable[[float], None]
"""Hears of each batch: the share of them that is done."""

# What is added up: products of a row's gradients with themselves, or with those of other rows.
_ROWS, _PAIRS = "rows", "pairs"

# How much of a place's weight goes by what errors cost there, where the network's outputs have
# places too; the rest is the same for all.
_ATTENTION = 0.75
_TINY = 1e-30


@dataclass(frozen=True)
class Sensed:
    """What errors of a student's layers cost.

    Parameters
    ----------
    rows : dict of str to Tensor
        By the weight's name, what an error of each row costs: float32, shape (rows,).
    places : dict of str to list of Tensor
        By the weight's name and batch, how much each place of the layer's output counts, one in the
        mean: float32, shape (samples * places,), in the order of `Layer.outputs`. No batches where
        the network's outputs have no places: all count the same.
    """

    rows: dict[str, Tensor]
    places: dict[str, list[Tensor]]


def _nobody(_: float) -> None:
    """Hear nothing."""


class Sensing:
    """Looks at students through gradients of their divergence.

    What `sums` holds of the last students, a search that goes on brings back.

    Parameters
    ----------
    student : Student
        The network and the samples.
    divergence : Divergence
        What an error costs.
    seed : int
        Seed of the signs of the pseudo-loss.
    """

    def __init__(self, student: Student, divergence: Divergence, seed: int) -> None:
        self.sums: dict[str, Sums] = {}
        self._student = student
        self._divergence = divergence
        self._seed = seed
        self._attention = _ATTENTION if divergence.has_places else 0.0
        self._seen: tuple[Mapping[str, Tensor], Sensed] = ({}, Sensed({}, {}))

    def look(self, state: Sparse, after_batch: AfterBatch = _nobody) -> Sensed:
        """Return what errors of rows and at places cost.

        Of a place the squared gradient at the layer's outputs there, all rows together, and a part
        that is the same for all. Of a row the mean squared gradient of its weights, sample by
        sample, over the mean square of its inputs at places that count like that: then ``cost * H``
        has the trace of the row's Fisher information, whatever the places of a convolution have in
        common, H being the moments in which the places count so too.
        """
        known, sensed = self._seen
        if known is state.tensors:
            return sensed
        sums = self._add_up(_ROWS, state, after_batch)
        rows = {}
        for layer in self._student.layers:
            power = sums.places[layer.weight].power(self._attention)
            power = power.repeat_interleave(layer.rows // layer.groups)
            rows[layer.weight] = sums.products[layer.weight] / power.clamp_min(_TINY)
        shares = {name: places.shares(self._attention) for name, places in sums.places.items()}
        sensed = Sensed(rows, shares)
        self._seen = state.tensors, sensed
        return sensed

    def couplings(
        self, state: Sparse, after_batch: AfterBatch = _nobody
    ) -> dict[str, list[Tensor]]:
        """Return what errors of two rows together cost, from gradients sample by sample.

        The output's side of a Hessian in two Kronecker factors (Martens and Grosse, arXiv
        1503.05671) that is fitted to gradients of whole weights (Tseng et al., arXiv 2505.22988);
        its diagonal is what `look` says of rows.

        Returns
        -------
        dict of str to list of Tensor
            By the weight's name, for each of the layer's `blocks` a square of float32.
        """
        sums = self._add_up(_PAIRS, state, after_batch)
        coupled = {}
        for layer in self._student.layers:
            power = sums.places[layer.weight].power(self._attention).clamp_min(_TINY)
            blocks = layer.blocks()
            sizes = [rows.stop - rows.start for _, rows in blocks]
            parts = torch.split(sums.products[layer.weight], [size**2 for size in sizes])
            coupled[layer.weight] = [
                part.reshape(size, size) / power[group]
                for part, size, (group, _) in zip(parts, sizes, blocks, strict=True)
            ]
        return coupled

    def knows(self, state: Sparse) -> bool:
        """Tell whether a look at a student needs no gradients any more."""
        if self._seen[0] is state.tensors:
            return True
        sums = self.sums.get(_ROWS)
        if sums is None or sums.done < len(self._student.batches):
            return False
        return sums.student == _named(state)

    def forget_all_but(self, states: Sequence[Sparse]) -> None:
        """Forget the sums of all other students."""
        names = {_named(state) for state in states}
        self.sums = {kind: sums for kind, sums in self.sums.items() if sums.student in names}

    def _add_up(self, kind: str, state: Sparse, after_batch: AfterBatch) -> Sums:
        """Return the sums over all batches, beginning with those that are there already."""
        name = _named(state)
        if kind not in self.sums or self.sums[kind].student != name:
            self.sums[kind] = self._nothing(kind, name)
        batches = len(self._student.batches)
        for batch in range(self.sums[kind].done, batches):
            found = [
                (
                    layer.weight,
                    _PRODUCTS[kind](layer, errors, features),
                    places_of(errors, features, attends=self._attention > 0.0),
                )
                for layer, errors, features in self._gradients(state, batch)
            ]
            # Whoever interrupts this finds no sums rather than wrong ones.
            sums = self.sums.pop(kind)
            for weight, products, places in found:
                sums.products[weight] += products
                # What places count is said by `look` alone.
                sums.places[weight].add(places, batches if kind == _ROWS else 0)
            sums.done += 1
            self.sums[kind] = sums
            after_batch(sums.done / batches)
        return self.sums[kind]

    def _nothing(self, kind: str, name: str) -> Sums:
        """Return sums before the first batch."""
        products, places = {}, {}
        for layer in self._student.layers:
            pairs = sum((rows.stop - rows.start) ** 2 for _, rows in layer.blocks())
            products[layer.weight] = torch.zeros(layer.rows if kind == _ROWS else pairs)
            places[layer.weight] = Places.nothing(layer.groups)
        return Sums(name, products, places)

    def _gradients(self, state: Sparse, batch: int) -> Iterator[tuple[Layer, Tensor, Tensor]]:
        """Yield the gradients of the pseudo-loss at each layer's outputs.

        Yields
        ------
        tuple of Layer, Tensor and Tensor
            The layer, the gradients of shape (groups, samples, rows of a group, places), and the
            features that the rows are multiplied with, (groups, samples, places, columns).
        """
        student = self._student
        layers = {layer.node: layer for layer in student.layers}
        sources = {source: layer for layer in student.layers for source in layer.node.args[:1]}
        seen: dict[fx.Node, Tensor] = {}

        def watch(node: fx.Node, value: Any) -> Any:
            if node in layers and not value.requires_grad:
                value = value.requires_grad_(True)
            if node in layers or node in sources:
                seen[node] = value
            return value

        begin = student.start(batch)
        seen.update(begin)
        with torch.enable_grad():
            result = student.run(state.tensors, begin, on_layer=watch)
            # Students of a search differ in what they keep, and a resumed one draws the same signs.
            draws = Draws(self._seed, "signs", state.kept, batch)
            signs = [
                torch.from_numpy(draws.signs(output.numel())).reshape(output.shape)
                for output in result
            ]
            loss = self._divergence.pseudo_loss(result, signs)
            gradients: Sequence[Tensor] = torch.autograd.grad(
                loss, [seen[node] for node in layers], allow_unused=True, materialize_grads=True
            )
        for layer, gradient in zip(layers.values(), gradients, strict=True):
            source: Any = layer.node.args[0]
            if source not in seen:
                continue
            rows, samples = layer.rows // layer.groups, gradient.shape[0]
            features = layer.features(seen[source].detach())
            features = features.reshape(layer.groups, samples, -1, layer.columns)
            errors = layer.outputs(gradient).reshape(samples, -1, layer.groups, rows)
            yield layer, errors.permute(2, 0, 3, 1), features


def _weight_products(errors: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Return two factors whose products over the last dimension are those of weights' gradients.

    Sample by sample, the gradient is ``errors @ features``; where there are few places, it takes
    less not to multiply it out.
    """
    (rows, places), columns = errors.shape[2:], features.shape[3]
    if places * (rows + columns) < rows * columns:
        return errors @ (features @ features.transpose(2, 3)), errors
    gradient = errors @ features
    return gradient, gradient


def _named(state: Sparse) -> str:
    """Return what tells a student from others: its tensors, and the count that signs go by."""
    return f"{digest_of(state.tensors)} {state.kept}"


def _squares(_: Layer, errors: Tensor, features: Tensor) -> Tensor:
    """Return the squared gradients of each row's weights, sample by sample and added up."""
    own, other = _weight_products(errors, features)
    return (own * other).sum((1, 3)).flatten()


def _pairs(layer: Layer, errors: Tensor, features: Tensor) -> Tensor:
    """Return the products of two rows' gradients, sample by sample and added up, by block."""
    sides = _weight_products(errors, features)
    left, right = (side.transpose(1, 2).flatten(2).flatten(0, 1) for side in sides)
    return torch.cat([(left[rows] @ right[rows].T).flatten() for _, rows in layer.blocks()])


_PRODUCTS = {_ROWS: _squares, _PAIRS: _pairs}
