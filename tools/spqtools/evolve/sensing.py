"""What the network's output says about its layers, from gradients sample by sample."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from spqtools.evolve.divergence import Divergence
from spqtools.evolve.rng import Draws
from spqtools.evolve.sparse import Sparse
from spqtools.evolve.student import Layer, Student

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


class Sensing:
    """Looks at students through gradients of their divergence.

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
        self._student = student
        self._divergence = divergence
        self._seed = seed
        self._attention = _ATTENTION if divergence.has_places else 0.0
        self._seen: tuple[Mapping[str, Tensor], Sensed] = ({}, Sensed({}, {}))
        self._coupled: tuple[Mapping[str, Tensor], dict[str, list[Tensor]]] = ({}, {})

    def look(self, state: Sparse) -> Sensed:
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
        layers = self._student.layers
        squares = {layer.weight: torch.zeros(layer.rows) for layer in layers}
        seen = {layer.weight: _Places(layer.groups, self._attention) for layer in layers}
        for layer, errors, features in self._gradients(state):
            own, other = _weight_products(errors, features)
            squares[layer.weight] += (own * other).sum((1, 3)).flatten()
            seen[layer.weight].add(errors, features)
        rows = {}
        for layer in layers:
            power = seen[layer.weight].power.repeat_interleave(layer.rows // layer.groups)
            rows[layer.weight] = squares[layer.weight] / power.clamp_min(_TINY)
        sensed = Sensed(rows, {name: places.shares for name, places in seen.items()})
        self._seen = state.tensors, sensed
        return sensed

    def couplings(self, state: Sparse) -> dict[str, list[Tensor]]:
        """Return what errors of two rows together cost, from gradients sample by sample.

        The output's side of a Hessian in two Kronecker factors (Martens and Grosse, arXiv
        1503.05671) that is fitted to gradients of whole weights (Tseng et al., arXiv 2505.22988);
        its diagonal is what `look` says of rows.

        Returns
        -------
        dict of str to list of Tensor
            By the weight's name, for each of the layer's `blocks` a square of float32.
        """
        known, coupled = self._coupled
        if known is state.tensors:
            return coupled
        layers = self._student.layers
        sums: dict[str, list[Tensor]] = {}
        seen = {layer.weight: _Places(layer.groups, self._attention) for layer in layers}
        for layer in layers:
            sizes = [rows.stop - rows.start for _, rows in layer.blocks()]
            sums[layer.weight] = [torch.zeros(size, size) for size in sizes]
        for layer, errors, features in self._gradients(state):
            sides = _weight_products(errors, features)
            left, right = (side.transpose(1, 2).flatten(2).flatten(0, 1) for side in sides)
            for total, (_, rows) in zip(sums[layer.weight], layer.blocks(), strict=True):
                total += left[rows] @ right[rows].T
            seen[layer.weight].add(errors, features)
        coupled = {}
        for layer in layers:
            power = seen[layer.weight].power.clamp_min(_TINY)
            pairs = zip(sums[layer.weight], layer.blocks(), strict=True)
            coupled[layer.weight] = [total / power[group] for total, (group, _) in pairs]
        self._coupled = state.tensors, coupled
        return coupled

    def _gradients(self, state: Sparse) -> Iterator[tuple[Layer, Tensor, Tensor]]:
        """Yield the gradients of the pseudo-loss at each layer's outputs, batch by batch.

        Yields
        ------
        tuple of Layer, Tensor and Tensor
            The layer, the gradients of shape (groups, samples, rows of a group, places), and the
            features that the rows are multiplied with, (groups, samples, places, columns).
        """
        student = self._student
        ends = {layer.end: layer for layer in student.layers}
        sources = {source: layer for layer in student.layers for source in layer.node.args[:1]}
        # Students of a search differ in what they keep, and a resumed one draws the same signs.
        kept = sum(int(mask.sum()) for mask in state.keep.values())
        for batch in range(len(student.batches)):
            seen: dict[fx.Node, Tensor] = {}

            def watch(node: fx.Node, value: Any, seen: dict[fx.Node, Tensor] = seen) -> Any:
                if node in ends and not value.requires_grad:
                    value = value.requires_grad_(True)
                if node in ends or node in sources:
                    seen[node] = value
                return value

            begin = student.start(batch)
            seen.update(begin)
            with torch.enable_grad():
                result = student.run(state.tensors, begin, on_layer=watch)
                draws = Draws(self._seed, "signs", kept, batch)
                signs = [
                    torch.from_numpy(draws.signs(output.numel())).reshape(output.shape)
                    for output in result
                ]
                loss = self._divergence.pseudo_loss(result, signs)
                gradients: Sequence[Tensor] = torch.autograd.grad(
                    loss, [seen[node] for node in ends], allow_unused=True, materialize_grads=True
                )
            for layer, gradient in zip(ends.values(), gradients, strict=True):
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


class _Places:
    """Adds up what errors at the places of one layer cost, and what the layer sees there."""

    def __init__(self, groups: int, attention: float) -> None:
        self._attention = attention
        self._costs: list[Tensor] = []
        self._plain, self._weighted = torch.zeros(groups), torch.zeros(groups)

    def add(self, errors: Tensor, features: Tensor) -> None:
        """Hear of a batch, as `_gradients` yields it."""
        power = features.square().sum(3)
        self._plain += power.sum((1, 2))
        if self._attention:
            costs = errors.square().sum((0, 2))
            self._costs.append(costs.flatten())
            self._weighted += (costs * power).sum((1, 2))

    @property
    def _scale(self) -> float:
        """What makes one of the mean cost."""
        places = max(sum(len(costs) for costs in self._costs), 1)
        total = sum(float(costs.double().sum()) for costs in self._costs)
        return 1.0 / max(total / places, _TINY)

    @property
    def shares(self) -> list[Tensor]:
        """How much each place counts, batch by batch."""
        relative = self._attention * self._scale
        return [1.0 - self._attention + relative * costs for costs in self._costs]

    @property
    def power(self) -> Tensor:
        """Sum of the squared features of each group, places counting by their shares."""
        relative = self._attention * self._scale
        return (1.0 - self._attention) * self._plain + relative * self._weighted
