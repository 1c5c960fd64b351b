"""How many weights each layer keeps at a given total, by what they are worth to the output."""

from collections.abc import Mapping
from math import inf

import torch
from torch import Tensor

# No layer keeps a smaller share of its weights than that.
_LEAST_KEPT = 0.002


def allocate(
    scores: Mapping[str, Tensor],
    allowed: Mapping[str, Tensor],
    tilt: Mapping[str, float],
    kept_total: int,
) -> tuple[dict[str, int], float]:
    """Spread a total over layers by one threshold on comparable log-scores.

    Parameters
    ----------
    scores : mapping of str to Tensor of float32
        Log-scores of each layer's weights in a unit that all layers share.
    allowed : mapping of str to Tensor of bool
        Weights that are not zero already.
    tilt : mapping of str to float
        What evolution adds to a layer's log-scores.
    kept_total : int
        Weights that all layers keep together.

    Returns
    -------
    tuple of dict of str to int and float
        Weights that each layer keeps, at least a few, and the log-score at which they part.
    """
    names = list(scores)
    tilted = [scores[name][allowed[name]] + tilt[name] for name in names]
    pooled = torch.cat(tilted)
    kept_total = min(kept_total, pooled.numel())
    threshold = -inf
    if kept_total:
        threshold = float(torch.sort(pooled, descending=True).values[kept_total - 1])
    counts = {}
    for name, values in zip(names, tilted, strict=True):
        least = max(1, int(_LEAST_KEPT * scores[name].numel()))
        counts[name] = min(max(int((values >= threshold).sum()), least), values.numel())
    return counts, threshold
