"""Where the levels of a layer may lie: the alternatives."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spqformat.codebook import smallest_codebook, spanning_codebook, write_codebook
from spqformat.ids import DType
from spqtools.levels.partition import partition

METHODS = ("entropy-constrained", "uniform", "k-means", "powers-of-two", "ternary")

_ITERATIONS = 30
_LARGEST_BFLOAT16 = 2.0**127 * (2.0 - 2.0**-7)
# Of more weights than that, no method places its levels by the weights themselves. A bin is far
# narrower than the weights of one level.
_BINS = 2048
# Steps of an octave. Their multiples have few binary digits, so that bfloat16 holds them.
_MANTISSAS = (1.75, 1.5, 1.25, 1.0)
# The narrowest grids end at a quarter of the largest weight.
_CLIPPED_OCTAVES = 2


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


def alternatives(
    weights: NDArray[np.float64],
    curvature: NDArray[np.float64],
    bit_price: float,
    max_levels: int,
    *,
    may_zero: bool = True,
) -> dict[str, Levels]:
    """Return the levels of every method.

    What a method leaves open, such as the number of levels or the step between them, is settled
    by curvature-weighted error and code length together.

    Parameters
    ----------
    weights : ndarray of float64, shape (count,)
        Surviving weights.
    curvature : ndarray of float64, shape (count,)
        Divergence per squared change of each weight; positive.
    bit_price : float
        Divergence that one bit may cost.
    max_levels : int
        Most levels besides zero.
    may_zero : bool
        Whether a survivor may become zero where that pays.

    Returns
    -------
    dict of str to Levels
        By method, in the order of `METHODS`. A method that would place its only level on zero has
        none, as where all weights are zero.
    """
    data = weights, curvature, bit_price, max_levels
    found = (
        entropy_constrained(*data, may_zero=may_zero),
        uniform(*data, may_zero=may_zero),
        k_means(*data),
        powers_of_two(*data, may_zero=may_zero),
        ternary(*data, may_zero=may_zero),
    )
    return dict(zip(METHODS, found, strict=True))


def entropy_constrained(
    weights: NDArray[np.float64],
    curvature: NDArray[np.float64],
    bit_price: float,
    max_levels: int,
    *,
    may_zero: bool = True,
) -> Levels:
    """Place levels where curvature-weighted error and code length together are least.

    Entropy-constrained scalar quantisation (Chou, Lookabaugh and Gray, 1989), begun with the best
    levels of equal length: weights go to the level, or to zero, of the least
    ``curvature * error^2 + bit_price * bits``, levels to the weighted mean of their weights, code
    lengths to the levels' shares, until nothing moves. Levels that nobody chooses disappear, so
    the price settles their number. For the parameters see `alternatives`.
    """
    starts = [k_means(weights, curvature, 0.0, max_levels).values]
    if may_zero:
        # Zero may also be the nearest of one level more.
        more = k_means(weights, curvature, 0.0, max_levels + 1).values
        starts.append(np.delete(more, np.argsort(np.abs(more))[:1]))
    line = _histogram(weights, curvature)
    return _cheapest(line, starts, bit_price, moving=True, may_zero=may_zero)


def uniform(
    weights: NDArray[np.float64],
    curvature: NDArray[np.float64],
    bit_price: float,
    max_levels: int,
    *,
    may_zero: bool = True,
) -> Levels:
    """Place levels on the multiples of one step, the best of a ladder of four in an octave.

    Around zero lies a dead zone as wide as pays. For the parameters see `alternatives`.
    """
    line = _histogram(weights, curvature)
    largest = line.largest
    octave = _octave(largest)
    finest = octave - (max_levels - 1).bit_length() - _CLIPPED_OCTAVES
    grids = [
        _two_sided(line, step * np.arange(1, np.ceil(largest / step) + 1), max_levels)
        for exponent in range(octave, finest - 1, -1)
        for step in np.ldexp(_MANTISSAS, exponent)
    ]
    exact = [grid for grid in grids if np.array_equal(round_to_bfloat16(grid), grid)]
    return _cheapest(line, exact, bit_price, moving=False, may_zero=may_zero)


def k_means(
    weights: NDArray[np.float64], curvature: NDArray[np.float64], bit_price: float, max_levels: int
) -> Levels:
    """Place levels where the curvature-weighted error alone is least; the price sets their number.

    Exact for each number on the bins of `_histogram`, see `partition`; of more weights than there
    are bins, that is nearly exact. For the parameters see `alternatives`.
    """
    line = _histogram(weights, curvature)
    sums = [np.append(0.0, np.cumsum(line.mass * line.weights**power)) for power in range(3)]
    scatter = np.empty((min(max_levels, line.weights.size), line.weights.size + 1))
    splits = np.empty(scatter.shape, dtype=np.int32)
    partition(sums[0], sums[1], sums[2], scatter, splits)
    best, least = Levels(np.empty(0), np.empty(0)), np.inf
    for count in range(1, len(splits) + 1):
        starts = _starts(splits[:count])
        bits = -np.log2(np.add.reduceat(line.counts, starts) / weights.size)
        means = np.add.reduceat(line.mass * line.weights, starts)
        means /= np.add.reduceat(line.mass, starts)
        cost = scatter[count - 1, -1] + bit_price * weights.size * float(np.exp2(-bits) @ bits)
        if cost < least:
            best, least = Levels(means, bits), cost
    return rounded(best.values, best.bits)


def powers_of_two(
    weights: NDArray[np.float64],
    curvature: NDArray[np.float64],
    bit_price: float,
    max_levels: int,
    *,
    may_zero: bool = True,
) -> Levels:
    """Place levels on powers of two of both signs, from the best largest one downwards.

    For the parameters see `alternatives`.
    """
    line = _histogram(weights, curvature)
    top = _octave(line.largest) + 1
    grids = [
        _two_sided(line, np.exp2(first - np.arange(max_levels)), max_levels)
        for first in range(top, top - _CLIPPED_OCTAVES - 2, -1)
    ]
    return _cheapest(line, grids, bit_price, moving=False, may_zero=may_zero)


def ternary(
    weights: NDArray[np.float64],
    curvature: NDArray[np.float64],
    bit_price: float,
    max_levels: int,
    *,
    may_zero: bool = True,
) -> Levels:
    """Place one level on each side of zero, and a dead zone as wide as pays between them.

    For the parameters see `alternatives`; of one level at most, the better side has it.
    """
    line = _histogram(weights, curvature)
    sides = [side for side in (line.weights < 0, line.weights > 0) if side.any()]
    means = np.array([np.average(line.weights[side], weights=line.mass[side]) for side in sides])
    starts = [means] if means.size <= max_levels else np.split(means, means.size)
    return _cheapest(line, starts, bit_price, moving=True, may_zero=may_zero)


def codebook_bits(levels: Levels, *, dense: bool = False) -> int:
    """Return what a codebook takes in the file, without the frequencies of its levels (spec 6.1).

    Parameters
    ----------
    levels : Levels
        At least one.
    dense : bool
        Whether the layer is stored without a mask. Then zero is a level too, and the multiples of
        a step may be told by the step alone.
    """
    values = np.append(levels.values, 0.0) if dense else levels.values
    patterns = np.sort(values.astype(np.float32).view(np.uint32))
    codebooks = [smallest_codebook(patterns, DType.F32)]
    if dense and (spanning := spanning_codebook(patterns)) is not None:
        codebooks.append(spanning)
    return 8 * min(len(write_codebook(codebook)) for codebook in codebooks)


def assign(
    weights: NDArray[np.float64], curvature: NDArray[np.float64], levels: Levels, bit_price: float
) -> NDArray[np.int64]:
    """Return each weight's level of least error and length, int64, shape (count,)."""
    error = (weights[:, None] - levels.values[None, :]) ** 2
    cost = curvature[:, None] * error + bit_price * levels.bits[None, :]
    chosen: NDArray[np.int64] = np.argmin(cost, axis=1)
    return chosen


def rounded(values: NDArray[np.float64], bits: NDArray[np.float64]) -> Levels:
    """Round levels to bfloat16, join those that become equal, and drop a zero."""
    exact, owner = np.unique(round_to_bfloat16(values), return_inverse=True)
    shares = np.bincount(owner, weights=np.exp2(-bits), minlength=exact.size)
    real = exact != 0
    return Levels(exact[real], -np.log2(shares[real] / shares[real].sum()))


def round_to_bfloat16(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round to the nearest finite bfloat16, ties to even."""
    values = np.clip(values, -_LARGEST_BFLOAT16, _LARGEST_BFLOAT16)
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    halves = (bits + np.uint64(0x7FFF) + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    return (halves << np.uint64(16)).astype(np.uint32).view(np.float32).astype(np.float64)


@dataclass(frozen=True)
class _Line:
    """Weights in ascending order: of each place how many there are, and their mean curvature."""

    weights: NDArray[np.float64]
    curvature: NDArray[np.float64]
    counts: NDArray[np.float64]

    @property
    def mass(self) -> NDArray[np.float64]:
        return self.counts * self.curvature

    @property
    def largest(self) -> float:
        return float(np.abs(self.weights).max())


def _histogram(weights: NDArray[np.float64], curvature: NDArray[np.float64]) -> _Line:
    """Gather weights in bins, each at the curvature-weighted mean of what it holds."""
    order = np.argsort(weights, kind="stable")
    weights, curvature = weights[order], curvature[order]
    starts = np.arange(weights.size)
    if weights.size > _BINS:
        # Panter and Dite: the best density of levels follows the cube root of the weights'
        # density; equal steps of the cumulative |w|^(2/3) come near and reach the tails.
        mass = np.cumsum(np.abs(weights) ** (2.0 / 3.0) + 1e-30)
        starts = np.flatnonzero(np.diff(np.floor(mass / mass[-1] * _BINS), prepend=-1.0))
    counts = np.diff(starts, append=weights.size).astype(np.float64)
    total = np.add.reduceat(curvature, starts)
    means = np.add.reduceat(curvature * weights, starts) / total
    return _Line(means, total / counts, counts)


def _starts(splits: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return where the stretches of the whole line begin that are not empty."""
    starts = [splits.shape[1] - 1]
    for row in splits[::-1]:
        starts.append(int(row[starts[-1]]))
    return np.unique(starts)[:-1]


def _octave(largest: float) -> int:
    """Return the exponent of the largest power of two up to a number."""
    return int(np.frexp(largest)[1]) - 1


def _two_sided(
    line: _Line, magnitudes: NDArray[np.float64], max_levels: int
) -> NDArray[np.float64]:
    """Return the first magnitudes with both signs, each as often as its share of the weights."""
    negative_share = float(line.counts[line.weights < 0].sum() / line.counts.sum())
    negative = round(max_levels * negative_share)
    return np.sort(np.append(-magnitudes[:negative], magnitudes[: max_levels - negative]))


def _cheapest(
    line: _Line,
    starts: Iterable[NDArray[np.float64]],
    bit_price: float,
    *,
    moving: bool,
    may_zero: bool,
) -> Levels:
    """Settle each start and return the levels of least error and code length, rounded."""
    settled = [_settle(line, start, bit_price, moving, may_zero) for start in starts]
    levels, _ = min(settled, key=lambda pair: pair[1])
    return rounded(levels.values, levels.bits)


def _settle(
    line: _Line, values: NDArray[np.float64], bit_price: float, moving: bool, may_zero: bool
) -> tuple[Levels, float]:
    """Let weights choose their levels and levels follow their weights until nothing changes.

    Code lengths always follow, values where `moving`. Levels that nobody chooses disappear,
    unless none is left.

    Returns
    -------
    tuple of Levels and float
        Levels, not rounded, and the cost of all weights.
    """
    if values.size == 0:
        return Levels(values, values), float(line.mass @ line.weights**2)
    levels, cost = Levels(values, np.full(values.size, np.log2(values.size))), 0.0
    for _ in range(_ITERATIONS):
        chosen = assign(line.weights, line.curvature, levels, bit_price)
        error = line.curvature * (line.weights - levels.values[chosen]) ** 2
        costs = line.counts * (error + bit_price * levels.bits[chosen])
        zero_costs = line.mass * line.weights**2 if may_zero else np.full(costs.size, np.inf)
        cost = float(np.minimum(costs, zero_costs).sum())
        kept = costs < zero_costs
        if not kept.any():
            break
        before, chosen, mass = levels, chosen[kept], line.mass[kept]
        counts = np.bincount(chosen, line.counts[kept], before.values.size)
        used = counts > 0
        values = before.values[used]
        if moving:
            total = np.bincount(chosen, mass, used.size)
            values = np.bincount(chosen, mass * line.weights[kept], used.size)[used] / total[used]
        levels = Levels(values, -np.log2(counts[used] / counts.sum()))
        old, new = (before.values, values) if moving else (before.bits, levels.bits)
        if old.size == new.size and np.allclose(new, old, rtol=1e-4, atol=0.0):
            break
    return levels, cost
