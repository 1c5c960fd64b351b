"""Decoded tensors as ONNX models and ONNX Runtime sessions, without a file in between."""

from typing import Any

from spq._extras import extra

with extra("onnx"):
    import onnxruntime
    from onnx import ModelProto

from spq.archive import Archive
from spq.onnx_graph import bind
from spq.source import FileLike
from spqformat import Limits, Reason, SpqError


def load_onnx(file: FileLike, *, limits: Limits | None = None) -> ModelProto:
    """Load a network as an ordinary ONNX model.

    Parameters
    ----------
    file : path-like, bytes-like or seekable binary file object
        The file; it must hold an ``onnx`` program.
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
    with Archive(file, limits or Limits()) as archive:
        graph = archive.program("onnx")
        if graph is None:
            raise SpqError(
                Reason.NO_PROGRAM,
                "the file holds no ONNX graph; pack it with --calib and --arch, or from .onnx",
            )
        tensors = archive.tensors()
        tensors.update({tied: tensors[name] for tied, name in archive.aliases.items()})
        bfloat16 = {name for name in tensors if archive.info(name).dtype == "bf16"}
    return bind(graph, tensors, bfloat16)


def session(
    file: FileLike, *, limits: Limits | None = None, **options: Any
) -> "onnxruntime.InferenceSession":
    """Open a network in ONNX Runtime; no temporary file is written.

    Parameters
    ----------
    file : path-like, bytes-like or seekable binary file object
        The file; it must hold an ``onnx`` program.
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
        As `load_onnx`; `bad_program` when ONNX Runtime refuses the graph.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> scores = spq.session("model.spq").run(None, {"x": images})[0]
    """
    serialised = load_onnx(file, limits=limits).SerializeToString()
    options.setdefault("providers", ["CPUExecutionProvider"])
    try:
        return onnxruntime.InferenceSession(serialised, **options)
    except _REFUSALS as error:
        first = str(error).strip().splitlines()[0][:200]
        raise SpqError(
            Reason.BAD_PROGRAM, f"ONNX Runtime refuses the graph: {first}", section="program"
        ) from error


_REFUSALS = tuple(
    value
    for value in vars(onnxruntime.capi.onnxruntime_pybind11_state).values()
    if isinstance(value, type)
    and issubclass(value, Exception)
    and value.__module__.startswith("onnxruntime")
)
