"""Batch normalisation behind a layer becomes part of the layer's weights and one bias."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

_ATEN = torch.ops.aten
# Arguments: input, weight, bias, mean, variance, training, momentum, eps, ...
_BATCH_NORM = _ATEN.batch_norm.default


def fold_norms(layers: Sequence[tuple[fx.Node, Tensor]], tensors: dict[str, Tensor]) -> None:
    """Move what batch normalisation does to a layer's output into the layer's tensors.

    In the network that is stored the norm stays, under its names, and does nothing but add its
    bias: scale and variance become one, the mean zero, which cost nothing in a file. In the graph
    at hand the layer adds that bias itself, and the norm is gone. An affine map of an affine map is
    one (Jacob et al., arXiv 1712.05877, 3.2), so the network's function stays, but for rounding.

    Parameters
    ----------
    layers : sequence of tuple of fx.Node and Tensor
        Linear and convolutional calls with their weights; the weight is their second argument, the
        bias the third, which becomes that of the norm.
    tensors : dict of str to Tensor
        Parameters and buffers; those of folded norms and their layers are replaced.
    """
    for layer, weight in layers:
        norm = _norm_behind(layer)
        if norm is None:
            continue
        names = [str(source.target) for source in norm.args[1:5]]  # type: ignore[union-attr]
        scale, shift, mean, variance = (tensors[name].double() for name in names)
        eps: Any = norm.args[7]
        factor = scale / (variance + eps).sqrt()
        shift = shift - mean * factor
        bias = layer.args[2] if len(layer.args) > 2 else None
        if isinstance(bias, fx.Node):
            shift = shift + factor * tensors[str(bias.target)].double()
            tensors[str(bias.target)] = torch.zeros_like(tensors[str(bias.target)])
        matrix = weight.double().flatten(1) * factor[:, None]
        source: Any = layer.args[1]
        tensors[str(source.target)] = matrix.reshape(weight.shape).float()
        unit = torch.ones_like(scale).float()
        folded = (unit, shift.float(), torch.zeros_like(unit), unit - eps)
        tensors.update(zip(names, folded, strict=True))
        layer.args = (*layer.args[:2], norm.args[2], *layer.args[3:])
        norm.replace_all_uses_with(layer)
        norm.graph.erase_node(norm)


def _has_rows_second(layer: fx.Node) -> bool:
    """Tell whether a layer's outputs lie along the dimension that norms go by, the second."""
    if layer.target is not _ATEN.linear.default:
        return True
    value = layer.meta.get("val")
    return isinstance(value, Tensor) and value.ndim == 2


def _norm_behind(layer: fx.Node) -> fx.Node | None:
    """Return the norm that alone uses a layer's output and shares none of its tensors."""
    if len(layer.users) != 1 or not _has_rows_second(layer):
        return None
    (norm,) = layer.users
    if norm.op != "call_function" or norm.target is not _BATCH_NORM or norm.args[0] is not layer:
        return None
    sources = [*norm.args[1:5], *layer.args[2:3]]
    owned = [source for source in sources if source is not None]
    if len(norm.args) < 8 or norm.args[5] is not False or None in norm.args[1:5]:
        return None
    if any(
        not isinstance(source, fx.Node) or source.op != "get_attr" or len(source.users) > 1
        for source in owned
    ):
        return None
    return norm
