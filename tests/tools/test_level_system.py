"""The kernel of the levels' linear system: its twin, and the products of whole matrices."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from spqtools.level_system import add_level_system

ROWS, COLUMNS, LEVELS = 4, 9, 3


def system(seed: int, function: Any) -> tuple[int, NDArray[np.float64], NDArray[np.float64], Any]:
    """Run a kernel on a random layer; returns what it returns, the system, and the layer."""
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(20, COLUMNS + 1)).astype(np.float32)
    hessian = inputs.T @ inputs
    importance = random.random(ROWS)
    wanted = random.normal(size=(ROWS, COLUMNS + 1)).astype(np.float32)
    chosen = random.integers(-1, LEVELS, (ROWS, COLUMNS)).astype(np.int16)
    matrix, right = np.zeros((LEVELS, LEVELS)), np.zeros(LEVELS)
    places, sums = np.empty(COLUMNS, dtype=np.int32), np.empty(LEVELS)
    count = function(hessian, importance, wanted, chosen, places, sums, matrix, right)
    return count, matrix + matrix.T, right, (hessian, importance, wanted, chosen)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_its_twin(seed: int) -> None:
    count, matrix, right, _ = system(seed, add_level_system)
    same = system(seed, add_level_system.py_func)  # type: ignore[attr-defined]
    assert count == same[0]
    np.testing.assert_array_equal(matrix, same[1])
    np.testing.assert_array_equal(right, same[2])


@pytest.mark.parametrize("seed", range(3))
def test_is_the_system_of_all_products(seed: int) -> None:
    count, matrix, right, (hessian, importance, wanted, chosen) = system(seed, add_level_system)
    assert count == (chosen >= 0).sum()
    products, sides = np.zeros((LEVELS, LEVELS)), np.zeros(LEVELS)
    for row in range(ROWS):
        members = (chosen[row][:, None] == np.arange(LEVELS)).astype(np.float64)
        products += importance[row] * members.T @ hessian[:COLUMNS, :COLUMNS] @ members
        sides += importance[row] * members.T @ wanted[row, :COLUMNS]
    np.testing.assert_allclose(matrix, products, rtol=1e-6)
    np.testing.assert_allclose(right, sides, rtol=1e-6)
