"""ONNX operators that resize images, as PyTorch functions."""

from collections.abc import Sequence
from math import floor
from typing import Any

import torch
from torch import Tensor

from spqtools.onnx_teacher.values import as_numbers, as_sizes

# Coefficient of the cubic convolution that ONNX and PyTorch share.
_CUBIC = -0.75


def upsample(value: Tensor, scales: Any, *, mode: str = "nearest") -> Tensor:
    """Upsample, and Resize before version 11."""
    return resize(
        value,
        None,
        scales,
        mode=mode,
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def resize(
    value: Tensor,
    roi: Any = None,
    scales: Any = None,
    sizes: Any = None,
    *,
    mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel",
    nearest_mode: str = "round_prefer_floor",
    cubic_coeff_a: float = _CUBIC,
    axes: Sequence[int] | None = None,
) -> Tensor:
    """Resize, one dimension after the other; the region of interest is of no use here."""
    chosen = range(value.ndim) if axes is None else axes
    given = [] if scales is None else as_numbers(scales)
    if given:
        factors = [float(factor) for factor in given]
        lengths = [
            floor(value.shape[axis] * factor) for axis, factor in zip(chosen, factors, strict=True)
        ]
    else:
        lengths = as_sizes(sizes)
        factors = [length / value.shape[axis] for axis, length in zip(chosen, lengths, strict=True)]
    for axis, length, factor in zip(chosen, lengths, factors, strict=True):
        if length == value.shape[axis] and factor == 1.0:
            continue
        last = value.shape[axis] - 1
        places = _origins(length, value.shape[axis], factor, coordinate_transformation_mode)
        first, shares = _taps(places, mode, nearest_mode, cubic_coeff_a)
        along = (-1, *[1] * (value.ndim - 1 - axis % value.ndim))
        parts = [
            value.index_select(axis, (first + number).clamp(0, last))
            * share.to(value.dtype).reshape(along)
            for number, share in enumerate(shares)
        ]
        value = torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
    return value


def _origins(length: int, before: int, factor: float, mode: str) -> Tensor:
    """Return where the places of a resized dimension lie in the original one."""
    places = torch.arange(length, dtype=torch.float64)
    if mode == "asymmetric":
        return places / factor
    if mode == "align_corners":
        return places * ((before - 1) / (length - 1) if length > 1 else 0.0)
    if mode == "tf_half_pixel_for_nn":
        return (places + 0.5) / factor
    if mode == "pytorch_half_pixel" and length == 1:
        return torch.zeros_like(places)
    offset = 0.0
    if mode == "half_pixel_symmetric":
        offset = before / 2 * (1 - length / (before * factor))
    return offset + (places + 0.5) / factor - 0.5


def _taps(places: Tensor, mode: str, rounding: str, cubic: float) -> tuple[Tensor, list[Tensor]]:
    """Return the first elements that make up each place, and the shares of those from it on."""
    if mode == "nearest":
        rounded = {
            "round_prefer_floor": lambda: (places - 0.5).ceil(),
            "round_prefer_ceil": lambda: (places + 0.5).floor(),
            "floor": places.floor,
            "ceil": places.ceil,
        }[rounding]()
        return rounded.long(), [torch.ones_like(places)]
    base = places.floor()
    past = places - base
    if mode == "linear":
        return base.long(), [1 - past, past]

    def near(distance: Tensor) -> Tensor:
        return ((cubic + 2) * distance - (cubic + 3)) * distance**2 + 1

    def far(distance: Tensor) -> Tensor:
        return cubic * (((distance - 5) * distance + 8) * distance - 4)

    return base.long() - 1, [far(past + 1), near(past), near(1 - past), far(2 - past)]
