"""Writes the contents of a packed file in formats that other tools read."""

from pathlib import Path

import spq
from spq._extras import extra
from spqformat import Limits
from spqformat.atomic import write_atomically


def write_safetensors(file: Path, output: Path, limits: Limits | None = None) -> int:
    """Write all tensors of a packed file, and its metadata, as ``.safetensors``.

    Parameters
    ----------
    file : Path
        The packed file.
    output : Path
        File to create or replace, in one step or not at all. Tied tensors are written once for
        each name, as that format knows no ties.
    limits : Limits, optional
        What reading may take.

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
    with extra("torch"):
        import safetensors.torch
    with spq.open(file, limits) as archive:
        tied, metadata = archive.aliases.keys(), {**archive.metadata, "format": "pt"}
        state = spq.load_state_dict(archive)
    apart = {name: value.clone() if name in tied else value for name, value in state.items()}
    return write_atomically(output, [safetensors.torch.save(apart, metadata)])


def write_onnx(
    file: Path, output: Path, *, compact: bool = False, limits: Limits | None = None
) -> int:
    """Write a packed file as an ordinary ONNX model with its weights inside.

    Parameters
    ----------
    file : Path
        The packed file; it must hold an ONNX program.
    output : Path
        File to create or replace, in one step or not at all.
    compact : bool, optional
        Whether standard operators expand the weights where the model is loaded, see
        `spqtools.expansion.shrink`, instead of all weights being there as they are.
    limits : Limits, optional
        What reading may take.

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
    model = spq.load_onnx(file, limits=limits)
    # Writing .safetensors takes no onnx.
    from spq.onnx_graph import serialise

    if compact:
        from spqtools.expansion import shrink

        shrink(model)
    return write_atomically(output, [serialise(model)])
