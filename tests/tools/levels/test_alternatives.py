"""Levels are few, exact and well placed, whatever the method."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spqtools.levels import alternatives as module
from spqtools.levels.alternatives import (
    METHODS,
    Levels,
    alternatives,
    assign,
    codebook_bits,
    entropy_constrained,
    k_means,
    powers_of_two,
    round_to_bfloat16,
    ternary,
    uniform,
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
        "one-sided": lambda: 0.1 + random.exponential(size=count),
        "tiny": lambda: 1e-6 * random.normal(size=count),
    }[kind]()
    return weights, random.exponential(size=count) / np.mean(weights**2)


KINDS = ("normal", "laplace", "two-sided", "skewed", "one-sided", "tiny")


def cost(
    weights: Array, curvature: Array, levels: Levels, bit_price: float, *, may_zero: bool = False
) -> float:
    """Return the mean of error and rate, each weight where both are least together."""
    chosen = assign(weights, curvature, levels, bit_price)
    costs = curvature * (weights - levels.values[chosen]) ** 2 + bit_price * levels.bits[chosen]
    return float(np.mean(np.minimum(costs, curvature * weights**2) if may_zero else costs))


def with_shares(
    weights: Array, curvature: Array, values: Array, bit_price: float, *, may_zero: bool = False
) -> Levels:
    """Give levels the code lengths of their shares, for themselves."""
    levels = Levels(values, np.full(values.size, np.log2(values.size)))
    for _ in range(20):
        chosen = assign(weights, curvature, levels, bit_price)
        costs = curvature * (weights - values[chosen]) ** 2 + bit_price * levels.bits[chosen]
        kept = costs < (curvature * weights**2 if may_zero else np.inf)
        counts = np.bincount(chosen[kept], minlength=values.size) + 0.01
        levels = Levels(values, -np.log2(counts / counts.sum()))
    return levels


def lloyd(weights: Array, curvature: Array, count: int) -> Array:
    """Return means that no single step of Lloyd's improves."""
    values = np.quantile(weights, (np.arange(count) + 0.5) / count)
    for _ in range(60):
        chosen = np.argmin(np.abs(weights[:, None] - values), axis=1)
        total = np.bincount(chosen, curvature, count)
        moment = np.bincount(chosen, curvature * weights, count)
        values = np.where(total > 0, moment / np.maximum(total, 1e-300), values)
    return np.sort(values)


def check_form(levels: Levels, max_levels: int) -> None:
    assert levels.values.size <= max_levels
    assert levels.values.shape == levels.bits.shape
    assert (np.diff(levels.values) > 0).all()
    assert (levels.values != 0).all()
    exact = levels.values.astype("f4")
    assert np.array_equal(exact.astype("f8"), levels.values)
    assert not (exact.view("u4") & 0xFFFF).any(), "not a bfloat16"
    if levels.values.size:
        assert np.sum(np.exp2(-levels.bits)) == pytest.approx(1)


# All methods


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_levels", [1, 3, 15, 127])
@pytest.mark.parametrize("bit_price", [0.0, 0.03])
@pytest.mark.parametrize("may_zero", [True, False])
def test_levels_are_well_formed(
    kind: str, max_levels: int, bit_price: float, may_zero: bool
) -> None:
    found = alternatives(*sample(kind), bit_price, max_levels, may_zero=may_zero)
    assert tuple(found) == METHODS
    for levels in found.values():
        check_form(levels, max_levels)
        assert levels.values.size >= 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-9, 9), st.integers(1, 5)), min_size=1, max_size=12),
    st.floats(0, 2),
    st.integers(1, 9),
    st.booleans(),
)
def test_any_weights_will_do(
    pairs: list[tuple[int, int]], bit_price: float, max_levels: int, may_zero: bool
) -> None:
    weights, curvature = np.array(pairs, dtype=np.float64).T
    found = alternatives(weights, curvature, bit_price, max_levels, may_zero=may_zero)
    for levels in found.values():
        check_form(levels, max_levels)


@pytest.mark.parametrize("method", METHODS)
def test_order_does_not_matter(method: str) -> None:
    weights, curvature = sample("laplace")
    order = np.random.default_rng(1).permutation(weights.size)
    first = alternatives(weights, curvature, 1e-3, 15)[method]
    second = alternatives(weights[order], curvature[order], 1e-3, 15)[method]
    assert np.array_equal(first.values, second.values)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [-3, 5])
def test_the_unit_of_weights_does_not_matter(method: str, scale: int) -> None:
    weights, curvature = sample("two-sided")
    first = alternatives(weights, curvature, 1e-3, 7)[method]
    second = alternatives(weights * 2.0**scale, curvature * 4.0**-scale, 1e-3, 7)[method]
    assert np.array_equal(first.values * 2.0**scale, second.values)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_levels", [3, 15])
@pytest.mark.parametrize("bit_price", [1e-3, 0.02, 0.2])
def test_none_beats_the_entropy_constrained_levels(
    kind: str, max_levels: int, bit_price: float
) -> None:
    weights, curvature = sample(kind)
    costs = {
        method: cost(weights, curvature, levels, bit_price, may_zero=True)
        for method, levels in alternatives(weights, curvature, bit_price, max_levels).items()
    }
    assert costs["entropy-constrained"] <= 1.03 * min(costs.values())


@pytest.mark.parametrize("method", ["entropy-constrained", "k-means", "uniform"])
def test_a_higher_price_of_bits_leaves_fewer_levels(method: str) -> None:
    weights, curvature = sample("normal")
    counts = [
        alternatives(weights, curvature, bit_price, 31)[method].values.size
        for bit_price in (0, 0.05, 1)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 2 * counts[2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("moving", [True, False])
@pytest.mark.parametrize("may_zero", [True, False])
def test_settling_never_costs_more(
    kind: str, moving: bool, may_zero: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, curvature = sample(kind)
    line = module._histogram(weights, curvature)
    values = np.linspace(weights.min(), weights.max(), 12)
    costs = []
    for iterations in range(1, 15):
        monkeypatch.setattr(module, "_ITERATIONS", iterations)
        costs.append(module._settle(line, values, 0.01, moving, may_zero)[1])
    assert all(after <= before * (1 + 1e-9) for before, after in pairwise(costs))
    assert costs[-1] < costs[0]


def test_bins_are_as_good_as_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, curvature = sample("laplace", 20_000)
    in_bins = alternatives(weights, curvature, 0.01, 15)
    monkeypatch.setattr(module, "_BINS", weights.size)
    for method, levels in alternatives(weights, curvature, 0.01, 15).items():
        exact = cost(weights, curvature, levels, 0.01, may_zero=True)
        assert cost(weights, curvature, in_bins[method], 0.01, may_zero=True) <= 1.02 * exact


# Entropy-constrained


@pytest.mark.parametrize("kind", KINDS)
def test_code_lengths_are_those_of_the_shares(kind: str) -> None:
    weights, curvature = sample(kind)
    levels = entropy_constrained(weights, curvature, 1e-3, 15, may_zero=False)
    counts = np.bincount(assign(weights, curvature, levels, 1e-3), minlength=levels.values.size)
    np.testing.assert_allclose(np.exp2(-levels.bits), counts / counts.sum(), atol=0.03)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bit_price", [1e-3, 0.01, 0.1])
def test_levels_beat_those_of_lloyd_and_equal_steps(kind: str, bit_price: float) -> None:
    weights, curvature = sample(kind)
    levels = entropy_constrained(weights, curvature, bit_price, 15, may_zero=False)
    placed = cost(weights, curvature, levels, bit_price)
    count = levels.values.size
    largest = np.abs(weights).max()
    for values in (
        lloyd(weights, curvature, count),
        np.linspace(-largest, largest, count + count % 2) if count > 1 else np.array([largest]),
    ):
        rival = with_shares(weights, curvature, values, bit_price)
        assert placed <= 1.02 * cost(weights, curvature, rival, bit_price)


def test_no_level_is_wasted_beside_zero() -> None:
    weights, curvature = sample("normal")
    levels = entropy_constrained(weights, curvature, 1e-4, 7)
    assert levels.values.size == 7
    assert np.abs(levels.values).min() > 0.3


@pytest.mark.parametrize("method", ["entropy-constrained", "k-means"])
def test_few_distinct_weights_are_levels_themselves(method: str) -> None:
    weights = np.repeat([-2.0, 0.5, 3.0], [50, 30, 20])
    levels = alternatives(weights, np.ones(100), 1e-6, 15)[method]
    assert levels.values.tolist() == [-2.0, 0.5, 3.0]
    np.testing.assert_allclose(levels.bits, -np.log2([0.5, 0.3, 0.2]))


# The other methods


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_levels", [2, 3, 7, 15, 63, 255])
def test_uniform_levels_are_multiples_of_a_step(kind: str, max_levels: int) -> None:
    for may_zero in (True, False):
        levels = uniform(*sample(kind), 1e-3, max_levels, may_zero=may_zero)
        integers = (levels.values * 2.0**60).astype(np.int64)
        step = int(np.gcd.reduce(np.abs(integers)))
        assert np.abs(integers).max() // step <= max_levels


@pytest.mark.parametrize("kind", ["normal", "two-sided"])
@pytest.mark.parametrize("bit_price", [1e-3, 0.05])
def test_no_other_step_is_better(kind: str, bit_price: float) -> None:
    weights, curvature = sample(kind, 1000)
    found = cost(
        weights, curvature, uniform(weights, curvature, bit_price, 7), bit_price, may_zero=True
    )
    for step in np.geomspace(0.05, 4, 60) * np.abs(weights).max():
        values = step * np.array([-4, -3, -2, -1, 1, 2, 3], dtype=np.float64)
        rival = with_shares(weights, curvature, values, bit_price, may_zero=True)
        # Steps lie 19 % apart at most.
        assert found <= 1.1 * cost(weights, curvature, rival, bit_price, may_zero=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 3, 7, 15])
def test_k_means_beats_those_of_lloyd(kind: str, count: int) -> None:
    weights, curvature = sample(kind)
    found = k_means(weights, curvature, 0.0, count)
    assert found.values.size == count
    rival = Levels(lloyd(weights, curvature, count), np.zeros(count))
    assert cost(weights, curvature, found, 0.0) <= 1.002 * cost(weights, curvature, rival, 0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_levels", [1, 3, 15, 255])
def test_powers_are_powers(kind: str, max_levels: int) -> None:
    levels = powers_of_two(*sample(kind), 1e-3, max_levels)
    mantissas, _ = np.frexp(np.abs(levels.values))
    assert (mantissas == 0.5).all()


@pytest.mark.parametrize("kind", ["normal", "two-sided"])
@pytest.mark.parametrize("may_zero", [True, False])
def test_ternary_levels_are_the_best_pair(kind: str, may_zero: bool) -> None:
    weights, curvature = sample(kind, 400)
    levels = ternary(weights, curvature, 0.01, 15, may_zero=may_zero)
    assert np.sign(levels.values).tolist() == [-1, 1]
    found = cost(weights, curvature, levels, 0.01, may_zero=may_zero)
    places = np.quantile(np.abs(weights), np.linspace(0.1, 0.99, 20))
    for low in -places:
        for high in places:
            values = np.array([low, high])
            rival = with_shares(weights, curvature, values, 0.01, may_zero=may_zero)
            assert found <= 1.01 * cost(weights, curvature, rival, 0.01, may_zero=may_zero)


def test_of_one_level_the_better_side_has_it() -> None:
    weights = np.array([-3.0, -2.9, -3.1, 0.5, 0.6])
    for method in (uniform, powers_of_two, ternary):
        place: Callable[..., Levels] = method
        assert place(weights, np.ones(5), 1e-3, 1).values.tolist() == pytest.approx([-3], abs=1.01)


# The codebook


@pytest.mark.parametrize(
    ("values", "dense", "expected_bytes"),
    [
        ([-1.5, 1.25], False, 2 + 2 * 2),
        ([-2.0, -1.0, 1.0, 2.0], False, 2 + 4 * 2),
        ([-2.0, -1.0, 1.0, 2.0], True, 4),
        ([-7.0, 1.0], True, 4),
        ([-256.0, 1.0], True, 2 + 3 * 2),
        (list(np.arange(1.0, 201.0)), False, 3 + 200 * 2),
        (list(np.arange(1.0, 201.0)), True, 5),
    ],
)
def test_bits_of_a_codebook(values: list[float], dense: bool, expected_bytes: int) -> None:
    levels = Levels(np.array(values), np.zeros(len(values)))
    assert codebook_bits(levels, dense=dense) == 8 * expected_bytes


def test_assign_takes_the_least_of_error_and_length() -> None:
    levels = Levels(np.array([-1.0, 1.0, 1.5]), np.array([1.0, 1.0, 10.0]))
    weights, curvature = np.array([-0.9, 1.4, 1.4]), np.array([1.0, 1.0, 1000.0])
    assert assign(weights, curvature, levels, 0.1).tolist() == [0, 1, 2]


# Rounding


def test_round_to_bfloat16_is_that_of_torch() -> None:
    values = np.random.default_rng(3).normal(size=1000).astype("f4")
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8], "f4")
    both = np.concatenate([values, ties])
    expected = torch.from_numpy(both).bfloat16().double().numpy()
    assert np.array_equal(round_to_bfloat16(both.astype("f8")), expected)


def test_what_bfloat16_cannot_hold_becomes_its_largest() -> None:
    largest = float(torch.finfo(torch.bfloat16).max)
    found = round_to_bfloat16(np.array([-3.4e38, 3.4e38, largest, 1.0]))
    assert found.tolist() == [-largest, largest, largest, 1.0]
