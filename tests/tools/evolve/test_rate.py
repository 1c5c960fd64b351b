"""What masks and levels will take is foreseen well enough to choose within a budget."""

import io
from math import log2

import numpy as np
import pytest
import torch
from torch import Tensor

import spq
from spqtools.evolve.rate import Candidates, choose_within


def candidates(worth: Tensor, keep: Tensor | None = None, unit: int = 1) -> Candidates:
    everything = torch.ones_like(worth, dtype=torch.bool)
    return Candidates(worth, everything if keep is None else keep, 2.0, unit)


def random_mask(rows: int, columns: int, density: float, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((rows, columns)) < density)


@pytest.mark.parametrize("density", [0.5, 0.1, 0.02])
def test_even_masks_take_their_entropy(density: float) -> None:
    mask = random_mask(200, 300, density)
    share = float(mask.float().mean())
    entropy = -(share * log2(share) + (1 - share) * log2(1 - share))
    bits = Candidates(torch.ones(200, 300), mask, 0.0).bits
    assert bits == pytest.approx(entropy * mask.numel(), rel=0.05)


@pytest.mark.parametrize(("shape", "unit"), [((120, 200), 1), ((64, 48, 3, 3), 9)])
def test_real_files_take_what_was_foreseen(shape: tuple[int, ...], unit: int) -> None:
    random = np.random.default_rng(1)
    by_row = random.beta(0.3, 2.0, shape[0])
    by_column = random.beta(0.5, 2.0, shape[1])
    density = 3 * by_row[:, None] * by_column[None, :]
    mask = random.random(shape) < density.reshape(*density.shape, *(1 for _ in shape[2:]))
    signs = np.where(random.random(shape) < 0.5, -1, 1)
    stored = spq.save({"w": (mask * signs).astype("f4")}, io.BytesIO())
    empty = spq.save({"w": np.zeros(shape, "f4")}, io.BytesIO())
    matrix = torch.from_numpy(mask.reshape(shape[0], -1))
    bits = Candidates(torch.ones(matrix.shape), matrix, 1.0, unit).bits
    assert bits / 8 == pytest.approx(stored - empty, rel=0.25)


def test_an_empty_mask_takes_next_to_nothing() -> None:
    nothing = torch.zeros(300, 700, dtype=torch.bool)
    assert Candidates(torch.ones(300, 700), nothing, 2.0).bits < 16


@pytest.mark.parametrize("budget", [100.0, 1_000.0, 10_000.0])
def test_the_choice_fits_and_uses_the_budget(budget: float) -> None:
    layers = {
        name: candidates(torch.rand(60, 80, generator=torch.Generator().manual_seed(seed)) ** 8)
        for name, seed in (("a", 1), ("b", 2))
    }
    keep, price = choose_within(layers, budget)
    bits = sum(candidates(layers[name].worth, keep[name]).bits for name in layers)
    assert 0.8 * budget < bits <= budget
    assert price > 0


def test_a_smaller_budget_has_a_higher_price() -> None:
    worth = torch.rand(50, 50, generator=torch.Generator().manual_seed(3)) ** 6
    prices = [choose_within({"w": candidates(worth)}, budget)[1] for budget in (4e3, 2e3, 1e3)]
    assert prices == sorted(prices)
    assert prices[0] < prices[2]


def test_worthier_layers_keep_more() -> None:
    worth = torch.rand(50, 50, generator=torch.Generator().manual_seed(4)) ** 6
    keep, _ = choose_within({"a": candidates(worth), "b": candidates(10 * worth)}, 3e3)
    assert int(keep["b"].sum()) > 1.5 * int(keep["a"].sum())


def test_lines_that_are_nearly_empty_are_emptied_first() -> None:
    worth = torch.rand(100, 100, generator=torch.Generator().manual_seed(5)) + 0.5
    keep = random_mask(100, 100, 0.3, seed=6)
    keep[:, 50:] = random_mask(100, 50, 0.02, seed=7)
    chosen, _ = choose_within({"w": candidates(worth, keep)}, 4_000)
    assert float(chosen["w"][:, :50].float().mean()) > 3 * float(chosen["w"][:, 50:].float().mean())


def test_nothing_of_worth() -> None:
    keep, price = choose_within({"w": candidates(torch.zeros(4, 6))}, 1e6)
    assert not keep["w"].any()
    assert price == 0


def test_no_budget() -> None:
    keep, _ = choose_within({"w": candidates(torch.ones(4, 6))}, 0.0)
    assert not keep["w"].any()


@pytest.mark.parametrize("zeros", [0, 1])
def test_a_full_mask_takes_next_to_nothing(zeros: int) -> None:
    everything = torch.ones(500, 800, dtype=torch.bool)
    everything.view(-1)[:zeros] = False
    assert 0 <= Candidates(torch.ones(500, 800), everything, 0.0).bits < 32


def test_worth_of_many_magnitudes_leaves_the_choice_fine() -> None:
    exponents = torch.linspace(-30, 0, 400 * 500).reshape(400, 500)
    keep, _ = choose_within({"w": candidates(10.0**exponents)}, 10_000.0)
    bits = candidates(10.0**exponents, keep["w"]).bits
    assert 9_000 < bits <= 10_000
