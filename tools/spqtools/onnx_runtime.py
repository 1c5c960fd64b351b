"""Opens ONNX models in ONNX Runtime and runs them on any number of samples, without its log."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spq._extras import extra

_SILENT = 4
ELEMENT_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def open_session(model: bytes | Path) -> Any:
    """Return an ``onnxruntime.InferenceSession`` on the processor that writes no log.

    What goes wrong is an exception already; the log would say it once more.
    """
    with extra("onnx"):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    given = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def run(session: Any, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """Run a session; numbers are converted to the types that it takes.

    Raises
    ------
    Exception
        What ONNX Runtime raises has types of its own.
    """
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = _SILENT
    types = {value.name: ELEMENT_TYPES.get(value.type) for value in session.get_inputs()}
    converted = {
        name: array if types.get(name) is None else array.astype(types[name], copy=False)
        for name, array in feeds.items()
    }
    return list(session.run(None, converted, options))


def run_all(session: Any, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Run a session on all samples, in batches of the size that it is made for.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        Its inputs have the samples first, its outputs as many rows for each of them.
    inputs : sequence of ndarray
        One for each input, in their order.

    Returns
    -------
    list of ndarray
        Outputs; the last samples are repeated to fill a batch, and what they add is cut off.

    Raises
    ------
    Exception
        What ONNX Runtime raises has types of its own.
    """
    names = [value.name for value in session.get_inputs()]
    samples = len(inputs[0])
    batch = fixed_batch(session) or samples
    goes = []
    for start in range(0, samples, batch):
        rows = np.minimum(np.arange(start, start + batch), samples - 1)
        feeds = {name: array[rows] for name, array in zip(names, inputs, strict=True)}
        goes.append(run(session, feeds))
    outputs = [np.concatenate(parts) for parts in zip(*goes, strict=True)]
    return [output[: len(output) * samples // (batch * len(goes))] for output in outputs]


def fixed_batch(session: Any) -> int:
    """Return how many samples a session takes at once, 0 for any number."""
    sizes = [value.shape[0] for value in session.get_inputs() if value.shape]
    return max((size for size in sizes if isinstance(size, int)), default=0)
