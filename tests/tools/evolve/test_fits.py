"""Candidates that were assessed before are not assessed again."""

from functools import partial

import torch
from torch import Tensor

from spqtools.evolve.fits import Fits


def test_only_unknown_candidates_are_assessed() -> None:
    heard: list[list[float]] = []
    assessed: list[float] = []

    def assess(value: float) -> Tensor:
        assessed.append(value)
        return torch.tensor([value])

    fits = Fits([torch.tensor([7.0])], lambda all_: heard.append([float(one) for one in all_]))
    found = [float(fits.of(partial(assess, value))) for value in (1.0, 2.0, 3.0)]
    assert found == [7.0, 2.0, 3.0]
    assert assessed == [2.0, 3.0]
    assert heard == [[7.0, 2.0], [7.0, 2.0, 3.0]]
