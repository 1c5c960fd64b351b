"""A student whose weights learn although it is run with zeros, levels and steps."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import log2, prod

import torch
from torch import Tensor

from spqtools.evolve.divergence import Divergence
from spqtools.evolve.rate import Candidates, choose_within
from spqtools.evolve.rng import Draws
from spqtools.evolve.sparse import Sparse
from spqtools.evolve.student import Layer, Student
from spqtools.levels.alternatives import entropy_constrained
from spqtools.training.state import State, inside, number, under

# What a level is foreseen to take as long as there are none.
_FORESEEN_LEVEL_BITS = 2.0
# Steps from one look at the curvature to the next, and the share of what was seen that stays.
_SENSING = 4
_MEMORY = 0.95
# So many steps of a bias make the largest of its layer.
_BIAS_STEPS = 32


class Pupil:
    """A sparse student that learns from a teacher's outputs.

    Each layer has real weights, and those that the network is run with: zero where nothing is
    kept, and on levels once there are some. The gradient of the latter moves the former (straight
    through; Bengio et al., arXiv 1308.3432), so that a kept weight wanders from level to level, and
    moves each level by the sum over its weights. What is zero stays zero: the others have made up
    for it. Where it chooses what stays, a row of zeros has no bias.

    Parameters
    ----------
    student : Student
        The network.
    sparse : Sparse
        Where to begin; it is not changed.
    seed : int
        Seed of the signs that tell the curvature.
    chooses : bool
        Whether it learns the curvature, which it needs to choose what stays and to place levels.
    """

    def __init__(
        self, student: Student, sparse: Sparse, seed: int, *, chooses: bool = True
    ) -> None:
        self._student = student
        self._seed, self._steps = seed, 0
        self._chooses = chooses
        self._others = dict(sparse.tensors)
        self._layers = [_LayerWeights(layer, sparse, chooses) for layer in student.layers]
        self._optimiser = torch.optim.Adam(
            [{"params": layer.real, "scale": layer.scale} for layer in self._layers]
        )
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
            Learning rate, in units of each layer's root mean squared weight.
        moving : bool
            Whether weights may move from level to level; else only levels and biases learn.
        """
        if self._chooses and moving and self._steps % _SENSING == 0:
            gradients = self._gradients(inputs, partial(self._signed, divergence))
            for layer in self._layers:
                layer.sense(gradients, len(inputs[0]))
        gradients = self._gradients(inputs, lambda outputs: divergence.between(outputs, answers))
        for layer in self._layers:
            layer.take(gradients, moving=moving)
        self._steps += 1
        for group in self._optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        self._optimiser.step()
        if moving:
            for layer in self._layers:
                layer.move()

    def _gradients(
        self, inputs: Sequence[Tensor], loss: Callable[[list[Tensor]], Tensor]
    ) -> dict[str, Tensor]:
        """Return the gradients of a loss of the outputs at what the network is run with."""
        used, names = self.tensors(), self.names
        leaves = [used[name].detach().requires_grad_(True) for name in names]
        used.update(zip(names, leaves, strict=True))
        found = torch.autograd.grad(
            loss(self._student.run(used, self._student.begin(inputs))),
            leaves,
            allow_unused=True,
            materialize_grads=True,
        )
        return dict(zip(names, found, strict=True))

    def _signed(self, divergence: Divergence, outputs: list[Tensor]) -> Tensor:
        draws = Draws(self._seed, "pupil", self._steps)
        signs = [
            torch.from_numpy(draws.signs(output.numel())).reshape(output.shape)
            for output in outputs
        ]
        return divergence.pseudo_loss(outputs, signs)

    def choose(self, budget: float) -> None:
        """Choose which of the weights stay, within so many bits."""
        candidates = {layer.names[0]: layer.candidates() for layer in self._layers}
        keep, self._price = choose_within(candidates, budget)
        for layer in self._layers:
            layer.keep = keep[layer.names[0]]
            layer.move()

    def place_levels(self, max_levels: int) -> None:
        """Put the weights of each layer on at most so many levels besides zero."""
        for layer in self._layers:
            levels = layer.place(self._price, max_levels)
            self._learn_levels(layer, levels)

    def state(self) -> State:
        """Return what `restore` needs."""
        state = {"steps": number(self._steps), "price": number(self._price)}
        for index, layer in enumerate(self._layers):
            state |= inside(f"layer/{index}", layer.state())
        for index, tensor in enumerate(self._learning()):
            state |= inside(f"adam/{index}", self._optimiser.state.get(tensor, {}))
        return {name: tensor.clone() for name, tensor in state.items()}

    def restore(self, state: State) -> None:
        """Become the pupil that left a state; it began as this one did."""
        self._steps, self._price = int(state["steps"]), float(state["price"])
        state = {name: tensor.clone() for name, tensor in state.items()}
        for index, layer in enumerate(self._layers):
            levels = layer.restore(under(f"layer/{index}", state))
            if levels is not None:
                self._learn_levels(layer, levels)
        for index, tensor in enumerate(self._learning()):
            if known := under(f"adam/{index}", state):
                self._optimiser.state[tensor] = known

    def _learning(self) -> list[Tensor]:
        """Return all tensors that the optimiser moves, in its order."""
        return [tensor for group in self._optimiser.param_groups for tensor in group["params"]]

    def _learn_levels(self, layer: "_LayerWeights", levels: Tensor) -> None:
        self._optimiser.add_param_group({"params": [levels], "scale": layer.scale})


class _LayerWeights:
    """Weights and biases of one layer."""

    def __init__(self, layer: Layer, sparse: Sparse, drops_biases: bool) -> None:
        self._drops_biases = drops_biases
        self.names = [name for name in (layer.weight, layer.bias) if name is not None]
        self.keep = sparse.keep[layer.weight]
        self.real = [sparse.tensors[name].clone() for name in self.names]
        self.real[0] = self.real[0].reshape(self.keep.shape)
        kept = self.real[0][self.keep]
        self.scale = float(kept.square().mean().sqrt()) if len(kept) else 0.0
        self._unit = prod(layer.kernel)
        self._curvature = torch.zeros_like(self.real[0])
        self._levels: Tensor | None = None
        self._places = self._chosen = torch.zeros(0, dtype=torch.int64)
        self._bias_step = 0.0

    def state(self) -> State:
        """Return what `restore` needs."""
        real = {f"real/{index}": tensor for index, tensor in enumerate(self.real)}
        state = {**real, "keep": self.keep, "curvature": self._curvature}
        if self._levels is not None:
            state |= {"levels": self._levels, "chosen": self._chosen.short()}
        return {**state, "bias_step": number(self._bias_step)}

    def restore(self, state: State) -> Tensor | None:
        """Become the layer that left a state; return its levels, if there are some."""
        for index, tensor in enumerate(self.real):
            # The optimiser knows these tensors.
            tensor.copy_(state[f"real/{index}"])
        self.keep, self._curvature = state["keep"], state["curvature"]
        self._bias_step = float(state["bias_step"])
        self._levels = state.get("levels")
        if self._levels is not None:
            self._places, self._chosen = self._kept_places(), state["chosen"].long()
        return self._levels

    def _kept_places(self) -> Tensor:
        return self.keep.flatten().nonzero()[:, 0]

    @property
    def _has_bias(self) -> Tensor:
        """Which rows have a bias, bool."""
        return self.keep.any(1) | (not self._drops_biases)

    def used(self) -> dict[str, Tensor]:
        """Return what the network is run with, the weight as a matrix."""
        weight, bias = self.real[0] * self.keep, self.real[1:]
        if self._levels is not None:
            weight = torch.zeros_like(weight)
            weight.view(-1)[self._places] = _stored(self._levels)[self._chosen]
        used = [weight, *(one * self._has_bias for one in bias)]
        if self._bias_step:
            # The sum makes a zero of a negative one.
            used[1:] = [(one / self._bias_step).round() * self._bias_step + 0.0 for one in used[1:]]
        return dict(zip(self.names, used, strict=True))

    def candidates(self) -> Candidates:
        """Return what may stay."""
        bits = _FORESEEN_LEVEL_BITS
        if self._levels is not None:
            counts = torch.bincount(self._chosen, minlength=len(self._levels)).double()
            shares = (counts / counts.sum().clamp_min(1.0)).clamp_min(1e-30)
            bits = -float(shares @ shares.log2())
        worth = torch.where(self.keep, self.real[0] ** 2 * self._curvature, 0.0)
        return Candidates(worth, self.keep, bits, self._unit)

    def sense(self, gradients: Mapping[str, Tensor], samples: int) -> None:
        """Learn the curvature from the gradients of a pseudo-loss."""
        seen = gradients[self.names[0]].reshape(self.real[0].shape).square() / samples
        if not bool(self._curvature.any()):
            self._curvature = seen
        self._curvature.lerp_(seen, 1 - _MEMORY)

    def take(self, gradients: Mapping[str, Tensor], *, moving: bool) -> None:
        """Pass the gradients of what is used on to what learns."""
        gradient = gradients[self.names[0]].reshape(self.real[0].shape)
        self.real[0].grad = gradient * self.keep if moving else None
        for name, bias in zip(self.names[1:], self.real[1:], strict=True):
            bias.grad = gradients[name] * self._has_bias
        if self._levels is not None:
            by_place = gradient.flatten()[self._places]
            zeros = torch.zeros_like(self._levels)
            self._levels.grad = zeros.index_add_(0, self._chosen, by_place)

    def place(self, price: float, max_levels: int) -> Tensor:
        """Place levels among the kept weights, and steps under the biases; return the levels."""
        # Levels without weights may get some later.
        kept = self.keep if bool(self.keep.any()) else torch.ones_like(self.keep)
        curvature = self._curvature[kept].double().clamp_min(1e-30)
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
        self._places = self._kept_places()
        weights = self.real[0].flatten()[self._places]
        self._chosen = (weights[:, None] - _stored(self._levels)).abs().argmin(1)


def _stored(levels: Tensor) -> Tensor:
    """Return levels as bfloat16, which files hold them in."""
    return levels.bfloat16().float()
