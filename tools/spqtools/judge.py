"""Loads a packed file the way its users will, and measures what comes out."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

import spq
from spq.onnx_graph import serialise
from spqformat import Reason, SpqError
from spqtools.evolve.search import held_out_samples
from spqtools.onnx_runtime import open_session, run_all
from spqtools.reading.calibration import Calibration
from spqtools.reading.ingest import Source
from spqtools.report import Accuracy

_BATCH_SAMPLES = 256
_COMPARED_SAMPLES = 8
# Two runtimes add the same numbers in another order; errors beyond this are another function.
_TOLERANCE = 1e-3

Network = Callable[..., Any]


def accuracy_of_packed(
    packed: bytes, source: Source, traced: ExportedProgram | None, calibration: Calibration
) -> Accuracy | None:
    """Count right answers of the original and of the packed file on held-out samples.

    Parameters
    ----------
    packed : bytes
        The packed file.
    source : Source
        The original.
    traced : ExportedProgram or None
        The original, traced; None for an ONNX model.
    calibration : Calibration
        Inputs and labels.

    Returns
    -------
    Accuracy or None
        None without labels, for outputs that are not class scores, and where nothing can run the
        packed file.
    """
    if calibration.labels is None or not held_out_samples(calibration.samples):
        return None
    packed_network = _load(packed, source)
    if packed_network is None:
        return None
    if isinstance(packed_network, _OnnxNetwork) and not packed_network.takes(calibration.inputs):
        return None
    first = calibration.samples - held_out_samples(calibration.samples)
    inputs, labels = (
        tuple(tensor[first:] for tensor in calibration.inputs),
        calibration.labels[first:],
    )
    try:
        before = _hits(_original(source, traced), inputs, labels)
    except Exception:  # ONNX Runtime raises types of its own
        if source.onnx_model is None:
            raise
        # What is behind the scores need not take several samples at once.
        return None
    after = _hits(packed_network, inputs, labels)
    if before is None or after is None:
        return None
    return Accuracy(
        before, after, len(labels), "labelled calibration samples held out of the search"
    )


def check_runtimes_agree(packed: bytes, calibration: Calibration) -> None:
    """Run both programs of a packed file on some inputs and compare their outputs.

    Parameters
    ----------
    packed : bytes
        A packed file with both programs.
    calibration : Calibration
        Inputs.

    Raises
    ------
    SpqError
        `self_check_failed` when the outputs differ by more than rounding.
    """
    inputs = tuple(tensor[:_COMPARED_SAMPLES] for tensor in calibration.inputs)
    with torch.no_grad():
        expected = _tensors(spq.load(packed)(*inputs))
    session = spq.session(packed)
    names = [value.name for value in session.get_inputs()]
    try:
        outputs = session.run(
            None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        )
    except Exception as error:  # ONNX Runtime raises types of its own
        raise SpqError(
            Reason.SELF_CHECK_FAILED,
            "ONNX Runtime does not run the packed network; pack with --no-program and report it",
        ) from error
    if len(outputs) != len(expected) or not all(map(_close, expected, outputs)):
        raise SpqError(
            Reason.SELF_CHECK_FAILED,
            "PyTorch and ONNX Runtime answer differently; pack with --no-program and report it",
        )


def _close(torch_output: Tensor, onnx_output: Any) -> bool:
    """Tell whether two outputs differ by rounding alone."""
    reference = torch_output.double().numpy()
    answer = np.asarray(onnx_output, dtype=np.float64)
    scale = float(np.abs(reference).max(initial=0.0))
    return reference.shape == answer.shape and np.allclose(
        reference, answer, rtol=_TOLERANCE, atol=_TOLERANCE * scale
    )


def _load(packed: bytes, source: Source) -> Network | None:
    """Load the packed file, from its own program or into a copy of the original network."""
    with spq.open(packed) as archive:
        kinds = archive.program_kinds
    if "torch" in kinds:
        return spq.load(packed)
    if source.module is not None:
        return spq.load(packed, copy.deepcopy(source.module))
    return _OnnxNetwork(spq.session(packed)) if "onnx" in kinds else None


def _original(source: Source, traced: ExportedProgram | None) -> Network:
    """Return the network that was read."""
    if source.onnx_model is not None:
        return _OnnxNetwork(open_session(serialise(source.onnx_model)))
    if source.module is not None:
        return source.module
    assert traced is not None
    return traced.module()


class _OnnxNetwork:
    """A session that is called as a module is."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def takes(self, inputs: tuple[Tensor, ...]) -> bool:
        """Tell whether these are all inputs; what is behind a detector's heads may need more."""
        return len(inputs) == len(self._session.get_inputs())

    def __call__(self, *inputs: Tensor) -> Tensor:
        outputs = run_all(self._session, [tensor.numpy() for tensor in inputs])
        return torch.from_numpy(outputs[0])


def _hits(network: Network, inputs: tuple[Tensor, ...], labels: Tensor) -> float | None:
    """Return the per cent of right answers, or None for outputs that are not class scores."""
    right = 0
    with torch.no_grad():
        for start in range(0, len(labels), _BATCH_SAMPLES):
            part = slice(start, start + _BATCH_SAMPLES)
            outputs = _tensors(network(*(tensor[part] for tensor in inputs)))
            if not outputs or outputs[0].ndim != 2:
                return None
            right += int((outputs[0].argmax(dim=1) == labels[part]).sum())
    return 100 * right / len(labels)


def _tensors(outputs: Any) -> list[Tensor]:
    """Return the tensors among nested outputs, in order."""
    return [leaf for leaf in torch.utils._pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
