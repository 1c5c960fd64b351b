"""The kernel that puts rows on levels: its twin, its optimum, and what it leaves alone."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from spqtools.levels.row_search import search_rows
from spqtools.levels.windows import windows_of

LEVELS = np.array([-0.5, 0.25, 1.0])
ROWS, COLUMNS = 3, 5
# As many as there are choices for a row.
EXHAUSTIVE = 4**COLUMNS


@dataclass
class Problem:
    """Three rows of five weights and a free constant, whose errors are coupled."""

    hessian: NDArray[np.float32]
    coupling: NDArray[np.float64]
    level_costs: NDArray[np.float64]
    place_costs: NDArray[np.float32]
    target: NDArray[np.float32]
    keep: NDArray[np.bool_]
    weights: NDArray[np.float32]
    chosen: NDArray[np.int16]
    may_zero: bool = True

    def run(self, function: Callable[..., int], path_count: int = 16, passes: int = 1) -> int:
        gradient = ((self.weights - self.target) @ self.hessian).astype(np.float32)
        moves = 0
        (windows,) = windows_of(torch.from_numpy(self.hessian), torch.from_numpy(self.keep))
        scratch = (COLUMNS + 1, path_count)
        for _ in range(passes):
            moves += function(
                *(self.hessian, self.coupling, windows.rows, windows.starts, windows.features),
                *(windows.factor_starts, windows.factors, LEVELS, self.level_costs),
                *(self.place_costs, self.may_zero, self.weights, gradient, self.chosen),
                *(np.empty(COLUMNS + 1), np.empty(scratch), np.empty(scratch, dtype=np.int16)),
                *(np.empty(scratch, dtype=np.int16), np.empty((3, path_count))),
                *(np.empty(path_count, dtype=np.int64), np.empty(path_count, dtype=np.int64)),
            )
        np.testing.assert_allclose(
            gradient, (self.weights - self.target) @ self.hessian, rtol=1e-3, atol=1e-4
        )
        return moves

    def cost(self) -> float:
        """What all costs, every weight being on its level."""
        miss = (self.weights - self.target).astype(np.float64)
        error = 0.5 * np.trace(self.coupling @ miss @ self.hessian @ miss.T)
        places = self.place_costs * self.may_zero
        rate = np.where(self.chosen >= 0, places + self.level_costs[self.chosen], 0.0)
        return float(error + rate.sum())


def problem(seed: int, price: float = 0.01) -> Problem:
    random = np.random.Generator(np.random.PCG64(seed))
    inputs = random.normal(size=(20, COLUMNS + 1)) @ random.normal(size=(COLUMNS + 1, COLUMNS + 1))
    hessian = (inputs.T @ inputs / 20 + 0.1 * np.eye(COLUMNS + 1)).astype(np.float32)
    target = (0.4 * random.normal(size=(ROWS, COLUMNS + 1))).astype(np.float32)
    errors = random.normal(size=(8, ROWS))
    keep = random.random((ROWS, COLUMNS)) < 0.8
    weights = target.copy()
    weights[:, :COLUMNS] *= keep
    return Problem(
        hessian,
        errors.T @ errors / 8 + 0.1 * np.eye(ROWS),
        price * random.random(LEVELS.size),
        (price * random.random((ROWS, COLUMNS))).astype(np.float32),
        target,
        keep,
        weights,
        np.full((ROWS, COLUMNS), -1, dtype=np.int16),
    )


def best_row(task: Problem, row: int) -> float:
    """The least cost of any choice for a row, the constant being where it is best for each."""
    least = np.inf
    kept = np.flatnonzero(task.keep[row])
    options = range(-1 if task.may_zero else 0, LEVELS.size)
    for choice in product(options, repeat=len(kept)):
        other = Problem(**{**vars(task), "weights": task.weights.copy()})
        other.chosen = task.chosen.copy()
        other.chosen[row, kept] = choice
        other.weights[row, kept] = [LEVELS[one] if one >= 0 else 0.0 for one in choice]
        slope = task.coupling[row] @ (other.weights - task.target) @ task.hessian[:, -1]
        other.weights[row, -1] -= slope / (task.coupling[row, row] * task.hessian[-1, -1])
        least = min(least, other.cost())
    return least


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("may_zero", [True, False])
def test_agrees_with_its_twin(seed: int, may_zero: bool) -> None:
    compiled, plain = problem(seed), problem(seed)
    compiled.may_zero = plain.may_zero = may_zero
    twin: Any = search_rows
    assert compiled.run(search_rows) == plain.run(twin.py_func)
    np.testing.assert_array_equal(compiled.chosen, plain.chosen)
    np.testing.assert_array_equal(compiled.weights[:, :COLUMNS], plain.weights[:, :COLUMNS])
    np.testing.assert_allclose(compiled.weights, plain.weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("may_zero", [True, False])
def test_with_enough_paths_no_choice_for_the_last_row_is_better(seed: int, may_zero: bool) -> None:
    """The last row is chosen when the others are as they stay."""
    task = problem(seed)
    task.may_zero = may_zero
    task.run(search_rows, EXHAUSTIVE)
    assert task.cost() == pytest.approx(best_row(task, ROWS - 1), rel=1e-4, abs=1e-6)


def test_more_paths_find_more() -> None:
    costs = {
        paths: sum(_cost_by(seed, paths) for seed in range(40)) for paths in (1, 4, EXHAUSTIVE)
    }
    assert costs[1] > costs[4] * 1.01
    assert costs[4] >= costs[EXHAUSTIVE] * (1 - 1e-6)


def _cost_by(seed: int, paths: int) -> float:
    task = problem(seed)
    task.coupling = np.eye(ROWS)
    task.run(search_rows, paths)
    return task.cost()


def test_every_weight_is_on_its_level() -> None:
    task = problem(1)
    task.run(search_rows)
    values = np.append(LEVELS, 0.0)[task.chosen].astype(np.float32)
    np.testing.assert_array_equal(task.weights[:, :COLUMNS], values)
    assert (task.chosen[~task.keep] == -1).all()


def test_passes_end_where_nothing_moves() -> None:
    task = problem(2)
    task.run(search_rows, EXHAUSTIVE, passes=20)
    before = task.chosen.copy()
    task.run(search_rows, EXHAUSTIVE)
    np.testing.assert_array_equal(task.chosen, before)
    reached = task.cost()
    for row in range(ROWS):
        assert reached <= best_row(task, row) * (1 + 1e-4)


def test_a_dear_place_is_zeroed_unless_zero_is_not_allowed() -> None:
    task = problem(3)
    task.keep[:] = True
    task.place_costs[:, 1] = 100.0
    task.run(search_rows)
    assert (task.chosen[:, 1] == -1).all()
    task.may_zero = False
    task.run(search_rows)
    assert (task.chosen >= 0).all()


def test_the_constant_is_free() -> None:
    task = problem(5)
    task.run(search_rows, passes=40)
    gradient = task.coupling @ (task.weights - task.target) @ task.hessian
    np.testing.assert_allclose(gradient[:, -1], 0.0, atol=1e-4)
