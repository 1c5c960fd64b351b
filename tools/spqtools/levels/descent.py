"""The kernel that puts weights on levels, one after the other, each in the light of the others."""

import numpy as np
from numpy.typing import NDArray

from spq._jit import kernel

_ZERO = np.float64(0.0)
_TINY = np.float64(1e-30)
_INFINITE = np.float64(np.inf)


@kernel
def _dot(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Return the sum of products, by four sums that a processor adds up side by side."""
    first = second = third = fourth = _ZERO
    whole = left.size - left.size % 4
    for place in range(0, whole, 4):
        first += left[place] * right[place]
        second += left[place + 1] * right[place + 1]
        third += left[place + 2] * right[place + 2]
        fourth += left[place + 3] * right[place + 3]
    for place in range(whole, left.size):
        first += left[place] * right[place]
    return (first + second) + (third + fourth)


@kernel
def descend(
    hessian: NDArray[np.float32],
    coupling: NDArray[np.float64],
    levels: NDArray[np.float32],
    level_costs: NDArray[np.float64],
    place_costs: NDArray[np.float32],
    may_zero: bool,
    sweeps: int,
    weights: NDArray[np.float32],
    gradient: NDArray[np.float32],
    chosen: NDArray[np.int16],
    column: NDArray[np.float64],
    steps: NDArray[np.float32],
) -> int:
    """Move each weight in turn to the level of least error and cost, all others held.

    Coordinate descent on ``trace(C (W - W*) H (W - W*)') / 2 + cost``, feature by feature. A weight
    that has no level yet is real, so the first sweep hands each rounding error on to the features
    behind it and the rows beside it. The last features, if any, are free: they take their best real
    value.

    Parameters
    ----------
    hessian : ndarray of float32, shape (features, features), C-contiguous
        Second moments of the inputs, H.
    coupling : ndarray of float64, shape (rows, rows), C-contiguous
        Divergence per product of two rows' errors, doubled, C; the diagonal is positive.
    levels : ndarray of float32, shape (level_count,)
        Levels; zero costs nothing.
    level_costs : ndarray of float64, shape (level_count,)
        Cost of each level.
    place_costs : ndarray of float32, shape (rows, columns)
        Cost of a weight that is not zero, by place; infinite where only zero is allowed.
    may_zero : bool
        Whether zero is allowed where the place cost is finite.
    sweeps : int
        Passes over all weights, fewer where one moves none.
    weights : ndarray of float32, shape (rows, features)
        Weights; receives the result.
    gradient : ndarray of float32, shape (rows, features)
        ``(W - W*) H``; kept up to date.
    chosen : ndarray of int16, shape (rows, columns)
        Receives each weight's level, -1 for zero.
    column : ndarray of float64, shape (rows,)
        Scratch.
    steps : ndarray of float32, shape (rows,)
        Scratch.

    Returns
    -------
    int
        Number of moves.
    """
    moves = 0
    rows, features = weights.shape
    columns = place_costs.shape[1]
    for _ in range(sweeps):
        before = moves
        for feature in range(features):
            own = np.float64(hessian[feature, feature])
            if own <= 0.0:
                own = _TINY
            for row in range(rows):
                column[row] = np.float64(gradient[row, feature])
                steps[row] = np.float32(0.0)
            for row in range(rows):
                present = np.float64(weights[row, feature])
                place_cost = _ZERO
                if feature < columns:
                    place_cost = np.float64(place_costs[row, feature])
                    if place_cost == _INFINITE and present == 0.0:
                        chosen[row, feature] = -1
                        continue
                slope = _dot(coupling[row], column)
                curvature = coupling[row, row] * own
                wanted = present - slope / curvature
                best = wanted
                if feature < columns:
                    best = _ZERO
                    level = -1
                    least = 0.5 * curvature * wanted * wanted
                    if not may_zero and place_cost < _INFINITE:
                        place_cost = _ZERO
                        least = _INFINITE
                    if place_cost < least:
                        for candidate in range(levels.size):
                            miss = np.float64(levels[candidate]) - wanted
                            cost = 0.5 * curvature * miss * miss
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
                    column[row] += np.float64(step) * own
                    steps[row] = step
            for row in range(rows):
                step = steps[row]
                if step != np.float32(0.0):
                    for other in range(features):
                        gradient[row, other] += step * hessian[feature, other]
        if moves == before:
            break
    return moves
