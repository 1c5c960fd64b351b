"""Builds the graph of PyTorch calls that an ONNX graph stands for, up to its raw heads."""

import operator
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from numpy.typing import NDArray
from torch import fx

from spqtools.onnx_teacher.arithmetic import cast
from spqtools.onnx_teacher.heads import find_heads, rows_of
from spqtools.onnx_teacher.layers import add_to_channels, surround, surround_same
from spqtools.onnx_teacher.ops import cannot_run, find_function
from spqtools.onnx_teacher.shapes import flatten_scores, reshape, transpose
from spqtools.onnx_teacher.tensors import Origin, Tensors, is_float
from spqtools.onnx_teacher.wiring import Operation, Wiring

_ATEN = torch.ops.aten
_CONVOLUTIONS = {1: _ATEN.conv1d.default, 2: _ATEN.conv2d.default}
# Shapes and axes stand in the arguments; longer ones are tables.
_MOST_NUMBERS = 64


@dataclass(frozen=True)
class Imported:
    """What has become of an ONNX graph.

    Parameters
    ----------
    graph : fx.GraphModule
        One placeholder per input, weights as ``get_attr``, and one output: a tuple of the heads.
    inputs : tuple of str
        Inputs of the model that the heads need, in the model's order.
    heads : tuple of str
        Values of the model that are the outputs of `graph`.
    origins : dict of str to Origin
        Where the tensors of `graph` come from; constants that are no weights are left out.
    """

    graph: fx.GraphModule
    inputs: tuple[str, ...]
    heads: tuple[str, ...]
    origins: dict[str, Origin]


def import_graph(wiring: Wiring, weights: frozenset[str]) -> Imported:
    """Import what leads to the heads of a graph.

    Parameters
    ----------
    wiring : Wiring
        The graph.
    weights : frozenset of str
        Constants that a packed file stores as tensors; no other may be changed.

    Returns
    -------
    Imported
        Calls of PyTorch, the layers as ATen calls that the search knows.

    Raises
    ------
    SpqError
        `unsupported_model` when the heads need an operator that the search cannot run.
    """
    return _Importer(wiring, weights).run()


class _Importer:
    """Builds the graph, operation by operation."""

    def __init__(self, wiring: Wiring, strippable: frozenset[str]) -> None:
        self._wiring = wiring
        # What alone uses a weight may change it.
        self._owned = {name for name in strippable if wiring.uses[name] == 1}
        self._strippable = strippable
        self._graph = fx.Graph()
        self._tensors = Tensors()
        self._values: dict[str, Any] = {}
        self._sampled = wiring.following(wiring.inputs)

    def run(self) -> Imported:
        """Import what the heads need."""
        heads = find_heads(self._wiring)
        needed = self._wiring.needed(head.value for head in heads)
        used = {name for operation in needed for name in operation.inputs}
        inputs = tuple(name for name in self._wiring.inputs if name in used)
        for number, name in enumerate(inputs):
            self._values[name] = self._graph.placeholder(f"input_{number}")
        for name in self._wiring.halves.intersection(inputs):
            self._values[name] = self._call(
                cast, (self._values[name],), {"to": onnx.TensorProto.FLOAT}
            )
        for operation in needed:
            # A bias may have been added already; a constant is turned where it is used.
            value = operation.outputs[0]
            if value not in self._values and self._wiring.stored(value) is None:
                self._import(operation)
        outputs = []
        for head in heads:
            node = self._values[head.value]
            outputs.append(self._call(flatten_scores, (node,)) if head.is_scores else node)
        self._graph.output(tuple(outputs))
        self._graph.lint()
        graph = fx.GraphModule(self._tensors.root, self._graph)
        values = tuple(head.value for head in heads)
        return Imported(graph, inputs, values, self._tensors.origins)

    def _import(self, operation: Operation) -> None:
        """Add what computes the outputs of one operation."""
        if operation.captured:
            raise cannot_run(operation.kind)
        special = {
            "Conv": self._conv,
            "Gemm": self._gemm,
            "MatMul": self._matmul,
            "BatchNormalization": self._norm,
            "Add": self._add,
        }.get(operation.kind)
        if special is not None and special(operation):
            return
        function, attributes = find_function(operation, self._wiring.version)
        arguments = tuple(self._value(name) for name in operation.inputs)
        if operation.kind == "Split":
            attributes.setdefault("num_outputs", len(operation.outputs))
            parts = self._call(function, arguments, attributes)
            for number, name in enumerate(operation.outputs):
                self._values[name] = self._call(operator.getitem, (parts, number))
            return
        if function is reshape and operation.inputs[0] in self._sampled:
            attributes["batch"] = self._wiring.batch
        if operation.kind == "ConstantOfShape" and "value" in attributes:
            attributes["value"] = attributes["value"].item()
        self._values[operation.outputs[0]] = self._call(function, arguments, attributes)

    def _conv(self, operation: Operation) -> bool:
        """Add a convolution that is a layer; tell whether it is one."""
        weight = self._owned_matrix(operation.inputs[1])
        rank = 0 if weight is None else weight.ndim - 2
        if weight is None or rank not in _CONVOLUTIONS:
            return False
        given = operation.attributes
        kernel = list(weight.shape[2:])
        strides, dilations = given.get("strides", [1] * rank), given.get("dilations", [1] * rank)
        auto_pad = given.get("auto_pad", "NOTSET")
        pads = [0] * (2 * rank) if auto_pad == "VALID" else given.get("pads", [0] * (2 * rank))
        begins, ends = pads[:rank], pads[rank:]
        value = self._value(operation.inputs[0])
        if auto_pad.startswith("SAME"):
            reach = [
                dilation * (width - 1) for dilation, width in zip(dilations, kernel, strict=True)
            ]
            if all(stride == 1 for stride in strides) and not any(width % 2 for width in reach):
                begins = [width // 2 for width in reach]
            else:
                begins = [0] * rank
                value = self._call(
                    surround_same,
                    (value,),
                    {
                        "kernel": kernel,
                        "strides": strides,
                        "dilations": dilations,
                        "auto_pad": auto_pad,
                    },
                )
        elif begins != ends:
            value = self._call(surround, (value, list(zip(begins, ends, strict=True))))
            begins = [0] * rank
        node, rest = self._layer(
            _CONVOLUTIONS[rank],
            value,
            operation.inputs[1],
            operation.inputs[2] if len(operation.inputs) > 2 else "",
            (strides, begins, dilations, given.get("group", 1)),
        )
        self._values[operation.outputs[0]] = (
            self._call(add_to_channels, (node, rest)) if rest is not None else node
        )
        return True

    def _gemm(self, operation: Operation) -> bool:
        """Add a matrix product with weights of its own; tell whether it is one."""
        given = operation.attributes
        is_plain = given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0
        if not is_plain or given.get("transA", 0):
            return False
        bias = operation.inputs[2] if len(operation.inputs) > 2 else ""
        return self._linear(operation, not given.get("transB", 0), bias, operation.outputs[0])

    def _matmul(self, operation: Operation) -> bool:
        """Add a matrix product with weights of its own and its bias; tell whether it is one."""
        product = operation.outputs[0]
        add = self._wiring.only_user(product)
        if add is not None and add.kind == "Add":
            (bias,) = [name for name in add.inputs if name != product]
            array = self._wiring.constants.get(bias)
            if (
                bias in self._owned
                and array is not None
                and array.shape == (rows_of(self._wiring, operation),)
            ):
                return self._linear(operation, True, bias, add.outputs[0])
        return self._linear(operation, True, "", product)

    def _linear(self, operation: Operation, transposed: bool, bias: str, output: str) -> bool:
        """Add a linear layer, whose weight may be stored as [inputs, outputs]."""
        stored = self._wiring.stored(operation.inputs[1])
        # A weight that has been turned by an operation has that one use, as its result has.
        if stored is None or self._wiring.uses[operation.inputs[1]] != 1:
            return False
        name, turned = stored
        matrix = self._owned_matrix(name)
        if matrix is None or matrix.ndim != 2:
            return False
        if transposed != turned:
            self._values[name] = self._attribute(name, transposed=True)
        value = self._value(operation.inputs[0])
        node, rest = self._layer(_ATEN.linear.default, value, name, bias, ())
        self._values[output] = node if rest is None else self._call(operator.add, (node, rest))
        return True

    def _layer(
        self, target: Any, value: Any, weight: str, bias: str, geometry: tuple[Any, ...]
    ) -> tuple[fx.Node, Any]:
        """Add a layer, and return with it a bias that it cannot have as its own."""
        array = self._wiring.constants.get(bias)
        is_own = array is not None and bias in self._owned and array.ndim == 1
        arguments = (value, self._value(weight), self._value(bias) if is_own else None, *geometry)
        return self._call(target, arguments), None if is_own or not bias else self._value(bias)

    def _norm(self, operation: Operation) -> bool:
        """Add a norm that may become part of the layer before it; tell whether it may."""
        value = self._value(operation.inputs[0])
        follows = isinstance(value, fx.Node) and value.target in _CONVOLUTIONS.values()
        tensors = operation.inputs[1:5]
        if not follows or not self._owned.issuperset(tensors):
            return False
        # Refuses norms that are being trained.
        find_function(operation, self._wiring.version)
        eps = operation.attributes.get("epsilon", 1e-5)
        self._values[operation.outputs[0]] = self._call(
            _ATEN.batch_norm.default,
            (value, *map(self._value, tensors), False, 0.0, eps, False),
        )
        return True

    def _add(self, operation: Operation) -> bool:
        """Add a sum of two computed values, in which the search sees shortcuts."""
        values = [self._value(name) for name in operation.inputs]
        if not all(isinstance(one, fx.Node) and one.op != "get_attr" for one in values):
            return False
        self._values[operation.outputs[0]] = self._call(_ATEN.add.Tensor, tuple(values))
        return True

    def _owned_matrix(self, name: str) -> NDArray[Any] | None:
        """Return a weight that one operation alone uses and the search may change."""
        array = self._wiring.constants.get(name)
        if array is None or name not in self._owned or name in self._values:
            return None
        return array if is_float(array) else None

    def _value(self, name: str) -> Any:
        """Return what stands for a value in arguments: a node, numbers, or None."""
        if not name:
            return None
        if name not in self._values:
            self._values[name] = self._constant(name)
        return self._values[name]

    def _constant(self, name: str) -> Any:
        """Return a node or numbers for a constant or its transpose."""
        stored = self._wiring.stored(name)
        if stored is None:
            raise cannot_run(f"that makes {name}")
        if stored[1]:
            return self._call(transpose, (self._value(stored[0]),))
        array = self._wiring.constants[name]
        if not is_float(array) and array.dtype.kind not in "iub":
            raise cannot_run(f"that takes {name}")
        is_table = is_float(array) or array.size >= _MOST_NUMBERS
        return self._attribute(name) if is_table else array.tolist()

    def _attribute(self, name: str, transposed: bool = False) -> fx.Node:
        """Make a constant a tensor of the graph."""
        array = self._wiring.constants[name]
        is_weight = name in self._strippable
        own = self._tensors.hold(name, array, is_weight=is_weight, transposed=transposed)
        return self._graph.get_attr(own)

    def _call(
        self, target: Any, arguments: tuple[Any, ...], keywords: dict[str, Any] | None = None
    ) -> fx.Node:
        return self._graph.call_function(target, arguments, keywords)
