"""Traces the network that is to be packed and writes the programs that both runtimes load."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from spq import onnx_graph, torch_program_writer
from spqformat import SpqError
from spqtools.reading.ingest import Source
from spqtools.reading.tracing import capture, functional
from spqtools.silence import silence

_EXAMPLE_SAMPLES = 2
# The exporter writes its messages for terminals.
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Programs:
    """What a file stores besides its tensors.

    Parameters
    ----------
    stored : dict of str to bytes
        Programs by kind.
    constants : dict of str to Tensor
        Tensors that the programs need and the state dict does not have.
    notes : tuple of str
        Which program is missing and why.
    """

    stored: dict[str, bytes] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def trace(source: Source, inputs: tuple[Tensor, ...] | None) -> ExportedProgram | None:
    """Trace the network of a source.

    Parameters
    ----------
    source : Source
        What was read.
    inputs : tuple of Tensor, optional
        Calibration inputs; a network that was not traced before needs some.

    Returns
    -------
    ExportedProgram or None
        None where there is no network, or nothing to trace it with.

    Raises
    ------
    SpqError
        `unsupported_model`.
    """
    if source.exported is not None:
        return functional(source.exported)
    if source.module is None or inputs is None:
        return None
    examples = tuple(tensor[:_EXAMPLE_SAMPLES] for tensor in inputs)
    with silence():
        return capture(source.module, examples)


def write_programs(traced: ExportedProgram, names: Mapping[str, object]) -> Programs:
    """Write the programs of a traced network; one that cannot be written is left out with a note.

    Parameters
    ----------
    traced : ExportedProgram
        The network.
    names : mapping whose keys are str
        Names of the state dict.

    Returns
    -------
    Programs
        Programs and what they need.
    """
    stored: dict[str, bytes] = {}
    constants: dict[str, Tensor] = {}
    notes: list[str] = []
    try:
        stored["torch"], tensors = torch_program_writer.encode(traced)
        constants |= {name: value for name, value in tensors.items() if name not in names}
    except SpqError as error:
        notes.append(f"spq.load will need your network, model=...: {error.message}")
    try:
        with silence():
            model = onnx_graph.export(traced)
        stored["onnx"], arrays = onnx_graph.strip(model, set(names))
        constants |= {
            name: torch.from_numpy(np.array(value))
            for name, value in arrays.items()
            if name not in names and name not in constants
        }
    except SpqError as error:
        why = _COLOUR.sub("", error.message)
        notes.append(f"spq.session will not work with this file: {why}")
    return Programs(stored, constants, tuple(notes))
