"""Few prices are enough to hit a goal, whatever a student answers, and the same ones each time."""

from collections.abc import Callable
from math import inf

import pytest

from spqtools.search.goal import CLOSE
from spqtools.search.next_price import (
    DIVERGENCE_ELASTICITY,
    PASSES,
    SIZE_ELASTICITY,
    Attempt,
    next_price,
)

Answer = Callable[[float], float]


def attempts(
    answer: Answer, elasticity: float, own: float = 1.0, first: float = 1.0
) -> list[Attempt]:
    """Try prices until the goal is hit or given up."""
    tried = [(first, answer(first))]
    while (bit_price := next_price(tried, own, elasticity)) is not None:
        tried.append((bit_price, answer(bit_price)))
        assert len(tried) < 50
    return tried


def hits(tried: list[Attempt]) -> bool:
    return CLOSE <= tried[-1][1] <= 1.0


@pytest.mark.parametrize("share", [0.8, 0.9, 0.97, 1.01, 1.1, 1.25])
@pytest.mark.parametrize("elasticity", [-0.12, -0.2, -0.35])
@pytest.mark.parametrize("bend", [0.0, 0.03])
def test_sizes_are_hit(share: float, elasticity: float, bend: float) -> None:
    """A power law whose exponent grows with the price, as it does on real networks."""
    tried = attempts(
        lambda bit_price: share * bit_price ** (elasticity - bend * max(bit_price - 1.0, 0.0)),
        SIZE_ELASTICITY,
    )
    assert hits(tried)


@pytest.mark.parametrize("share", [0.45, 0.6, 0.95, 1.05, 1.5])
@pytest.mark.parametrize("elasticity", [0.4, 0.6, 1.0])
def test_divergences_are_hit(share: float, elasticity: float) -> None:
    tried = attempts(lambda bit_price: share * bit_price**elasticity, DIVERGENCE_ELASTICITY)
    assert hits(tried)


@pytest.mark.parametrize(("near", "ends"), [(1.029, True), (1.04, False)])
def test_a_jump_between_near_prices_ends_it(near: float, ends: bool) -> None:
    tried = [(1.0, 1.04), (near, 0.96)]
    assert (next_price(tried, 1.0, SIZE_ELASTICITY) is None) is ends


def test_a_goal_that_is_hit_already_needs_no_pass() -> None:
    for share in (CLOSE, 0.99, 1.0):
        assert next_price([(1.0, share)], 1.0, SIZE_ELASTICITY) is None


def test_where_the_share_says_nothing_the_price_is_doubled_then_halved() -> None:
    """A loss of accuracy has steps."""
    tried = attempts(lambda bit_price: 0.0 if bit_price < 3.0 else inf, DIVERGENCE_ELASTICITY)
    assert [bit_price for bit_price, _ in tried] == pytest.approx(
        [1.0, 2.0, 4.0, 8**0.5, 128**0.25, (8**0.5 * 128**0.25) ** 0.5]
    )
    tried = attempts(lambda bit_price: 0.0 if bit_price < 0.3 else inf, DIVERGENCE_ELASTICITY)
    assert [bit_price for bit_price, _ in tried[:3]] == [1.0, 0.5, 0.25]


def test_steps_of_the_size_do_not_hold_it_up() -> None:
    """Neighbouring prices may lead to the same file."""
    tried = attempts(lambda bit_price: 1.001 if bit_price < 1.2 else 0.985, SIZE_ELASTICITY)
    assert hits(tried)


@pytest.mark.parametrize("share", [0.1, 10.0])
def test_out_of_reach(share: float) -> None:
    for elasticity in (SIZE_ELASTICITY, DIVERGENCE_ELASTICITY):
        tried = attempts(lambda _: share, elasticity)
        assert not hits(tried)
        assert len(tried) <= PASSES + 1
        assert all(1 / 8 <= bit_price <= 8 for bit_price, _ in tried)


def test_a_student_that_has_no_price_takes_its_neighbours() -> None:
    tried = attempts(
        lambda bit_price: 1.2 * max(bit_price, 0.01) ** -0.05, SIZE_ELASTICITY, 1.0, 0.0
    )
    assert len(tried) > 2
    assert all(1 / 8 <= bit_price <= 8 for bit_price, _ in tried[1:])
    assert attempts(lambda _: 2.0, SIZE_ELASTICITY, 0.0, 0.0) == [(0.0, 2.0)]
