"""Takes the weights out of an ONNX graph: initializers and constants, those of subgraphs too."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from math import prod
from typing import Any

from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, numpy_helper

# Smaller tensors that are no weights by name (shapes, axes, scalars) stay in the graph.
_LEAST_ELEMENTS = 16
# Of the standard operators.
STANDARD_DOMAINS = ("", "ai.onnx")
_STORABLE = frozenset(
    {
        *(TensorProto.DOUBLE, TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16),
        *(TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64),
        *(TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64),
        TensorProto.BOOL,
    }
)
_STAYING = frozenset(TensorProto.DataType.values()) - _STORABLE


def take_weights(graph: GraphProto, weight_names: Collection[str]) -> dict[str, NDArray[Any]]:
    """Take the weights out of a graph in place; what uses them finds them by their names.

    Weights of subgraphs become ones of the outermost graph, under another name where theirs is
    given to something else as well.

    Parameters
    ----------
    graph : onnx.GraphProto
        The outermost graph.
    weight_names : collection of str
        Names of initializers that are weights whatever their size.

    Returns
    -------
    dict of str to ndarray
        Weights by name; bfloat16 ones as ml_dtypes arrays.
    """
    times_defined = Counter(defined_names(graph))
    weights = _take(graph, weight_names, ())
    for node in graph.node:
        for inner in graphs_inside(node):
            _take_inner(inner, weights, times_defined)
    # Inputs that only repeat an initializer would ask for it at every run.
    inputs = [value for value in graph.input if value.name not in weights]
    del graph.input[:]
    graph.input.extend(inputs)
    return weights


def graphs_inside(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the subgraphs of a node."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _take(
    graph: GraphProto, weight_names: Collection[str], kept_names: Collection[str]
) -> dict[str, NDArray[Any]]:
    """Take the weights of one graph and of none inside it."""
    outputs = {value.name for value in graph.output}
    weights: dict[str, NDArray[Any]] = {}
    tensors, nodes = [], []
    for tensor in graph.initializer:
        by_name = tensor.name in weight_names
        if (by_name or _is_large(tensor)) and tensor.name not in kept_names:
            weights[tensor.name] = numpy_helper.to_array(tensor)
        else:
            tensors.append(tensor)
    for node in graph.node:
        constant = _constant(node)
        if constant is not None and _is_large(constant) and node.output[0] not in outputs:
            weights[node.output[0]] = numpy_helper.to_array(constant)
        else:
            nodes.append(node)
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(tensors)
    graph.node.extend(nodes)
    return weights


def _take_inner(
    graph: GraphProto, weights: dict[str, NDArray[Any]], times_defined: Counter[str]
) -> None:
    """Take the weights of a subgraph and of those inside it."""
    # The outputs of a subgraph have to be its own.
    names = {}
    for name, array in _take(graph, (), {value.name for value in graph.output}).items():
        fresh, number = name, 0
        while times_defined[fresh] > (fresh == name):
            number += 1
            fresh = f"{name}.{number}"
        times_defined[fresh] += fresh != name
        names[name] = fresh
        weights[fresh] = array
    _rename_uses(graph, names)
    for node in graph.node:
        for inner in graphs_inside(node):
            _take_inner(inner, weights, times_defined)


def _is_large(tensor: TensorProto) -> bool:
    """Tell whether a tensor is worth a place of its own in a file, which can hold it.

    Types that there are not count as damage, which reading the tensor will tell.
    """
    return tensor.data_type not in _STAYING and prod(tensor.dims) >= _LEAST_ELEMENTS


def _constant(node: NodeProto) -> TensorProto | None:
    """Return the tensor that a node only holds."""
    if node.op_type != "Constant" or node.domain not in STANDARD_DOMAINS:
        return None
    return next((given.t for given in node.attribute if given.name == "value"), None)


def defined_names(graph: GraphProto) -> Iterator[str]:
    """Yield the names that a graph and its subgraphs define, as often as they do."""
    yield from (value.name for value in graph.input)
    # Old graphs repeat initializers among the inputs.
    inputs = {value.name for value in graph.input}
    yield from (tensor.name for tensor in graph.initializer if tensor.name not in inputs)
    yield from (tensor.values.name for tensor in graph.sparse_initializer)
    for node in graph.node:
        yield from node.output
        for inner in graphs_inside(node):
            yield from defined_names(inner)


def _rename_uses(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Rename values where a graph and its subgraphs use them."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        for inner in graphs_inside(node):
            _rename_uses(inner, names)
