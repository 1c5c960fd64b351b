"""ONNX operators that mix channels or places, layers, pools and norms, as PyTorch functions.

Inputs come by position and attributes by name, whichever of the two an operator's version has.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spqtools.onnx_teacher.values import as_tensor

_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}
_MAX_POOLS: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOLS: dict[int, Callable[..., Tensor]] = {
    1: F.avg_pool1d,
    2: F.avg_pool2d,
    3: F.avg_pool3d,
}


def margins(
    lengths: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    auto_pad: str,
) -> list[tuple[int, int]]:
    """Return what a window needs before and behind each dimension of the given lengths.

    Parameters
    ----------
    lengths, kernel, strides, dilations : sequence of int
        One number for each dimension.
    pads : sequence of int
        All beginnings, then all ends.
    auto_pad : str
        ``NOTSET``, ``VALID``, ``SAME_UPPER`` or ``SAME_LOWER``.

    Returns
    -------
    list of tuple of int
        Beginning and end of each dimension.
    """
    if not auto_pad.startswith("SAME"):
        valid = [0] * len(kernel)
        begins, ends = (
            (valid, valid) if auto_pad == "VALID" else (pads[: len(kernel)], pads[len(kernel) :])
        )
        return list(zip(begins, ends, strict=True))
    found = []
    for length, width, stride, dilation in zip(lengths, kernel, strides, dilations, strict=True):
        reach = (-(-length // stride) - 1) * stride + dilation * (width - 1) + 1
        short = max(reach - length, 0)
        less, more = short // 2, short - short // 2
        found.append((less, more) if auto_pad == "SAME_UPPER" else (more, less))
    return found


def surround(value: Tensor, widths: Sequence[tuple[int, int]], fill: float = 0.0) -> Tensor:
    """Pad the last dimensions; negative widths crop."""
    return F.pad(value, [width for pair in reversed(widths) for width in pair], value=fill)


def surround_same(
    value: Tensor,
    *,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    auto_pad: str,
) -> Tensor:
    """Pad so that a convolution gives as many places as strides fit into its input."""
    return surround(
        value, margins(value.shape[2:], kernel, strides, (), dilations, auto_pad=auto_pad)
    )


def conv(
    value: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    group: int = 1,
    auto_pad: str = "NOTSET",
) -> Tensor:
    """Conv."""
    rank = weight.ndim - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    widths = margins(
        value.shape[2:], weight.shape[2:], strides, pads or [0] * (2 * rank), dilations, auto_pad
    )
    padded = surround(value, widths)
    return _CONVOLUTIONS[rank](padded, weight, bias, strides, 0, dilations, group)


def conv_transpose(
    value: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    group: int = 1,
    auto_pad: str = "NOTSET",
) -> Tensor:
    """ConvTranspose, as the whole result from which its margins are cropped."""
    rank = weight.ndim - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    whole = _TRANSPOSED[rank](
        value, weight, bias, strides, 0, output_padding or [0] * rank, group, dilations
    )
    widths = margins(
        whole.shape[2:], weight.shape[2:], strides, pads or [0] * (2 * rank), dilations, "NOTSET"
    )
    if auto_pad.startswith("SAME"):
        widths = []
        for length, given, stride in zip(whole.shape[2:], value.shape[2:], strides, strict=True):
            surplus = max(length - given * stride, 0)
            less, more = surplus // 2, surplus - surplus // 2
            widths.append((less, more) if auto_pad == "SAME_UPPER" else (more, less))
    return surround(whole, [(-begin, -end) for begin, end in widths])


def gemm(
    first: Tensor,
    second: Tensor,
    third: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    """Gemm."""
    product = alpha * ((first.T if transA else first) @ (second.T if transB else second))
    return product if third is None else product + beta * third


def matmul(first: Any, second: Any) -> Tensor:
    """MatMul."""
    return as_tensor(first) @ as_tensor(second)


def add_to_channels(value: Tensor, bias: Tensor) -> Tensor:
    """Add one number to each channel of a convolution's output."""
    return value + bias.reshape(-1, *[1] * (value.ndim - 2))


def max_pool(
    value: Tensor,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    ceil_mode: int = 0,
    auto_pad: str = "NOTSET",
) -> Tensor:
    """MaxPool."""
    rank = len(kernel_shape)
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    widths = margins(
        value.shape[2:], kernel_shape, strides, pads or [0] * (2 * rank), dilations, auto_pad
    )
    padding = _symmetric(widths, kernel_shape)
    if padding is None:
        value, padding = surround(value, widths, -torch.inf), [0] * rank
    return _MAX_POOLS[rank](value, kernel_shape, strides, padding, dilations, bool(ceil_mode))


def average_pool(
    value: Tensor,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    auto_pad: str = "NOTSET",
) -> Tensor:
    """AveragePool without dilations."""
    rank = len(kernel_shape)
    strides = strides or [1] * rank
    widths = margins(
        value.shape[2:], kernel_shape, strides, pads or [0] * (2 * rank), [1] * rank, auto_pad
    )
    padding, pool = _symmetric(widths, kernel_shape), _AVERAGE_POOLS[rank]
    if padding is not None:
        return pool(value, kernel_shape, strides, padding, bool(ceil_mode), bool(count_include_pad))
    padded = pool(surround(value, widths), kernel_shape, strides, 0, bool(ceil_mode))
    if count_include_pad:
        return padded
    share = surround(torch.ones_like(value[:1, :1]), widths)
    return padded / pool(share, kernel_shape, strides, 0, bool(ceil_mode))


def global_average_pool(value: Tensor) -> Tensor:
    """GlobalAveragePool."""
    return value.mean(tuple(range(2, value.ndim)), keepdim=True)


def global_max_pool(value: Tensor) -> Tensor:
    """GlobalMaxPool."""
    return value.amax(tuple(range(2, value.ndim)), keepdim=True)


def batch_norm(
    value: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
) -> Tensor:
    """BatchNormalization in inference."""
    return F.batch_norm(value, mean, variance, scale, bias, False, 0.0, epsilon)


def layer_norm(
    value: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
) -> Tensor:
    """LayerNormalization."""
    normal = F.layer_norm(value, value.shape[axis:], eps=epsilon) * scale
    return normal if bias is None else normal + bias


def instance_norm(value: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """InstanceNormalization."""
    return F.instance_norm(value, weight=scale, bias=bias, eps=epsilon)


def group_norm(
    value: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5
) -> Tensor:
    """GroupNormalization from version 21 on, with a scale for each channel."""
    return F.group_norm(value, num_groups, scale, bias, epsilon)


def local_response_norm(
    value: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Tensor:
    """LRN."""
    return F.local_response_norm(value, size, alpha, beta, bias)


def _symmetric(widths: Sequence[tuple[int, int]], kernel: Sequence[int]) -> list[int] | None:
    """Return the padding that PyTorch's pools take, or None where they take none such."""
    if any(
        begin != end or 2 * begin > width
        for (begin, end), width in zip(widths, kernel, strict=True)
    ):
        return None
    return [begin for begin, _ in widths]
