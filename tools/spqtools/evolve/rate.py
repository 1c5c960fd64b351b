"""What zeros and levels will take in a file, foreseen from how many there are in each line."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log

import torch
import torch.nn.functional as F
from torch import Tensor

# Half a pseudo-count keeps empty rows, columns and levels at a finite price.
_PSEUDO_COUNT = 0.5
# A place is never free, however full its row and column are.
_LEAST_BITS = 0.5
_BISECTIONS = 16
_ROUNDS = 2


@dataclass(frozen=True)
class Candidates:
    """Weights of one layer among which a choice is made.

    Parameters
    ----------
    worth : Tensor of float32, shape (rows, columns)
        Loss that a zero would make, in a unit that all layers share.
    keep : Tensor of bool, shape (rows, columns)
        The present choice.
    level_bits : float
        Mean bits of a level.
    unit : int
        Columns that have their density in common: the places of a convolution's kernel.
    """

    worth: Tensor
    keep: Tensor
    level_bits: float
    unit: int = 1

    @property
    def bits(self) -> float:
        """Bits of the present choice: its mask and its levels."""
        return mask_bits(self.keep, self.unit) + int(self.keep.sum()) * self.level_bits

    def chosen_at(self, price: float) -> "Candidates":
        """Return the weights that are worth more than their bits, at the prices of now."""
        keep = self.worth > price * survivor_bits(self.keep, self.unit, self.level_bits)
        return Candidates(self.worth, keep, self.level_bits, self.unit)


def mask_bits(mask: Tensor, unit: int = 1) -> float:
    """Return what the places of all weights that are not zero take together; see `Candidates`."""
    odds = _odds(mask, unit)
    return float((F.softplus(odds) - odds * mask).sum(dtype=torch.float64)) / log(2.0)


def survivor_bits(mask: Tensor, unit: int, level_bits: float) -> Tensor:
    """Return what a survivor at each place takes more than a zero, in bits.

    Places in rows and columns that are nearly empty are dear, so that these are emptied first: the
    coder's density classes are foreseen by the densities of row and column, whose odds multiply.

    Parameters
    ----------
    mask : Tensor of bool, shape (rows, columns)
        What is not zero.
    unit : int
        See `Candidates`.
    level_bits : float
        Mean bits of a level.

    Returns
    -------
    Tensor of float32, shape (rows, columns)
        Bits, at least half a one.
    """
    return (level_bits - _odds(mask, unit) / log(2.0)).clamp_min(_LEAST_BITS)


def choose_within(
    layers: Mapping[str, Candidates], budget: float
) -> tuple[dict[str, Tensor], float]:
    """Choose the weights that are worth their bits when a bit costs what the budget allows.

    Parameters
    ----------
    layers : mapping of str to Candidates
        All layers.
    budget : float
        Bits for all layers together.

    Returns
    -------
    tuple of dict of str to Tensor of bool and float
        The choice, empty where even one weight is too much, and the price of a bit in the unit of
        worth.
    """
    best = {name: torch.zeros_like(layer.keep) for name, layer in layers.items()}
    worth = torch.cat([layer.worth[layer.worth > 0] for layer in layers.values()])
    if not len(worth):
        return best, 0.0
    # Below the lowest price every weight is worth its bits, above the highest none is.
    low, high = log(float(worth.min())) - log(64.0), log(float(worth.max())) - log(_LEAST_BITS)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        chosen = dict(layers)
        for _ in range(_ROUNDS):
            chosen = {name: layer.chosen_at(exp(middle)) for name, layer in chosen.items()}
        if sum(layer.bits for layer in chosen.values()) > budget:
            low = middle
        else:
            high, best = middle, {name: layer.keep for name, layer in chosen.items()}
    return best, exp(high)


def _odds(mask: Tensor, unit: int) -> Tensor:
    """Return the logarithm of each place's odds of a weight that is not zero, float32."""
    ones = mask.float()
    rows, columns = mask.shape
    # Odds rather than shares: a full line's share is so near to one that floats round it up to one.
    zeros = mask.numel() + _PSEUDO_COUNT - float(ones.sum())
    ratio = zeros / (mask.numel() + 1.0 - zeros)

    def log_odds(counts: Tensor, total: int) -> Tensor:
        # Drawn to the odds of all, so that an empty line of an empty mask is no news.
        return (counts + _PSEUDO_COUNT).log() - (total - counts + _PSEUDO_COUNT * ratio).log()

    by_row = log_odds(ones.sum(1), columns)
    by_unit = log_odds(ones.sum(0).reshape(-1, unit).sum(1), rows * unit)
    return by_row[:, None] + by_unit.repeat_interleave(unit) + log(ratio)
