"""The kernel that compensates rows with few survivors, on nothing but their supports."""

import numpy as np
from numpy.typing import NDArray

from spq._jit import kernel

_ZERO = np.float32(0.0)
_TINY = np.float32(1e-30)


@kernel
def solve_rows(
    hessian: NDArray[np.float32],
    targets: NDArray[np.float32],
    support: NDArray[np.bool_],
    damping: float,
    steps: int,
    places: NDArray[np.int32],
    square: NDArray[np.float32],
    vectors: NDArray[np.float32],
    weights: NDArray[np.float32],
) -> int:
    """Take each row some steps of conjugate gradients towards its ridge regression.

    The same steps as in `compensate`, which multiplies whole matrices; here a row's part of the
    Hessian is copied once.

    Parameters
    ----------
    hessian : ndarray of float32, shape (features, features), C-contiguous
        Second moments of the inputs; symmetric.
    targets : ndarray of float32, shape (rows, features)
        Moments of inputs and wanted outputs.
    support : ndarray of bool, shape (rows, features)
        What may be other than zero.
    damping : float
        Share of the mean curvature of a row's support that holds it to its present weights.
    steps : int
        Steps.
    places : ndarray of int32, shape (most,)
        Scratch, as long as the largest support.
    square : ndarray of float32, shape (most, most)
        Scratch.
    vectors : ndarray of float32, shape (4, most)
        Scratch.
    weights : ndarray of float32, shape (rows, features)
        Present weights; receives the result, zero outside the support.

    Returns
    -------
    int
        Number of weights in all supports.
    """
    total = 0
    residual, direction, image, scale = vectors[0], vectors[1], vectors[2], vectors[3]
    for row in range(weights.shape[0]):
        count = 0
        for feature in range(weights.shape[1]):
            if support[row, feature]:
                places[count] = feature
                count += 1
            else:
                weights[row, feature] = _ZERO
        total += count
        trace = _ZERO
        for first in range(count):
            line = hessian[places[first]]
            trace += line[places[first]]
            for second in range(count):
                square[first, second] = line[places[second]]
        ridge = np.float32(damping) * trace / np.float32(max(count, 1)) + _TINY
        for first in range(count):
            residual[first] = targets[row, places[first]]
        for first in range(count):
            present = weights[row, places[first]]
            for second in range(count):
                residual[second] -= present * square[first, second]
        size = _ZERO
        for first in range(count):
            square[first, first] += ridge
            scale[first] = np.float32(1.0) / square[first, first]
            direction[first] = residual[first] * scale[first]
            size += residual[first] * direction[first]
        for _ in range(steps):
            for first in range(count):
                image[first] = _ZERO
            for first in range(count):
                along = direction[first]
                for second in range(count):
                    image[second] += along * square[first, second]
            product = _ZERO
            for first in range(count):
                product += direction[first] * image[first]
            length = size / max(product, _TINY)
            previous, size = size, _ZERO
            for first in range(count):
                weights[row, places[first]] += length * direction[first]
                residual[first] -= length * image[first]
                size += residual[first] * residual[first] * scale[first]
            turn = size / max(previous, _TINY)
            for first in range(count):
                direction[first] = residual[first] * scale[first] + turn * direction[first]
    return total
