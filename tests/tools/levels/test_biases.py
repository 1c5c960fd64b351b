"""A bias is as coarse as error and bytes together pay for."""

import numpy as np
import pytest
import torch
from torch import Tensor

from spq.encode import encode_tensor
from spqformat.ids import DType
from spqtools.evolve.moments import Moments
from spqtools.evolve.student import Layer
from spqtools.levels.biases import round_bias
from tests.tools.levels.test_quantise import coupled, moments_of


def cost(layer: Layer, moments: Moments, bias: Tensor, rounded: Tensor, price: float) -> float:
    """Error by both Hessians, written out, and the price of the bytes."""
    change = (rounded - bias).double().tolist()
    error = 0.0
    for block, (group, rows) in zip(coupled(layer), layer.blocks(), strict=True):
        squares = float(moments.inputs[group, -1, -1])
        for place, row in enumerate(range(rows.start, rows.stop)):
            error += 0.5 * float(block[place, place]) * squares * change[row] ** 2
    parts = encode_tensor(rounded.numpy(), DType.F32).parts
    return error + price * 8 * sum(len(part) for part in parts)


@pytest.mark.parametrize("name", ["linear", "convolution", "depthwise"])
@pytest.mark.parametrize("price", [1e-9, 1e-6, 1e-5, 1e-4])
def test_no_power_of_two_is_better(name: str, price: float) -> None:
    layer, moments, _ = moments_of(name)
    bias = torch.randn(layer.rows, generator=torch.Generator().manual_seed(3))
    rounded = round_bias(layer, moments, coupled(layer), bias, price)
    assert rounded.dtype == torch.float32
    assert rounded.shape == bias.shape
    best = cost(layer, moments, bias, rounded, price)
    for exponent in range(-20, 4):
        step = 2.0**exponent
        other = (bias / step).round() * step + 0.0
        assert best <= cost(layer, moments, bias, other, price) * (1 + 1e-9)


def test_what_it_costs_decides() -> None:
    layer, moments, _ = moments_of("linear")
    bias = torch.randn(layer.rows, generator=torch.Generator().manual_seed(3))
    counts = []
    for price in (1e-12, 1e-6, 1e-4, 1.0):
        rounded = round_bias(layer, moments, coupled(layer), bias, price)
        assert not np.signbit(rounded[rounded == 0].numpy()).any()
        counts.append(len(set(rounded.tolist())))
    assert counts == sorted(counts, reverse=True)
    assert torch.equal(round_bias(layer, moments, coupled(layer), bias, 1e-12), bias)
    assert counts[-1] == 1


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_one_value_for_all_rows_stays(value: float) -> None:
    layer, moments, _ = moments_of("linear")
    bias = torch.full((layer.rows,), value)
    assert torch.equal(round_bias(layer, moments, coupled(layer), bias, 1.0), bias)


def test_what_is_not_finite_stays() -> None:
    layer, moments, _ = moments_of("linear")
    bias = torch.zeros(layer.rows)
    bias[3] = torch.inf
    assert torch.equal(round_bias(layer, moments, coupled(layer), bias, 1.0), bias)
