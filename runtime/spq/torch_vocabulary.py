"""What a `torch` program may consist of (spec 8): its operations, constants and names."""

import operator
import re
from collections.abc import Callable
from typing import Any

import torch

FORMAT = 1
# Tensors by what they are to the module, in the order in which they are numbered.
GROUPS = ("parameters", "buffers", "constants")
NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*", re.ASCII)
INTEGER_OPERATIONS: dict[str, Callable[..., Any]] = {
    "getitem": operator.getitem,
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "neg": operator.neg,
}
CONSTANT_TYPES: dict[str, type] = {
    "dtype": torch.dtype,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
}
_OPERATION = re.compile(r"aten\.([A-Za-z0-9_]+)\.([A-Za-z0-9_]+)", re.ASCII)
# Functional by their schemas, yet one reads files and the other writes to the terminal.
_REFUSED_OPERATIONS = frozenset({"from_file", "_print"})


def find_operation(name: str) -> Callable[..., Any] | None:
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
