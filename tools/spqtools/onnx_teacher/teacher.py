"""Turns an ONNX model into a network that the search can run, and its tensors back again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from spq.onnx_graph import strip
from spqformat import Reason, SpqError
from spqtools.onnx_teacher.importer import Imported, import_graph
from spqtools.onnx_teacher.wiring import inlined, read_wiring


@dataclass(frozen=True)
class OnnxTeacher(Imported):
    """A network that the search can run, and the way back from it.

    See `Imported` for its fields.
    """

    def restore(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return tensors of the graph as weights of the ONNX model.

        Parameters
        ----------
        tensors : mapping of str to ndarray
            Tensors by their names in `graph`; those that are no weights of the model are passed
            over, and of float64 ones, which were rounded, those that nothing has changed.

        Returns
        -------
        dict of str to ndarray
            Names, orientation and types of the model, as `spq.onnx_graph.strip` returns them.
        """
        restored = {}
        for name, array in tensors.items():
            origin = self.origins.get(name)
            if origin is None or (
                origin.dtype == np.float64 and np.array_equal(array, self._tensor(name))
            ):
                continue
            turned = array.T if origin.transposed else array
            restored[origin.name] = np.ascontiguousarray(turned).astype(origin.dtype)
        return restored

    def _tensor(self, name: str) -> NDArray[Any]:
        """Return a tensor of the graph as it was read."""
        owner: Any = self.graph
        for part in name.split("."):
            owner = getattr(owner, part)
        array: NDArray[Any] = owner.detach().numpy()
        return array


def read_teacher(model: ModelProto) -> OnnxTeacher:
    """Read the part of a model that leads to its heads.

    The heads are what the last layers say: what decodes boxes from them or chooses among classes is
    left out, and may be anything.

    Parameters
    ----------
    model : onnx.ModelProto
        Model with all weights inside; it is not changed.

    Returns
    -------
    OnnxTeacher
        The network, floats of all sizes as float32.

    Raises
    ------
    SpqError
        `unsupported_model` when the heads need an operator that the search cannot run, `bad_model`
        for a graph that is none.
    """
    try:
        wiring = read_wiring(inlined(model))
        found = import_graph(wiring, frozenset(strip(model)[1]))
    except SpqError:
        raise
    except Exception as error:  # onnx and PyTorch raise whatever their parts raise on damage
        raise SpqError(
            Reason.BAD_MODEL, "the .onnx has a node or a tensor that is damaged; export it again"
        ) from error
    return OnnxTeacher(found.graph, found.inputs, found.heads, found.origins)
