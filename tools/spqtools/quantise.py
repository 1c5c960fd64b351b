"""Few levels for many weights: entropy-constrained codebooks and error-compensated assignment."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spqtools.evolve.compensation import restricted, row_blocks
from spqtools.evolve.moments import Moments
from spqtools.evolve.student import Layer

_ITERATIONS = 30


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
        if moved.size == values.size and np.allclose(moved, values, rtol=1e-4, atol=0.0):
            break
        values, bits = moved, lengths
    rounded, owner = np.unique(round_to_bfloat16(values), return_inverse=True)
    shares = np.bincount(owner, weights=np.exp2(-bits), minlength=rounded.size)
    real = rounded != 0
    return Levels(rounded[real], -np.log2(shares[real] / shares[real].sum()))


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
) -> tuple[Tensor, Tensor | None]:
    """Return a layer's weights on their levels, and the bias that goes with them.

    Within each row, weights take their levels one after the other, the largest first, and those
    that follow make up for the error on the layer's real inputs (optimal brain quantisation, with
    the Cholesky form of GPTQ, arXiv 2210.17323). The bias comes last and stays free.

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

    Returns
    -------
    tuple of Tensor and Tensor or None
        Weight of shape (rows, columns) and bias.
    """
    if not bool(keep.any()):
        return torch.zeros_like(weight), bias
    present, support = weight, keep
    if bias is not None:
        present = torch.cat([weight, bias[:, None]], dim=1)
        support = torch.cat([keep, torch.ones(layer.rows, 1, dtype=torch.bool)], dim=1)
    # The most sensitive rows must not drown in numerical noise of insensitive ones.
    floor = float(sensitivity.mean()) * 1e-6 + 1e-30
    importance = sensitivity.clamp_min(floor).double()
    curvature = torch.zeros_like(present, dtype=torch.float64)
    blocks = list(_blocks(layer, moments, support, present))
    for rows, columns, valid, factor in blocks:
        spread = factor.square().sum(1)  # diagonal of the inverse Hessian
        local = 0.5 * importance[rows][:, None] / spread.clamp_min(1e-30)
        block = torch.zeros(len(rows), present.shape[1], dtype=torch.float64)
        block.scatter_(1, columns, torch.where(valid, local, 0.0))
        curvature[rows] = block
    levels = place_levels(
        weight[keep].double().numpy(),
        curvature[:, : layer.columns][keep].numpy(),
        slope,
        max_levels,
    )
    result = torch.zeros_like(present)
    for rows, columns, valid, factor in blocks:
        last_free = bias is not None
        quantised = _assign_rows(
            present[rows].gather(1, columns).double(),
            valid,
            factor,
            importance[rows],
            levels,
            slope,
            (columns == layer.columns) if last_free else torch.zeros_like(valid),
        )
        block = torch.zeros(len(rows), present.shape[1])
        block.scatter_(1, columns, torch.where(valid, quantised, 0.0).float())
        result[rows] = block
    if bias is None:
        return result, None
    return result[:, :-1].contiguous(), result[:, -1].contiguous()


def _blocks(
    layer: Layer, moments: Moments, support: Tensor, present: Tensor
) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Return rows, their columns by falling magnitude, validity, and the inverse's factor."""
    blocks = []
    rows_per_group = layer.rows // layer.groups
    magnitude = present.abs()
    if layer.bias is not None:
        # The constant goes last: it makes up for everything before.
        magnitude = torch.cat([magnitude[:, :-1] + 1e-30, torch.zeros(layer.rows, 1)], dim=1)
    for group in range(layer.groups):
        rows = torch.arange(group * rows_per_group, (group + 1) * rows_per_group)
        rows = rows[torch.argsort(support[rows].sum(1), stable=True)]
        for start in range(0, len(rows), 64):
            part = rows[start : start + 64]
            width = max(int(support[part].sum(1).max()), 1)
            ranked = torch.where(support[part], magnitude[part], -1.0)
            columns = torch.argsort(ranked, dim=1, descending=True, stable=True)[:, :width]
            valid = support[part].gather(1, columns)
            for first in (steps := row_blocks(len(part), width)):
                piece = slice(first, first + steps.step)
                matrix, _ = restricted(moments.inputs[group], columns[piece], valid[piece])
                inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
                factor = torch.linalg.cholesky(inverse, upper=True)
                blocks.append((part[piece], columns[piece], valid[piece], factor))
    return blocks


def _assign_rows(
    weights: Tensor,
    valid: Tensor,
    factor: Tensor,
    importance: Tensor,
    levels: Levels,
    slope: float,
    free: Tensor,
) -> Tensor:
    """Assign levels place by place and hand each error on to the places behind."""
    values = torch.from_numpy(levels.values)
    cost = slope * torch.from_numpy(levels.bits)
    quantised = weights.clone()
    for place in range(weights.shape[1]):
        scale = factor[:, place, place]
        local = 0.5 * importance / scale.square()
        error = (quantised[:, place, None] - values) ** 2
        chosen = values[torch.argmin(local[:, None] * error + cost, dim=1)]
        settled = torch.where(free[:, place], quantised[:, place], chosen)
        settled = torch.where(valid[:, place], settled, 0.0)
        miss = torch.where(valid[:, place], (quantised[:, place] - settled) / scale, 0.0)
        quantised[:, place] = settled
        quantised[:, place + 1 :] -= miss[:, None] * factor[:, place, place + 1 :]
    return quantised


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
