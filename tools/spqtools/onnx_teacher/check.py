"""Compares an imported ONNX network with what ONNX Runtime makes of its model."""

from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor

from spq.onnx_graph import serialise
from spqformat import Reason, SpqError
from spqformat.errors import first_line
from spqtools.onnx_runtime import MisfitError, fixed_batch, open_session, run_all
from spqtools.onnx_teacher.teacher import OnnxTeacher
from spqtools.onnx_teacher.wiring import inlined

# Two runtimes add the same numbers in another order; errors beyond this are another function.
_TOLERANCE = 1e-3
# A float16 has eleven bits, and a network adds up the rounding of many layers.
_TOLERANCE_OF_HALVES = 2e-2
_SAMPLES = 2


def check_teacher(model: ModelProto, teacher: OnnxTeacher, inputs: tuple[Tensor, ...]) -> None:
    """Run both on a few samples and compare the heads.

    A model that is made for one sample at a time is run for each, the teacher for all at once: the
    search does so.

    Parameters
    ----------
    model : onnx.ModelProto
        The model; it is not changed.
    teacher : OnnxTeacher
        What has been imported from it.
    inputs : tuple of Tensor
        Samples for each of the teacher's inputs.

    Raises
    ------
    SpqError
        `bad_calibration` for another number of inputs, and for inputs that ONNX Runtime does not
        take; `unsupported_model` when PyTorch does not run the graph, or the heads differ by more
        than rounding.
    """
    if len(inputs) != len(teacher.inputs):
        raise SpqError(
            Reason.BAD_CALIBRATION,
            f"there are {len(inputs)} calibration inputs, and the network's last layers need "
            f"{len(teacher.inputs)}: {', '.join(map(repr, teacher.inputs))[:160]}",
        )
    try:
        session = open_session(serialise(_part(inlined(model), teacher)))
        step = fixed_batch(session)
        # More than a batch, since the search takes as many as it likes.
        samples = tuple(tensor[: max(step + 1, _SAMPLES)] for tensor in inputs)
        answers = run_all(session, [tensor.numpy() for tensor in samples])
    except SpqError:
        raise
    except MisfitError as error:
        raise SpqError(Reason.BAD_CALIBRATION, f"the network {error}") from error
    except Exception as error:  # ONNX Runtime raises types of its own
        raise SpqError(
            Reason.BAD_CALIBRATION,
            f"the network does not run on the calibration inputs ({first_line(error)}); "
            "check their shape and type, and --preprocess for images",
        ) from error
    try:
        with torch.no_grad():
            heads = teacher.graph(*samples)
    except Exception as error:  # PyTorch raises whatever its operators raise
        if step:
            raise SpqError(
                Reason.UNSUPPORTED_MODEL,
                f"the graph is made for a batch of {step} ({first_line(error)}); "
                "export it for batches of any size, or leave out --calib",
            ) from error
        raise _refusal(
            f"PyTorch does not run the ONNX graph on {len(samples[0])} samples "
            f"({first_line(error)})"
        ) from error
    for name, head, answer in zip(teacher.heads, heads, answers, strict=True):
        if not _is_close(head, answer):
            raise _refusal(
                f"PyTorch and ONNX Runtime answer differently at {name!r}; please report the model"
            )


def _part(model: ModelProto, teacher: OnnxTeacher) -> ModelProto:
    """Return the part of a model that computes the heads."""
    wanted = set(teacher.heads)
    nodes = []
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            nodes.append(node)
            wanted.update(node.input)
    part = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = part.graph
    graph.name = "heads"
    graph.node.extend(reversed(nodes))
    graph.initializer.extend(one for one in model.graph.initializer if one.name in wanted)
    graph.input.extend(one for one in model.graph.input if one.name in teacher.inputs)
    graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in teacher.heads)
    return part


def _is_close(head: Tensor, answer: NDArray[Any]) -> bool:
    """Tell whether two results differ by rounding alone, whatever the shape of class scores."""
    tolerance = _TOLERANCE_OF_HALVES if answer.dtype == np.float16 else _TOLERANCE
    reference = answer.astype(np.float64)
    if head.numel() != reference.size or len(head) != len(reference):
        return False
    difference = np.abs(head.double().numpy() - reference.reshape(head.shape))
    scale = float(np.abs(reference).max(initial=0.0))
    return bool(difference.max(initial=0.0) <= tolerance * scale)


def _refusal(what: str) -> SpqError:
    return SpqError(
        Reason.UNSUPPORTED_MODEL, f"{what}; leave out --calib, and the weights alone are looked at"
    )
