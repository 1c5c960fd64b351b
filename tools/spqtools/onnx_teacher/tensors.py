"""The tensors of an imported ONNX graph: as PyTorch holds them, and on the way back."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

# A module of a graph has attributes of its own.
_RESERVED = frozenset({*dir(fx.GraphModule), "meta"})


@dataclass(frozen=True)
class Origin:
    """Where a tensor of the student comes from.

    Parameters
    ----------
    name : str
        Weight of the ONNX model.
    dtype : numpy.dtype
        Its type there.
    transposed : bool
        Whether it is stored as [inputs, outputs].
    """

    name: str
    dtype: np.dtype[Any]
    transposed: bool


class Tensors:
    """Parameters and buffers under the names that they have in ONNX, as far as modules allow.

    Attributes
    ----------
    root : nn.Module
        Holds them.
    origins : dict of str to Origin
        Where those come from that are weights.
    """

    def __init__(self) -> None:
        self.root = nn.Module()
        self.origins: dict[str, Origin] = {}

    def hold(
        self, name: str, array: NDArray[Any], *, is_weight: bool, transposed: bool = False
    ) -> str:
        """Hold a constant and return its name as an attribute.

        Parameters
        ----------
        name : str
            Name in ONNX.
        array : ndarray
            Elements; floats become float32 and integers int64.
        is_weight : bool
            Whether a packed file stores it as a tensor.
        transposed : bool
            Whether to hold its transpose.
        """
        own = self._place(name)
        if is_weight:
            self.origins[own] = Origin(name, array.dtype, transposed)
        owner, leaf = self._owner(own)
        kind = np.float32 if is_float(array) else np.bool_ if array.dtype == bool else np.int64
        tensor = torch.from_numpy(np.array(array.T if transposed else array, kind, order="C"))
        if is_weight and is_float(array):
            owner.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
        else:
            owner.register_buffer(leaf, tensor)
        return own

    def _owner(self, name: str) -> tuple[nn.Module, str]:
        """Return the module that is to hold an attribute, and its name there."""
        owner = self.root
        *parts, leaf = name.split(".")
        for part in parts:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        return owner, leaf

    def _place(self, name: str) -> str:
        """Return a name for an attribute: its own, unless modules cannot have one of that name."""
        owner = self.root
        *parts, leaf = name.split(".")
        if _RESERVED.isdisjoint([*parts, leaf]) and not name.startswith("_"):
            for part in parts:
                if not part or (part not in owner._modules and hasattr(owner, part)):
                    break
                owner = owner._modules.get(part) or nn.Module()
            else:
                if leaf and not hasattr(owner, leaf):
                    return name
        number = 0
        while hasattr(self.root, f"tensor_{number}"):
            number += 1
        return f"tensor_{number}"


def is_float(array: NDArray[Any]) -> bool:
    """Tell floats from other numbers; bfloat16 is none of NumPy's own."""
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"
