"""The kernel that puts rows on levels, many weights at a time, each row in the light of others."""

import numpy as np
from numpy.typing import NDArray

from spq._jit import kernel

_ZERO = np.float64(0.0)


@kernel
def search_rows(
    hessian: NDArray[np.float32],
    coupling: NDArray[np.float64],
    rows: NDArray[np.int64],
    starts: NDArray[np.int64],
    features: NDArray[np.int64],
    factor_starts: NDArray[np.int64],
    factors: NDArray[np.float64],
    levels: NDArray[np.float64],
    level_costs: NDArray[np.float64],
    place_costs: NDArray[np.float32],
    may_zero: bool,
    weights: NDArray[np.float32],
    gradient: NDArray[np.float32],
    chosen: NDArray[np.int16],
    wanted: NDArray[np.float64],
    errors: NDArray[np.float64],
    picks: NDArray[np.int16],
    origins: NDArray[np.int16],
    paths: NDArray[np.float64],
    parents: NDArray[np.int64],
    options: NDArray[np.int64],
) -> int:
    """Choose the levels of each window of a row together, all other weights held.

    Reduces ``trace(C (W - W*) H (W - W*)') / 2 + cost`` by the M-algorithm (J. B. Anderson and
    S. Mohan, IEEE Transactions on Communications 32, 1984) on the tree of the nearest-plane
    algorithm (L. Babai, Combinatorica 6, 1986). With ``H = F' F`` on a window, F lower triangular,
    its error is a sum of squares, one for each weight, of what it and those before it miss; those
    behind it make up for the rest. Weight after weight the best choices of all so far go on, as
    many as there are paths; with one path it is the order of GPTQ (arXiv 2210.17323).

    Parameters
    ----------
    hessian : ndarray of float32, shape (features, features), C-contiguous
        Second moments of the inputs, H.
    coupling : ndarray of float64, shape (rows, rows), C-contiguous
        Divergence per product of two rows' errors, doubled, C; the diagonal is positive.
    rows, starts, features, factor_starts, factors
        Of `Windows`.
    levels : ndarray of float64, shape (level_count,)
        Levels; zero costs nothing.
    level_costs : ndarray of float64, shape (level_count,)
        Cost of each level.
    place_costs : ndarray of float32, shape (rows, columns)
        Cost of a weight that is not zero, by place. Features behind the columns are free: they take
        their best real value.
    may_zero : bool
        Whether a weight may become zero.
    weights : ndarray of float32, shape (rows, features)
        Weights; receives the result.
    gradient : ndarray of float32, shape (rows, features)
        ``(W - W*) H``; kept up to date.
    chosen : ndarray of int16, shape (rows, columns)
        Receives the level of each weight that is chosen, -1 for zero.
    wanted : ndarray of float64, shape (longest window,)
        Scratch.
    errors : ndarray of float64, shape (longest window, path_count), C-contiguous
        Scratch.
    picks, origins : ndarray of int16, shape (longest window, path_count), C-contiguous
        Scratch.
    paths : ndarray of float64, shape (3, path_count), C-contiguous
        Scratch.
    parents, options : ndarray of int64, shape (path_count,)
        Scratch.

    Returns
    -------
    int
        Number of moves.
    """
    moves = 0
    columns = place_costs.shape[1]
    for window in range(rows.size):
        row = rows[window]
        support = features[starts[window] : starts[window + 1]]
        entries = support.size * (support.size + 1) // 2
        factor = factors[factor_starts[window] : factor_starts[window] + entries]
        for place in range(support.size):
            wanted[place] = _ZERO
        for other in range(coupling.shape[0]):
            share = coupling[row, other] / coupling[row, row]
            line = gradient[other]
            for place in range(support.size):
                wanted[place] += share * np.float64(line[support[place]])
        _solve(factor, wanted[: support.size])
        for place in range(support.size):
            wanted[place] = np.float64(weights[row, support[place]]) - wanted[place]
        _choose(
            factor,
            0.5 * coupling[row, row],
            wanted[: support.size],
            levels,
            level_costs,
            place_costs[row],
            support,
            may_zero,
            errors,
            picks,
            origins,
            paths,
            parents,
            options,
        )
        for place in range(support.size):
            feature = support[place]
            pick = picks[place, 0]
            value = _ZERO
            if feature >= columns:
                value = wanted[place] + errors[place, 0]
            elif pick >= 0:
                value = levels[pick]
            if feature < columns:
                chosen[row, feature] = pick
            step = np.float32(value - np.float64(weights[row, feature]))
            if step != np.float32(0.0):
                moves += 1
                weights[row, feature] = np.float32(value)
                image, line = gradient[row], hessian[feature]
                for other in range(line.size):
                    image[other] += step * line[other]
    return moves


@kernel
def _solve(factor: NDArray[np.float64], values: NDArray[np.float64]) -> int:
    """Solve ``F' F x = values`` in place; returns the number of unknowns."""
    for place in range(values.size - 1, -1, -1):
        start = place * (place + 1) // 2
        line = factor[start : start + place + 1]
        value = values[place] / line[place]
        for other in range(place):
            values[other] -= line[other] * value
        values[place] = value
    for place in range(values.size):
        start = place * (place + 1) // 2
        for other in range(place):
            values[place] -= factor[start + other] * values[other]
        values[place] /= factor[start + place]
    return values.size


@kernel
def _choose(
    factor: NDArray[np.float64],
    coupling: float,
    wanted: NDArray[np.float64],
    levels: NDArray[np.float64],
    level_costs: NDArray[np.float64],
    place_costs: NDArray[np.float32],
    support: NDArray[np.int64],
    may_zero: bool,
    errors: NDArray[np.float64],
    picks: NDArray[np.int16],
    origins: NDArray[np.int16],
    paths: NDArray[np.float64],
    parents: NDArray[np.int64],
    options: NDArray[np.int64],
) -> int:
    """Search the levels of a window.

    `wanted` is where its error is least. Afterwards the first path of `errors` and `picks` holds
    what was found; returns the number of paths.
    """
    costs, before, pulled = paths[0], paths[1], paths[2]
    count = 1
    costs[0] = _ZERO
    for place in range(wanted.size):
        start = place * (place + 1) // 2
        own = factor[start + place]
        for path in range(count):
            pulled[path] = _ZERO
        for other in range(place):
            share = factor[start + other]
            for path in range(count):
                pulled[path] += share * errors[other, path]
        if support[place] >= place_costs.size:
            for path in range(count):
                errors[place, path] = -pulled[path] / own
                picks[place, path] = -1
                origins[place, path] = path
            continue
        curvature = coupling * own * own
        place_cost = np.float64(place_costs[support[place]]) if may_zero else _ZERO
        for path in range(count):
            before[path] = costs[path]
        found = 0
        for path in range(count):
            target = wanted[place] - pulled[path] / own
            if may_zero:
                cost = before[path] + curvature * target * target
                found = _rank(cost, path, -1, found, costs, parents, options)
            for level in range(levels.size):
                miss = levels[level] - target
                cost = before[path] + curvature * miss * miss + level_costs[level] + place_cost
                found = _rank(cost, path, level, found, costs, parents, options)
        # Each path goes on from its parent's errors.
        for other in range(place):
            for path in range(found):
                pulled[path] = errors[other, parents[path]]
            for path in range(found):
                errors[other, path] = pulled[path]
        for path in range(found):
            pick = options[path]
            value = levels[pick] if pick >= 0 else _ZERO
            errors[place, path] = value - wanted[place]
            picks[place, path] = pick
            origins[place, path] = parents[path]
        count = found
    path = 0
    for place in range(wanted.size - 1, -1, -1):
        pick = picks[place, path]
        path = origins[place, path]
        picks[place, 0] = pick
    return count


@kernel
def _rank(
    cost: float,
    parent: int,
    option: int,
    found: int,
    costs: NDArray[np.float64],
    parents: NDArray[np.int64],
    options: NDArray[np.int64],
) -> int:
    """Put an option among the best ones, which are sorted; returns how many there are now."""
    if found == costs.size:
        if cost >= costs[found - 1]:
            return found
        found -= 1
    place = found
    while place > 0 and cost < costs[place - 1]:
        costs[place] = costs[place - 1]
        parents[place] = parents[place - 1]
        options[place] = options[place - 1]
        place -= 1
    costs[place] = cost
    parents[place] = parent
    options[place] = option
    return found + 1
