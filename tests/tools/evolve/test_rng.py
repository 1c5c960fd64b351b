"""Streams depend on seed and label alone, and never change."""

import numpy as np
import pytest

from spqtools.evolve.rng import Draws

Label = tuple[int, *tuple[str | int, ...]]

# Multiples of 2^-53. The bytes of every file made with a seed depend on them.
FIRST: dict[Label, list[int]] = {
    (0, "labels", 0): [841674622542331, 2125840630480657, 6885000340748417],
    (3, "layer", 2, "fc.weight"): [8399838540382670, 5061465167960448, 3530399386214680],
    (2**63 - 1,): [4302630211702298, 8676578247186401, 5357973874342721],
}


@pytest.mark.parametrize("label", FIRST)
def test_first_words(label: Label) -> None:
    assert (Draws(*label).uniform(3) * 2.0**53).tolist() == FIRST[label]


def test_normal_numbers_are_those_of_box_and_muller() -> None:
    numbers = Draws(0, "labels", 0).normal(2)
    np.testing.assert_allclose(numbers, [0.03999106122963704, -0.20223880412104783], rtol=1e-12)


def test_a_stream_does_not_depend_on_others_or_on_portions() -> None:
    Draws(5, "b").uniform(17)
    whole = Draws(5, "a").uniform(6)
    draws = Draws(5, "a")
    portions = [*draws.uniform(1), *draws.uniform(3), *draws.uniform(2)]
    assert portions == whole.tolist()


def test_seeds_and_labels_differ() -> None:
    labels: list[Label] = [(1,), (2,), (1, "a"), (1, "a", 0), (1, "a", 1), (1, "b"), (2, "a")]
    assert len({Draws(*label).uniform(1)[0] for label in labels}) == len(labels)


def test_distributions() -> None:
    uniform = Draws(1, "uniform").uniform(20_000)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.01
    normal = Draws(1, "normal").normal(20_000)
    assert abs(normal.mean()) < 0.03
    assert abs(normal.std() - 1) < 0.03
    assert np.isfinite(normal).all()
    draws = Draws(1, "below")
    counts = np.bincount([draws.below(3) for _ in range(3_000)], minlength=3)
    assert counts.size == 3
    assert counts.min() > 900
    assert draws.below(1) == 0
