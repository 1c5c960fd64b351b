"""Which price of a bit to try next, so that a student's file hits the goal."""

from collections.abc import Sequence
from math import inf, log

from spqtools.search.goal import CLOSE

# Prices tried besides the student's own.
PASSES = 5
# The price stays within this factor of the student's own. On LeNet-300-100 the divergence at equal
# size is much the same from a half to twice of it, and half as large again at eight times.
_REACH = 8.0
# How size and divergence answer to the price, in logarithms, until two attempts tell more; what
# they tell is believed within this factor.
SIZE_ELASTICITY = -0.2
DIVERGENCE_ELASTICITY = 0.5
_DOUBT = 3.0
_AIM = (1.0 + CLOSE) / 2
# The least factor between prices while the goal is not enclosed, and the factor where the share
# does not tell how far it is. Some prices lead to the same file.
_STEP = 1.25
_BLIND_STEP = 2.0
# Between prices nearer to each other than that the size jumps.
_JUMP = 1.03
# A step between two prices goes at least this share of the way, in logarithms.
_LEAST_SHARE = 0.25

Attempt = tuple[float, float]
"""A price, and the share of what the goal allows that it led to."""


def next_price(tried: Sequence[Attempt], own: float, elasticity: float) -> float | None:
    """Return the price to try next, or None when the goal is hit, out of reach or in a jump.

    A pure function of what was tried, so that a resumed search goes the same way.

    Parameters
    ----------
    tried : sequence of tuple of float and float
        Prices and their shares in the order of trying, at least one; 0 and infinity say on which
        side of the goal they are and no more.
    own : float
        The price that suits the student.
    elasticity : float
        How the share answers to the price: the exponent of a power law.

    Returns
    -------
    float or None
        Divergence that one bit is worth.
    """
    if len(tried) > PASSES or own <= 0.0 or any(CLOSE <= share <= 1.0 for _, share in tried):
        return None
    least, most = own / _REACH, own * _REACH
    # The cheap end is beyond what a size goal allows, and within what the others do.
    cheap: list[Attempt] = []
    dear: list[Attempt] = []
    for bit_price, share in tried:
        side = cheap if (share > 1.0) == (elasticity < 0.0) else dear
        side.append((max(bit_price, least), share))
    if cheap and dear:
        nearest = max(cheap), min(dear)
        return None if nearest[1][0] / nearest[0][0] < _JUMP else _between(*nearest)
    towards = sorted(cheap) if cheap else sorted(dear, reverse=True)
    bit_price, share = towards[-1]
    factor = _BLIND_STEP
    if 0.0 < share < inf:
        factor = (_AIM / share) ** (1.0 / _elasticity(towards, elasticity))
        factor = max(factor, 1.0 / factor, _STEP)
    following = min(bit_price * factor, most) if cheap else max(bit_price / factor, least)
    return None if following == bit_price else following


def _elasticity(towards: Sequence[Attempt], usual: float) -> float:
    """Return the exponent that the last two attempts on the way to the goal tell of."""
    if len(towards) < 2:
        return usual
    (price_before, share_before), (bit_price, share) = towards[-2:]
    if bit_price == price_before or share_before <= 0.0:
        return usual
    told = log(share / share_before) / log(bit_price / price_before) / usual
    return usual * min(max(told, 1.0 / _DOUBT), _DOUBT)


def _between(cheap: Attempt, dear: Attempt) -> float:
    """Return the price on the line through two attempts, in logarithms, where the goal lies."""
    way = 0.5
    if min(cheap[1], dear[1]) > 0.0 and max(cheap[1], dear[1]) < inf:
        way = log(_AIM / cheap[1]) / log(dear[1] / cheap[1])
        way = min(max(way, _LEAST_SHARE), 1.0 - _LEAST_SHARE)
    return float(cheap[0] ** (1.0 - way) * dear[0] ** way)
