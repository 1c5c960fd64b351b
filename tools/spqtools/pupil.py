"""A student whose weights learn although it is run with zeros, levels and steps."""

from collections.abc import Mapping, Sequence
from math import log2, prod

import torch
from torch import Tensor

from spqtools.evolve.divergence import Divergence
from spqtools.evolve.rate import Candidates, choose_within
from spqtools.evolve.search import Sparse
from spqtools.evolve.student import Layer, Student
from spqtools.levels import entropy_constrained

# What a level is foreseen to take as long as there are none.
_FORESEEN_LEVEL_BITS = 2.0
# Share of the mean squared gradient that stays from one step to the next.
_MEMORY = 0.99
# So many steps of a bias make the largest of its layer.
_BIAS_STEPS = 32


class Pupil:
    """A sparse student that learns from a teacher's outputs.

    Each layer has real weights, and those that the network is run with: zero where nothing is
    kept, and on levels once there are some. The gradient of the latter moves the former (straight
    through; Bengio et al., arXiv 1308.3432), so that a kept weight wanders from level to level, and
    moves each level by the sum over its weights. A weight that is zero rests, at first as the
    teacher has it, and is back when the loss has become sensitive enough to it. A row of zeros has
    no bias.

    Parameters
    ----------
    student : Student
        The network.
    sparse : Sparse
        Where to begin; it is not changed.
    """

    def __init__(self, student: Student, sparse: Sparse) -> None:
        self._student = student
        self._others = dict(sparse.tensors)
        self._layers = [_LayerWeights(layer, sparse, student.original) for layer in student.layers]
        self._optimiser = torch.optim.Adam([one for layer in self._layers for one in layer.real])
        self._price = 0.0

    @property
    def names(self) -> list[str]:
        """Names of the tensors that learn."""
        return [name for layer in self._layers for name in layer.names]

    @property
    def bits(self) -> float:
        """Bits that masks and levels will take, as far as can be foreseen."""
        return sum(layer.candidates().bits for layer in self._layers)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors as the network is run with them and as they are to be stored."""
        used = dict(self._others)
        for layer in self._layers:
            for name, tensor in layer.used().items():
                used[name] = tensor.reshape(used[name].shape)
        return used

    def learn(
        self,
        inputs: Sequence[Tensor],
        answers: Sequence[Tensor],
        divergence: Divergence,
        rate: float,
        *,
        moving: bool,
    ) -> None:
        """Take a step of Adam towards the teacher's answers.

        Parameters
        ----------
        inputs, answers : sequence of Tensor
            A few samples, and the teacher's outputs on them.
        divergence : Divergence
            The loss.
        rate : float
            Learning rate.
        moving : bool
            Whether weights may move from level to level; else only levels and biases learn.
        """
        used, names = self.tensors(), self.names
        leaves = [used[name].detach().requires_grad_(True) for name in names]
        used.update(zip(names, leaves, strict=True))
        loss = divergence.between(self._student.run(used, self._student.begin(inputs)), answers)
        found = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        gradients = dict(zip(names, found, strict=True))
        for layer in self._layers:
            layer.take(gradients, moving=moving)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()
        if moving:
            for layer in self._layers:
                layer.move()

    def choose(self, budget: float) -> None:
        """Choose anew which weights are kept, within so many bits."""
        candidates = {layer.names[0]: layer.candidates() for layer in self._layers}
        keep, self._price = choose_within(candidates, budget)
        for layer in self._layers:
            layer.keep = keep[layer.names[0]]
            layer.move()

    def place_levels(self, max_levels: int) -> None:
        """Put the weights of each layer on at most so many levels besides zero."""
        levels = [layer.place(self._price, max_levels) for layer in self._layers]
        self._optimiser.add_param_group({"params": levels})


class _LayerWeights:
    """Weights and biases of one layer."""

    def __init__(self, layer: Layer, sparse: Sparse, teacher: Mapping[str, Tensor]) -> None:
        self.names = [name for name in (layer.weight, layer.bias) if name is not None]
        self.keep = sparse.keep[layer.weight]
        weight = sparse.tensors[layer.weight].reshape(self.keep.shape)
        before = teacher[layer.weight].reshape(self.keep.shape)
        biases = [sparse.tensors[name].clone() for name in self.names[1:]]
        self.real = [torch.where(self.keep, weight, before), *biases]
        self._unit = prod(layer.kernel)
        self._power = torch.zeros_like(self.real[0])
        self._levels: Tensor | None = None
        self._places = self._chosen = torch.zeros(0, dtype=torch.int64)
        self._bias_step = 0.0

    def used(self) -> dict[str, Tensor]:
        """Return what the network is run with, the weight as a matrix."""
        weight, bias = self.real[0] * self.keep, self.real[1:]
        if self._levels is not None:
            weight = torch.zeros_like(weight)
            weight.view(-1)[self._places] = _stored(self._levels)[self._chosen]
        used = [weight, *(one * self.keep.any(1) for one in bias)]
        if self._bias_step:
            # The sum makes a zero of a negative one.
            used[1:] = [(one / self._bias_step).round() * self._bias_step + 0.0 for one in used[1:]]
        return dict(zip(self.names, used, strict=True))

    def candidates(self) -> Candidates:
        """Return what may be kept; the loss's curvature is Adam's own estimate of it."""
        bits = _FORESEEN_LEVEL_BITS
        if self._levels is not None:
            counts = torch.bincount(self._chosen, minlength=len(self._levels)).double()
            shares = (counts / counts.sum().clamp_min(1.0)).clamp_min(1e-30)
            bits = -float(shares @ shares.log2())
        return Candidates(self.real[0] ** 2 * self._power.sqrt(), self.keep, bits, self._unit)

    def take(self, gradients: Mapping[str, Tensor], *, moving: bool) -> None:
        """Pass the gradients of what is used on to what learns."""
        gradient = gradients[self.names[0]].reshape(self.real[0].shape)
        self._power.mul_(_MEMORY).addcmul_(gradient, gradient, value=1 - _MEMORY)
        self.real[0].grad = gradient * self.keep if moving else None
        for name, bias in zip(self.names[1:], self.real[1:], strict=True):
            bias.grad = gradients[name] * self.keep.any(1)
        if self._levels is not None:
            by_place = gradient.flatten()[self._places]
            zeros = torch.zeros_like(self._levels)
            self._levels.grad = zeros.index_add_(0, self._chosen, by_place)

    def place(self, price: float, max_levels: int) -> Tensor:
        """Place levels among the kept weights, and steps under the biases; return the levels."""
        # Levels without weights may get some later.
        kept = self.keep if bool(self.keep.any()) else torch.ones_like(self.keep)
        curvature = self._power[kept].double().sqrt().clamp_min(1e-30)
        found = entropy_constrained(
            self.real[0][kept].double().numpy(),
            curvature.numpy(),
            price,
            max_levels,
            may_zero=False,
        )
        self._levels = torch.from_numpy(found.values).float()
        largest = max((float(bias.abs().max()) for bias in self.real[1:]), default=0.0)
        self._bias_step = 2.0 ** round(log2(largest / _BIAS_STEPS)) if largest else 0.0
        self.move()
        return self._levels

    def move(self) -> None:
        """Put each kept weight on the nearest level, once there are levels."""
        if self._levels is None:
            return
        self._places = self.keep.flatten().nonzero()[:, 0]
        weights = self.real[0].flatten()[self._places]
        self._chosen = (weights[:, None] - _stored(self._levels)).abs().argmin(1)


def _stored(levels: Tensor) -> Tensor:
    """Return levels as bfloat16, which files hold them in."""
    return levels.bfloat16().float()
