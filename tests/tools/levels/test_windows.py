"""Supports in windows: each survivor once, with the factor of its Hessian."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spqtools.levels import windows
from spqtools.levels.windows import Windows, factorise, fit_at_once, windows_of

ROWS, COLUMNS, FREE = 6, 11, 1


@pytest.fixture
def hessian() -> Tensor:
    inputs = torch.randn(50, COLUMNS + FREE, generator=torch.Generator().manual_seed(1))
    inputs *= torch.linspace(0.5, 2.0, COLUMNS + FREE)
    return inputs.T @ inputs / 50


@pytest.fixture
def keep() -> Tensor:
    keep = torch.rand(ROWS, COLUMNS, generator=torch.Generator().manual_seed(2)) < 0.6
    keep[1] = keep[0]
    keep[3] = False
    return keep


def check(batches: list[Windows], hessian: Tensor, keep: Tensor) -> None:
    seen: dict[int, list[int]] = {row: [] for row in range(ROWS)}
    for batch in batches:
        for number, row in enumerate(batch.rows):
            support = batch.features[batch.starts[number] : batch.starts[number + 1]]
            seen[int(row)] += support.tolist()
            entries = len(support) * (len(support) + 1) // 2
            start = batch.factor_starts[number]
            factor = np.zeros((len(support), len(support)))
            factor[np.tril_indices(len(support))] = batch.factors[start : start + entries]
            expected = hessian.numpy()[np.ix_(support, support)]
            np.testing.assert_allclose(factor.T @ factor, expected, rtol=1e-5, atol=1e-6)
    diagonal = hessian.diagonal()
    for row, features in seen.items():
        survivors = features[:-FREE]
        assert sorted(survivors) == keep[row].nonzero()[:, 0].tolist()
        assert features[-FREE:] == list(range(COLUMNS, COLUMNS + FREE))
        sizes = diagonal[survivors].tolist()
        assert sizes == sorted(sizes, reverse=True)


def test_one_window_for_each_row(hessian: Tensor, keep: Tensor) -> None:
    (batch,) = batches = list(windows_of(hessian, keep))
    check(batches, hessian, keep)
    assert batch.rows.tolist() == list(range(ROWS))
    assert batch.factor_starts[0] == batch.factor_starts[1] != batch.factor_starts[2]
    assert fit_at_once(hessian, keep)


def test_many_survivors_and_little_memory(
    hessian: Tensor, keep: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "_MOST_SURVIVORS", 3)
    monkeypatch.setattr(windows, "_MOST_ENTRIES", 30)
    monkeypatch.setattr(windows, "_BATCH_ENTRIES", 30)
    batches = list(windows_of(hessian, keep))
    check(batches, hessian, keep)
    assert len(batches) > 1
    longest = max(int(np.diff(batch.starts).max()) for batch in batches)
    assert longest == 3 + FREE
    assert not fit_at_once(hessian, keep)


def test_a_row_without_anything_has_no_window(hessian: Tensor, keep: Tensor) -> None:
    (batch,) = windows_of(hessian[:COLUMNS, :COLUMNS], keep)
    assert batch.rows.tolist() == [0, 1, 2, 4, 5]


def test_the_factor_is_that_of_its_twin_and_of_numpy(hessian: Tensor) -> None:
    support = np.array([4, 0, 11, 7, 2])
    compiled, plain = np.empty(15), np.empty(15)
    twin: Any = factorise
    assert factorise(hessian.numpy(), support, compiled) == 0
    assert twin.py_func(hessian.numpy(), support, plain) == 0
    np.testing.assert_allclose(compiled, plain, rtol=1e-12)
    turned = hessian.double().numpy()[np.ix_(support, support)][::-1, ::-1]
    lower = np.linalg.cholesky(turned)[::-1, ::-1].T
    np.testing.assert_allclose(compiled, lower[np.tril_indices(5)], rtol=1e-9)


def test_what_is_singular_has_a_factor_too() -> None:
    compiled = np.empty(6)
    assert factorise(np.ones((3, 3), dtype=np.float32), np.arange(3), compiled) == 2
    assert np.isfinite(compiled).all()
