"""The network that the search watches, wherever it comes from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, fx
from torch.export import ExportedProgram

from spqformat import Reason, SpqError
from spqtools.onnx_teacher.check import check_teacher
from spqtools.onnx_teacher.teacher import read_teacher
from spqtools.reading.ingest import Source
from spqtools.reading.tracing import keeps_state

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Teacher:
    """A network as the search runs it.

    Parameters
    ----------
    graph : fx.GraphModule
        Calls with ``get_attr`` parameters and buffers.
    restore : callable
        Gives the tensors of `graph` back the names and shapes that they have in the file.
    """

    graph: fx.GraphModule
    restore: Callable[[Tensors], Tensors]


def find_teacher(
    source: Source, traced: ExportedProgram | None, inputs: tuple[Tensor, ...]
) -> Teacher | None:
    """Return the network of a source.

    Parameters
    ----------
    source : Source
        What was read.
    traced : ExportedProgram or None
        Its network, traced.
    inputs : tuple of Tensor
        Calibration inputs.

    Returns
    -------
    Teacher or None
        None where there are but weights.

    Raises
    ------
    SpqError
        `unsupported_model` for a network that keeps a state or an ONNX graph that the search
        cannot run, `bad_calibration` for inputs that it does not take.
    """
    if source.onnx_model is not None:
        found = read_teacher(source.onnx_model)
        check_teacher(source.onnx_model, found, inputs)
        return Teacher(found.graph, found.restore)
    if traced is None:
        return None
    if keeps_state(traced):
        raise SpqError(
            Reason.UNSUPPORTED_MODEL,
            "the network changes its buffers or inputs while it runs; leave out --calib",
        )
    graph = traced.module()
    assert isinstance(graph, fx.GraphModule)
    return Teacher(graph, lambda tensors: tensors)
