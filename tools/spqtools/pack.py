"""The way from a trained network to a packed file: read, search, encode, check, write, report."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
from torch import Tensor

from spqformat import Reason, SpqError
from spqformat.atomic import write_atomically
from spqtools.content import Content, check_exact, read_parts
from spqtools.evolve.search import held_out_samples
from spqtools.inspection import inspect_file
from spqtools.judge import accuracy_of_packed, check_runtimes_agree
from spqtools.memory import bits_of
from spqtools.progress import Progress
from spqtools.reading import preprocess
from spqtools.reading.calibration import Calibration, read_calibration
from spqtools.reading.ingest import Source, ingest
from spqtools.reading.preprocess import Preprocess
from spqtools.reading.programs import trace
from spqtools.reading.teacher import Teacher, find_teacher
from spqtools.reading.unlabelled import read_unlabelled
from spqtools.report import Report
from spqtools.search.compress import Lessons, compress
from spqtools.search.deadline import Deadline
from spqtools.search.fitness import named_fitness
from spqtools.search.frontier import Frontier
from spqtools.search.goal import Options
from spqtools.search.outcome import Compressed
from spqtools.search.weights_only import compress_weights
from spqtools.training.course import DEFAULT_SECONDS


@dataclass(frozen=True)
class PackRequest:
    """What to pack and how.

    Parameters
    ----------
    model, output : Path
        File to read and file to write.
    options : Options
        Goal, bits, effort and seed of the search.
    arch : str, optional
        ``MODULE:CALLABLE`` or ``FILE.py:CALLABLE`` that builds the network of a state dict.
    calibration : Path, optional
        Calibration inputs; without them only the weights are looked at.
    preprocess : Preprocess, optional
        What is done to the images of a folder of calibration inputs or inputs to train on.
    stores_program : bool
        Whether the file gets the network's programs.
    resumes : bool
        Whether to go on from the checkpoint beside the output.
    frontier : Path, optional
        JSON to write with every point that the search passes; needs calibration inputs.
    time_limit : float, optional
        Seconds after which the search ends with the best that there is; a packing without
        calibration inputs takes no notice of it.
    recovery : str, optional
        Inputs to train on, see `read_unlabelled`; images of a folder are varied. Needed when the
        options say that it recovers.
    recovery_time : float
        Seconds for the training.
    """

    model: Path
    output: Path
    options: Options
    arch: str | None = None
    calibration: Path | None = None
    preprocess: Preprocess | None = None
    stores_program: bool = True
    resumes: bool = False
    frontier: Path | None = None
    time_limit: float | None = None
    recovery: str | None = None
    recovery_time: float = DEFAULT_SECONDS


def checkpoint_path(output: Path) -> Path:
    """Return where an interrupted search for `output` leaves its state."""
    return output.with_name(f"{output.name}.ckpt")


def run_pack(request: PackRequest, progress: Progress) -> Report:
    """Pack a network.

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
        neither created nor changed; points of the frontier that were found stay.
    """
    started = time.monotonic()
    deadline = Deadline(request.time_limit)
    checkpoint = checkpoint_path(request.output)
    _check_request(request, checkpoint)
    with progress.stage("read"):
        source = ingest(request.model, request.arch)
        calibration = None
        if request.calibration is not None:
            steps = request.preprocess if request.calibration.is_dir() else None
            calibration = read_calibration(request.calibration, steps)
        lessons = _lessons(request, calibration)
    with progress.stage("trace"):
        inputs = None if calibration is None else calibration.inputs
        traced = trace(source, inputs)
        tensors, programs = read_parts(source, traced, stores_program=request.stores_program)
        teacher = None if inputs is None else find_teacher(source, traced, inputs)
    content = Content(source, tensors, programs, teacher, request.options)
    notes = [*_notes(source, teacher, calibration), *programs.notes]
    if lessons is not None:
        if teacher is None:
            raise SpqError(Reason.BAD_ARGUMENT, "training needs the network; pass --arch")
        kind = "images, varied," if lessons.varies else "inputs"
        notes.append(f"trained on {lessons.inputs[0].shape[0]:,} {kind} without labels")
        notes += _known(lessons, calibration)
    for note in notes:
        progress.note(note)
    frontier = None if request.frontier is None else _open_frontier(request, content)
    if not request.resumes and checkpoint.exists():
        kept = checkpoint.with_name(f"{checkpoint.name}.old")
        checkpoint.replace(kept)
        progress.note(f"{checkpoint.name} of an earlier search was kept as {kept.name}")
    goal = request.options.goal(content.float_bytes)
    with _forgotten_when_out_of_reach(checkpoint):
        if teacher is None or calibration is None:
            arrays = {name: one for name, one in tensors.items() if isinstance(one, np.ndarray)}
            compressed = compress_weights(
                arrays, request.options, goal, progress, content.file_bytes
            )
        else:
            compressed = compress(
                teacher.graph,
                calibration,
                request.options,
                goal,
                progress,
                content.file_bytes,
                checkpoint=checkpoint,
                on_point=None if frontier is None else partial(_keep, frontier, content),
                deadline=deadline,
                lessons=lessons,
            )
    with progress.stage("check"):
        packed = content.encode(compressed.state, compressed.divergence, compressed.divergence_kind)
        check_exact(packed, content.stored(compressed.state))
        if calibration is not None and {"torch", "onnx"} <= programs.stored.keys():
            check_runtimes_agree(packed, calibration)
        accuracy = None
        if calibration is not None and teacher is not None:
            accuracy = accuracy_of_packed(packed, source, traced, calibration)
    write_atomically(request.output, [packed])
    notes += [*compressed.notes, *_ending(compressed, checkpoint)]
    inspection = inspect_file(packed)
    if frontier is not None and compressed.divergence is not None:
        drop = None if accuracy is None else accuracy.before - accuracy.after
        frontier.choose(packed, inspection, compressed.divergence, drop)
    return Report(
        model=str(request.model),
        output=str(request.output),
        bytes_before=inspection.float_bytes,
        bytes_after=inspection.file_bytes,
        weights=inspection.weights,
        sparsity=inspection.sparsity,
        divergence=compressed.divergence,
        divergence_kind=None if compressed.divergence is None else compressed.divergence_kind,
        accuracy=accuracy,
        missed=compressed.missed,
        seconds=time.monotonic() - started,
        tensors=inspection.tensors,
        notes=tuple(notes),
    )


def _open_frontier(request: PackRequest, content: Content) -> Frontier:
    """Return what collects the points that the search passes."""
    assert request.frontier is not None
    if not content.is_searched:
        raise SpqError(
            Reason.BAD_ARGUMENT,
            "a frontier needs calibration inputs and a network to run them on; "
            "pass --calib, and --arch for a state dict",
        )
    return Frontier(request.frontier, content.provenance(None, ""), resumes=request.resumes)


def _keep(frontier: Frontier, content: Content, found: Compressed, drop: float | None) -> None:
    """Add a point that the search has passed to the frontier."""
    assert found.divergence is not None
    packed = content.encode(found.state, found.divergence, found.divergence_kind)
    check_exact(packed, content.stored(found.state))
    frontier.add(packed, inspect_file(packed), found.divergence, drop)


def _ending(compressed: Compressed, checkpoint: Path) -> list[str]:
    """Say what time has cut short; a checkpoint that nobody needs any more is deleted."""
    notes = []
    if compressed.is_hurried:
        notes.append("time made the training shorter; more of it makes the file better")
    if compressed.is_cut and checkpoint.exists():
        notes.append("time ended the search; the same command with --resume goes on from there")
    elif compressed.is_cut:
        notes.append("time ended the search before anything was tried; allow more")
    else:
        checkpoint.unlink(missing_ok=True)
    return notes


@contextmanager
def _forgotten_when_out_of_reach(checkpoint: Path) -> Iterator[None]:
    """Delete the checkpoint of a search that is over: going on from it would end the same way."""
    try:
        yield
    except SpqError as error:
        if error.code is Reason.GOAL_NOT_REACHED:
            checkpoint.unlink(missing_ok=True)
        raise


def _lessons(request: PackRequest, calibration: Calibration | None) -> Lessons | None:
    """Read what the student is to be trained on."""
    if request.options.recovers != (request.recovery is not None):
        raise SpqError(
            Reason.BAD_ARGUMENT, "`recovers` in the options and `recovery` go together; give both"
        )
    if request.recovery is None:
        return None
    if calibration is None:
        raise SpqError(
            Reason.BAD_ARGUMENT, "training begins with a search on calibration inputs; pass --calib"
        )
    are_images = Path(request.recovery).is_dir()
    steps = request.preprocess if are_images else None
    inputs = read_unlabelled(request.recovery, calibration.inputs, steps)
    varies = are_images and (steps is None or steps.layout == "nchw")
    return Lessons(inputs, request.recovery_time, varies)


def _known(lessons: Lessons, calibration: Calibration | None) -> list[str]:
    """Say which of the inputs that judge the result it has learnt from."""
    assert calibration is not None
    samples = calibration.inputs[0].shape[0]
    held = held_out_samples(samples)
    learnt = {_digest(sample) for sample in lessons.inputs[0]}
    known = sum(_digest(sample) in learnt for sample in calibration.inputs[0][samples - held :])
    if not known:
        return []
    return [f"{known:,} of {held:,} inputs that judge the result were learnt from, too"]


def _digest(sample: Tensor) -> bytes:
    return sha256(bits_of(sample)).digest()


def _check_request(request: PackRequest, checkpoint: Path) -> None:
    """Refuse before the long search what would fail after it."""
    _check_writable(request.output)
    if request.frontier is not None:
        _check_writable(request.frontier)
    _check_preprocess(request)
    if request.options.fitness is not None:
        named_fitness(request.options.fitness)
    if request.resumes and not checkpoint.exists():
        raise SpqError(
            Reason.BAD_CHECKPOINT,
            f"there is no checkpoint {checkpoint} to go on from; leave out --resume",
        )


def _check_preprocess(request: PackRequest) -> None:
    """Refuse to do something to images where there are none."""
    sources = [request.calibration, None if request.recovery is None else Path(request.recovery)]
    if request.preprocess is None or any(path and path.is_dir() for path in sources):
        return
    raise SpqError(
        Reason.BAD_ARGUMENT,
        f"{preprocess.OPTION} is for folders of images, and the inputs are none; leave it out",
    )


def _check_writable(output: Path) -> None:
    """Find out before the long search, not after it, whether the output can be written."""
    if output.is_dir():
        raise IsADirectoryError(f"{output} is a folder, not a file")
    try:
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(output.parent)) from error


def _notes(source: Source, teacher: Teacher | None, calibration: Calibration | None) -> list[str]:
    """Say plainly what this run cannot do, and why."""
    if teacher is not None:
        return []
    if calibration is not None:
        unused = "--calib was not used, as there is no network to run; add --arch FILE.py:CALLABLE"
        return [unused]
    notes = ["without --calib weights were chosen by their size alone"]
    if source.onnx_model is None and source.exported is None:
        notes.append("the file holds no program; add --arch and --calib to store one")
    return notes
