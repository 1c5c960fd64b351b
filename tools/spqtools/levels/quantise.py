"""Few levels for many weights: which weight of a layer takes which."""

from collections.abc import Iterable, Sequence
from functools import partial
from math import log, log2

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from spqtools.evolve.compensation import by_group, with_constant, without_constant
from spqtools.evolve.moments import Moments
from spqtools.evolve.student import Layer
from spqtools.levels.alternatives import Levels, alternatives, assign, codebook_bits, rounded
from spqtools.levels.level_image import level_image
from spqtools.levels.rounds import Round, Rounds
from spqtools.levels.row_search import search_rows
from spqtools.levels.windows import Windows, fit_at_once, windows_of
from spqtools.threads import side_by_side

# Rounds of assignment and placement, and choices that go on from weight to weight.
_ROUNDS = 4
_PATHS = 16
# Share of the mean diagonal that is added to a Hessian.
_DAMPING = 1e-2
# Alternatives that are carried out in a layer of more weights than that; in others, all.
_TRIED, _MANY_WEIGHTS = 2, 1 << 20
# In units of the least promise. In 116 placings of layers of three trained networks one winner had
# promised 2.03 times as much, all others 1.7 at most.
_HOPELESS = 2.0
# Those whose levels have no pattern to keep.
_MOVING = ("entropy-constrained", "k-means", "ternary")
# Half a pseudo-count keeps empty rows, columns and levels at a finite price.
_PSEUDO_COUNT = 0.5
# What couples rows is learnt from few samples; this share of it is taken for noise.
_OWN_SHARE = 0.3
# Rows that tell how much of an error others make up for, and their survivors that are looked at.
_LOOKED_AT, _MOST_SURVIVORS = 8, 1024


def quantise_layer(
    layer: Layer,
    moments: Moments,
    keep: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    couplings: Sequence[Tensor],
    bit_price: float,
    max_levels: int,
    *,
    may_zero: bool = True,
    methods: Sequence[str] | None = None,
    initial_price: float | None = None,
    rounds: Rounds | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return a layer's weights on their levels, and the bias that goes with them.

    The alternatives in `levels` are carried out side by side, in a large layer the two that promise
    the least error and rate, and the one that has it is returned. One that promises far more than
    another is left out.

    Where levels begin, and how many there are, is told by each weight's own curvature times the
    share of an error that others cannot make up for. In layers of ResNet-20 that is a tenth to six
    tenths of it; with all of it levels would be finer than pays.

    Two steps take turns. Assignment: row by row, all weights of a row move to the levels, or to
    zero, of the least error and rate on the layer's real inputs that a search finds while the other
    rows are held (`search_rows`; a Hessian of two Kronecker factors as in YAQA, arXiv 2505.22988,
    and the rate as a price). Placement: all levels move at once to where the error is least,
    which is a small linear system; levels of a pattern stay where they are. What a level and what a
    place in the mask cost is measured anew each time. The bias stays free.

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
    couplings : sequence of Tensor of float32
        Divergence per product of the changes of two rows' outputs, doubled: a square for each of
        the layer's blocks.
    bit_price : float
        Divergence that one bit may cost.
    max_levels : int
        Most levels besides zero.
    may_zero : bool
        Whether a survivor may become zero where that pays.
    methods : sequence of str, optional
        The alternatives to choose from; all by default.
    initial_price : float, optional
        Price of a bit that levels are initialised at; by default `bit_price`.
    rounds : Rounds, optional
        What the alternatives of the same layer have reached before; the result is the same.

    Returns
    -------
    tuple of Tensor and Tensor or None
        Weight of shape (rows, columns) and bias.
    """
    if not bool(weight[keep].any()):
        return torch.zeros_like(weight), bias
    # The least sensitive rows must not drown in numerical noise.
    own = torch.cat([block.diagonal() for block in couplings]).double()
    floor = float(own.mean()) * 1e-6 + 1e-30
    drawn = [
        (1.0 - _OWN_SHARE) * block.double() + (_OWN_SHARE * block.diagonal() + floor).diag()
        for block in couplings
    ]
    importance = own + floor
    task = _Task(layer, moments, drawn, keep, weight, bias, may_zero)
    curvature = 0.5 * importance[:, None] * task.diagonal[:, : layer.columns].double()
    curvature = curvature.clamp_min(1e-30)
    worth = curvature * weight.double().square()
    curvature = curvature[keep] * task.share_left()
    survivors = weight[keep].double().numpy(), curvature.clamp_min(1e-30).numpy()
    begins_at = bit_price if initial_price is None else initial_price
    candidates = alternatives(*survivors, begins_at, max_levels, may_zero=may_zero)
    # Where a zero pays better than any level, a method finds none.
    promises = {
        name: _promise(*survivors, candidates[name], bit_price, may_zero)
        for name in methods or candidates
        if len(candidates[name].values)
    }
    if not promises:
        return torch.zeros_like(weight), bias
    named = sorted(promises, key=lambda name: promises[name])
    named = named[: _TRIED if weight.numel() > _MANY_WEIGHTS else None]
    hopeless = _HOPELESS * promises[named[0]]
    rounds = rounds or Rounds({}, lambda: None)
    jobs = (
        partial(task.settle, name, candidates[name], worth, bit_price, rounds)
        for name in named
        if promises[name] <= hopeless
    )
    tried = side_by_side(jobs, rounds.abandon)
    _, best = min(tried, key=lambda one: one[0])
    return without_constant(best, bias)


def _promise(
    weights: NDArray[np.float64],
    curvature: NDArray[np.float64],
    levels: Levels,
    bit_price: float,
    may_zero: bool,
) -> float:
    """Return error and rate of levels if no weight made up for another, and zeros were free."""
    chosen = assign(weights, curvature, levels, bit_price)
    cost = curvature * (weights - levels.values[chosen]) ** 2 + bit_price * levels.bits[chosen]
    if may_zero:
        cost = np.minimum(cost, curvature * weights**2)
    return float(cost.sum()) + bit_price * codebook_bits(levels)


class _Task:
    """The quadratic problem of one layer."""

    def __init__(
        self,
        layer: Layer,
        moments: Moments,
        couplings: Sequence[Tensor],
        keep: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        may_zero: bool,
    ) -> None:
        self.layer = layer
        self.keep = keep
        self.may_zero = may_zero
        self.couplings = couplings
        self.blocks = layer.blocks()
        hessian = moments.inputs.clone()
        diagonal = hessian.diagonal(dim1=1, dim2=2)
        diagonal.add_(_DAMPING * diagonal.mean(1, keepdim=True) + 1e-30)
        self.hessian = hessian
        self.diagonal = diagonal.repeat_interleave(layer.rows // layer.groups, dim=0)
        self.start = with_constant(weight, bias).contiguous()
        # The damping pulls towards the weights given, where it has no gradient.
        plain = self._times(self.start, moments.inputs)
        image = self._times(self.start, hessian)
        targets = moments.targets.transpose(1, 2) + (image - plain)
        self.start_gradient = (image - targets).flatten(0, 1)
        self.targets = targets.flatten(0, 1)
        self._supports = [(hessian[group], keep[rows]) for group, rows in self.blocks]
        self._windows = [
            list(windows_of(*support)) if fit_at_once(*support) else []
            for support in self._supports
        ]

    def windows(self, block: int) -> Iterable[Windows]:
        """Return the windows of a block of rows; factors that do not fit together are made anew."""
        return self._windows[block] or windows_of(*self._supports[block])

    def settle(
        self, name: str, levels: Levels, worth: Tensor, bit_price: float, rounds: Rounds
    ) -> tuple[float, Tensor]:
        """Put the weights on the levels of an alternative.

        `worth` is the error that a zero would make. Returns error and rate, up to a constant, and
        the weights.
        """
        begun = rounds.of(name) or self._before_rounds(levels, worth, bit_price)
        attempt, levels, mask = _Attempt(self, begun), begun.levels, begun.mask
        for number in range(begun.number, _ROUNDS + 1):
            place_bits = torch.where(self.keep, _place_bits(mask), torch.inf)
            chosen = attempt.assign(levels, bit_price, place_bits)
            mask = chosen >= 0
            if number == _ROUNDS or not bool(mask.any()):
                break
            if name in _MOVING:
                levels = attempt.place(chosen, levels)
            else:
                levels = Levels(levels.values, _level_bits(chosen, len(levels.values)).numpy())
            rounds.keep(name, attempt.after(number + 1, levels, mask))
        return attempt.error() + bit_price * _rate(chosen, levels), attempt.weights

    def _before_rounds(self, levels: Levels, worth: Tensor, bit_price: float) -> Round:
        """Return where an alternative begins: with the zeros that pay at once."""
        mask = self.keep
        if self.may_zero:
            typical = log2(len(levels.values) + 1)
            for _ in range(_ROUNDS):
                mask = self.keep & (worth > bit_price * (_place_bits(mask) + typical))
        return Round(0, levels, mask, self.start, self.start_gradient)

    def share_left(self) -> float:
        """Return the share of rounding errors that is left when other weights make up for them.

        If each error is handed on to the weights behind it as well as can be, a layer's error is a
        sum of squares again, each times what the factorisation L D L' of the Hessian has on D
        instead of the diagonal (QuIP, arXiv 2307.13304), of either of the two Kronecker factors.
        Told by the survivors of a few rows, and by geometric means.
        """
        rows = self.keep.any(1).nonzero()[:, 0].tolist()
        hessians = []
        for row in rows[:: max(len(rows) // _LOOKED_AT, 1)]:
            survivors = self.keep[row].nonzero()[:_MOST_SURVIVORS, 0]
            group = row * self.layer.groups // self.layer.rows
            hessians.append(self.hessian[group, survivors[:, None], survivors].double())
        return _share_left(hessians) * _share_left(self.couplings)

    def coupled(self, matrix: Tensor) -> Tensor:
        """Return the couplings times a matrix of all rows."""
        pairs = zip(self.couplings, self.blocks, strict=True)
        return torch.cat([block.to(matrix.dtype) @ matrix[rows] for block, (_, rows) in pairs])

    def _times(self, matrix: Tensor, hessian: Tensor) -> Tensor:
        return by_group(self.layer, matrix) @ hessian


class _Attempt:
    """The weights of a layer while they are being put on levels of one kind."""

    def __init__(self, task: _Task, begun: Round) -> None:
        self._task = task
        self.weights, self._gradient = begun.weights.clone(), begun.gradient.clone()

    def after(self, number: int, levels: Levels, mask: Tensor) -> Round:
        """Return where a round has led to."""
        return Round(number, levels, mask, self.weights.clone(), self._gradient.clone())

    def error(self) -> float:
        """Return the divergence of the present weights, up to a constant."""
        coupled = self._task.coupled((self._gradient - self._task.targets).double())
        return float(0.5 * (coupled * self.weights).sum())

    def assign(self, levels: Levels, bit_price: float, place_bits: Tensor) -> Tensor:
        """Move all weights to levels; returns the level of each, -1 for zero."""
        task = self._task
        chosen = torch.full((task.layer.rows, task.layer.columns), -1, dtype=torch.int16)
        costs = (bit_price * place_bits).float().numpy()
        features = self.weights.shape[1]
        for block, (group, rows) in enumerate(task.blocks):
            for windows in task.windows(block):
                search_rows(
                    task.hessian[group].numpy(),
                    task.couplings[block].numpy(),
                    windows.rows,
                    windows.starts,
                    windows.features,
                    windows.factor_starts,
                    windows.factors,
                    levels.values,
                    bit_price * levels.bits,
                    costs[rows],
                    task.may_zero,
                    self.weights[rows].numpy(),
                    self._gradient[rows].numpy(),
                    chosen[rows].numpy(),
                    np.empty(features),
                    np.empty((features, _PATHS)),
                    np.empty((features, _PATHS), dtype=np.int16),
                    np.empty((features, _PATHS), dtype=np.int16),
                    np.empty((3, _PATHS)),
                    np.empty(_PATHS, dtype=np.int64),
                    np.empty(_PATHS, dtype=np.int64),
                )
        return chosen

    def place(self, chosen: Tensor, levels: Levels) -> Levels:
        """Move all levels to where the error is least, given who is on which."""
        task = self._task
        count, columns = len(levels.values), task.layer.columns
        places = (chosen >= 0).nonzero(as_tuple=True)
        owners = chosen[places].numpy()
        used = np.flatnonzero(np.bincount(owners, minlength=count))

        def by_level(matrix: Tensor) -> NDArray[np.float64]:
            """Return the sum of what the coupling makes of a matrix, over the places of a level."""
            values = task.coupled(matrix)[places].double().numpy()
            sums = np.bincount(owners, weights=values).astype(np.float64, copy=False)
            return sums[used]

        free = by_group(task.layer, self.weights[:, columns:])
        wanted = task.targets - (free @ task.hessian[:, columns:]).flatten(0, 1)
        right = by_level(wanted)
        matrix = np.stack([by_level(self._image(chosen, int(level))) for level in used])
        matrix = (matrix + matrix.T) / 2
        ridge = 1e-6 * matrix.diagonal().mean() + 1e-30
        matrix[np.diag_indices_from(matrix)] += ridge
        values = np.linalg.solve(matrix, right + ridge * levels.values[used])
        return rounded(values, _level_bits(chosen, count).numpy()[used])

    def _image(self, chosen: Tensor, level: int) -> Tensor:
        """Return the places of a level times the Hessian."""
        image = torch.empty_like(self.weights)
        for group, rows in self._task.blocks:
            hessian = self._task.hessian[group].numpy()
            level_image(hessian, chosen[rows].numpy(), level, image[rows].numpy())
        return image


def _share_left(factors: Sequence[Tensor]) -> float:
    """Return the geometric mean of D over the diagonal, of some positive definite matrices."""
    roots = torch.cat([torch.linalg.cholesky_ex(factor).L.diagonal() for factor in factors])
    diagonals = torch.cat([factor.diagonal() for factor in factors])
    return float((roots.square() / diagonals).log().mean().exp())


def _rate(chosen: Tensor, levels: Levels) -> float:
    """Return the bits of mask, levels and codebook."""
    mask = chosen >= 0
    if not bool(mask.any()):
        return 0.0
    used = torch.bincount(chosen[mask].long(), minlength=len(levels.values))
    bits = float((used * _level_bits(chosen, len(levels.values))).sum())
    odds = _place_bits(mask).double() * log(2.0)
    places = torch.where(mask, F.softplus(odds), F.softplus(-odds)).sum() / log(2.0)
    return bits + float(places) + codebook_bits(levels)


def _place_bits(mask: Tensor) -> Tensor:
    """Return what a non-zero weight costs more than a zero at each place of a mask, in bits.

    The coder's density classes are foreseen by the densities of row and column, whose odds
    multiply. Unlike in `rate`, lines are drawn to even odds: a layer that is still full has to get
    its first zeros at all. And every column is a line of its own, also within a kernel.
    """
    ones = mask.double()
    logit_row = _logit(ones.sum(1), mask.shape[1])
    logit_column = _logit(ones.sum(0), mask.shape[0])
    logit: Tensor = logit_row[:, None] + logit_column[None, :] - _logit(ones.sum(), mask.numel())
    return (-logit / log(2.0)).float()


def _level_bits(chosen: Tensor, count: int) -> Tensor:
    """Return the ideal code length of each level, float64, shape (count,)."""
    counts = torch.bincount(chosen[chosen >= 0].long(), minlength=count).double()
    return -((counts + _PSEUDO_COUNT) / (counts.sum() + 1.0)).log2()


def _logit(count: Tensor, total: int) -> Tensor:
    share = (count + _PSEUDO_COUNT) / (total + 2 * _PSEUDO_COUNT)
    return torch.logit(share)
