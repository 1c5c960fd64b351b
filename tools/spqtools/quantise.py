"""Few levels for many weights: where the levels lie, and which weight takes which."""

from dataclasses import dataclass
from math import log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spqtools.descent import descend
from spqtools.evolve.compensation import by_group, with_constant, without_constant
from spqtools.evolve.moments import Moments
from spqtools.evolve.student import Layer

_ITERATIONS = 30
# Rounds of assignment and placement, and passes over each row in a round.
_ROUNDS = 4
_SWEEPS = 3
_DAMPING = 1e-4
# Half a pseudo-count keeps empty rows, columns and levels at a finite price.
_PSEUDO_COUNT = 0.5


@dataclass(frozen=True)
class Levels:
    """The levels of a layer's surviving weights.

    Parameters
    ----------
    values : ndarray of float64, shape (level_count,)
        Ascending, none zero, each exact in bfloat16.
    bits : ndarray of float64, shape (level_count,)
        Ideal code length of each level.
    """

    values: NDArray[np.float64]
    bits: NDArray[np.float64]


def place_levels(
    weights: NDArray[np.float64],
    curvature: NDArray[np.float64],
    slope: float,
    max_levels: int,
) -> Levels:
    """Place levels where curvature-weighted error and code length together are least.

    Entropy-constrained scalar quantisation (Chou, Lookabaugh and Gray, 1989): weights go to the
    level of the least ``curvature * error^2 + slope * bits``, levels to the weighted mean of their
    weights, code lengths to the levels' shares, until nothing moves. Levels that nobody chooses
    disappear, so the slope settles their number.

    Parameters
    ----------
    weights : ndarray of float64, shape (count,)
        Surviving weights.
    curvature : ndarray of float64, shape (count,)
        Divergence per squared change of each weight.
    slope : float
        Divergence that one bit may cost.
    max_levels : int
        Most levels.
    """
    order = np.argsort(weights, kind="stable")
    sorted_weights, sorted_curvature = weights[order], curvature[order]
    # Panter and Dite: the best density of levels follows the cube root of the weights' density;
    # equal steps of the cumulative |w|^(2/3) come near and reach the tails.
    mass = np.cumsum(np.abs(sorted_weights) ** (2.0 / 3.0) + 1e-30)
    places = np.searchsorted(mass, (np.arange(max_levels) + 0.5) / max_levels * mass[-1])
    values = np.unique(sorted_weights[np.minimum(places, sorted_weights.size - 1)])
    bits = np.full(values.size, np.log2(values.size))
    for _ in range(_ITERATIONS):
        chosen = assign(sorted_weights, sorted_curvature, Levels(values, bits), slope)
        counts = np.bincount(chosen, minlength=values.size)
        total = np.bincount(chosen, sorted_curvature, values.size)
        moment = np.bincount(chosen, sorted_curvature * sorted_weights, values.size)
        used = counts > 0
        moved = moment[used] / total[used]
        lengths = -np.log2(counts[used] / weights.size)
        settled = moved.size == values.size and np.allclose(moved, values, rtol=1e-4, atol=0.0)
        values, bits = moved, lengths
        if settled:
            break
    return _rounded(values, bits)


def assign(
    weights: NDArray[np.float64], curvature: NDArray[np.float64], levels: Levels, slope: float
) -> NDArray[np.int64]:
    """Return each weight's level of least error and length, int64, shape (count,)."""
    error = (weights[:, None] - levels.values[None, :]) ** 2
    cost = curvature[:, None] * error + slope * levels.bits[None, :]
    chosen: NDArray[np.int64] = np.argmin(cost, axis=1)
    return chosen


def quantise_layer(
    layer: Layer,
    moments: Moments,
    keep: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    sensitivity: Tensor,
    slope: float,
    max_levels: int,
    *,
    may_zero: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Return a layer's weights on their levels, and the bias that goes with them.

    Two steps take turns. Assignment: each weight moves to the level, or to zero, of the least
    error and rate on the layer's real inputs while all others are held, so that later weights make
    up for earlier ones (`descend`; coordinate descent as in QuantEase, arXiv 2309.01885, with the
    rate as a price). Placement: all levels move at once to where the error is least, which is a
    small linear system. What a level and what a place in the mask cost is measured anew each time.
    The bias stays free.

    Parameters
    ----------
    layer : Layer
        Geometry.
    moments : Moments
        Second moments of its inputs.
    keep : Tensor of bool, shape (rows, columns)
        Support.
    weight, bias : Tensor of float32, Tensor or None
        Compensated weights.
    sensitivity : Tensor of float32, shape (rows,)
        Divergence per squared change of a row's output, doubled.
    slope : float
        Divergence that one bit may cost.
    max_levels : int
        Most levels besides zero.
    may_zero : bool
        Whether a survivor may become zero where that pays.

    Returns
    -------
    tuple of Tensor and Tensor or None
        Weight of shape (rows, columns) and bias.
    """
    if not bool(keep.any()):
        return torch.zeros_like(weight), bias
    # The least sensitive rows must not drown in numerical noise.
    floor = float(sensitivity.mean()) * 1e-6 + 1e-30
    importance = sensitivity.clamp_min(floor).double()
    task = _Task(layer, moments, importance, weight, bias, may_zero)
    curvature = 0.5 * importance[:, None] * task.diagonal[:, : layer.columns].double()
    levels = place_levels(
        weight[keep].double().numpy(), curvature[keep].clamp_min(1e-30).numpy(), slope, max_levels
    )
    mask = keep
    for _ in range(_ROUNDS):
        bits = torch.where(keep, _place_bits(mask), torch.inf)
        chosen = task.assign(levels, slope, bits)
        mask = chosen >= 0
        if not bool(mask.any()):
            break
        levels = task.place(chosen, levels)
    task.assign(levels, slope, torch.where(keep, _place_bits(mask), torch.inf))
    return without_constant(task.weights, bias)


class _Task:
    """The quadratic problem of one layer and the weights that are being put on levels."""

    def __init__(
        self,
        layer: Layer,
        moments: Moments,
        importance: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        may_zero: bool,
    ) -> None:
        self._layer = layer
        self._may_zero = may_zero
        self._importance = importance
        hessian = moments.inputs.clone()
        diagonal = hessian.diagonal(dim1=1, dim2=2)
        diagonal.add_(_DAMPING * diagonal.mean(1, keepdim=True) + 1e-30)
        self._hessian = hessian
        self.diagonal = diagonal.repeat_interleave(layer.rows // layer.groups, dim=0)
        self.weights = with_constant(weight, bias).contiguous().clone()
        # The damping pulls towards the weights given, where it has no gradient.
        self._targets = moments.targets.transpose(1, 2) + self._times(self.weights, hessian)
        self._targets -= self._times(self.weights, moments.inputs)

    def assign(self, levels: Levels, slope: float, place_bits: Tensor) -> Tensor:
        """Move all weights to levels; returns the level of each, -1 for zero."""
        chosen = torch.empty(self._layer.rows, self._layer.columns, dtype=torch.int16)
        gradient = (self._times(self.weights, self._hessian) - self._targets).flatten(0, 1)
        costs = (slope * place_bits).float().numpy()
        rows = self._layer.rows // self._layer.groups
        for group, hessian in enumerate(self._hessian):
            part = slice(group * rows, (group + 1) * rows)
            descend(
                hessian.numpy(),
                self._importance[part].numpy(),
                levels.values.astype(np.float32),
                slope * levels.bits,
                costs[part],
                self._may_zero,
                _SWEEPS,
                self.weights[part].numpy(),
                gradient[part].numpy(),
                chosen[part].numpy(),
            )
        return chosen

    def place(self, chosen: Tensor, levels: Levels) -> Levels:
        """Move all levels to where the error is least, given who is on which."""
        count = len(levels.values)
        root = self._importance.sqrt().float()[:, None]
        weighted = self._layer.columns
        counts = torch.bincount(chosen[chosen >= 0].long(), minlength=count)
        used = torch.nonzero(counts)[:, 0]
        members = torch.zeros(len(used), *self.weights.shape)
        for place, level in enumerate(used):
            members[place, :, :weighted] = (chosen == level) * root
        fixed = self.weights.clone()
        fixed[:, :weighted] = 0
        wanted = (self._targets - self._times(fixed, self._hessian)).flatten(0, 1) * root
        right = (members * wanted).sum((1, 2)).double()
        images = torch.stack([self._times(one, self._hessian).flatten(0, 1) for one in members])
        matrix = (images.flatten(1) @ members.flatten(1).T).double()
        present = torch.from_numpy(levels.values)[used]
        ridge = 1e-6 * matrix.diagonal().mean() + 1e-30
        matrix.diagonal().add_(ridge)
        values = torch.linalg.solve(matrix, right + ridge * present)
        bits = -((counts[used] + _PSEUDO_COUNT) / (counts.sum() + 1.0)).log2().double()
        return _rounded(values.numpy(), bits.numpy())

    def _times(self, matrix: Tensor, hessian: Tensor) -> Tensor:
        return by_group(self._layer, matrix) @ hessian


def _place_bits(mask: Tensor) -> Tensor:
    """Return what a non-zero weight costs more than a zero at each place of a mask, in bits.

    The coder's density classes are foreseen by the densities of row and column, whose odds
    multiply.
    """
    ones = mask.double()
    logit_row = _logit(ones.sum(1), mask.shape[1])
    logit_column = _logit(ones.sum(0), mask.shape[0])
    logit: Tensor = logit_row[:, None] + logit_column[None, :] - _logit(ones.sum(), mask.numel())
    return (-logit / log(2.0)).float()


def _logit(count: Tensor, total: int) -> Tensor:
    share = (count + _PSEUDO_COUNT) / (total + 2 * _PSEUDO_COUNT)
    return torch.logit(share)


def _rounded(values: NDArray[np.float64], bits: NDArray[np.float64]) -> Levels:
    """Round levels to bfloat16, join those that become equal, and drop a zero."""
    rounded, owner = np.unique(round_to_bfloat16(values), return_inverse=True)
    shares = np.bincount(owner, weights=np.exp2(-bits), minlength=rounded.size)
    real = rounded != 0
    return Levels(rounded[real], -np.log2(shares[real] / shares[real].sum()))


def round_to_step(values: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """Round to multiples of a power of two such that the largest is about `steps` of them.

    Such a tensor is stored as small integers (spec 6.1, uniform codebook).
    """
    largest = float(np.abs(values).max(initial=0.0))
    if largest == 0.0 or not np.isfinite(largest):
        return values
    step = 2.0 ** np.floor(np.log2(largest / steps) + 0.5)
    rounded: NDArray[np.float64] = np.round(values.astype(np.float64) / step) * step + 0.0
    return rounded.astype(np.float32)


def round_to_bfloat16(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round to the nearest bfloat16, ties to even."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + np.uint64(0x7FFF) + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    return (rounded << np.uint64(16)).astype(np.uint32).view(np.float32).astype(np.float64)
