"""The kernel that puts weights on levels: its twin, its optimum, and that it never goes uphill."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from spqtools.levels.descent import descend

LEVELS = np.array([-0.5, -0.25, 0.25, 0.5, 1.0], dtype=np.float32)
ROWS, COLUMNS = 3, 6


@dataclass
class Problem:
    """Three rows of six weights and a free constant, whose errors are coupled."""

    hessian: NDArray[np.float32]
    coupling: NDArray[np.float64]
    level_costs: NDArray[np.float64]
    place_costs: NDArray[np.float32]
    wanted: NDArray[np.float32]
    weights: NDArray[np.float32]
    chosen: NDArray[np.int16]
    may_zero: bool = True

    def run(self, function: Any, sweeps: int) -> int:
        gradient = ((self.weights - self.wanted) @ self.hessian).astype(np.float32)
        moves: int = function(
            *(self.hessian, self.coupling, LEVELS, self.level_costs, self.place_costs),
            *(self.may_zero, sweeps, self.weights, gradient, self.chosen),
            *(np.empty(ROWS), np.empty(ROWS, dtype=np.float32)),
        )
        np.testing.assert_allclose(
            gradient, (self.weights - self.wanted) @ self.hessian, rtol=1e-3, atol=1e-4
        )
        return moves

    def cost(self) -> float:
        """What all costs, every weight being on its level."""
        miss = (self.weights - self.wanted).astype(np.float64)
        error = 0.5 * np.trace(self.coupling @ miss @ self.hessian @ miss.T)
        rate = np.where(self.chosen >= 0, self.place_costs + self.level_costs[self.chosen], 0.0)
        return float(error + rate.sum())


def problem(seed: int, price: float = 0.01) -> Problem:
    random = np.random.Generator(np.random.PCG64(seed))
    inputs = random.normal(size=(20, COLUMNS + 1)) @ random.normal(size=(COLUMNS + 1, COLUMNS + 1))
    hessian = (inputs.T @ inputs / 20 + 0.1 * np.eye(COLUMNS + 1)).astype(np.float32)
    wanted = (0.4 * random.normal(size=(ROWS, COLUMNS + 1))).astype(np.float32)
    errors = random.normal(size=(8, ROWS))
    return Problem(
        hessian,
        errors.T @ errors / 8 + 0.1 * np.eye(ROWS),
        price * random.random(LEVELS.size),
        (price * random.random((ROWS, COLUMNS))).astype(np.float32),
        wanted,
        wanted.copy(),
        np.zeros((ROWS, COLUMNS), dtype=np.int16),
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("may_zero", [True, False])
def test_agrees_with_its_twin(seed: int, may_zero: bool) -> None:
    compiled, plain = problem(seed), problem(seed)
    compiled.may_zero = plain.may_zero = may_zero
    compiled.place_costs[0, 2] = plain.place_costs[0, 2] = np.inf
    moves = compiled.run(descend, 3)
    assert plain.run(descend.py_func, 3) == moves  # type: ignore[attr-defined]
    np.testing.assert_array_equal(compiled.chosen, plain.chosen)
    np.testing.assert_array_equal(compiled.weights[:, :COLUMNS], plain.weights[:, :COLUMNS])
    np.testing.assert_allclose(compiled.weights, plain.weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_more_sweeps_never_cost_more(seed: int) -> None:
    costs = []
    for sweeps in range(1, 6):
        task = problem(seed)
        task.run(descend, sweeps)
        costs.append(task.cost())
    assert all(after <= before + 1e-5 for before, after in pairwise(costs))


def test_every_weight_is_on_its_level() -> None:
    task = problem(1)
    task.run(descend, 2)
    values = np.append(LEVELS, np.float32(0))[task.chosen]
    np.testing.assert_array_equal(task.weights[:, :COLUMNS], values)


def test_no_single_move_gains_in_the_end() -> None:
    task = problem(2)
    task.run(descend, 50)
    reached = task.cost()
    for place in np.ndindex(ROWS, COLUMNS):
        for level in range(-1, LEVELS.size):
            other = problem(2)
            other.weights[:], other.chosen[:] = task.weights, task.chosen
            other.weights[place] = 0.0 if level < 0 else LEVELS[level]
            other.chosen[place] = level
            assert other.cost() >= reached - 1e-6


def test_a_dear_place_is_zeroed_and_a_forbidden_one_always() -> None:
    task = problem(3)
    task.place_costs[:, 1] = 100.0
    task.place_costs[:, 4] = np.inf
    task.run(descend, 3)
    assert (task.chosen[:, [1, 4]] == -1).all()
    assert (task.weights[:, [1, 4]] == 0).all()


def test_where_zero_is_not_allowed_only_forbidden_places_are_zero() -> None:
    task = problem(4, price=10.0)
    task.may_zero = False
    task.place_costs[:, 4] = np.inf
    task.run(descend, 3)
    assert (task.chosen[:, 4] == -1).all()
    assert (np.delete(task.chosen, 4, axis=1) >= 0).all()


def test_the_constant_is_free() -> None:
    task = problem(5)
    task.run(descend, 40)
    gradient = task.coupling @ (task.weights - task.wanted) @ task.hessian
    np.testing.assert_allclose(gradient[:, -1], 0.0, atol=1e-4)
