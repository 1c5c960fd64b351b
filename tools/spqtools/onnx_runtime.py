"""Opens ONNX models in ONNX Runtime and runs them on any number of samples, without its log."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spq._extras import extra
from spqtools.reading.preprocess import OPTION

_SILENT = 4
_RGB = 3
_NAME_CHARACTERS = 40
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

Shape = Sequence[int | str | None]
"""Sizes of the dimensions; those that are free have a name or None."""


class MisfitError(ValueError):
    """Says which input of a network takes another shape, and what to do."""


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
    MisfitError
        An array has another shape than its input.
    Exception
        What ONNX Runtime raises has types of its own.
    """
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = _SILENT
    inputs = {value.name: value for value in session.get_inputs() if value.name in feeds}
    for name, value in inputs.items():
        _check_shape(name, value.shape, feeds[name].shape)
    types = {name: ELEMENT_TYPES.get(value.type) for name, value in inputs.items()}
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
    MisfitError
        An array has another shape than its input.
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


def _check_shape(name: str, taken: Shape, shape: Shape) -> None:
    """Refuse what does not fit; ONNX Runtime would, and not say what to do."""
    if not taken or _fits(taken, shape):  # not even the number of dimensions need be fixed
        return
    if _fits(taken[1:], shape[1:]):
        remedy = "export it for batches of any size"
    elif len(taken) == 4 and _RGB in (taken[1], taken[3]):
        is_last = taken[1] != _RGB
        height, width = taken[1:3] if is_last else taken[2:]
        is_fixed = isinstance(height, int) and isinstance(width, int)
        size = f"{width}x{height}" if is_fixed else "WIDTHxHEIGHT"
        layout = ",layout=nhwc" if is_last else ""
        remedy = f"for images write {OPTION} size={size},fit=letterbox{layout}, or another fit"
    else:
        remedy = "give it samples of that shape"
    raise MisfitError(
        f"takes {_listed(taken)} as {name[:_NAME_CHARACTERS]!r} and was given {_listed(shape)}; "
        f"{remedy}"
    )


def _fits(taken: Shape, shape: Shape) -> bool:
    """Tell whether a shape is one that is taken; sides that are no numbers are free."""
    return len(taken) == len(shape) and all(
        side == given or not isinstance(side, int) for side, given in zip(taken, shape, strict=True)
    )


def _listed(shape: Shape) -> str:
    return "x".join(str(side) if isinstance(side, int) else "N" for side in shape)
