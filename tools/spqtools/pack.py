"""The way from a trained network to a packed file: read, search, write, read back, report."""

import io
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import spq
from spqformat import Reason, SpqError, __version__
from spqformat.atomic import write_atomically
from spqtools.calibration import Calibration, read_calibration
from spqtools.compress import Compressed, Options, compress, compress_weights
from spqtools.ingest import Source, ingest
from spqtools.inspection import inspect_file
from spqtools.progress import Progress
from spqtools.programs import Programs, capture_programs
from spqtools.report import Accuracy, Report

METADATA_PREFIX = "spq."


@dataclass(frozen=True)
class PackRequest:
    """What to pack and how.

    Parameters
    ----------
    model, output : Path
        File to read and file to write.
    arch : str, optional
        ``MODULE:CALLABLE`` or ``FILE.py:CALLABLE`` that builds the network of a state dict.
    calibration : Path, optional
        Calibration inputs; without them only the weights are looked at.
    options : Options
        Goal, bits, effort and seed of the search.
    stores_program : bool
        Whether the file gets the network's programs.
    resumes : bool
        Whether to go on from the checkpoint beside the output.
    """

    model: Path
    output: Path
    options: Options
    arch: str | None = None
    calibration: Path | None = None
    stores_program: bool = True
    resumes: bool = False


def checkpoint_path(output: Path) -> Path:
    """Return where an interrupted search for `output` leaves its state."""
    return output.with_name(f"{output.name}.ckpt")


def run_pack(request: PackRequest, progress: Progress) -> Report:
    """Pack a network: search, encode, write, and check what was written.

    Parameters
    ----------
    request : PackRequest
        What to pack and how.
    progress : Progress
        Hears of the stages.

    Returns
    -------
    Report
        What came of it.

    Raises
    ------
    SpqError
        Every reason about models, calibration, goals and checkpoints; `self_check_failed` when the
        file does not hold what the search found.
    OSError
        A file could not be read or written.
    KeyboardInterrupt
        The search was interrupted; its checkpoint stays. In each of these cases the output is
        neither created nor changed.
    """
    started = time.monotonic()
    checkpoint = checkpoint_path(request.output)
    _check_writable(request.output)
    _prepare_checkpoint(checkpoint, resumes=request.resumes)
    with progress.stage("read the model"):
        source = ingest(request.model, request.arch)
    calibration = None if request.calibration is None else read_calibration(request.calibration)
    programs = capture_programs(source, calibration, progress)
    compressed = _compress(source, calibration, programs, request.options, progress, checkpoint)
    stored_programs = programs.stored if request.stores_program else {}
    packed = _encode(compressed, stored_programs, _provenance(source, request, compressed))
    accuracy = _accuracy(packed, source, calibration, progress)
    write_atomically(request.output, [packed])
    checkpoint.unlink(missing_ok=True)
    inspection = inspect_file(packed)
    return Report(
        model=str(request.model),
        output=str(request.output),
        bytes_before=inspection.float_bytes,
        bytes_after=inspection.file_bytes,
        program_bytes=0,
        weights=inspection.weights,
        sparsity=inspection.sparsity,
        divergence=compressed.divergence,
        divergence_kind=compressed.divergence_kind,
        accuracy=accuracy,
        seconds=time.monotonic() - started,
        tensors=inspection.tensors,
        notes=(),
    )


def _check_writable(output: Path) -> None:
    """Find out before the long search, not after it, whether the output can be written."""
    if output.is_dir():
        raise IsADirectoryError(f"{output} is a folder, not a file")
    with tempfile.TemporaryFile(dir=output.parent):
        pass


def _prepare_checkpoint(checkpoint: Path, *, resumes: bool) -> None:
    """Keep the checkpoint of an interrupted run only if it is to be resumed."""
    if not resumes:
        checkpoint.unlink(missing_ok=True)
    elif not checkpoint.exists():
        raise SpqError(
            Reason.BAD_CHECKPOINT,
            f"there is no checkpoint {checkpoint} to go on from; leave out --resume",
        )


def _encode(
    state: Mapping[str, NDArray[np.generic]],
    programs: Mapping[str, bytes],
    metadata: Mapping[str, str],
) -> bytes:
    """Encode the file in memory, and decode it again to prove that nothing was lost."""
    stream = io.BytesIO()
    spq.save(state, stream, metadata=metadata, programs=programs)
    packed = stream.getvalue()
    with spq.open(packed) as archive:
        archive.verify()
        for name, value in state.items():
            decoded = archive.get_tensor(name)
            if (decoded.shape, decoded.tobytes()) != (value.shape, value.tobytes()):
                raise SpqError(
                    Reason.SELF_CHECK_FAILED,
                    f"tensor {name!r} does not come back as it was stored; please report this",
                )
    return packed
