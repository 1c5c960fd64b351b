"""Which function computes which ONNX operator, by the version of the operator set."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from spqformat import Reason, SpqError
from spqtools.onnx_teacher import arithmetic, layers, shapes
from spqtools.onnx_teacher import resize as resizing
from spqtools.onnx_teacher.wiring import Operation

Function = Callable[..., Any]

# Where an operator has changed its meaning: functions by their first versions.
_OPERATORS: dict[str, Function | Mapping[int, Function]] = {
    "Abs": arithmetic.absolute,
    "Add": arithmetic.add,
    "And": arithmetic.logical_and,
    "ArgMax": arithmetic.arg_max,
    "AveragePool": layers.average_pool,
    "BatchNormalization": layers.batch_norm,
    "Cast": arithmetic.cast,
    "CastLike": arithmetic.cast_like,
    "Ceil": arithmetic.ceil,
    "Clip": arithmetic.clip,
    "Concat": shapes.concat,
    "ConstantOfShape": shapes.constant_of_shape,
    "Conv": layers.conv,
    "ConvTranspose": layers.conv_transpose,
    "Cos": arithmetic.cos,
    "DepthToSpace": shapes.depth_to_space,
    "Div": arithmetic.div,
    "Einsum": shapes.einsum,
    "Elu": arithmetic.elu,
    "Equal": arithmetic.equal,
    "Erf": arithmetic.erf,
    "Exp": arithmetic.exp,
    "Expand": shapes.expand,
    "Flatten": shapes.flatten,
    "Floor": arithmetic.floor,
    "Gather": shapes.gather,
    "Gelu": arithmetic.gelu,
    "Gemm": layers.gemm,
    "GlobalAveragePool": layers.global_average_pool,
    "GlobalMaxPool": layers.global_max_pool,
    "Greater": arithmetic.greater,
    "GreaterOrEqual": arithmetic.greater_or_equal,
    "GroupNormalization": {21: layers.group_norm},
    "HardSigmoid": arithmetic.hard_sigmoid,
    "HardSwish": arithmetic.hard_swish,
    "InstanceNormalization": layers.instance_norm,
    "IsNaN": arithmetic.is_nan,
    "LRN": layers.local_response_norm,
    "LayerNormalization": layers.layer_norm,
    "LeakyRelu": arithmetic.leaky_relu,
    "Less": arithmetic.less,
    "LessOrEqual": arithmetic.less_or_equal,
    "Log": arithmetic.log,
    "LogSoftmax": {1: arithmetic.flat_log_softmax, 13: arithmetic.log_softmax},
    "MatMul": layers.matmul,
    "Max": arithmetic.maximum,
    "MaxPool": layers.max_pool,
    "Mean": arithmetic.mean,
    "Min": arithmetic.minimum,
    "Mish": arithmetic.mish,
    "Mod": arithmetic.modulo,
    "Mul": arithmetic.mul,
    "Neg": arithmetic.neg,
    "Not": arithmetic.logical_not,
    "Or": arithmetic.logical_or,
    "PRelu": arithmetic.prelu,
    "Pad": shapes.pad,
    "Pow": arithmetic.power,
    "Range": shapes.arange,
    "Reciprocal": arithmetic.reciprocal,
    "ReduceL2": arithmetic.reduce_l2,
    "ReduceMax": arithmetic.reduce_max,
    "ReduceMean": arithmetic.reduce_mean,
    "ReduceMin": arithmetic.reduce_min,
    "ReduceProd": arithmetic.reduce_prod,
    "ReduceSum": arithmetic.reduce_sum,
    "Relu": arithmetic.relu,
    "Reshape": shapes.reshape,
    "Resize": {1: resizing.upsample, 11: resizing.resize},
    "Round": arithmetic.nearest,
    "ScatterND": shapes.scatter_nd,
    "Selu": arithmetic.selu,
    "Shape": shapes.shape,
    "Sigmoid": arithmetic.sigmoid,
    "Sin": arithmetic.sin,
    "Size": shapes.size,
    "Slice": shapes.cut,
    "Softmax": {1: arithmetic.flat_softmax, 13: arithmetic.softmax},
    "Softplus": arithmetic.softplus,
    "SpaceToDepth": shapes.space_to_depth,
    "Split": shapes.split,
    "Sqrt": arithmetic.sqrt,
    "Squeeze": shapes.squeeze,
    "Sub": arithmetic.sub,
    "Sum": arithmetic.total,
    "Tanh": arithmetic.tanh,
    "Tile": shapes.tile,
    "Transpose": shapes.transpose,
    "Trilu": shapes.trilu,
    "Unsqueeze": shapes.unsqueeze,
    "Upsample": resizing.upsample,
    "Where": arithmetic.where,
}
# Attributes that say what the inputs say too, or nothing that matters when nothing is trained.
_SAID_TWICE: dict[str, frozenset[str]] = {
    "BatchNormalization": frozenset({"momentum", "spatial"}),
    "Cast": frozenset({"saturate"}),
    "CastLike": frozenset({"saturate"}),
    "Conv": frozenset({"kernel_shape"}),
    "ConvTranspose": frozenset({"kernel_shape"}),
    "LayerNormalization": frozenset({"stash_type"}),
    "GroupNormalization": frozenset({"stash_type"}),
    "MaxPool": frozenset({"storage_order"}),
}
# Attributes with another function, and their values that leave it as it is.
_HARMLESS: dict[str, dict[str, Any]] = {
    "AveragePool": {"dilations": [1, 1]},
    "BatchNormalization": {"training_mode": 0},
    "ScatterND": {"reduction": "none"},
    "Resize": {
        "antialias": 0,
        "exclude_outside": 0,
        "extrapolation_value": 0.0,
        "keep_aspect_ratio_policy": "stretch",
    },
}
_UNKNOWN_PLACES = "tf_crop_and_resize"
_NOTHING = object()


def is_known(operation: Operation, version: int) -> bool:
    """Tell whether there is a function for an operation."""
    return _function(operation, version) is not None


def find_function(operation: Operation, version: int) -> tuple[Function, dict[str, Any]]:
    """Return what computes an operation.

    Parameters
    ----------
    operation : Operation
        An operation of the graph.
    version : int
        Version of the operator set.

    Returns
    -------
    tuple of callable and dict
        A function of the inputs, and the attributes that it takes by name.

    Raises
    ------
    SpqError
        `unsupported_model`.
    """
    function = _function(operation, version)
    if function is None:
        raise cannot_run(operation.kind)
    skipped = _SAID_TWICE.get(operation.kind, frozenset())
    harmless = _HARMLESS.get(operation.kind, {})
    attributes = {}
    known = signature(function).parameters
    for name, value in operation.attributes.items():
        if name in skipped or value == harmless.get(name, _NOTHING):
            continue
        if name not in known or value == _UNKNOWN_PLACES:
            raise cannot_run(f"{operation.kind} with {name}")
        attributes[name] = value
    return function, attributes


def cannot_run(what: str) -> SpqError:
    """Return the refusal of a graph with an operator that has no function here."""
    return SpqError(
        Reason.UNSUPPORTED_MODEL,
        f"the search cannot run the operator {what[:80]}; "
        "leave out --calib, and the weights alone are looked at",
    )


def _function(operation: Operation, version: int) -> Function | None:
    """Return the newest function that is not newer than a version."""
    found = _OPERATORS.get(operation.kind)
    if not isinstance(found, Mapping):
        return found
    return found[max(since)] if (since := [one for one in found if one <= version]) else None
