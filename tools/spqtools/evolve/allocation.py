"""How many weights each layer keeps at a given total, by what they are worth to the output."""

from collections.abc import Mapping

import torch
from torch import Tensor

_LEAST_KEPT = 0.002


def allocate(
    scores: Mapping[str, Tensor],
    allowed: Mapping[str, Tensor],
    tilt: Mapping[str, float],
    kept_total: int,
) -> dict[str, int]:
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
    dict of str to int
        Weights that each layer keeps; every layer keeps a few.
    """
    names = list(scores)
    tilted = [scores[name][allowed[name]] + tilt[name] for name in names]
    pooled = torch.cat(tilted)
    kept_total = min(kept_total, pooled.numel())
    threshold = torch.sort(pooled, descending=True).values[kept_total - 1]
    counts = {}
    for name, values in zip(names, tilted, strict=True):
        least = max(1, int(_LEAST_KEPT * scores[name].numel()))
        counts[name] = min(max(int((values >= threshold).sum()), least), values.numel())
    return counts


def threshold_saliency(
    scores: Mapping[str, Tensor], keep: Mapping[str, Tensor], allowed: Mapping[str, Tensor]
) -> float:
    """Return what the dearest zeroed weights were worth: the divergence that one zero costs.

    The median over layers of the highest score among zeroed weights that a layer gave up last
    would be noisy; the 90th percentile of each layer's newly zeroed scores is not.
    """
    dearest = []
    for name, score in scores.items():
        zeroed = score[allowed[name] & ~keep[name]]
        if zeroed.numel():
            rank = min(int(0.9 * zeroed.numel()), zeroed.numel() - 1)
            dearest.append(float(torch.sort(zeroed).values[rank]))
    if not dearest:
        return 0.0
    return float(torch.tensor(dearest).median().exp())
