"""Decoded tensors as ONNX models and ONNX Runtime sessions, without a file in between."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spq._extras import extra

with extra("onnx"):
    import onnxruntime
    from onnx import ModelProto, TensorProto

from spq.archive import Archive, opened
from spq.onnx_graph import bind, serialise
from spq.source import FileLike
from spqformat import Limits, Reason, SpqError
from spqformat.errors import first_line

# ONNX Runtime looks into smaller tensors while it builds the graph, shapes for example.
_LEAST_OUTSIDE_BYTES = 4096


def load_onnx(
    file: FileLike | Archive, *, threads: int | None = None, limits: Limits | None = None
) -> ModelProto:
    """Load a network as an ordinary ONNX model.

    Parameters
    ----------
    file : path-like, URL, bytes-like, seekable binary file object or Archive
        The file, or one that `spq.open` has opened; it must hold an ``onnx`` program.
    threads : int, optional
        Threads that decode; by default the processors of this process.
    limits : Limits, optional
        What the reader is willing to spend.

    Returns
    -------
    onnx.ModelProto
        Model with all weights inside.

    Raises
    ------
    SpqError
        Every reason of spec 10.1; `no_program`; `missing_extra` without onnx.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> onnx.save(spq.load_onnx("model.spq"), "model.onnx")
    """
    return bind(*_read(file, threads, limits))


def session(
    file: FileLike | Archive,
    *,
    threads: int | None = None,
    limits: Limits | None = None,
    **options: Any,
) -> "onnxruntime.InferenceSession":
    """Open a network in ONNX Runtime; no temporary file is written.

    ONNX Runtime takes the decoded weights as they are, without a copy. Only where ``sess_options``
    are given, which may be used for other sessions too, does it read them from a model in memory.

    Parameters
    ----------
    file : path-like, URL, bytes-like, seekable binary file object or Archive
        The file, or one that `spq.open` has opened; it must hold an ``onnx`` program.
    threads : int, optional
        Threads that decode; by default the processors of this process.
    limits : Limits, optional
        What the reader is willing to spend.
    **options
        Passed on to `onnxruntime.InferenceSession`: ``providers``, ``sess_options`` and so on.

    Returns
    -------
    onnxruntime.InferenceSession
        Session ready to run.

    Raises
    ------
    SpqError
        As `load_onnx`; `bad_program` when ONNX Runtime refuses the graph; `limit_exceeded` for
        more than 2 GiB with ``sess_options``.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> scores = spq.session("model.spq").run(None, {"x": images})[0]
    """
    graph, tensors, bfloat16 = _read(file, threads, limits)
    options.setdefault("providers", ["CPUExecutionProvider"])
    # Older versions share no memory that they also release.
    shares_memory = hasattr(onnxruntime.OrtValue, "from_dlpack")
    if options.get("sess_options") is not None or not shares_memory:
        return _open(bind(graph, tensors, bfloat16), options)
    large = {name for name, array in tensors.items() if array.nbytes >= _LEAST_OUTSIDE_BYTES}
    model = bind(graph, tensors, bfloat16, outside=large - bfloat16)
    del graph
    names = [
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    ]
    # The arrays are ONNX Runtime's from here on.
    values = [onnxruntime.OrtValue.from_dlpack(tensors[name]) for name in names]
    tensors.clear()
    sess_options = onnxruntime.SessionOptions()
    sess_options.add_external_initializers(names, values)
    del values
    return _open(model, {**options, "sess_options": sess_options})


def _read(
    file: FileLike | Archive, threads: int | None, limits: Limits | None
) -> tuple[bytes, dict[str, NDArray[np.generic]], set[str]]:
    """Return the graph, all tensors by name, and the names of those in bfloat16."""
    with opened(file, limits) as archive:
        graph = archive.program("onnx")
        if graph is None:
            raise SpqError(
                Reason.NO_PROGRAM,
                "the file holds no ONNX graph; pack a .pt2 or .onnx, or a state dict with --arch "
                "and --calib, and without --no-program",
            )
        tensors = archive.tensors(threads)
        tensors.update({tied: tensors[name] for tied, name in archive.aliases.items()})
        bfloat16 = {name for name in tensors if archive.info(name).dtype == "bf16"}
    return graph, tensors, bfloat16


def _open(model: ModelProto, options: dict[str, Any]) -> "onnxruntime.InferenceSession":
    """Let ONNX Runtime read a model."""
    try:
        return onnxruntime.InferenceSession(serialise(model), **options)
    except _REFUSALS as error:
        raise SpqError(
            Reason.BAD_PROGRAM,
            f"ONNX Runtime refuses the graph: {first_line(error)}",
            section="program",
        ) from error


_REFUSALS = tuple(
    value
    for value in vars(onnxruntime.capi.onnxruntime_pybind11_state).values()
    if isinstance(value, type)
    and issubclass(value, Exception)
    and value.__module__.startswith("onnxruntime")
)
