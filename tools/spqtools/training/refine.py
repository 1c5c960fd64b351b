"""Training where zeros stay as they are: weights are real, and levels come afterwards."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, pi

from torch import Tensor

from spqtools.evolve.divergence import Fitness
from spqtools.evolve.sparse import Sparse
from spqtools.evolve.student import Student
from spqtools.progress import Progress
from spqtools.training.course import DEFAULT_SECONDS, TICKS, Course, Plan
from spqtools.training.pupil import Pupil
from spqtools.training.state import AfterStep, State, Subject, inside, nobody, number, under

# In units of each layer's root mean squared weight, for a network of one layer: tiny-YOLOv3 at 90 %
# zeros, 1,200 variants of 96 images, came from 2.00 to 1.75 on other images.
_RATE = 8e-3


@dataclass(frozen=True)
class Refined:
    """A student that has learnt and is not yet on levels.

    Parameters
    ----------
    tensors : dict of str to Tensor
        All tensors; zeros are where they were.
    is_cut : bool
        Whether time made the training shorter.
    """

    tensors: dict[str, Tensor]
    is_cut: bool


def refine(
    student: Student,
    sparse: Sparse,
    inputs: Sequence[Tensor],
    progress: Progress,
    *,
    seconds: float = DEFAULT_SECONDS,
    seed: int = 0,
    fitness: Fitness | None = None,
    varies: bool = False,
    begun: State | None = None,
    after_step: AfterStep = nobody,
    clock: Callable[[], float] = time.monotonic,
) -> Refined:
    """Train a sparse student on the teacher's outputs where its zeros are to stay as they are.

    Parameters
    ----------
    student, sparse, inputs, progress, seconds, seed, fitness, varies, begun, after_step, clock
        See `recover`.

    Returns
    -------
    Refined
        The student at the end of the training. The same for equal arguments on one machine and
        number of threads unless time has cut it.
    """
    plan = Plan(student, inputs[0].shape[0], seconds, clock, held_out=0)
    course = Course(student, inputs, plan, seed, fitness, varies)
    pupil = Pupil(student, sparse, seed, chooses=False)
    scale = _RATE * len(student.layers) ** -0.5
    epoch, batch = 0, 0
    subject = Subject(sparse.tensors, inputs)
    if (own := subject.own(begun, progress)) is not None:
        epoch, batch = int(own["epoch"]), int(own["batch"])
        plan.restore(under("plan", own))
        course.restore(under("course", own))
        pupil.restore(under("pupil", own))

    def state() -> State:
        return {
            "epoch": number(epoch),
            "batch": number(batch),
            **subject.state(),
            **inside("plan", plan.state()),
            **inside("course", course.state()),
            **inside("pupil", pupil.state()),
        }

    with progress.stage("recover", TICKS, plan.ticks) as tick:
        while plan.share < 1.0:
            for places in course.shuffled(epoch)[batch:]:
                before, rate = plan.ticks, scale * (1 + cos(pi * plan.share)) / 2
                course.teach(pupil, places, rate, moving=True)
                batch += 1
                plan.advance()
                tick(plan.ticks - before)
                after_step(plan.share, state)
                if plan.share >= 1.0:
                    break
            epoch, batch = epoch + 1, 0
    return Refined(pupil.tensors(), plan.is_cut)
