"""Compensation is the least-squares fit to the teacher on the support, row by row."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from spqtools.evolve import compensation
from spqtools.evolve.compensation import compensate
from spqtools.evolve.moments import Moments, diagonal, inverse_diagonal, measure_moments
from spqtools.evolve.row_solver import solve_rows
from spqtools.evolve.student import Layer, Student

RIDGE = 1e-3

GEOMETRIES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(9, 6), (80, 9)),
    "linear without bias": (lambda: nn.Linear(9, 6, bias=False), (80, 9)),
    "1d": (lambda: nn.Conv1d(3, 5, 3, padding=1), (20, 3, 8)),
    "2d": (lambda: nn.Conv2d(2, 4, 3, padding=1), (12, 2, 6, 6)),
    "2d without bias": (lambda: nn.Conv2d(2, 4, 3, bias=False), (12, 2, 6, 6)),
    "2d strided": (lambda: nn.Conv2d(2, 4, 3, stride=2), (24, 2, 7, 7)),
    "2d dilated": (lambda: nn.Conv2d(2, 4, 3, dilation=2), (24, 2, 7, 7)),
    "2d grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), (12, 4, 6, 6)),
    "2d depthwise": (lambda: nn.Conv2d(4, 8, 3, padding=1, groups=4), (12, 4, 6, 6)),
}


class Case:
    """A layer whose inputs the student sees with some error."""

    def __init__(self, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
        generator = torch.Generator().manual_seed(4)
        with torch.random.fork_rng():
            torch.manual_seed(4)
            network = nn.Sequential(make()).eval()
        teacher_inputs = torch.randn(shape, generator=generator)
        self.inputs = teacher_inputs + 0.3 * torch.randn(shape, generator=generator)
        batch = {0: torch.export.Dim.AUTO}
        graph = torch.export.export(network, (teacher_inputs,), dynamic_shapes=(batch,)).module()
        assert isinstance(graph, fx.GraphModule)
        size = len(teacher_inputs) // 3  # several batches, the last one smaller
        student = Student(graph, [self.inputs], size)
        teacher = Student(graph, [teacher_inputs], size)
        stop = next(student.walk(dict(student.original)))
        original = next(teacher.walk(dict(teacher.original)))
        self.stops = stop, original
        self.layer: Layer = stop.layer
        self.moments: Moments = measure_moments(stop, original)
        self.weight = student.original["0.weight"].reshape(self.layer.rows, self.layer.columns)
        self.bias = student.original.get("0.bias")
        self.wanted = self.layer.outputs(network(teacher_inputs).detach()).double().numpy()
        self.keep = torch.rand(self.weight.shape, generator=generator) < 0.5
        self.keep[0] = False
        self.keep[1] = True

    def features(self, row: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        """Return what a row is multiplied with, the constant last."""
        group = row // (self.layer.rows // self.layer.groups)
        features = self.layer.features(self.inputs)[group].double().numpy()
        if self.bias is None:
            return features
        return np.hstack([features, np.ones((len(features), 1))])


@pytest.fixture(params=GEOMETRIES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(*GEOMETRIES[request.param])


def test_moments_are_means_of_products(case: Case) -> None:
    samples, per_group = len(case.inputs), case.layer.rows // case.layer.groups
    for row in range(case.layer.rows):
        features, group = case.features(row), row // per_group
        np.testing.assert_allclose(
            case.moments.inputs[group], features.T @ features / samples, rtol=1e-4, atol=1e-4
        )
        np.testing.assert_allclose(
            case.moments.targets[group][:, row % per_group],
            features.T @ case.wanted[:, row] / samples,
            rtol=1e-4,
            atol=1e-4,
        )


def test_places_count_in_moments_as_much_as_they_are_told(case: Case) -> None:
    samples, per_group = len(case.inputs), case.layer.rows // case.layer.groups
    shares = torch.rand(len(case.wanted), generator=torch.Generator().manual_seed(5)) + 0.1
    sizes = [case.layer.outputs(case.stops[1].output(batch)).shape[0] for batch in range(3)]
    found = measure_moments(*case.stops, torch.split(shares, [*sizes, len(shares) - sum(sizes)]))
    for row in range(case.layer.rows):
        features, group = case.features(row), row // per_group
        weighted = features * shares.double().numpy()[:, None]
        np.testing.assert_allclose(
            found.inputs[group], weighted.T @ features / samples, rtol=1e-4, atol=1e-4
        )
        np.testing.assert_allclose(
            found.targets[group][:, row % per_group],
            weighted.T @ case.wanted[:, row] / samples,
            rtol=1e-4,
            atol=1e-4,
        )


def test_diagonals(case: Case) -> None:
    layer = case.layer
    squares, inverses = diagonal(layer, case.moments), inverse_diagonal(layer, case.moments)
    assert squares.shape == inverses.shape == (layer.rows, layer.columns)
    for row in range(layer.rows):
        features = case.features(row)
        hessian = features.T @ features / len(case.inputs)
        expected = np.diag(hessian)
        np.testing.assert_allclose(squares[row], expected[: layer.columns], rtol=1e-3)
        damped = hessian + 0.1 * expected.mean() * np.eye(len(hessian))
        np.testing.assert_allclose(
            inverses[row], np.diag(np.linalg.inv(damped))[: layer.columns], rtol=1e-2
        )


def test_compensation_is_least_squares_on_the_support(case: Case) -> None:
    weight, bias = compensate(case.layer, case.moments, case.keep, case.weight, case.bias)
    assert (bias is None) == (case.bias is None)
    assert torch.equal(weight != 0, case.keep)
    for row in range(case.layer.rows):
        features = case.features(row)
        present = case.weight[row].double().numpy()
        support = case.keep[row].numpy()
        if case.bias is not None:
            present = np.append(present, float(case.bias[row]))
            support = np.append(support, True)
        if not support.any():
            continue
        hessian = features[:, support].T @ features[:, support] / len(case.inputs)
        right = features[:, support].T @ case.wanted[:, row] / len(case.inputs)
        ridge = RIDGE * np.trace(hessian) / support.sum()
        expected = np.linalg.solve(
            hessian + ridge * np.eye(len(hessian)), right + ridge * present[support]
        )
        solved = weight[row].double().numpy()
        if bias is not None:
            solved = np.append(solved, float(bias[row]))
        np.testing.assert_allclose(solved[support], expected, rtol=2e-3, atol=2e-3)


def test_compensation_lowers_the_error(case: Case) -> None:
    weight, bias = compensate(case.layer, case.moments, case.keep, case.weight, case.bias)

    def error(weight: Tensor, bias: Tensor | None) -> float:
        total = 0.0
        for row in range(case.layer.rows):
            values = weight[row].double().numpy()
            if bias is not None:
                values = np.append(values, float(bias[row]))
            total += float(((case.features(row) @ values - case.wanted[:, row]) ** 2).sum())
        return total

    assert error(weight, bias) < 0.99 * error(case.weight * case.keep, case.bias)


def test_nothing_kept_leaves_the_mean() -> None:
    case = Case(*GEOMETRIES["linear"])
    weight, bias = compensate(
        case.layer, case.moments, torch.zeros_like(case.keep), case.weight, case.bias
    )
    assert not weight.any()
    assert bias is not None
    np.testing.assert_allclose(bias, case.wanted.mean(0), rtol=1e-2, atol=1e-3)


def test_features_that_are_always_zero_do_no_harm() -> None:
    case = Case(*GEOMETRIES["linear"])
    inputs, targets = case.moments.inputs.clone(), case.moments.targets.clone()
    inputs[:, 2] = inputs[:, :, 2] = targets[:, 2] = 0.0
    moments = Moments(inputs, targets)
    weight, bias = compensate(case.layer, moments, case.keep, case.weight, case.bias)
    assert weight.isfinite().all()
    assert bias is not None
    assert bias.isfinite().all()
    assert inverse_diagonal(case.layer, moments).isfinite().all()


def test_few_survivors_get_the_same_weights(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row by row and by products of whole matrices."""

    def compensated(few: float) -> tuple[Tensor, Tensor | None]:
        monkeypatch.setattr(compensation, "_FEW", few)
        return compensate(case.layer, case.moments, case.keep, case.weight, case.bias)

    (weight, bias), (same_weight, same_bias) = compensated(2.0), compensated(0.0)
    torch.testing.assert_close(weight, same_weight, rtol=1e-3, atol=1e-4)
    assert (bias is None) == (same_bias is None)
    if bias is not None and same_bias is not None:
        torch.testing.assert_close(bias, same_bias, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_the_row_solver_agrees_with_its_twin(seed: int) -> None:
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(40, 9)).astype(np.float32)
    hessian = (inputs.T @ inputs / 40).astype(np.float32)
    targets = random.normal(size=(3, 9)).astype(np.float32)
    support = random.random((3, 9)) < 0.5
    support[0] = False
    weights = random.normal(size=(3, 9)).astype(np.float32)
    found = []
    functions: tuple[Any, ...] = (solve_rows, solve_rows.py_func)  # type: ignore[attr-defined]
    for function in functions:
        solved = weights.copy()
        scratch = (
            *(np.empty(9, dtype=np.int32), np.empty((9, 9), dtype=np.float32)),
            np.empty((4, 9), dtype=np.float32),
        )
        count = function(hessian, targets, support, 1e-3, 9, *scratch, solved)
        assert count == support.sum()
        assert not solved[~support].any()
        found.append(solved)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=1e-4)
