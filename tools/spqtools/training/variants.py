"""Variants of images: what a student learns from where there are few of them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from spqtools.evolve.rng import Draws

# An image is made so many times larger or smaller, in logarithms, and moved by such a share of its
# half side.
_SCALE, _SHIFT = 0.4, 0.3
# How far contrast and the strength of each colour go from one, and brightness from none, in the
# range of all values.
_CONTRAST, _COLOUR, _BRIGHTNESS = 0.3, 0.1, 0.1
# Share of the variants that are put together of four, and where these meet at least and at most.
_COLLAGES = 0.5
_LEAST_CORNER, _MOST_CORNER = 0.33, 0.67


def vary(images: Tensor, draws: Draws) -> Tensor:
    """Return a variant of each of some images.

    A variant is mirrored by chance, scaled, moved and coloured otherwise. Half of the variants are
    put together of parts of four images, as detectors are trained (Bochkovskiy et al., arXiv
    2004.10934).

    Parameters
    ----------
    images : Tensor of float32, shape (images, channels, height, width)
        Images; they are not changed.
    draws : Draws
        What decides.

    Returns
    -------
    Tensor of float32, shape (images, channels, height, width)
        Variants; their values stay within those of the images.
    """
    count, _, height, width = images.shape
    varied = _varied(images, draws)
    collages = torch.from_numpy(draws.uniform(count)) < _COLLAGES
    corners = _between(draws, (count, 2), _LEAST_CORNER, _MOST_CORNER)
    below = torch.arange(height) >= corners[:, :1] * height
    right = torch.arange(width) >= corners[:, 1:] * width
    for at_bottom, at_right in ((False, True), (True, False), (True, True)):
        others = images[torch.from_numpy(draws.uniform(count).argsort(kind="stable"))]
        rows = below if at_bottom else ~below
        columns = right if at_right else ~right
        part = rows[:, None, :, None] & columns[:, None, None, :] & collages[:, None, None, None]
        varied = torch.where(part, _varied(others, draws), varied)
    return varied


def _varied(images: Tensor, draws: Draws) -> Tensor:
    """Mirror, scale, move and colour images."""
    count, channels = images.shape[:2]
    turned = torch.zeros(count, 2, 3)
    scale = _between(draws, (count,), -_SCALE, _SCALE).exp()
    turned[:, 0, 0] = scale * torch.from_numpy(draws.signs(count))
    turned[:, 1, 1] = scale
    turned[:, :, 2] = _between(draws, (count, 2), -_SHIFT, _SHIFT)
    grid = F.affine_grid(turned, list(images.shape), align_corners=False)
    placed = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    low, high = images.amin(), images.amax()
    mean = placed.mean((1, 2, 3), keepdim=True)
    contrast = _between(draws, (count, 1, 1, 1), 1.0 - _CONTRAST, 1.0 + _CONTRAST)
    colour = _between(draws, (count, channels, 1, 1), 1.0 - _COLOUR, 1.0 + _COLOUR)
    bright = (high - low) * _between(draws, (count, 1, 1, 1), -_BRIGHTNESS, _BRIGHTNESS)
    return ((placed - mean) * contrast * colour + mean + bright).clamp(low, high)


def _between(draws: Draws, shape: tuple[int, ...], least: float, most: float) -> Tensor:
    """Return random numbers of float32 between two bounds."""
    count = torch.Size(shape).numel()
    uniform = torch.from_numpy(draws.uniform(count)).float().reshape(shape)
    return least + (most - least) * uniform
