"""ONNX operators that work element by element, and reductions, as PyTorch functions.

Inputs come by position and attributes by name, whichever of the two an operator's version has.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor

from spqtools.onnx_teacher.values import as_sizes, as_tensor

_SELU_ALPHA, _SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875
_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}


def add(first: Any, second: Any) -> Tensor:
    """Add."""
    return as_tensor(first) + as_tensor(second)


def sub(first: Any, second: Any) -> Tensor:
    """Sub."""
    return as_tensor(first) - as_tensor(second)


def mul(first: Any, second: Any) -> Tensor:
    """Mul."""
    return as_tensor(first) * as_tensor(second)


def div(first: Any, second: Any) -> Tensor:
    """Div, which truncates integers."""
    first, second = as_tensor(first), as_tensor(second)
    whole = not (first.is_floating_point() or second.is_floating_point())
    return torch.div(first, second, rounding_mode="trunc" if whole else None)


def power(base: Any, exponent: Any) -> Tensor:
    """Pow, whose result is of the base's type."""
    base = as_tensor(base)
    return torch.pow(base, as_tensor(exponent)).to(base.dtype)


def modulo(first: Any, second: Any, *, fmod: int = 0) -> Tensor:
    """Mod, of the second one's sign, or of the first one's where it is that of C."""
    function = torch.fmod if fmod else torch.remainder
    return function(as_tensor(first), as_tensor(second))


def minimum(*values: Any) -> Tensor:
    """Min."""
    return reduce(torch.minimum, map(as_tensor, values))


def maximum(*values: Any) -> Tensor:
    """Max."""
    return reduce(torch.maximum, map(as_tensor, values))


def total(*values: Any) -> Tensor:
    """Sum."""
    return reduce(torch.add, map(as_tensor, values))


def mean(*values: Any) -> Tensor:
    """Mean."""
    return total(*values) / len(values)


def reciprocal(value: Tensor) -> Tensor:
    """Reciprocal."""
    return torch.reciprocal(value)


def sqrt(value: Tensor) -> Tensor:
    """Sqrt."""
    return torch.sqrt(value)


def exp(value: Tensor) -> Tensor:
    """Exp."""
    return torch.exp(value)


def log(value: Tensor) -> Tensor:
    """Log."""
    return torch.log(value)


def sin(value: Tensor) -> Tensor:
    """Sin."""
    return torch.sin(value)


def cos(value: Tensor) -> Tensor:
    """Cos."""
    return torch.cos(value)


def erf(value: Tensor) -> Tensor:
    """Erf."""
    return torch.erf(value)


def neg(value: Any) -> Tensor:
    """Neg."""
    return torch.neg(as_tensor(value))


def absolute(value: Any) -> Tensor:
    """Abs."""
    return torch.abs(as_tensor(value))


def floor(value: Tensor) -> Tensor:
    """Floor."""
    return torch.floor(value)


def ceil(value: Tensor) -> Tensor:
    """Ceil."""
    return torch.ceil(value)


def nearest(value: Tensor) -> Tensor:
    """Round, halves to even."""
    return torch.round(value)


def equal(first: Any, second: Any) -> Tensor:
    """Equal."""
    return torch.eq(as_tensor(first), as_tensor(second))


def less(first: Any, second: Any) -> Tensor:
    """Less."""
    return torch.lt(as_tensor(first), as_tensor(second))


def less_or_equal(first: Any, second: Any) -> Tensor:
    """LessOrEqual."""
    return torch.le(as_tensor(first), as_tensor(second))


def greater(first: Any, second: Any) -> Tensor:
    """Greater."""
    return torch.gt(as_tensor(first), as_tensor(second))


def greater_or_equal(first: Any, second: Any) -> Tensor:
    """GreaterOrEqual."""
    return torch.ge(as_tensor(first), as_tensor(second))


def logical_not(value: Any) -> Tensor:
    """Not."""
    return torch.logical_not(as_tensor(value))


def logical_and(first: Any, second: Any) -> Tensor:
    """And."""
    return torch.logical_and(as_tensor(first), as_tensor(second))


def logical_or(first: Any, second: Any) -> Tensor:
    """Or."""
    return torch.logical_or(as_tensor(first), as_tensor(second))


def is_nan(value: Tensor) -> Tensor:
    """IsNaN."""
    return torch.isnan(value)


def where(condition: Any, first: Any, second: Any) -> Tensor:
    """Where."""
    return torch.where(as_tensor(condition), as_tensor(first), as_tensor(second))


def cast(value: Any, *, to: int) -> Tensor:
    """Cast; floats of all sizes are float32 here, integers int64."""
    if to in _FLOATS:
        return as_tensor(value).to(torch.float32)
    return as_tensor(value).to(torch.bool if to == TensorProto.BOOL else torch.int64)


def cast_like(value: Any, like: Any) -> Tensor:
    """CastLike."""
    return as_tensor(value).to(as_tensor(like).dtype)


def clip(value: Any, min: Any = None, max: Any = None) -> Tensor:
    """Clip."""
    tensor = as_tensor(value)
    low, high = (
        None if bound is None else as_tensor(bound).to(tensor.dtype) for bound in (min, max)
    )
    return tensor if low is None and high is None else torch.clamp(tensor, low, high)


def relu(value: Tensor) -> Tensor:
    """Relu."""
    return torch.relu(value)


def leaky_relu(value: Tensor, *, alpha: float = 0.01) -> Tensor:
    """LeakyRelu."""
    return F.leaky_relu(value, alpha)


def prelu(value: Tensor, slope: Tensor) -> Tensor:
    """PRelu."""
    return torch.where(value < 0, value * slope, value)


def elu(value: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Elu."""
    return F.elu(value, alpha)


def selu(value: Tensor, *, alpha: float = _SELU_ALPHA, gamma: float = _SELU_GAMMA) -> Tensor:
    """Selu."""
    return gamma * F.elu(value, alpha)


def sigmoid(value: Tensor) -> Tensor:
    """Sigmoid."""
    return torch.sigmoid(value)


def hard_sigmoid(value: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """HardSigmoid."""
    return torch.clamp(alpha * value + beta, 0.0, 1.0)


def hard_swish(value: Tensor) -> Tensor:
    """HardSwish."""
    return F.hardswish(value)


def tanh(value: Tensor) -> Tensor:
    """Tanh."""
    return torch.tanh(value)


def softplus(value: Tensor) -> Tensor:
    """Softplus."""
    return F.softplus(value)


def mish(value: Tensor) -> Tensor:
    """Mish."""
    return F.mish(value)


def gelu(value: Tensor, *, approximate: str = "none") -> Tensor:
    """Gelu."""
    return F.gelu(value, approximate=approximate)


def softmax(value: Tensor, *, axis: int = -1) -> Tensor:
    """Softmax."""
    return torch.softmax(value, axis)


def log_softmax(value: Tensor, *, axis: int = -1) -> Tensor:
    """LogSoftmax."""
    return torch.log_softmax(value, axis)


def flat_softmax(value: Tensor, *, axis: int = 1) -> Tensor:
    """Softmax before version 13, over all dimensions from the axis on."""
    return torch.softmax(value.flatten(axis), -1).reshape(value.shape)


def flat_log_softmax(value: Tensor, *, axis: int = 1) -> Tensor:
    """LogSoftmax before version 13, over all dimensions from the axis on."""
    return torch.log_softmax(value.flatten(axis), -1).reshape(value.shape)


def reduce_mean(
    value: Any, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """ReduceMean."""
    return _reduce(torch.mean, value, axes, keepdims, noop_with_empty_axes)


def reduce_sum(
    value: Any, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """ReduceSum."""
    return _reduce(torch.sum, value, axes, keepdims, noop_with_empty_axes)


def reduce_max(
    value: Any, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """ReduceMax."""
    return _reduce(torch.amax, value, axes, keepdims, noop_with_empty_axes)


def reduce_min(
    value: Any, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """ReduceMin."""
    return _reduce(torch.amin, value, axes, keepdims, noop_with_empty_axes)


def reduce_l2(
    value: Any, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """ReduceL2."""
    return _reduce(torch.linalg.vector_norm, value, axes, keepdims, noop_with_empty_axes)


def reduce_prod(
    value: Any, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """ReduceProd."""
    return _reduce(_product, value, axes, keepdims, noop_with_empty_axes)


def arg_max(
    value: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0
) -> Tensor:
    """ArgMax."""
    if not select_last_index:
        return torch.argmax(value, axis, keepdim=bool(keepdims))
    return value.shape[axis] - 1 - torch.argmax(value.flip(axis), axis, keepdim=bool(keepdims))


def _reduce(
    function: Callable[..., Tensor], value: Any, axes: Any, keepdims: int, may_do_nothing: int
) -> Tensor:
    """Reduce over the given axes; over all when there are none, unless that means nothing."""
    tensor = as_tensor(value)
    chosen = [] if axes is None else as_sizes(axes)
    if not chosen and may_do_nothing:
        return tensor
    return function(tensor, dim=tuple(chosen or range(tensor.ndim)), keepdim=bool(keepdims))


def _product(value: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    """Multiply over several dimensions, the last first, so that the others keep their numbers."""
    for axis in sorted((axis % value.ndim for axis in dim), reverse=True):
        value = value.prod(axis, keepdim=keepdim)
    return value
