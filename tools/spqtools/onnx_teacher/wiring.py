"""An ONNX graph as the importer looks at it: operations, constants, who makes and who uses what."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, numpy_helper

from spq.onnx_weights import STANDARD_DOMAINS, graphs_inside

# These tell sizes, not what has been computed.
SIZES = frozenset({"Shape", "Size"})
# What passes on its first input, when nothing is trained.
_PASSING = frozenset({"Identity", "Dropout"})


@dataclass(frozen=True, eq=False)
class Operation:
    """A node that computes something.

    Parameters
    ----------
    kind : str
        Operator, with its domain where that is not the standard one.
    inputs, outputs : tuple of str
        Values; an empty name where an optional one is left out.
    attributes : dict of str to object
        Numbers, strings, lists of them, and arrays.
    captured : tuple of str
        Names that its subgraphs use, values from around them among others; none without subgraphs.
    inner_kinds : frozenset of str
        Operators of its subgraphs.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    captured: tuple[str, ...]
    inner_kinds: frozenset[str]


@dataclass(frozen=True, eq=False)
class Wiring:
    """A graph without detours: constants apart, and no nodes that only pass on their input.

    Parameters
    ----------
    version : int
        Version of the standard operators.
    inputs : tuple of str
        Inputs in their order, without those that only repeat a constant.
    batch : int
        Samples that the inputs are made for; 0 where any number is allowed.
    halves : frozenset of str
        Inputs whose elements are floats other than float32.
    outputs : dict of str to int or None
        Values that the graph returns with their numbers of dimensions, None where not known.
    operations : tuple of Operation
        In an order in which they can be run.
    constants : dict of str to ndarray
        Initializers and constant nodes.
    maker : dict of str to Operation
        What computes a value.
    users : dict of str to list of Operation
        What takes a value as an input; once for each time.
    uses : Counter of str
        How often a value is used, by subgraphs and as an output too.
    """

    version: int
    inputs: tuple[str, ...]
    batch: int
    halves: frozenset[str]
    outputs: dict[str, int | None]
    operations: tuple[Operation, ...]
    constants: dict[str, NDArray[Any]]
    maker: dict[str, Operation]
    users: dict[str, list[Operation]]
    uses: Counter[str]

    def only_user(self, value: str) -> Operation | None:
        """Return the one operation that uses a value, if nothing else does."""
        return self.users[value][0] if self.uses[value] == 1 and self.users[value] else None

    def stored(self, value: str) -> tuple[str, bool] | None:
        """Return the constant that a value is, and whether as its transpose; None for others."""
        if value in self.constants:
            return value, False
        maker = self.maker.get(value)
        if maker is None or maker.kind != "Transpose" or maker.inputs[0] not in self.constants:
            return None
        name = maker.inputs[0]
        is_matrix = self.constants[name].ndim == 2 and maker.attributes.get("perm") in (
            None,
            [1, 0],
        )
        return (name, True) if is_matrix else None

    def following(self, values: Iterable[str]) -> set[str]:
        """Return some values and all that depend on their elements."""
        found = set(values)
        for operation in self.operations:
            if operation.kind not in SIZES and found.intersection(
                (*operation.inputs, *operation.captured)
            ):
                found.update(operation.outputs)
        return found

    def needed(self, values: Iterable[str]) -> list[Operation]:
        """Return the operations that some values need, in order."""
        wanted = set(values)
        chosen = []
        for operation in reversed(self.operations):
            if wanted.intersection(operation.outputs):
                chosen.append(operation)
                wanted.update(operation.inputs, operation.captured)
        return chosen[::-1]


def inlined(model: ModelProto) -> ModelProto:
    """Return a model without functions of its own."""
    if not model.functions:
        return model
    import onnx.inliner

    inline: ModelProto = onnx.inliner.inline_local_functions(model)
    return inline


def read_wiring(model: ModelProto) -> Wiring:
    """Read a graph whose functions have been put in line.

    Parameters
    ----------
    model : onnx.ModelProto
        The model.

    Returns
    -------
    Wiring
        Its graph.
    """
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    passed: dict[str, str] = {}

    def source(name: str) -> str:
        return passed.get(name, name)

    operations = []
    for node in graph.node:
        constant = _constant(node)
        if constant is not None:
            constants[node.output[0]] = constant
        elif node.op_type in _PASSING and node.domain in STANDARD_DOMAINS:
            passed[node.output[0]] = source(node.input[0])
        elif node.op_type == "Shape" and source(node.input[0]) in constants:
            # Else it would count as a use of a weight.
            ends = {one.name: one.i for one in node.attribute}
            sizes = constants[source(node.input[0])].shape[ends.get("start", 0) : ends.get("end")]
            constants[node.output[0]] = np.array(sizes, np.int64)
        else:
            operations.append(_operation(node, source))
    users: defaultdict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        for name in operation.inputs:
            users[name].append(operation)
    outputs = {source(value.name): _rank(value) for value in graph.output}
    uses = Counter(name for operation in operations for name in operation.inputs)
    uses.update(name for operation in operations for name in operation.captured)
    uses.update(list(outputs))
    given = [value for value in graph.input if value.name not in constants]
    return Wiring(
        next((one.version for one in model.opset_import if one.domain in STANDARD_DOMAINS), 1),
        tuple(value.name for value in given),
        _batch(given),
        frozenset(value.name for value in given if _is_other_float(value)),
        outputs,
        tuple(operations),
        constants,
        {name: operation for operation in operations for name in operation.outputs},
        users,
        uses,
    )


def _operation(node: NodeProto, source: Callable[[str], str]) -> Operation:
    """Read one node."""
    inner = list(graphs_inside(node))
    return Operation(
        node.op_type if node.domain in STANDARD_DOMAINS else f"{node.domain}.{node.op_type}",
        tuple(map(source, node.input)),
        tuple(node.output),
        {
            given.name: _plain(onnx.helper.get_attribute_value(given))
            for given in node.attribute
            if given.type not in (AttributeProto.GRAPH, AttributeProto.GRAPHS)
        },
        tuple({source(name) for graph in inner for name in _names_used(graph)}),
        frozenset(kind for graph in inner for kind in _kinds(graph)),
    )


def _names_used(graph: GraphProto) -> Iterator[str]:
    """Yield the names that a subgraph and those inside it use, their own as well."""
    yield from (value.name for value in graph.output)
    for node in graph.node:
        yield from node.input
        for inner in graphs_inside(node):
            yield from _names_used(inner)


def _kinds(graph: GraphProto) -> Iterator[str]:
    """Yield the operators of a subgraph and of those inside it."""
    for node in graph.node:
        yield node.op_type
        for inner in graphs_inside(node):
            yield from _kinds(inner)


def _constant(node: NodeProto) -> NDArray[Any] | None:
    """Return the elements of a constant node, None for any other and for strings."""
    if node.op_type != "Constant" or node.domain not in STANDARD_DOMAINS:
        return None
    value = _plain(onnx.helper.get_attribute_value(node.attribute[0]))
    kind = node.attribute[0].name
    if kind == "value":
        return np.asarray(value)
    if kind.startswith(("value_float", "value_int")):
        return np.array(value, np.float32 if kind.startswith("value_float") else np.int64)
    return None


def _plain(value: Any) -> Any:
    """Return an attribute without the types of protocol buffers."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return list(value) if isinstance(value, list | tuple) or hasattr(value, "extend") else value


def _rank(value: onnx.ValueInfoProto) -> int | None:
    """Return the number of dimensions that a graph declares."""
    kind = value.type.tensor_type
    return len(kind.shape.dim) if kind.HasField("shape") else None


def _batch(inputs: list[onnx.ValueInfoProto]) -> int:
    """Return the samples that all inputs are made for, 0 where that may be any number."""
    sizes = {
        value.type.tensor_type.shape.dim[0].dim_value
        for value in inputs
        if value.type.tensor_type.shape.dim
    }
    return min(sizes) if len(sizes) == 1 else 0


def _is_other_float(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.tensor_type.elem_type
    return kind in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
