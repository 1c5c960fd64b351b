"""The `torch` program: a network's ATen graph as JSON that names operations and runs no code.

`torch.export` files are not used for storage: their reader evaluates expressions from the file and
resolves operators of any namespace. Here a program is data. Only functional ATen operations and a
few integer operations are known, and the loaded module interprets them; no Python source is made
from the file.
"""

import json
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from spqformat import Reason, SpqError

FORMAT = 1
_MAX_NODES = 1 << 20
_MAX_DEPTH = 16
_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*", re.ASCII)
_OPERATION = re.compile(r"aten\.([A-Za-z0-9_]+)\.([A-Za-z0-9_]+)", re.ASCII)
# Functional by their schemas, yet one reads files and the other writes to the terminal.
_REFUSED_OPERATIONS = frozenset({"from_file", "_print"})
_INTEGER_OPERATIONS: dict[str, Callable[..., Any]] = {
    "getitem": operator.getitem,
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "neg": operator.neg,
}
_INTEGER_NAMES = {function: name for name, function in _INTEGER_OPERATIONS.items()}
_CONSTANT_TYPES: dict[str, type] = {
    "dtype": torch.dtype,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
}
_FLOATS = {"inf": float("inf"), "-inf": float("-inf"), "nan": float("nan")}
_INPUT_KINDS = {
    InputKind.PARAMETER: "parameters",
    InputKind.BUFFER: "buffers",
    InputKind.CONSTANT_TENSOR: "constants",
}
_SECTIONS = {"inputs", *_INPUT_KINDS.values(), "nodes", "output"}


def capture(module: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """Trace a network in evaluation mode, with a free batch size where the network allows it.

    Parameters
    ----------
    module : nn.Module
        Network; it is put into evaluation mode.
    inputs : tuple of Tensor
        Example inputs, the first dimension the batch.

    Returns
    -------
    ExportedProgram
        The traced network.

    Raises
    ------
    SpqError
        `unsupported_model` when it cannot be traced.
    """
    module.eval()
    # Export specialises a dimension of size one.
    examples = tuple(_at_least_two(tensor) for tensor in inputs)
    free = tuple({0: torch.export.Dim.AUTO} if tensor.ndim else None for tensor in examples)
    try:
        return torch.export.export(module, examples, dynamic_shapes=free, strict=False)
    except Exception as error:  # the tracer raises whatever the network or torch raises
        raise SpqError(
            Reason.UNSUPPORTED_MODEL,
            f"torch.export cannot trace the network on these inputs ({_first_line(error)})",
        ) from error


def encode(program: ExportedProgram) -> tuple[bytes, dict[str, Tensor]]:
    """Write a traced network as a program.

    Parameters
    ----------
    program : ExportedProgram
        Traced network.

    Returns
    -------
    tuple of bytes and dict of str to Tensor
        UTF-8 JSON (spec 8), and all tensors that it refers to, by name.

    Raises
    ------
    SpqError
        `unsupported_model` for operations or structures that the format does not know.
    """
    writer = _Writer(program)
    document = writer.document()
    # Not sorted: the keys of a network's outputs have an order.
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8"), writer.tensors


def decode(data: bytes, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Build the module of a program.

    Parameters
    ----------
    data : bytes
        UTF-8 JSON, not trusted.
    tensors : mapping of str to Tensor
        Tensors by name; a tensor under two names stays tied.

    Returns
    -------
    nn.Module
        Module in evaluation mode whose state dict has the names of the original.

    Raises
    ------
    SpqError
        `bad_program`.
    """
    try:
        document = json.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise _bad("is not JSON") from error
    return ProgramModule(document, tensors).eval()


@dataclass(frozen=True)
class _Step:
    """One operation: what is called with which arguments."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]


@dataclass(frozen=True)
class _Value:
    """Refers to an input, a tensor or an earlier result by number."""

    index: int


class ProgramModule(nn.Module):
    """A stored program as a module; its forward pass interprets the operations one by one.

    Parameters
    ----------
    document : object
        Parsed JSON, not trusted.
    tensors : mapping of str to Tensor
        Tensors by name.
    """

    def __init__(self, document: Any, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        reader = _Reader(document)
        self._input_count = reader.count("inputs")
        self._tensor_names = [
            name for group in _INPUT_KINDS.values() for name in reader.names(group)
        ]
        # Set before the tensors, so that none of them can take the place of an attribute.
        self._steps = reader.steps(self._input_count + len(self._tensor_names))
        total = self._input_count + len(self._tensor_names) + len(self._steps)
        self._result = reader.arguments(document["output"], total)
        self._dead = self._last_uses()
        parameters: dict[int, nn.Parameter] = {}
        for group in _INPUT_KINDS.values():
            for name in reader.names(group):
                if name not in tensors:
                    raise _bad(f"refers to tensor {name!r}, which the file does not have")
                self._register(name, tensors[name], group, parameters)

    def forward(self, *inputs: Tensor) -> Any:
        """Run the program."""
        if len(inputs) != self._input_count:
            raise TypeError(f"the network takes {self._input_count} inputs, not {len(inputs)}")
        values: list[Any] = [*inputs, *(self._tensor(name) for name in self._tensor_names)]
        for step, dead in zip(self._steps, self._dead, strict=True):
            values.append(
                step.function(
                    *_resolve(step.arguments, values),
                    **{name: _resolve(value, values) for name, value in step.keywords.items()},
                )
            )
            for index in dead:
                values[index] = None
        return _resolve(self._result, values)

    def _tensor(self, name: str) -> Tensor:
        owner, _, leaf = name.rpartition(".")
        tensor: Tensor = getattr(self.get_submodule(owner), leaf)
        return tensor

    def _register(
        self, name: str, tensor: Tensor, group: str, parameters: dict[int, nn.Parameter]
    ) -> None:
        """Put a tensor in its place among nested modules."""
        *path, leaf = name.split(".")
        owner: nn.Module = self
        try:
            for part in path:
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            if group == "parameters":
                parameter = parameters.setdefault(
                    id(tensor), nn.Parameter(tensor, tensor.is_floating_point())
                )
                owner.register_parameter(leaf, parameter)
            else:
                owner.register_buffer(leaf, tensor, persistent=group == "buffers")
        except (KeyError, AttributeError, TypeError) as error:
            raise _bad(f"cannot hold a tensor named {name!r}") from error

    def _last_uses(self) -> list[list[int]]:
        """Return, for each step, the results that no later step needs."""
        last: dict[int, int] = {}
        offset = self._input_count + len(self._tensor_names)
        for number, step in enumerate(self._steps):
            for index in _references((step.arguments, step.keywords)):
                last[index] = number
        needed = set(_references(self._result))
        dead: list[list[int]] = [[] for _ in self._steps]
        for index, number in last.items():
            if index >= offset and index not in needed:
                dead[number].append(index)
        return dead


class _Reader:
    """Reads an untrusted document and refuses everything that it does not know."""

    def __init__(self, document: Any) -> None:
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise _bad("has an unknown format; update spqformat")
        missing = _SECTIONS - set(document)
        if missing:
            raise _bad(f"lacks {', '.join(sorted(missing))}")
        self._document = document

    def count(self, key: str) -> int:
        """Return a small number."""
        value = self._document[key]
        if type(value) is not int or not 0 <= value <= 1024:
            raise _bad(f"has no valid number of {key}")
        return value

    def names(self, key: str) -> list[str]:
        """Return tensor names."""
        names = self._document[key]
        if not isinstance(names, list) or not all(
            isinstance(name, str) and _NAME.fullmatch(name) for name in names
        ):
            raise _bad(f"has {key} without valid names")
        return names

    def steps(self, known: int) -> list[_Step]:
        """Return all operations; each refers to values before it."""
        nodes = self._document["nodes"]
        if not isinstance(nodes, list) or len(nodes) > _MAX_NODES:
            raise _bad("has no valid list of nodes")
        steps = []
        for number, node in enumerate(nodes):
            fits = isinstance(node, list) and len(node) in (2, 3) and isinstance(node[0], str)
            if not fits:
                raise _bad(f"has a malformed node {number}")
            arguments = self.arguments(node[1], known + number)
            keywords = self.arguments({"dict": node[2]}, known + number) if len(node) > 2 else {}
            if not isinstance(arguments, list):
                raise _bad(f"has a malformed node {number}")
            steps.append(_Step(_operation(node[0]), tuple(arguments), keywords))
        return steps

    def arguments(self, raw: Any, known: int, depth: int = 0) -> Any:
        """Return an argument: plain values, lists, and tagged objects of one key."""
        if depth > _MAX_DEPTH:
            raise _bad("nests arguments too deeply")
        if raw is None or isinstance(raw, bool | int | float | str):
            return raw
        if isinstance(raw, list):
            return [self.arguments(item, known, depth + 1) for item in raw]
        if not isinstance(raw, dict) or len(raw) != 1:
            raise _bad("has an argument of unknown form")
        ((tag, value),) = raw.items()
        if tag == "$" and type(value) is int and -known <= value < known:
            return _Value(value % known)
        if tag == "tuple" and isinstance(value, list):
            return tuple(self.arguments(item, known, depth + 1) for item in value)
        if tag == "dict" and isinstance(value, dict):
            return {key: self.arguments(item, known, depth + 1) for key, item in value.items()}
        if tag == "float" and isinstance(value, str) and value in _FLOATS:
            return _FLOATS[value]
        if tag in _CONSTANT_TYPES and isinstance(value, str) and _NAME.fullmatch(value):
            # Looked up past torch's __getattr__, which imports modules and warns.
            constant = vars(torch).get(value)
            if isinstance(constant, _CONSTANT_TYPES[tag]):
                return constant
        raise _bad(f"has an argument with an invalid {tag!r}")


class _Writer:
    """Writes a traced network."""

    def __init__(self, program: ExportedProgram) -> None:
        self._program = program
        self._numbers: dict[fx.Node, int] = {}
        self._first_result = 0
        self.tensors: dict[str, Tensor] = {}

    def document(self) -> dict[str, Any]:
        """Return the program as JSON values."""
        signature = self._program.graph_signature
        if any(spec.kind is not OutputKind.USER_OUTPUT for spec in signature.output_specs):
            raise _unsupported("it changes buffers or inputs while it runs")
        groups = self._number_inputs()
        nodes = [node for node in self._program.graph.nodes if node.op == "call_function"]
        kept = [node for node in nodes if node.users or not _is_check(node)]
        self._first_result = len(self._numbers)
        written = []
        for node in kept:
            written.append(self._node(node))
            self._numbers[node] = len(self._numbers)
        (output,) = [node for node in self._program.graph.nodes if node.op == "output"]
        return {"format": FORMAT, **groups, "nodes": written, "output": self._output(output)}

    def _number_inputs(self) -> dict[str, Any]:
        """Number inputs and tensors; tensors come in groups, each in the graph's order."""
        placeholders = {
            node.name: node for node in self._program.graph.nodes if node.op == "placeholder"
        }
        groups: dict[str, Any] = {"inputs": 0, "parameters": [], "buffers": [], "constants": []}
        by_group: dict[str, list[fx.Node]] = {"inputs": []}
        for spec in self._program.graph_signature.input_specs:
            node = placeholders[spec.arg.name]
            if spec.kind is InputKind.USER_INPUT:
                if not isinstance(node.meta.get("val"), Tensor):
                    raise _unsupported("it takes inputs that are not tensors")
                groups["inputs"] += 1
                by_group["inputs"].append(node)
                continue
            group = _INPUT_KINDS.get(spec.kind)
            if group is None or spec.target is None or not _NAME.fullmatch(spec.target):
                raise _unsupported(f"it has an input of kind {spec.kind.name.lower()}")
            if spec.kind is InputKind.BUFFER and spec.persistent is False:
                group = "constants"
            groups[group].append(spec.target)
            by_group.setdefault(group, []).append(node)
            self.tensors[spec.target] = self._find(spec.target)
        self._check_call()
        for group in ("inputs", *_INPUT_KINDS.values()):
            for node in by_group.get(group, []):
                self._numbers[node] = len(self._numbers)
        return groups

    def _check_call(self) -> None:
        """Refuse calls other than with plain tensors by position."""
        tree = self._program.call_spec.in_spec
        arguments, keywords = tree.children()
        if keywords.num_leaves or not all(child.is_leaf() for child in arguments.children()):
            raise _unsupported("it takes nested or keyword inputs")

    def _find(self, target: str) -> Tensor:
        """Return a tensor of the traced network."""
        for tensors in (self._program.state_dict, self._program.constants):
            tensor = tensors.get(target)
            if isinstance(tensor, Tensor):
                return tensor.detach()
        raise _unsupported(f"tensor {target!r} is missing")

    def _node(self, node: fx.Node) -> list[Any]:
        """Write one operation."""
        name = _operation_name(node)
        written = [name, [self._argument(argument) for argument in node.args]]
        # The device is the caller's choice at load time.
        keywords = {
            key: self._argument(value)
            for key, value in node.kwargs.items()
            if not isinstance(value, torch.device)
        }
        return [*written, keywords] if keywords else written

    def _argument(self, argument: Any) -> Any:
        """Write one argument."""
        if isinstance(argument, fx.Node):
            number = self._numbers[argument]
            # Results are counted from here back, so that equal blocks of a network look alike.
            return {"$": number if number < self._first_result else number - len(self._numbers)}
        if isinstance(argument, float) and not math.isfinite(argument):
            return {"float": str(argument)}
        if argument is None or isinstance(argument, bool | int | float | str):
            return argument
        if isinstance(argument, list | tuple):
            return [self._argument(item) for item in argument]
        for tag, kind in _CONSTANT_TYPES.items():
            if isinstance(argument, kind):
                return {tag: str(argument).removeprefix("torch.")}
        raise _unsupported(f"an operation has an argument of type {type(argument).__name__}")

    def _output(self, output: fx.Node) -> Any:
        """Write the results in the structure that the network returns."""
        # The output node of an exported program has the tuple of its results as its argument.
        results = [self._argument(result) for result in output.args[0]]  # type: ignore[union-attr]
        return _write_tree(self._program.call_spec.out_spec, results)


def _write_tree(spec: pytree.TreeSpec, leaves: list[Any]) -> Any:
    """Write nested outputs; consumes `leaves` from the front."""
    if spec.is_leaf():
        return leaves.pop(0)
    children = [_write_tree(child, leaves) for child in spec.children()]
    if spec.type is list:
        return children
    if spec.type is tuple:
        return {"tuple": children}
    if spec.type is dict and all(isinstance(key, str) for key in spec.context):
        return {"dict": dict(zip(spec.context, children, strict=True))}
    raise _unsupported(f"it returns a {getattr(spec.type, '__name__', spec.type)}")


def _operation_name(node: fx.Node) -> str:
    """Return the stored name of a call."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        name = str(target)
        if _find_operation(name) is target:
            return name
        raise _unsupported(f"it uses the operation {name}")
    if target in _INTEGER_NAMES:
        return _INTEGER_NAMES[target]
    raise _unsupported(f"it uses {getattr(target, '__name__', target)}")


def _operation(name: str) -> Callable[..., Any]:
    """Return the function of a stored name."""
    function = _INTEGER_OPERATIONS.get(name) or _find_operation(name)
    if function is None:
        raise _bad(f"uses the operation {name[:80]!r}, which is not allowed")
    return function


def _find_operation(name: str) -> Callable[..., Any] | None:
    """Return a functional ATen operation, or None for everything else."""
    parts = _OPERATION.fullmatch(name)
    if parts is None or parts[1] in _REFUSED_OPERATIONS:
        return None
    packet = getattr(torch.ops.aten, parts[1], None)
    overload = getattr(packet, parts[2], None)
    if not isinstance(overload, torch._ops.OpOverload) or overload._schema.is_mutable:
        return None
    # TorchScript keeps operations of its own in the namespace, some of which write files or change
    # the state of the process; none of them is known to the dispatcher.
    full_name = f"aten::{parts[1]}" + ("" if parts[2] == "default" else f".{parts[2]}")
    return overload if torch._C._dispatch_has_kernel(full_name) else None


def _is_check(node: fx.Node) -> bool:
    """Tell whether a call only checks its arguments."""
    return "assert" in str(node.target)


def _resolve(argument: Any, values: Sequence[Any]) -> Any:
    """Replace references by values."""
    if isinstance(argument, _Value):
        return values[argument.index]
    if isinstance(argument, list):
        return [_resolve(item, values) for item in argument]
    if isinstance(argument, tuple):
        return tuple(_resolve(item, values) for item in argument)
    if isinstance(argument, dict):
        return {key: _resolve(item, values) for key, item in argument.items()}
    return argument


def _references(argument: Any) -> list[int]:
    """Return the numbers of all values that an argument refers to."""
    if isinstance(argument, _Value):
        return [argument.index]
    if isinstance(argument, dict):
        argument = list(argument.values())
    if isinstance(argument, list | tuple):
        return [index for item in argument for index in _references(item)]
    return []


def _at_least_two(tensor: Tensor) -> Tensor:
    """Return at least two samples."""
    return torch.cat([tensor, tensor]) if tensor.ndim and tensor.shape[0] == 1 else tensor


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:160] if text else type(error).__name__


def _bad(why: str) -> SpqError:
    return SpqError(Reason.BAD_PROGRAM, f"the torch program {why}", section="program")


def _unsupported(why: str) -> SpqError:
    return SpqError(Reason.UNSUPPORTED_MODEL, f"the network cannot be stored as a program: {why}")
