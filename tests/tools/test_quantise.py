"""Levels are few, exact and well placed; what is kept, and nothing else, moves to them."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import fx, nn

from spqtools.evolve.compensation import compensate
from spqtools.evolve.moments import Moments, measure_moments
from spqtools.evolve.student import Layer, Student
from spqtools.quantise import (
    Levels,
    assign,
    place_levels,
    quantise_layer,
    round_to_bfloat16,
    round_to_step,
)

Array = NDArray[np.float64]


def sample(kind: str, count: int = 3000) -> tuple[Array, Array]:
    """Return weights and their curvatures."""
    random = np.random.Generator(np.random.PCG64(11))
    weights = {
        "normal": lambda: random.normal(size=count),
        "laplace": lambda: random.laplace(size=count),
        "two-sided": lambda: random.choice([-1, 1], count) * (0.3 + random.gamma(2, 0.2, count)),
        "skewed": lambda: random.exponential(size=count) - 0.2,
        "tiny": lambda: 1e-6 * random.normal(size=count),
    }[kind]()
    return weights, random.exponential(size=count) / np.mean(weights**2)


KINDS = ("normal", "laplace", "two-sided", "skewed", "tiny")


def cost(weights: Array, curvature: Array, levels: Levels, slope: float) -> float:
    chosen = assign(weights, curvature, levels, slope)
    error = curvature * (weights - levels.values[chosen]) ** 2
    return float(np.mean(error + slope * levels.bits[chosen]))


def with_shares(weights: Array, curvature: Array, values: Array, slope: float) -> Levels:
    """Give levels the code lengths of their shares, for themselves."""
    levels = Levels(values, np.full(values.size, np.log2(values.size)))
    for _ in range(20):
        chosen = assign(weights, curvature, levels, slope)
        counts = np.bincount(chosen, minlength=values.size) + 0.01
        levels = Levels(values, -np.log2(counts / counts.sum()))
    return levels


def k_means(weights: Array, curvature: Array, count: int) -> Array:
    values = np.quantile(weights, (np.arange(count) + 0.5) / count)
    for _ in range(60):
        chosen = np.argmin(np.abs(weights[:, None] - values), axis=1)
        total = np.bincount(chosen, curvature, count)
        moment = np.bincount(chosen, curvature * weights, count)
        values = np.where(total > 0, moment / np.maximum(total, 1e-300), values)
    return np.sort(values)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_levels", [1, 2, 3, 15, 127])
@pytest.mark.parametrize("slope", [0.0, 1e-3, 0.1])
def test_levels_are_well_formed(kind: str, max_levels: int, slope: float) -> None:
    levels = place_levels(*sample(kind), slope, max_levels)
    assert 1 <= levels.values.size <= max_levels
    assert levels.values.shape == levels.bits.shape
    assert (np.diff(levels.values) > 0).all()
    assert (levels.values != 0).all()
    exact = levels.values.astype("f4")
    assert np.array_equal(exact.astype("f8"), levels.values)
    assert not (exact.view("u4") & 0xFFFF).any(), "not a bfloat16"
    assert np.sum(np.exp2(-levels.bits)) == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
def test_code_lengths_are_those_of_the_shares(kind: str) -> None:
    weights, curvature = sample(kind)
    levels = place_levels(weights, curvature, 1e-3, 15)
    counts = np.bincount(assign(weights, curvature, levels, 1e-3), minlength=levels.values.size)
    np.testing.assert_allclose(np.exp2(-levels.bits), counts / counts.sum(), atol=0.03)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slope", [1e-3, 0.01, 0.1])
def test_levels_beat_k_means_and_uniform_ones(kind: str, slope: float) -> None:
    weights, curvature = sample(kind)
    levels = place_levels(weights, curvature, slope, 15)
    placed = cost(weights, curvature, levels, slope)
    count = levels.values.size
    largest = np.abs(weights).max()
    for values in (
        k_means(weights, curvature, count),
        np.linspace(-largest, largest, count + count % 2) if count > 1 else np.array([largest]),
    ):
        rival = with_shares(weights, curvature, values, slope)
        assert placed <= 1.02 * cost(weights, curvature, rival, slope)


def test_a_higher_price_of_bits_leaves_fewer_levels() -> None:
    weights, curvature = sample("normal")
    counts = [place_levels(weights, curvature, slope, 31).values.size for slope in (0, 0.05, 1)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 2 * counts[2]


def test_few_distinct_weights_are_levels_themselves() -> None:
    weights = np.repeat([-2.0, 0.5, 3.0], [50, 30, 20])
    levels = place_levels(weights, np.ones(100), 1e-6, 15)
    assert levels.values.tolist() == [-2.0, 0.5, 3.0]


def test_order_does_not_matter() -> None:
    weights, curvature = sample("laplace")
    order = np.random.default_rng(1).permutation(weights.size)
    first = place_levels(weights, curvature, 1e-3, 15)
    second = place_levels(weights[order], curvature[order], 1e-3, 15)
    assert np.array_equal(first.values, second.values)


def test_assign_takes_the_least_of_error_and_length() -> None:
    levels = Levels(np.array([-1.0, 1.0, 1.5]), np.array([1.0, 1.0, 10.0]))
    weights, curvature = np.array([-0.9, 1.4, 1.4]), np.array([1.0, 1.0, 1000.0])
    assert assign(weights, curvature, levels, 0.1).tolist() == [0, 1, 2]


# Rounding


@pytest.mark.parametrize("steps", [16, 32, 128])
def test_round_to_step(steps: int) -> None:
    values = np.random.default_rng(2).normal(size=200).astype("f4")
    rounded = round_to_step(values, steps)
    assert rounded.dtype == np.float32
    nonzero = np.abs(rounded[rounded != 0]).astype("f8")
    step = 2.0 ** np.floor(np.log2(np.gcd.reduce((nonzero * 2**40).astype("i8")) / 2**40))
    assert np.array_equal(np.round(rounded / step) * step, rounded)
    assert steps / 2 <= np.abs(values).max() / step <= 2 * steps
    assert np.abs(rounded - values).max() <= step / 2
    assert not np.signbit(rounded[rounded == 0]).any()
    assert np.array_equal(round_to_step(rounded, steps), rounded)


def test_round_to_step_leaves_what_has_no_step() -> None:
    for values in (np.zeros(3, "f4"), np.array([np.inf, 1], "f4"), np.empty(0, "f4")):
        assert np.array_equal(round_to_step(values, 16), values)


def test_round_to_bfloat16_is_that_of_torch() -> None:
    values = np.random.default_rng(3).normal(size=1000).astype("f4")
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8], "f4")
    both = np.concatenate([values, ties])
    expected = torch.from_numpy(both).bfloat16().double().numpy()
    assert np.array_equal(round_to_bfloat16(both.astype("f8")), expected)


# Layers

MAKERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(24, 16), (200, 24)),
    "linear without bias": (lambda: nn.Linear(24, 16, bias=False), (200, 24)),
    "convolution": (lambda: nn.Conv2d(3, 8, 3), (30, 3, 6, 6)),
    "depthwise": (lambda: nn.Conv2d(6, 12, 3, groups=6), (30, 6, 6, 6)),
}


def moments_of(name: str) -> tuple[Layer, Moments, Student]:
    make, shape = MAKERS[name]
    with torch.random.fork_rng():
        torch.manual_seed(6)
        network = nn.Sequential(make()).eval()
        inputs = torch.randn(shape)
    graph = torch.export.export(network, (inputs,)).module()
    assert isinstance(graph, fx.GraphModule)
    student = Student(graph, [inputs], len(inputs))
    stop = next(student.walk(dict(student.original)))
    twin = next(student.walk(dict(student.original)))
    return stop.layer, measure_moments(stop, twin), student


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("max_levels", [1, 3, 15])
def test_a_layer_on_levels(name: str, max_levels: int) -> None:
    layer, moments, student = moments_of(name)
    weight = student.original["0.weight"].reshape(layer.rows, layer.columns)
    keep = weight.abs() > weight.abs().median()
    weight, bias = compensate(layer, moments, keep, weight, student.original.get("0.bias"))
    sensitivity = torch.rand(layer.rows, generator=torch.Generator().manual_seed(1)) + 0.1
    levelled, fitted = quantise_layer(
        layer, moments, keep, weight, bias, sensitivity, 1e-5, max_levels
    )
    assert levelled.shape == weight.shape
    assert not levelled[~keep].any()
    distinct = torch.from_numpy(np.unique(levelled[levelled != 0].numpy()))
    assert 1 <= len(distinct) <= max_levels
    assert torch.equal(distinct.bfloat16().float(), distinct)
    assert (fitted is None) == (bias is None)
    if fitted is not None:
        assert fitted.shape == (layer.rows,)
        assert fitted.isfinite().all()


@pytest.mark.parametrize("name", MAKERS)
def test_quantising_knows_the_inputs(name: str) -> None:
    """The output suffers less than from rounding every weight to the nearest level."""
    layer, moments, student = moments_of(name)
    weight = student.original["0.weight"].reshape(layer.rows, layer.columns)
    bias = student.original.get("0.bias")
    keep = torch.ones_like(weight, dtype=torch.bool)
    levelled, fitted = quantise_layer(
        layer, moments, keep, weight, bias, torch.ones(layer.rows), 1e-7, 7
    )
    values = torch.from_numpy(np.unique(levelled[levelled != 0].numpy()))
    nearest = values[(weight[..., None] - values).abs().argmin(-1)]

    def error(candidate: torch.Tensor, constant: torch.Tensor | None) -> float:
        tensors = {"0.weight": candidate.reshape(student.original["0.weight"].shape)}
        if constant is not None:
            tensors["0.bias"] = constant
        wanted = student.outputs(student.original)[0][0]
        return float((student.outputs(tensors)[0][0] - wanted).square().mean())

    assert error(levelled, fitted) < error(nearest, bias)


def test_nothing_kept() -> None:
    layer, moments, student = moments_of("linear")
    weight = student.original["0.weight"]
    levelled, fitted = quantise_layer(
        *(layer, moments, torch.zeros_like(weight, dtype=torch.bool), weight),
        *(student.original["0.bias"], torch.ones(layer.rows), 1e-5, 15),
    )
    assert not levelled.any()
    assert fitted is not None
