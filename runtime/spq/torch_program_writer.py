"""Writes a traced network as a `torch` program."""

import json
import math
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from spq.torch_vocabulary import (
    CONSTANT_TYPES,
    FORMAT,
    GROUPS,
    INTEGER_OPERATIONS,
    NAME,
    find_operation,
)
from spqformat import Reason, SpqError

_INTEGER_NAMES = {function: name for name, function in INTEGER_OPERATIONS.items()}
_INPUT_KINDS = dict(
    zip((InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR), GROUPS, strict=True)
)


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
            if group is None or spec.target is None or not NAME.fullmatch(spec.target):
                raise _unsupported(f"it has an input of kind {spec.kind.name.lower()}")
            if spec.kind is InputKind.BUFFER and spec.persistent is False:
                group = "constants"
            groups[group].append(spec.target)
            by_group.setdefault(group, []).append(node)
            self.tensors[spec.target] = self._find(spec.target)
        self._check_call()
        for group in ("inputs", *GROUPS):
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
        for tag, kind in CONSTANT_TYPES.items():
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
        if find_operation(name) is target:
            return name
        raise _unsupported(f"it uses the operation {name}")
    if target in _INTEGER_NAMES:
        return _INTEGER_NAMES[target]
    raise _unsupported(f"it uses {getattr(target, '__name__', target)}")


def _is_check(node: fx.Node) -> bool:
    """Tell whether a call only checks its arguments."""
    return "assert" in str(node.target)


def _unsupported(why: str) -> SpqError:
    return SpqError(Reason.UNSUPPORTED_MODEL, f"the network cannot be stored as a program: {why}")
