"""Distillation: a student learns from the teacher what its zeros and levels have cost."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import cos, inf, pi

from torch import Tensor

from spqtools.evolve.divergence import Fitness
from spqtools.evolve.sparse import Sparse
from spqtools.evolve.student import Student
from spqtools.progress import Progress, Tick
from spqtools.training.budget import FALLING, Budget, TensorBytes
from spqtools.training.course import DEFAULT_SECONDS, TICKS, Course, Plan
from spqtools.training.pupil import Pupil
from spqtools.training.state import AfterStep, State, Subject, inside, nobody, number, under

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
# Levels from which on steps are as large as that. Where there are fewer, a weight that goes from
# one to the next changes more: ResNet-20 at 27x on three levels gave 90.7 % of the original's
# answers with three sevenths of the steps, and 38.4 % with all of them.
_MANY_LEVELS = 7
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
    divergence, rival_divergence : float
        Its own and its rival's, from the teacher, on samples that it has not learnt from.
    is_cut : bool
        Whether time made the training shorter.
    """

    tensors: dict[str, Tensor]
    divergence: float
    rival_divergence: float
    is_cut: bool


def recover(
    student: Student,
    sparse: Sparse,
    inputs: Sequence[Tensor],
    file_bytes: TensorBytes,
    progress: Progress,
    *,
    rival: Mapping[str, Tensor],
    target_bytes: int,
    max_levels: int,
    seconds: float = DEFAULT_SECONDS,
    seed: int = 0,
    fitness: Fitness | None = None,
    varies: bool = False,
    begun: State | None = None,
    after_step: AfterStep = nobody,
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
    rival : mapping of str to Tensor
        All tensors of a student that is measured beside the one that learns.
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
    begun : dict of str to Tensor, optional
        A state of the same training, which goes on from there; one of another is left aside.
    after_step : AfterStep
        Hears of each step.
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
    subject = Subject(sparse.tensors, inputs)
    budget = Budget(pupil, target_bytes, file_bytes)
    training = _Training(subject, plan, course, pupil, budget, max_levels)
    if (own := subject.own(begun, progress)) is not None:
        training.restore(own)
    with progress.stage("recover", TICKS, plan.ticks) as tick:
        training.run(len(student.layers) ** -0.5, tick, after_step)
    against = course.examine(rival)
    return replace(training.best, rival_divergence=against, is_cut=plan.is_cut)


class _Training:
    """A training down to a size, and how far it has come."""

    def __init__(
        self,
        subject: Subject,
        plan: Plan,
        course: Course,
        pupil: Pupil,
        budget: Budget,
        max_levels: int,
    ) -> None:
        self._subject = subject
        self._plan, self._course, self._pupil, self._budget = plan, course, pupil, budget
        self._max_levels = max_levels
        self._epoch, self._batch = 0, 0
        self._next_choice = 1.0 / _CHOICES
        self._has_levels, self._is_fixed = False, False
        self._best_exceeds, self._waited = True, 0
        self.best = Recovered({}, inf, inf, False)

    def run(self, scale: float, tick: Tick, after_step: AfterStep) -> None:
        """Take the steps that are left, with rates in units of a scale."""
        plan = self._plan
        while self._epoch < plan.steps and self._waited < _PATIENCE:
            for places in self._course.shuffled(self._epoch)[self._batch :]:
                if plan.share >= 1.0:
                    break
                before, rate = plan.ticks, scale * _rate(plan.share, self._max_levels)
                self._course.teach(self._pupil, places, rate, moving=not self._is_fixed)
                self._batch += 1
                self._reach(plan.advance())
                tick(plan.ticks - before)
                after_step(plan.share, self.state)
            if self._is_fixed:
                self._examine()
            if plan.share >= 1.0:
                break
            self._epoch, self._batch = self._epoch + 1, 0
        if self._best_exceeds:
            self._budget.fit(0.0)
            self._examine()

    def _reach(self, share: float) -> None:
        """Place levels, choose what stays or end the choosing, as it comes at a share."""
        if share >= FALLING and not self._has_levels:
            self._pupil.place_levels(self._max_levels)
            self._has_levels = True
        if share >= _MOVING and not self._is_fixed:
            self._budget.fit(_ROOM)
            self._examine()
            self._is_fixed = True
        elif share >= self._next_choice and not self._is_fixed:
            self._budget.choose(share)
            self._next_choice = share + 1.0 / _CHOICES

    def _examine(self) -> None:
        """Keep the present student if it is the best so far."""
        found = self._pupil.tensors()
        exceeds, divergence = not self._budget.allows(found), self._course.examine(found)
        self._waited += 1
        least = self._best_exceeds, self.best.divergence
        if not self.best.tensors or (exceeds, divergence) < least:
            self.best = Recovered(found, divergence, inf, False)
            self._best_exceeds, self._waited = exceeds, 0

    def state(self) -> State:
        """Return what `restore` needs."""
        reached = {
            "epoch": number(self._epoch),
            "batch": number(self._batch),
            "next_choice": number(self._next_choice),
            "has_levels": number(self._has_levels),
            "is_fixed": number(self._is_fixed),
            "best_exceeds": number(self._best_exceeds),
            "waited": number(self._waited),
            "divergence": number(self.best.divergence),
            "foreseen": number(self._budget.foreseen),
        }
        return {
            **reached,
            **self._subject.state(),
            **inside("plan", self._plan.state()),
            **inside("course", self._course.state()),
            **inside("pupil", self._pupil.state()),
            **inside("best", self.best.tensors),
        }

    def restore(self, state: State) -> None:
        """Go on from where a training was killed."""
        self._epoch, self._batch = int(state["epoch"]), int(state["batch"])
        self._next_choice = float(state["next_choice"])
        self._has_levels, self._is_fixed = bool(state["has_levels"]), bool(state["is_fixed"])
        self._best_exceeds, self._waited = bool(state["best_exceeds"]), int(state["waited"])
        self.best = Recovered(under("best", state), float(state["divergence"]), inf, False)
        self._budget.foreseen = float(state["foreseen"])
        self._plan.restore(under("plan", state))
        self._course.restore(under("course", state))
        self._pupil.restore(under("pupil", state))


def _rate(share: float, max_levels: int) -> float:
    """Return the learning rate: two cosines, the second, for levels, down to nothing."""
    if share < FALLING:
        return _LOW_RATE + (_PEAK_RATE - _LOW_RATE) * (1 + cos(pi * share / FALLING)) / 2
    peak = _PEAK_RATE * min(max_levels / _MANY_LEVELS, 1.0)
    return peak * (1 + cos(pi * (share - FALLING) / (1 - FALLING))) / 2
