"""Distillation: a student learns from the teacher what its zeros and levels have cost."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import cos, inf, pi

from torch import Tensor

from spqtools.evolve.divergence import Fitness
from spqtools.evolve.sparse import Sparse
from spqtools.evolve.student import Student
from spqtools.progress import Progress
from spqtools.training.budget import FALLING, Budget, TensorBytes
from spqtools.training.course import DEFAULT_SECONDS, TICKS, Course, Plan
from spqtools.training.pupil import Pupil

# Samples that are never learnt from: they tell which of the last students is the best.
_HELD_OUT_SHARE = 0.125
_MOST_HELD_OUT = 4096
# Share of the training until which weights move between levels; then levels and biases alone learn.
_MOVING = 0.9
# Choices of what is kept, if they went on for the whole training.
_CHOICES = 80
# In units of each layer's root mean squared weight, for a network of one layer: what steps do to
# the outputs adds up over the layers like noise.
_PEAK_RATE = 5.2e-2
_LOW_RATE = 5.2e-3
# Share of the file that stays free when weights cease to move: biases and levels still do, and
# take some bytes more or less.
_ROOM = 0.01
# Examinations without progress that end the training; there are none before weights cease to move.
_PATIENCE = 3


@dataclass(frozen=True)
class Recovered:
    """A student that has learnt.

    Parameters
    ----------
    tensors : dict of str to Tensor
        All tensors as they are to be stored: weights on levels, biases in steps.
    divergence : float
        From the teacher, on samples that it has not learnt from.
    is_cut : bool
        Whether time made the training shorter.
    """

    tensors: dict[str, Tensor]
    divergence: float
    is_cut: bool


def recover(
    student: Student,
    sparse: Sparse,
    inputs: Sequence[Tensor],
    file_bytes: TensorBytes,
    progress: Progress,
    *,
    target_bytes: int,
    max_levels: int,
    seconds: float = DEFAULT_SECONDS,
    seed: int = 0,
    fitness: Fitness | None = None,
    varies: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Recovered:
    """Train a sparse student on the teacher's outputs, down to a file size and onto levels.

    The size is met by a budget of bits for masks and levels, which falls from what the student
    takes to what the file leaves beside everything else. Many times in a training, weights are
    zeroed whose loss to the divergence is no longer worth their place and level, at the one price
    of a bit that the budget allows (`rate`). Once there are
    levels, the size of the real file corrects what was foreseen. When weights cease to move, the
    budget is lowered until the file fits.

    Parameters
    ----------
    student : Student
        The network; the batches that it was made with do not matter.
    sparse : Sparse
        Where to begin: what evolution has made nearly as sparse as the file is to be.
    inputs : sequence of Tensor
        Inputs of the network, first dimension the samples; an eighth, 4,096 at most, is held out.
    file_bytes : callable
        Size of the file that tensors become.
    progress : Progress
        Hears of the training.
    target_bytes : int
        Bytes that the file may have.
    max_levels : int
        Most levels of a layer besides zero.
    seconds : float
        Wall time; a training that takes longer becomes shorter.
    seed : int
        Seed of all random choices.
    fitness : callable, optional
        What the student is judged by, see `Divergence`.
    varies : bool
        Whether the only input is images of which the student sees another variant each time, see
        `vary`; those that are held out stay as they are.
    clock : Callable[[], float]
        Seconds, monotonic.

    Returns
    -------
    Recovered
        Of the students since weights ceased to move, one for each epoch, the best on the held-out
        samples among those that fit; one that does not fit where none does. The same for equal
        arguments on one machine and number of threads unless time has cut it.
    """
    samples = inputs[0].shape[0]
    held_out = min(max(int(_HELD_OUT_SHARE * samples), 1), _MOST_HELD_OUT)
    plan = Plan(student, samples, seconds, clock, held_out)
    course = Course(student, inputs, plan, seed, fitness, varies)
    pupil = Pupil(student, sparse, seed)
    budget = Budget(pupil, target_bytes, file_bytes)
    best = Recovered({}, inf, False)
    least, waited = (True, inf), 0

    def examine() -> None:
        """Keep the present student if it is the best so far."""
        nonlocal best, least, waited
        found = pupil.tensors()
        divergence = course.examine(found)
        rank = not budget.allows(found), divergence
        waited += 1
        if not best.tensors or rank < least:
            best, least, waited = Recovered(found, divergence, False), rank, 0

    scale = len(student.layers) ** -0.5
    share, next_choice, has_levels, is_fixed = 0.0, 1.0 / _CHOICES, False, False
    with progress.stage("recover", TICKS) as tick:
        for epoch in range(plan.steps):
            for places in course.shuffled(epoch):
                course.teach(pupil, places, scale * _rate(share), moving=not is_fixed)
                before, share = share, plan.advance()
                tick(int(share * TICKS) - int(before * TICKS))
                if share >= FALLING and not has_levels:
                    pupil.place_levels(max_levels)
                    has_levels = True
                if share >= _MOVING and not is_fixed:
                    budget.fit(_ROOM)
                    examine()
                    is_fixed = True
                elif share >= next_choice and not is_fixed:
                    budget.choose(share)
                    next_choice = share + 1.0 / _CHOICES
                if share >= 1.0:
                    break
            if is_fixed:
                examine()
            if share >= 1.0 or waited >= _PATIENCE:
                break
        if least[0]:
            budget.fit(0.0)
            examine()
    return replace(best, is_cut=plan.is_cut)


def _rate(share: float) -> float:
    """Return the learning rate: two cosines, the second, for levels, down to nothing."""
    if share < FALLING:
        return _LOW_RATE + (_PEAK_RATE - _LOW_RATE) * (1 + cos(pi * share / FALLING)) / 2
    return _PEAK_RATE * (1 + cos(pi * (share - FALLING) / (1 - FALLING))) / 2
