"""The `torch` program: a network's ATen graph as JSON that names operations and runs no code.

`torch.export` files are not used for storage: their reader evaluates expressions from the file and
resolves operators of any namespace. Here a program is data. Only functional ATen operations and a
few integer operations are known, and the loaded module interprets them; no Python source is made
from the file.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spq.torch_vocabulary import (
    CONSTANT_TYPES,
    FORMAT,
    GROUPS,
    INTEGER_OPERATIONS,
    NAME,
    find_operation,
)
from spqformat import Reason, SpqError

_MAX_NODES = 1 << 20
_MAX_DEPTH = 16
_FLOATS = {"inf": float("inf"), "-inf": float("-inf"), "nan": float("nan")}
_SECTIONS = {"inputs", *GROUPS, "nodes", "output"}


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
        self._tensor_names = [name for group in GROUPS for name in reader.names(group)]
        if len(set(self._tensor_names)) < len(self._tensor_names):
            raise _bad("names a tensor twice")
        # Set before the tensors, so that none of them can take the place of an attribute.
        self._steps = reader.steps(self._input_count + len(self._tensor_names))
        total = self._input_count + len(self._tensor_names) + len(self._steps)
        self._result = reader.arguments(document["output"], total)
        self._dead = self._last_uses()
        parameters: dict[int, nn.Parameter] = {}
        for group in GROUPS:
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
            isinstance(name, str) and NAME.fullmatch(name) for name in names
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
        if tag in CONSTANT_TYPES and isinstance(value, str) and NAME.fullmatch(value):
            # Looked up past torch's __getattr__, which imports modules and warns.
            constant = vars(torch).get(value)
            if isinstance(constant, CONSTANT_TYPES[tag]):
                return constant
        raise _bad(f"has an argument with an invalid {tag!r}")


def _operation(name: str) -> Callable[..., Any]:
    """Return the function of a stored name."""
    function = INTEGER_OPERATIONS.get(name) or find_operation(name)
    if function is None:
        raise _bad(f"uses the operation {name[:80]!r}, which is not allowed")
    return function


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


def _bad(why: str) -> SpqError:
    return SpqError(Reason.BAD_PROGRAM, f"the torch program {why}", section="program")
