"""Where an interrupted search leaves its state: written whole, read back or refused."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import spq
from spqformat import Reason, SpqError
from spqtools.evolve.search import Evolution
from spqtools.evolve.sparse import Begun, Sparse
from spqtools.evolve.sums import Sums
from spqtools.levels.rounds import Round
from spqtools.memory import bits_of, digest_of
from spqtools.search.goal import Options, Trial
from spqtools.search.placings import Placing, Placings
from spqtools.search.thinning import thick, thick_mask, thin, thin_mask
from spqtools.training.state import State, inside, under

_FORMAT = "13"
# The part that the student of a cycle on its way plays.
_BEGUN = "begun"
_PLACED = "placed"
_ROUNDS = "rounds"
_SUMS = "sums"
_FITS = "fits"
_TRAINING = "training"


@dataclass(frozen=True)
class Checkpoint:
    """A search between two steps of a cycle, of a placing of levels or of a training.

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
    placings : Placings
        What is on levels.
    sums : dict of str to Sums
        What gradients have added up to, see `Sensing`.
    training : dict of str to Tensor or None
        The training that was on its way.
    """

    trials: list[Trial]
    evaluations: int
    students: dict[str, Sparse]
    begun: Begun | None
    placings: Placings
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


def write_checkpoint(
    path: Path, checkpoint: Checkpoint, digest: str, teacher: Mapping[str, Tensor]
) -> None:
    """Write a checkpoint in one step.

    What the students share with the teacher is left out.

    Parameters
    ----------
    path : Path
        File to create or replace.
    checkpoint : Checkpoint
        State of the search.
    digest : str
        What tells the search from others.
    teacher : mapping of str to Tensor
        All tensors of the teacher.
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
        own = {name: one for name, one in student.tensors.items() if one is not teacher[name]}
        tensors |= inside(f"{role}/tensor", thin(own))
        masks = {name: thin_mask(keep) for name, keep in student.keep.items()}
        tensors |= inside(f"{role}/keep", masks)
    placings = checkpoint.placings
    for number, layers in enumerate(placings.packed.values()):
        for index, packed in enumerate(layers):
            bytes_of_layer = torch.frombuffer(bytearray(packed), dtype=torch.uint8)
            tensors[f"{_PLACED}/{number}/{index}"] = bytes_of_layer
    for number, rounds in enumerate(placings.rounds.values()):
        for method, reached in rounds.items():
            tensors |= inside(f"{_ROUNDS}/{number}/{method}", reached.tensors())
    search = {
        "trials": [[*astuple(trial)] for trial in checkpoint.trials],
        "evaluations": checkpoint.evaluations,
        "students": {
            role: [student.tilt, student.zero_cost, student.credit]
            for role, student in students.items()
        },
        "begun": begun and [begun.evaluations, begun.opening, begun.share, begun.goals],
        "sums": {kind: [sums.student, sums.done] for kind, sums in checkpoint.sums.items()},
        "placed": [[*placing, len(layers)] for placing, layers in placings.packed.items()],
        "rounds": [
            [*placing, {method: reached.number for method, reached in rounds.items()}]
            for placing, rounds in placings.rounds.items()
        ],
    }
    spq.save(tensors, path, metadata={"digest": digest, "search": json.dumps(search)})


def read_checkpoint(path: Path, digest: str, evolution: Evolution) -> Checkpoint:
    """Read what `write_checkpoint` wrote for the same search.

    Parameters
    ----------
    path : Path
        The file.
    digest : str
        What tells the search from others.
    evolution : Evolution
        The search.

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
    packed = {
        Placing(digest, manner): [
            bits_of(tensors.pop(f"{_PLACED}/{number}/{index}")) for index in range(count)
        ]
        for number, (digest, manner, count) in enumerate(saved["placed"])
    }
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        owner, name = key.split("/", 1)
        groups.setdefault(owner, {})[name] = tensor
    shapes = {layer.weight: (layer.rows, layer.columns) for layer in evolution.layers}

    def student(role: str, traits: Sequence[Any]) -> Sparse:
        own = groups.get(role, {})
        masks = under("keep", own).items()
        keep = {name: thick_mask(bits, shapes[name]) for name, bits in masks}
        changed = thick(under("tensor", own), evolution.teacher)
        return Sparse({**evolution.teacher, **changed}, keep, *traits)

    students = {role: student(role, traits) for role, traits in saved["students"].items()}
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
    rounds = {
        Placing(digest, manner): {
            method: Round.from_tensors(reached, under(f"{index}/{method}", groups[_ROUNDS]))
            for method, reached in numbers.items()
        }
        for index, (digest, manner, numbers) in enumerate(saved["rounds"])
    }
    trials = [Trial(*trial) for trial in saved["trials"]]
    training = groups.get(_TRAINING)
    placings = Placings(packed, rounds)
    return Checkpoint(trials, saved["evaluations"], students, begun, placings, sums, training)
