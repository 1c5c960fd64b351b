"""Whether one student is better than another, or only seems so on the samples at hand."""

from math import isfinite

from torch import Tensor

# Standard errors by which the mean difference has to be off zero. ResNet-20 at 80 % zeros, by way
# of 70 %, was 0.177 nats from the original on held-out images with one, 0.106 with two, and 0.118
# without candidates.
_STANDARD_ERRORS = 2.0


def surely_less(one: Tensor, other: Tensor) -> bool:
    """Tell whether one mean is less than another by more than chance.

    Parameters
    ----------
    one, other : Tensor of float64, shape (pieces,)
        What two students have on the same pieces of the data: their differences are what counts, as
        in Student's paired test. Of a single piece nobody knows what chance does.
    """
    difference = other - one
    mean = float(difference.mean())
    error = float(difference.std(correction=0)) / max(len(difference) - 1, 1) ** 0.5
    # Where one of them is infinite nothing has a deviation.
    return mean > (_STANDARD_ERRORS * error if isfinite(error) else 0.0)
