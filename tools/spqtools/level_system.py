"""The kernel that adds up the linear system of a layer's levels."""

import numpy as np
from numpy.typing import NDArray

from spq._jit import kernel

_ZERO = np.float64(0.0)
_HALF = np.float64(0.5)


@kernel
def add_level_system(
    hessian: NDArray[np.float32],
    importance: NDArray[np.float64],
    wanted: NDArray[np.float32],
    chosen: NDArray[np.int16],
    places: NDArray[np.int32],
    sums: NDArray[np.float64],
    matrix: NDArray[np.float64],
    right: NDArray[np.float64],
) -> int:
    """Add the rows' part to the system whose solution is the levels of least error.

    With the weights of a row on levels, ``w = M l``, the error is ``importance / 2 * (l' M' H M l
    - 2 l' M' wanted)``: `matrix` and its transpose together are the sum of ``importance M' H M``,
    `right` is that of ``importance M' wanted``. Only places that are not zero are visited.

    Parameters
    ----------
    hessian : ndarray of float32, shape (features, features), C-contiguous
        Second moments of the inputs.
    importance : ndarray of float64, shape (rows,)
        Divergence per squared change of a row's output, doubled.
    wanted : ndarray of float32, shape (rows, features)
        Moments of inputs and outputs, less what the free features take.
    chosen : ndarray of int16, shape (rows, columns)
        Each weight's level, -1 for zero.
    places : ndarray of int32, shape (columns,)
        Scratch.
    sums : ndarray of float64, shape (level_count,)
        Scratch.
    matrix : ndarray of float64, shape (level_count, level_count)
        Receives half of the system.
    right : ndarray of float64, shape (level_count,)
        Receives the right side.

    Returns
    -------
    int
        Number of weights that are not zero.
    """
    total = 0
    for row in range(chosen.shape[0]):
        scale = importance[row]
        count = 0
        for place in range(chosen.shape[1]):
            level = chosen[row, place]
            if level < 0:
                continue
            sums[:] = _ZERO
            for index in range(count):
                other = places[index]
                sums[chosen[row, other]] += np.float64(hessian[place, other])
            sums[level] += _HALF * np.float64(hessian[place, place])
            for other_level in range(sums.size):
                matrix[level, other_level] += scale * sums[other_level]
            right[level] += scale * np.float64(wanted[row, place])
            places[count] = place
            count += 1
        total += count
    return total
