"""The kernel that tells what a layer says if only the weights on one level speak."""

import numpy as np
from numpy.typing import NDArray

from spq._jit import kernel


@kernel
def level_image(
    hessian: NDArray[np.float32],
    chosen: NDArray[np.int16],
    level: int,
    image: NDArray[np.float32],
) -> int:
    """Multiply the places of a level with the second moments of the inputs.

    The same as ``(chosen == level) @ hessian``, but only places that are on the level are visited.

    Parameters
    ----------
    hessian : ndarray of float32, shape (features, features), C-contiguous
        Second moments of the inputs.
    chosen : ndarray of int16, shape (rows, columns)
        Each weight's level, -1 for zero.
    level : int
        The level.
    image : ndarray of float32, shape (rows, features)
        Receives the products.

    Returns
    -------
    int
        Number of places on the level.
    """
    count = 0
    for row in range(chosen.shape[0]):
        image[row, :] = np.float32(0.0)
        for place in range(chosen.shape[1]):
            if chosen[row, place] == level:
                count += 1
                for feature in range(image.shape[1]):
                    image[row, feature] += hessian[place, feature]
    return count
