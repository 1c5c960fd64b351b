"""The kernel that puts weights on levels, one after the other, each in the light of the others."""

import numpy as np
from numpy.typing import NDArray

from spq._jit import kernel

_ZERO = np.float64(0.0)
_TINY = np.float64(1e-30)
_INFINITE = np.float64(np.inf)


@kernel
def descend(
    hessian: NDArray[np.float32],
    importance: NDArray[np.float64],
    levels: NDArray[np.float32],
    level_costs: NDArray[np.float64],
    place_costs: NDArray[np.float32],
    may_zero: bool,
    sweeps: int,
    weights: NDArray[np.float32],
    gradient: NDArray[np.float32],
    chosen: NDArray[np.int16],
) -> int:
    """Move each weight in turn to the level of least error and cost, all others held.

    Coordinate descent on ``importance / 2 * (w - w*)' H (w - w*) + cost`` row by row. A weight
    that has no level yet is real, so the first sweep hands each rounding error on to the weights
    behind it. The last features, if any, are free: they take their best real value.

    Parameters
    ----------
    hessian : ndarray of float32, shape (features, features), C-contiguous
        Second moments of the inputs.
    importance : ndarray of float64, shape (rows,)
        Divergence per squared change of a row's output, doubled.
    levels : ndarray of float32, shape (level_count,)
        Levels; zero costs nothing.
    level_costs : ndarray of float64, shape (level_count,)
        Cost of each level.
    place_costs : ndarray of float32, shape (rows, columns)
        Cost of a weight that is not zero, by place; infinite where only zero is allowed.
    may_zero : bool
        Whether zero is allowed where the place cost is finite.
    sweeps : int
        Passes over each row.
    weights : ndarray of float32, shape (rows, features)
        Weights; receives the result.
    gradient : ndarray of float32, shape (rows, features)
        ``(w - w*) H``; kept up to date.
    chosen : ndarray of int16, shape (rows, columns)
        Receives each weight's level, -1 for zero.

    Returns
    -------
    int
        Number of moves.
    """
    moves = 0
    features = weights.shape[1]
    columns = place_costs.shape[1]
    for row in range(weights.shape[0]):
        scale = 0.5 * importance[row]
        for _ in range(sweeps):
            for feature in range(features):
                curvature = np.float64(hessian[feature, feature])
                if curvature <= 0.0:
                    curvature = _TINY
                present = np.float64(weights[row, feature])
                wanted = present - np.float64(gradient[row, feature]) / curvature
                best = wanted
                if feature < columns:
                    best = _ZERO
                    level = -1
                    least = scale * curvature * wanted * wanted
                    place_cost = np.float64(place_costs[row, feature])
                    if not may_zero and place_cost < _INFINITE:
                        place_cost = _ZERO
                        least = _INFINITE
                    if place_cost < least:
                        for candidate in range(levels.size):
                            miss = np.float64(levels[candidate]) - wanted
                            cost = scale * curvature * miss * miss
                            cost += level_costs[candidate] + place_cost
                            if cost < least:
                                least = cost
                                level = candidate
                                best = np.float64(levels[candidate])
                    chosen[row, feature] = level
                step = np.float32(best - present)
                if step != np.float32(0.0):
                    moves += 1
                    weights[row, feature] = np.float32(best)
                    for other in range(features):
                        gradient[row, other] += step * hessian[feature, other]
    return moves
