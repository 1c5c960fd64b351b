"""Chance does not count for evidence."""

import torch
from torch import Tensor

from spqtools.evolve.evidence import surely_less


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_a_difference_that_all_pieces_agree_on_is_sure() -> None:
    other = numbers(5, 1, 9, 3)
    assert surely_less(other - 1e-3, other)
    assert not surely_less(other + 1e-3, other)
    assert not surely_less(other, other)


def test_a_difference_that_one_piece_makes_is_not() -> None:
    """Of differences (4, 0, 0, 0) mean and error are 1; of (4, 4, 0, 0) 2 and 1.15."""
    other = numbers(5, 1, 9, 3)
    assert not surely_less(other - numbers(4, 0, 0, 0), other)
    assert not surely_less(other - numbers(4, 4, 0, 0), other)
    assert surely_less(other - numbers(4, 4, 1, 0), other)


def test_one_piece_alone_decides_by_its_difference() -> None:
    assert surely_less(numbers(1), numbers(2))
    assert not surely_less(numbers(2), numbers(1))


def test_infinite_divergence_is_never_less() -> None:
    inf = float("inf")
    assert surely_less(numbers(1, 2), numbers(1, inf))
    assert not surely_less(numbers(1, inf), numbers(1, 2))
    assert not surely_less(numbers(1, inf), numbers(2, inf))
