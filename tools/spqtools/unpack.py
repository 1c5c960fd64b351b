"""Writes the contents of a packed file in formats that other tools read."""

from pathlib import Path

import safetensors.torch

import spq
from spqformat import Reason, SpqError
from spqformat.atomic import write_atomically

_PROTOBUF_MAX_BYTES = (1 << 31) - 1


def write_safetensors(file: Path, output: Path) -> int:
    """Write all tensors of a packed file as ``.safetensors``.

    Parameters
    ----------
    file : Path
        The packed file.
    output : Path
        File to create or replace, in one step or not at all. Tied tensors are written once for
        each name, as that format knows no ties.

    Returns
    -------
    int
        Bytes written.

    Raises
    ------
    SpqError
        Every reason of `spq.load_state_dict`.
    OSError
        A file could not be read or written; nothing was changed.
    """
    with spq.open(file) as archive:
        tied = archive.aliases.keys()
    state = spq.load_state_dict(file)
    apart = {name: value.clone() if name in tied else value for name, value in state.items()}
    return write_atomically(output, [safetensors.torch.save(apart, {"format": "pt"})])


def write_onnx(file: Path, output: Path) -> int:
    """Write a packed file as an ordinary ONNX model with its weights inside.

    Parameters
    ----------
    file : Path
        The packed file; it must hold an ONNX program.
    output : Path
        File to create or replace, in one step or not at all.

    Returns
    -------
    int
        Bytes written.

    Raises
    ------
    SpqError
        Every reason of `spq.load_onnx`; `limit_exceeded` for a model beyond the 2 GiB that one
        ONNX file can hold.
    OSError
        A file could not be read or written; nothing was changed.
    """
    model = spq.load_onnx(file)
    if model.ByteSize() > _PROTOBUF_MAX_BYTES:
        raise SpqError(
            Reason.LIMIT_EXCEEDED,
            "one ONNX file holds at most 2 GiB and this model is larger; load it with spq.session",
        )
    return write_atomically(output, [model.SerializeToString(deterministic=True)])
