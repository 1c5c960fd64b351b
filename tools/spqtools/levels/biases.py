"""Puts a layer's bias on multiples of a step, as coarse as error and bytes together pay for."""

from collections.abc import Sequence
from math import ceil, log2

import numpy as np
import torch
from torch import Tensor

from spq.encode import encode_tensor
from spqformat.ids import MAX_LEVELS, DType
from spqtools.evolve.moments import Moments
from spqtools.evolve.student import Layer

# Octaves of steps that are tried, below and above the finest of which the multiples fit a codebook.
_FINER, _COARSER = 4, 8


def round_bias(
    layer: Layer, moments: Moments, couplings: Sequence[Tensor], bias: Tensor, bit_price: float
) -> Tensor:
    """Return a bias on multiples of a power of two, or as it is where that costs less.

    Such a bias is stored as small integers (spec 6.1, uniform codebook), or of few rows with its
    values in a codebook of float16. Nothing makes up for the rounding errors in the same layer; the
    layers behind it see them.

    Parameters
    ----------
    layer : Layer
        Geometry.
    moments : Moments
        Second moments of its inputs; the last feature is the constant one.
    couplings : sequence of Tensor of float32
        Divergence per product of the changes of two rows' outputs, doubled: a square for each of
        the layer's blocks.
    bias : Tensor of float32, shape (rows,)
        The bias.
    bit_price : float
        Divergence that one bit may cost.

    Returns
    -------
    Tensor of float32, shape (rows,)
        The bias of the least error and price.
    """
    exact = bias.double().numpy()
    span = float(exact.max() - exact.min())
    if not 0.0 < span < np.inf:
        return bias
    own = torch.cat([block.diagonal() for block in couplings]).double()
    constant = moments.inputs[:, -1, -1].double()
    curvature = 0.5 * own * constant.repeat_interleave(layer.rows // layer.groups)

    def cost(rounded: Tensor) -> float:
        parts = encode_tensor(rounded.numpy(), DType.F32).parts
        error = float(curvature @ (rounded.double() - bias.double()).square())
        return error + bit_price * 8 * sum(map(len, parts))

    fitting = ceil(log2(span / (MAX_LEVELS - 2)))
    steps = [2.0**exponent for exponent in range(fitting - _FINER, fitting + _COARSER + 1)]
    rounded = [torch.from_numpy(np.round(exact / step) * step + 0.0).float() for step in steps]
    return min([bias, *rounded], key=cost)
