"""An ONNX graph in fewer bytes: without defaults, detours and long names of its own."""

from collections.abc import Container, Iterable, Iterator, Mapping
from itertools import count

import numpy as np
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    defs,
    helper,
    numpy_helper,
)

from spq.onnx_weights import defined_names, graphs_inside

_DOMAINS = ("", "ai.onnx")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
# What holds where these are missing stands in the text of the operators, not in their schemas, and
# not in the texts of older versions.
_WINDOWED = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"})
_WINDOWED_SINCE = 11
_WINDOW_DEFAULTS = {"strides": 1, "dilations": 1, "pads": 0, "output_padding": 0}
# The first version whose constants may be lists.
_LISTS_SINCE = 12

Size = int | tuple[str, int]
"""A size: a number, or a value and the number of its dimension, known at run time alone."""


def compact(model: ModelProto) -> None:
    """Make a graph smaller in place; its inputs, its outputs and what it computes stay.

    Parameters
    ----------
    model : onnx.ModelProto
        A model; tensors that it uses and does not define keep their names.
    """
    if any(function.domain in _DOMAINS for function in model.functions):
        return  # operators may mean something else
    version = 0
    for entry in model.opset_import:
        if entry.domain in _DOMAINS:
            version = entry.version
            entry.ClearField("domain")
    graph = model.graph
    if version >= _LISTS_SINCE:
        _shortcut(graph)
    _drop_unused(graph)
    for node in _all_nodes(graph):
        _drop_defaults(node, version)
    _shorten_names(graph)


def _shortcut(graph: GraphProto) -> None:
    """Replace what exporters compute in many nodes where a number, or nothing, says the same."""
    shapes: dict[str, list[Size]] = {}
    literal: set[str] = set()
    zeros: set[str] = set()
    same: dict[str, str] = {}
    inputs = {value.name for value in graph.input}
    outputs = {value.name for value in graph.output}
    for tensor in graph.initializer:
        sizes = None if tensor.name in inputs else _sizes(tensor)
        if sizes is not None:
            shapes[tensor.name] = sizes
            literal.add(tensor.name)
    fresh = fresh_names(value_names(graph))
    nodes: list[NodeProto] = []
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
        operator = node.op_type if node.domain in _DOMAINS else ""
        if operator == "Identity" and node.output[0] not in outputs:
            same[node.output[0]] = node.input[0]
            continue
        if operator == "Constant":
            literal.update(node.output)
        if operator in ("Conv", "ConvTranspose") and node.input[2:3] and node.input[2] in zeros:
            del node.input[2]
        if operator == "Reshape" and len(node.input) == 2 and node.input[1] not in literal:
            shape = _literal_shape(node.input[0], shapes.get(node.input[1], []))
            if shape:
                node.input[1] = next(fresh)
                nodes.append(helper.make_node("Constant", [], [node.input[1]], value_ints=shape))
                del node.attribute[:]
        if operator and _is_zero(node, zeros):
            zeros.update(node.output)
        found = _shape_value(node, shapes) if operator else None
        if found:
            shapes[node.output[0]] = found
        nodes.append(node)
    _rename(graph, same)
    _replace_nodes(graph, nodes)


def _literal_shape(data: str, shape: list[Size]) -> list[int] | None:
    """Return a shape without free sizes that reshapes `data` alike, or None."""
    if any(isinstance(size, int) and size != -1 and size <= 0 for size in shape):
        return None
    if sum(not isinstance(size, int) or size == -1 for size in shape) <= 1:
        return [size if isinstance(size, int) else -1 for size in shape]
    if all(isinstance(size, int) or size == (data, axis) for axis, size in enumerate(shape)):
        return [size if isinstance(size, int) else 0 for size in shape]  # 0 is as it was
    return None


def _shape_value(node: NodeProto, shapes: Mapping[str, list[Size]]) -> list[Size] | None:
    """Return what a node computes from shapes, or None where that is unknown."""
    given = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "Constant":
        if "value_ints" in given:
            return list(given["value_ints"].ints)
        return _sizes(given["value"].t) if "value" in given else None
    if node.op_type == "Shape":
        start = given["start"].i if "start" in given else 0
        end = given["end"].i if "end" in given else 0
        return [(node.input[0], start)] if 0 <= start == end - 1 else None
    values = [shapes.get(name) for name in node.input]
    if node.op_type == "Concat":
        return [size for value in values for size in value or ()] if all(values) else None
    keeps = node.op_type in ("Squeeze", "Unsqueeze", "Reshape", "Identity")
    # One size stays one size, of whatever rank; others may not.
    return values[0] if keeps and values[0] is not None and len(values[0]) == 1 else None


def _sizes(tensor: TensorProto) -> list[Size] | None:
    """Return the sizes that a tensor lists, or None for tensors of other kinds."""
    if tensor.data_type != TensorProto.INT64 or len(tensor.dims) > 1:
        return None
    sizes: list[Size] = numpy_helper.to_array(tensor).reshape(-1).tolist()
    return sizes


def _is_zero(node: NodeProto, zeros: Container[str]) -> bool:
    """Tell whether all that a node computes is +0.0, whatever its shape."""
    if node.op_type in ("Expand", "CastLike"):
        return node.input[0] in zeros
    if node.op_type != "Constant":
        return False
    return any(
        (value.name == "value_float" and not np.float32(value.f).view("u4"))
        or (
            value.name == "value"
            and value.t.data_type == TensorProto.FLOAT
            and not numpy_helper.to_array(value.t).view("u4").any()
        )
        for value in node.attribute
    )


def _drop_unused(graph: GraphProto) -> None:
    """Drop nodes and small tensors that nothing needs; nodes of other domains may do anything."""
    used = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if node.domain in _DOMAINS and used.isdisjoint(node.output):
            continue
        used.update(node.input)
        for inner in graphs_inside(node):
            used |= value_names(inner)
        kept.append(node)
    _replace_nodes(graph, kept[::-1])
    inputs = {value.name for value in graph.input}
    tensors = [tensor for tensor in graph.initializer if tensor.name in used | inputs]
    del graph.initializer[:]
    graph.initializer.extend(tensors)


def _drop_defaults(node: NodeProto, version: int) -> None:
    """Drop attributes that say what holds without them, and put the others in order."""
    kept = sorted(node.attribute, key=lambda given: given.name)
    if node.domain in _DOMAINS:
        try:
            schema = defs.get_schema(node.op_type, version, "")
        except defs.SchemaError:
            return
        kept = [given for given in kept if not _is_default(node.op_type, given, schema)]
    del node.attribute[:]
    node.attribute.extend(kept)


def _is_default(operator: str, given: AttributeProto, schema: defs.OpSchema) -> bool:
    if given.ref_attr_name or given.name not in schema.attributes:
        return False
    if operator in _WINDOWED and given.name in _WINDOW_DEFAULTS:
        usual = _WINDOW_DEFAULTS[given.name]
        return schema.since_version >= _WINDOWED_SINCE and set(given.ints) <= {usual}
    default = schema.attributes[given.name].default_value
    # Their bytes, so that -0.0 is not taken for 0.0.
    return given.type == default.type and (
        given.SerializeToString(deterministic=True) == default.SerializeToString(deterministic=True)
    )


def _shorten_names(graph: GraphProto) -> None:
    """Give results that only this graph knows short names."""
    inner = [inner for node in graph.node for inner in graphs_inside(node)]
    public = {value.name for value in graph.output} | set().union(*map(defined_names, inner))
    public |= {entry.tensor_name for entry in graph.quantization_annotation}
    own = {name for node in graph.node for name in node.output if name} - public
    fresh = fresh_names(value_names(graph) - own)
    _rename(
        graph,
        {name: next(fresh) for node in graph.node for name in node.output if name in own},
    )


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Rename values that the graph itself defines."""
    for node in _all_nodes(graph):
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for inner in graphs_inside(node):
            for value in inner.output:
                value.name = names.get(value.name, value.name)


def fresh_names(taken: set[str]) -> Iterator[str]:
    """Yield a, b, ... z, ba, bb, ... without those that are taken."""
    for number in count():
        name, rest = "", number
        while rest or not name:
            name, rest = _LETTERS[rest % len(_LETTERS)] + name, rest // len(_LETTERS)
        if name not in taken:
            yield name


def value_names(graph: GraphProto) -> set[str]:
    """Return every name of a value in a graph and inside it."""
    found = {value.name for value in (*graph.output, *graph.value_info)}
    found |= set(defined_names(graph))
    found |= {entry.tensor_name for entry in graph.quantization_annotation}
    for node in graph.node:
        found.update(node.input)
        for inner in graphs_inside(node):
            found |= value_names(inner)
    return found


def _all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Yield the nodes of a graph and of the graphs inside it."""
    for node in graph.node:
        yield node
        for inner in graphs_inside(node):
            yield from _all_nodes(inner)


def _replace_nodes(graph: GraphProto, nodes: Iterable[NodeProto]) -> None:
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)
