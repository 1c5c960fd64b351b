"""ONNX operators that make, move and select elements, as PyTorch functions.

Inputs come by position and attributes by name, whichever of the two an operator's version has.
"""

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spqtools.onnx_teacher.values import as_numbers, as_sizes, as_tensor


def shape(value: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    """Shape."""
    return torch.tensor(list(value.shape)[start:end], dtype=torch.int64)


def size(value: Tensor) -> Tensor:
    """Size."""
    return torch.tensor(value.numel())


def reshape(value: Any, shape: Any, *, allowzero: int = 0, batch: int = 0) -> Tensor:
    """Reshape; where a graph is made for `batch` samples only, any number takes their place."""
    tensor, sizes = as_tensor(value), as_sizes(shape)
    if not allowzero:
        sizes = [length or tensor.shape[axis] for axis, length in enumerate(sizes)]
    if batch and sizes and sizes[0] == batch and tensor.ndim:
        sizes[0] = tensor.shape[0]
    return tensor.reshape(sizes)


def flatten(value: Tensor, *, axis: int = 1) -> Tensor:
    """Flatten."""
    return value.reshape(prod(value.shape[:axis]), -1)


def flatten_scores(value: Tensor) -> Tensor:
    """Return scores of shape (samples, classes) from ones with further dimensions of length 1."""
    rest = value.shape[1:]
    return value.flatten(1) if rest and prod(rest) == max(rest) else value


def transpose(value: Any, *, perm: list[int] | None = None) -> Tensor:
    """Transpose."""
    tensor = as_tensor(value)
    return tensor.permute(perm or list(range(tensor.ndim))[::-1])


def squeeze(value: Any, axes: Any = None) -> Tensor:
    """Squeeze."""
    tensor = as_tensor(value)
    return tensor.squeeze() if axes is None else tensor.squeeze(tuple(as_sizes(axes)))


def unsqueeze(value: Any, axes: Any) -> Tensor:
    """Unsqueeze."""
    tensor, chosen = as_tensor(value), as_sizes(axes)
    rank = tensor.ndim + len(chosen)
    for axis in sorted(axis % rank for axis in chosen):
        tensor = tensor.unsqueeze(axis)
    return tensor


def gather(value: Any, indices: Any, *, axis: int = 0) -> Tensor:
    """Gather."""
    tensor, places = as_tensor(value), as_tensor(indices)
    axis %= tensor.ndim
    chosen = tensor.index_select(axis, places.flatten() % tensor.shape[axis])
    return chosen.reshape((*tensor.shape[:axis], *places.shape, *tensor.shape[axis + 1 :]))


def scatter_nd(data: Any, indices: Any, updates: Any) -> Tensor:
    """ScatterND without reductions."""
    places = as_tensor(indices).unbind(-1)
    return as_tensor(data).index_put(places, as_tensor(updates))


def constant_of_shape(shape: Any, *, value: float = 0.0) -> Tensor:
    """ConstantOfShape."""
    return torch.full(as_sizes(shape), value)


def arange(start: Any, limit: Any, delta: Any) -> Tensor:
    """Range."""
    numbers = [as_numbers(value)[0] for value in (start, limit, delta)]
    return torch.arange(*numbers)


def expand(value: Any, shape: Any) -> Tensor:
    """Expand."""
    tensor, sizes = as_tensor(value), as_sizes(shape)
    # Sizes of 1 leave longer dimensions as they are, and there may be fewer of them.
    shown = [1] * (tensor.ndim - len(sizes)) + sizes
    kept = [1] * (len(sizes) - tensor.ndim) + list(tensor.shape)
    return tensor.expand(
        [max(pair) if 0 not in pair else 0 for pair in zip(shown, kept, strict=True)]
    )


def tile(value: Any, repeats: Any) -> Tensor:
    """Tile."""
    return as_tensor(value).repeat(as_sizes(repeats))


def concat(*values: Any, axis: int) -> Tensor:
    """Concat; where a graph is made for one sample only, constants are repeated for others."""
    parts = [as_tensor(value) for value in values]
    if axis % parts[0].ndim:
        samples = max(len(part) for part in parts)
        parts = [part.expand(samples, *part.shape[1:]) for part in parts]
    return torch.cat(parts, axis)


def split(
    value: Any, split: Any = None, *, axis: int = 0, num_outputs: int = 1
) -> tuple[Tensor, ...]:
    """Split."""
    value = as_tensor(value)
    even = -(-value.shape[axis] // num_outputs)
    return torch.split(value, even if split is None else as_sizes(split), axis)


def cut(value: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Tensor:
    """Slice."""
    tensor, first, last = as_tensor(value), as_sizes(starts), as_sizes(ends)
    chosen = range(len(first)) if axes is None else as_sizes(axes)
    strides = [1] * len(first) if steps is None else as_sizes(steps)
    for axis, start, end, step in zip(chosen, first, last, strides, strict=True):
        start, end, step = slice(start, end, step).indices(tensor.shape[axis])
        if step > 0:
            tensor = tensor[(slice(None),) * (axis % tensor.ndim) + (slice(start, end, step),)]
        else:
            tensor = tensor.index_select(axis, torch.arange(start, end, step))
    return tensor


def pad(
    data: Tensor,
    pads: Any,
    constant_value: Any = None,
    axes: Any = None,
    *,
    mode: str = "constant",
    value: float = 0.0,
) -> Tensor:
    """Pad."""
    amounts = as_sizes(pads)
    chosen = range(data.ndim) if axes is None else as_sizes(axes)
    before, after = amounts[: len(amounts) // 2], amounts[len(amounts) // 2 :]
    if mode == "constant":
        widths = [0] * (2 * data.ndim)
        for axis, start, end in zip(chosen, before, after, strict=True):
            # PyTorch counts dimensions from the last.
            place = 2 * (data.ndim - 1 - axis % data.ndim)
            widths[place : place + 2] = [start, end]
        fill = value if constant_value is None else as_numbers(constant_value)[0]
        return F.pad(data, widths, value=fill)
    for axis, start, end in zip(chosen, before, after, strict=True):
        last = data.shape[axis] - 1
        places = torch.arange(-start, last + 1 + end)
        # What lies outside is mirrored at the first and the last element, or is one of them.
        mirrored = last - (last - places.abs()).abs()
        data = data.index_select(axis, mirrored if mode == "reflect" else places.clamp(0, last))
    return data


def depth_to_space(value: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """DepthToSpace."""
    if mode == "CRD":
        return F.pixel_shuffle(value, blocksize)
    samples, channels, height, width = value.shape
    depth = channels // blocksize**2
    blocks = value.reshape(samples, blocksize, blocksize, depth, height, width)
    moved = blocks.permute(0, 3, 4, 1, 5, 2)
    return moved.reshape(samples, depth, height * blocksize, width * blocksize)


def space_to_depth(value: Tensor, *, blocksize: int) -> Tensor:
    """SpaceToDepth."""
    samples, channels, height, width = value.shape
    high, wide = height // blocksize, width // blocksize
    blocks = value.reshape(samples, channels, high, blocksize, wide, blocksize)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(samples, -1, high, wide)


def trilu(value: Tensor, k: Any = 0, *, upper: int = 1) -> Tensor:
    """Trilu."""
    (diagonal,) = as_sizes(k)
    return torch.triu(value, diagonal) if upper else torch.tril(value, diagonal)


def einsum(*values: Any, equation: str) -> Tensor:
    """Einsum."""
    return torch.einsum(equation, *values)
