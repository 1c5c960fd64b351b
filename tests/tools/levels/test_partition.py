"""The kernel of exact k-means: its twin, and every partition tried."""

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spqtools.levels.partition import partition
from tests.runtime.twins import twin

Array = NDArray[np.float64]


def cut(function: Any, places: Array, mass: Array, most: int) -> tuple[Array, NDArray[np.int32]]:
    scatter = np.full((most, places.size + 1), np.nan)
    splits = np.full(scatter.shape, -1, dtype=np.int32)
    sums = [np.append(0.0, np.cumsum(mass * places**power)) for power in range(3)]
    function(*sums, scatter, splits)
    return scatter, splits


def scatter_of(places: Array, mass: Array) -> float:
    mean = np.average(places, weights=mass)
    return float(np.sum(mass * (places - mean) ** 2))


def exhaustive(places: Array, mass: Array, count: int) -> float:
    """Return the least scatter of all cuts into `count` stretches."""
    return min(
        sum(
            scatter_of(places[start:end], mass[start:end])
            for start, end in pairwise([0, *cuts, places.size])
        )
        for cuts in combinations(range(1, places.size), count - 1)
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-20, 20), st.integers(1, 9)), min_size=1, max_size=9),
    st.integers(1, 5),
)
def test_no_partition_is_better(pairs: list[tuple[int, int]], most: int) -> None:
    places, mass = np.array(sorted(pairs), dtype=np.float64).T
    scatter, _ = cut(partition, places, mass, most)
    for end in range(1, places.size + 1):
        for count in range(1, most + 1):
            least = exhaustive(places[:end], mass[:end], min(count, end))
            assert scatter[count - 1, end] == pytest.approx(least, abs=1e-9)


@pytest.mark.parametrize("count", [1, 2, 3, 17, 64, 100])
def test_agrees_with_its_twin(count: int) -> None:
    random = np.random.default_rng(count)
    places, mass = np.sort(random.normal(size=count)), random.exponential(size=count)
    scatter, splits = cut(partition, places, mass, 5)
    expected_scatter, expected_splits = cut(twin(partition), places, mass, 5)
    np.testing.assert_allclose(scatter, expected_scatter, atol=1e-9)
    np.testing.assert_array_equal(splits, expected_splits)


@pytest.mark.parametrize("count", [5, 200])
def test_splits_lead_to_the_scatter(count: int) -> None:
    random = np.random.default_rng(count)
    places, mass = np.sort(random.laplace(size=count)), random.exponential(size=count)
    scatter, splits = cut(partition, places, mass, 5)
    end, total = count, 0.0
    for row in splits[::-1]:
        start = int(row[end])
        assert 0 <= start <= end
        total += scatter_of(places[start:end], mass[start:end]) if start < end else 0.0
        end = start
    assert end == 0
    assert total == pytest.approx(scatter[-1, -1])


def test_a_mass_that_drowns_has_no_scatter() -> None:
    places, mass = np.array([1.0, 2.0, 3.0]), np.array([1e30, 1.0, 1.0])
    scatter, _ = cut(partition, places, mass, 3)
    assert np.isfinite(scatter).all()
