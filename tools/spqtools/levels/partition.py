"""The kernel that cuts a sorted line of weights into stretches of least scatter."""

import numpy as np
from numpy.typing import NDArray

from spq._jit import kernel

_ZERO = np.float64(0.0)
_INFINITE = np.float64(np.inf)


@kernel
def partition(
    mass: NDArray[np.float64],
    moment: NDArray[np.float64],
    energy: NDArray[np.float64],
    scatter: NDArray[np.float64],
    splits: NDArray[np.int32],
) -> None:
    """Find the best cuts into one stretch, two stretches and so on, for each beginning of the line.

    Exact one-dimensional k-means (Wang and Song, 2011) by dynamic programming. Where the last
    stretch begins never falls as the line grows, so the middle of the ends is settled first and
    narrows the choice of those beside it (Grønlund et al., arXiv 1701.07204).

    Parameters
    ----------
    mass, moment, energy : ndarray of float64, shape (count + 1,)
        Sums of ``m``, ``m x`` and ``m x^2`` over the places ``x`` before each, of mass ``m``.
    scatter : ndarray of float64, shape (most, count + 1)
        Receives, in row ``k``, the least ``m (x - mean)^2`` of so many places in ``k + 1``
        stretches.
    splits : ndarray of int32, shape (most, count + 1)
        Receives where the last of these stretches begins.
    """
    count = mass.size - 1
    first_stride = 1
    while 2 * first_stride <= count:
        first_stride *= 2
    for end in range(count + 1):
        scatter[0, end] = _scatter(mass, moment, energy, 0, end)
        splits[0, end] = 0
    for stretch in range(1, scatter.shape[0]):
        scatter[stretch, 0] = _ZERO
        splits[stretch, 0] = 0
        stride = first_stride
        while stride > 0:
            for end in range(stride, count + 1, 2 * stride):
                last = end
                if end + stride <= count:
                    last = min(end, splits[stretch, end + stride])
                least = _INFINITE
                best = 0
                for start in range(splits[stretch, end - stride], last + 1):
                    candidate = scatter[stretch - 1, start]
                    candidate += _scatter(mass, moment, energy, start, end)
                    if candidate < least:
                        least = candidate
                        best = start
                scatter[stretch, end] = least
                splits[stretch, end] = best
            stride //= 2


@kernel
def _scatter(
    mass: NDArray[np.float64],
    moment: NDArray[np.float64],
    energy: NDArray[np.float64],
    start: int,
    end: int,
) -> np.float64:
    """Return the scatter of one stretch about its mean."""
    weight = mass[end] - mass[start]
    # A mass that drowns in the sum before it has no scatter that could be told from rounding.
    if weight <= _ZERO:
        return _ZERO
    first = moment[end] - moment[start]
    return np.float64(energy[end] - energy[start] - first * first / weight)
