"""Variants of images: others each time, within the same values, and the same for the same seed."""

import torch

from spqtools.evolve.rng import Draws
from spqtools.training.variants import vary


def images(count: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, 24, 40, generator=torch.Generator().manual_seed(3)) * 2.0 - 0.5


def test_variants_depend_on_the_draws_alone() -> None:
    first = vary(images(), Draws(0, "a"))
    assert torch.equal(first, vary(images(), Draws(0, "a")))
    assert not torch.equal(first, vary(images(), Draws(0, "b")))


def test_every_image_becomes_another_within_the_same_values() -> None:
    given = images()
    before = given.clone()
    varied = vary(given, Draws(1, "a"))
    assert torch.equal(given, before)
    assert varied.shape == given.shape
    assert varied.dtype == torch.float32
    assert given.amin() <= varied.amin() <= varied.amax() <= given.amax()
    assert all(not torch.equal(one, other) for one, other in zip(given, varied, strict=True))


def test_some_are_mirrored_and_some_are_not() -> None:
    # Dark at the left, bright at the right.
    ramp = torch.linspace(0.0, 1.0, 40).expand(64, 3, 24, 40)
    varied = vary(ramp, Draws(2, "a"))
    is_mirrored = varied[..., :20].mean((1, 2, 3)) > varied[..., 20:].mean((1, 2, 3))
    assert 16 < int(is_mirrored.sum()) < 48


def test_half_of_them_are_put_together_of_several() -> None:
    # An image of a single value stays one however it is scaled and moved.
    plain = torch.linspace(0.0, 1.0, 64)[:, None, None, None].expand(64, 3, 24, 40)
    varied = (1000.0 * vary(plain, Draws(3, "a"))).round()
    values = [len(one[0].unique()) for one in varied]
    assert 16 < sum(count > 1 for count in values) < 48
    assert max(values) == 4


def test_a_single_image_can_be_varied() -> None:
    assert vary(images(1), Draws(4, "a")).shape == (1, 3, 24, 40)
