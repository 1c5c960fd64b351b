"""Compresses a network from its weights alone, without running it."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from spqformat import Reason, SpqError
from spqtools.levels.alternatives import entropy_constrained
from spqtools.progress import Progress
from spqtools.search.goal import CLOSE, Goal, Options
from spqtools.search.outcome import Compressed, FileBytes, State, no_such_file

# Divergence per bit in units of a layer's variance; about 3 % error of the weights.
_BIT_PRICE = 1.2e-3
_BITS = 8
_BISECTIONS = 12
_KIND = "not measured"


def compress_weights(
    state: Mapping[str, NDArray[np.generic]],
    options: Options,
    goal: Goal,
    progress: Progress,
    file_bytes: FileBytes,
) -> Compressed:
    """Compress without data: magnitude decides the zeros, the weights' own spread the levels.

    Parameters
    ----------
    state : mapping of str to ndarray
        Tensors of a network; float32 ones of two and more dimensions are compressed.
    options : Options
        Bits, and the sparsity if that is the goal; without any goal nothing is zeroed.
    goal : Goal
        Size, if that is the goal.
    progress : Progress
        Hears of the trials.
    file_bytes : callable
        Size of the file that a state becomes.

    Returns
    -------
    Compressed
        Without a divergence, since nothing was run.

    Raises
    ------
    SpqError
        `bad_argument` for goals that need data, `goal_not_reached`.
    """
    if options.max_divergence is not None or options.max_drop is not None:
        raise SpqError(
            Reason.BAD_ARGUMENT,
            "this goal needs the running network; add --calib, and --arch for a state dict",
        )
    target = goal.target_bytes
    with progress.stage("place levels", _BISECTIONS if target else 1) as tick:
        if target is None:
            compressed = _quantise(state, options.sparsity or 0.0, options.bits)
            tick()
            return Compressed(compressed, None, _KIND, 0)
        small: State | None = None
        low, high = 0.0, 1.0 - 2.0**-10
        for _ in range(_BISECTIONS):
            middle = 1.0 - ((1.0 - low) * (1.0 - high)) ** 0.5
            candidate = _quantise(state, middle, options.bits)
            share = file_bytes(candidate, None, _KIND) / target
            tick()
            if share <= 1.0:
                small, high = candidate, middle
            else:
                low = middle
            if CLOSE <= share <= 1.0:
                break
    if small is None:
        raise no_such_file(target)
    return Compressed(small, None, _KIND, 0)


def _quantise(state: Mapping[str, NDArray[np.generic]], sparsity: float, bits: int | None) -> State:
    """Zero the smallest weights of each matrix and put the others on levels."""
    compressed: State = {}
    for name, array in state.items():
        if array.dtype != np.float32 or array.ndim < 2 or not np.isfinite(array).all():
            compressed[name] = array
            continue
        weights = array.reshape(-1).astype(np.float64)
        order = np.argsort(np.abs(weights), kind="stable")
        weights[order[: round(sparsity * weights.size)]] = 0.0
        kept = weights != 0.0
        if kept.any():
            variance = float(np.mean(weights[kept] ** 2))
            curvature = np.full(int(kept.sum()), 1.0 / variance)
            max_levels = (1 << (bits or _BITS)) - 1
            levels = entropy_constrained(
                weights[kept], curvature, _BIT_PRICE, max_levels, may_zero=False
            )
            # Weights too small for any level stay as they are.
            if not len(levels.values):
                compressed[name] = array
                continue
            middles = (levels.values[1:] + levels.values[:-1]) / 2
            weights[kept] = levels.values[np.searchsorted(middles, weights[kept])]
        compressed[name] = weights.astype(np.float32).reshape(array.shape)
    return compressed
