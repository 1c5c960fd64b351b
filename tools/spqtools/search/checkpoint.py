"""Where an interrupted search leaves its state: written whole, read back or refused."""

import hashlib
import json
from dataclasses import astuple, dataclass
from pathlib import Path

import torch
from torch import Tensor

import spq
from spqformat import Reason, SpqError
from spqtools.evolve.search import Evolution
from spqtools.evolve.sparse import Begun, Sparse
from spqtools.evolve.sums import Sums
from spqtools.memory import bits_of, digest_of
from spqtools.search.goal import Options, Trial
from spqtools.search.placings import Placing
from spqtools.training.state import State, inside, under

_FORMAT = "12"
# The part that the student of a cycle on its way plays.
_BEGUN = "begun"
_PLACED = "placed"
_SUMS = "sums"
_FITS = "fits"
_TRAINING = "training"


@dataclass(frozen=True)
class Checkpoint:
    """A search between two cycles, or between two steps of one or of a placing of levels.

    Parameters
    ----------
    trials : list of Trial
        What was tried, in order.
    evaluations : int
        Candidates that were assessed.
    students : dict of str to Sparse
        Those that the search goes on with, by the part that they play.
    begun : Begun or None
        The cycle that was on its way.
    placed : dict of Placing to list of bytes
        Layers on levels, see `Placings`.
    sums : dict of str to Sums
        What gradients have added up to, see `Sensing`.
    training : dict of str to Tensor or None
        The training that was on its way.
    """

    trials: list[Trial]
    evaluations: int
    students: dict[str, Sparse]
    begun: Begun | None
    placed: dict[Placing, list[bytes]]
    sums: dict[str, Sums]
    training: State | None


def search_digest(evolution: Evolution, options: Options, labels: Tensor | None) -> str:
    """Return what tells a search from every other: options, network, inputs and their labels."""
    program = str(evolution.graph.graph)
    described = [_FORMAT, options.described(), program, digest_of(evolution.teacher)]
    digest = hashlib.sha256(json.dumps(described).encode())
    for tensor in (*evolution.inputs, *(() if labels is None else (labels,))):
        digest.update(bits_of(tensor))
    return digest.hexdigest()


def write_checkpoint(path: Path, checkpoint: Checkpoint, digest: str) -> None:
    """Write a checkpoint in one step.

    Parameters
    ----------
    path : Path
        File to create or replace.
    checkpoint : Checkpoint
        State of the search.
    digest : str
        What tells the search from others.
    """
    tensors: dict[str, Tensor] = {}
    students, begun = dict(checkpoint.students), checkpoint.begun
    if begun is not None:
        students[_BEGUN] = begun.student
        tensors |= {f"{_FITS}/{index}": fit for index, fit in enumerate(begun.fits)}
    for kind, sums in checkpoint.sums.items():
        tensors |= inside(f"{_SUMS}/{kind}", sums.tensors())
    if checkpoint.training is not None:
        tensors |= inside(_TRAINING, checkpoint.training)
    for role, student in students.items():
        tensors |= inside(f"{role}/tensor", student.tensors)
        tensors |= inside(f"{role}/keep", student.keep)
    for number, layers in enumerate(checkpoint.placed.values()):
        for index, packed in enumerate(layers):
            bytes_of_layer = torch.frombuffer(bytearray(packed), dtype=torch.uint8)
            tensors[f"{_PLACED}/{number}/{index}"] = bytes_of_layer
    search = {
        "trials": [[*astuple(trial)] for trial in checkpoint.trials],
        "evaluations": checkpoint.evaluations,
        "students": {
            role: [student.tilt, student.zero_cost, student.credit]
            for role, student in students.items()
        },
        "begun": begun and [begun.evaluations, begun.opening, begun.share, begun.goals],
        "sums": {kind: [sums.student, sums.done] for kind, sums in checkpoint.sums.items()},
        "placed": [[*placing, len(layers)] for placing, layers in checkpoint.placed.items()],
    }
    spq.save(tensors, path, metadata={"digest": digest, "search": json.dumps(search)})


def read_checkpoint(path: Path, digest: str) -> Checkpoint:
    """Read what `write_checkpoint` wrote for the same search.

    Parameters
    ----------
    path : Path
        The file.
    digest : str
        What tells the search from others.

    Raises
    ------
    SpqError
        `bad_checkpoint` when the file is damaged or belongs to another search.
    """
    try:
        with spq.open(path) as archive:
            metadata = archive.metadata
            archive.verify()
            tensors = spq.load_state_dict(archive)
    except SpqError as error:
        raise SpqError(
            Reason.BAD_CHECKPOINT,
            f"{path} is damaged ({error.code}); delete it or leave out --resume",
        ) from error
    if metadata.get("digest") != digest:
        raise SpqError(
            Reason.BAD_CHECKPOINT,
            f"{path} belongs to another search; delete it or leave out --resume",
        )
    saved = json.loads(metadata["search"])
    placed = {
        Placing(student, manner): [
            bits_of(tensors.pop(f"{_PLACED}/{number}/{index}")) for index in range(count)
        ]
        for number, (student, manner, count) in enumerate(saved["placed"])
    }
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        owner, name = key.split("/", 1)
        groups.setdefault(owner, {})[name] = tensor
    students = {
        role: Sparse(under("tensor", groups[role]), under("keep", groups[role]), *traits)
        for role, traits in saved["students"].items()
    }
    begun = None
    if saved["begun"] is not None:
        fits = groups.get(_FITS, {})
        in_order = [fits[str(index)] for index in range(len(fits))]
        evaluations, opening, share, goals = saved["begun"]
        begun = Begun(students.pop(_BEGUN), evaluations, opening, share, goals, in_order)
    sums = {
        kind: Sums.from_tensors(student, done, under(kind, groups[_SUMS]))
        for kind, (student, done) in saved["sums"].items()
    }
    trials = [Trial(*trial) for trial in saved["trials"]]
    training = groups.get(_TRAINING)
    return Checkpoint(trials, saved["evaluations"], students, begun, placed, sums, training)
