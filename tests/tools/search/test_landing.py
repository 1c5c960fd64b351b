"""The price of a bit that suits a student, also where its next zeros cost nothing."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spqtools.evolve.sparse import Sparse
from spqtools.search.goal import Options
from spqtools.search.landing import Landing

HARM = 0.5
"""Divergence of a student before it is on levels."""


def own_price(student: Sparse, options: Options | None = None) -> float:
    landing = object.__new__(Landing)
    landing._options = options or Options(target_ratio=40.0)
    landing._evolution = SimpleNamespace(glance=lambda _: HARM)  # type: ignore[assignment]
    return landing._own_price(student)


def student(zero_cost: float) -> Sparse:
    keep = torch.zeros(40, 100, dtype=torch.bool)
    keep[:, :30] = True
    return Sparse({}, {"weight": keep}, {"weight": 0.0}, zero_cost)


def test_levels_are_no_finer_than_answers_are_good() -> None:
    """An error that falls by four with each bit, against the price of all survivors' bits."""
    cheap = student(1e-30)
    price = own_price(cheap)
    bits = np.linspace(0.0, 20.0, 20001)
    errors = 2.0 * 4.0**-bits
    best = errors[np.argmin(errors + price * cheap.kept * bits)]
    assert best == pytest.approx(0.003 * HARM, rel=0.01)


def test_zeros_that_cost_something_tell_the_price() -> None:
    dear = student(1e-3)
    assert own_price(dear) == dear.bit_price > own_price(student(0.0))


def test_bits_are_worth_less_where_zeros_are_given() -> None:
    dear, cheap, given = student(1e-3), student(1e-30), Options(sparsity=0.7)
    assert own_price(dear, given) == pytest.approx(own_price(dear) / 2)
    assert own_price(cheap, given) == own_price(cheap)
