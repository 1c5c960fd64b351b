"""Distillation: a student learns from the teacher what its zeros and levels have cost."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import cos, inf, pi

import torch
from torch import Tensor

from spqtools.evolve.divergence import Divergence, Fitness
from spqtools.evolve.rng import Draws
from spqtools.evolve.sparse import Sparse
from spqtools.evolve.student import Student
from spqtools.progress import Progress
from spqtools.training.pupil import Pupil
from spqtools.training.variants import vary

TensorBytes = Callable[[Mapping[str, Tensor]], int]
"""Bytes of the whole file that tensors would become."""

DEFAULT_SECONDS = 600.0
# Samples that are never learnt from: they tell when to stop.
_HELD_OUT_SHARE = 0.125
_MOST_HELD_OUT = 4096
# Multiplications of all forward passes of the student, and in how many steps they are taken where
# batches of these sizes allow it.
_PRODUCTS = 4 * 10**12
_GOOD_STEPS = 1500
_LEAST_BATCH, _MOST_BATCH = 8, 256
_LEAST_STEPS, _MOST_STEPS = 500, 5000
# Shares of the training. Until the first, weights are real and the budget falls to its goal; until
# the second, weights move between levels; then levels and biases alone learn.
_FALLING = 0.3
_MOVING = 0.9
# Choices of what is kept in a whole training.
_CHOICES = 80
# In units of each layer's root mean squared weight, for a network of one layer: what steps do to
# the outputs adds up over the layers like noise.
_PEAK_RATE = 5.2e-2
_LOW_RATE = 5.2e-3
# The same where zeros stay as they are and levels come afterwards: tiny-YOLOv3 at 90 % zeros, 1,200
# variants of 96 images, came from 2.00 to 1.75 on other images with eight thousandths.
_STAYING_RATE = 8e-3
# Share of the file that stays free when weights cease to move: biases and levels still do, and
# take some bytes more or less.
_ROOM = 0.01
# Share of the budget that is aimed at, and how much less in each attempt to fit.
_AIM = 0.995
_LESS = 0.001
_FITTINGS = 20
# Examinations without progress that end the training.
_PATIENCE = 3
_TICKS = 200


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
    plan = _Plan(student, samples, seconds, clock, held_out)
    course = _Course(student, inputs, plan, seed, fitness, varies)
    pupil = Pupil(student, sparse, seed)
    budget = _Budget(pupil, target_bytes, file_bytes)
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
    with progress.stage("recover", _TICKS) as tick:
        for epoch in range(plan.steps):
            for places in course.shuffled(epoch):
                course.teach(pupil, places, scale * _rate(share), moving=not is_fixed)
                before, share = share, plan.advance()
                tick(int(share * _TICKS) - int(before * _TICKS))
                if share >= _FALLING and not has_levels:
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
    clock: Callable[[], float] = time.monotonic,
) -> Refined:
    """Train a sparse student on the teacher's outputs where its zeros are to stay as they are.

    Parameters
    ----------
    student, sparse, inputs, progress, seconds, seed, fitness, varies, clock
        See `recover`.

    Returns
    -------
    Refined
        The student at the end of the training. The same for equal arguments on one machine and
        number of threads unless time has cut it.
    """
    plan = _Plan(student, inputs[0].shape[0], seconds, clock, held_out=0)
    course = _Course(student, inputs, plan, seed, fitness, varies)
    pupil = Pupil(student, sparse, seed, chooses=False)
    scale = _STAYING_RATE * len(student.layers) ** -0.5
    share, epoch = 0.0, 0
    with progress.stage("recover", _TICKS) as tick:
        while share < 1.0:
            for places in course.shuffled(epoch):
                course.teach(pupil, places, scale * (1 + cos(pi * share)) / 2, moving=True)
                before, share = share, plan.advance()
                tick(int(share * _TICKS) - int(before * _TICKS))
                if share >= 1.0:
                    break
            epoch += 1
    return Refined(pupil.tensors(), plan.is_cut)


class _Plan:
    """How many steps of how many samples there are, and how far they have come.

    Time is not looked at before half of it is gone, so that it does not matter to a training that
    fits; from then on, the rest of the training is as short as the rest of the time demands.
    """

    def __init__(
        self,
        student: Student,
        samples: int,
        seconds: float,
        clock: Callable[[], float],
        held_out: int,
    ) -> None:
        self.held_out = held_out
        visits = _PRODUCTS // max(sum(student.needs().products.values()), 1)
        batch = min(max(visits // _GOOD_STEPS, _LEAST_BATCH), _MOST_BATCH)
        self.batch = min(batch, samples - self.held_out)
        self.steps = min(max(visits // batch, _LEAST_STEPS), _MOST_STEPS)
        self.is_cut = False
        self._done, self._share = 0, 0.0
        self._clock, self._start, self._seconds = clock, clock(), seconds
        self._first = self._start

    def advance(self) -> float:
        """Count a step; return the share of the training that is done."""
        self._done += 1
        left = max(self.steps - self._done + 1, 1)
        now = self._clock()
        rest = self._start + self._seconds - now
        if self._done == 1:
            # What comes before the second step comes but once.
            self._first = now
        elif rest < self._seconds / 2:
            pace = max(now - self._first, 1e-9) / (self._done - 1)
            if rest < pace * left:
                left, self.is_cut = max(int(rest / pace), 1), True
        self._share += (1.0 - self._share) / left
        return self._share


class _Course:
    """Samples with the teacher's answers; the first of a shuffled pack are for examinations."""

    def __init__(
        self,
        student: Student,
        inputs: Sequence[Tensor],
        plan: _Plan,
        seed: int,
        fitness: Fitness | None,
        varies: bool,
    ) -> None:
        self._student, self._inputs, self._plan, self._seed = student, inputs, plan, seed
        self._varies, self._lesson = varies, 0
        wanted = plan.held_out + plan.steps * plan.batch
        self._rows = self._shuffle("samples", inputs[0].shape[0])[:wanted]
        # Variants are answered when they are there; the divergence wants to see some answers.
        answered = self._rows[: max(plan.held_out, 1)] if varies else self._rows
        with torch.no_grad():
            batches = torch.split(answered, plan.batch)
            answers = [self._run(student.original, rows) for rows in batches]
        self._answers = [torch.cat(parts) for parts in zip(*answers, strict=True)]
        self._divergence = Divergence([self._answers], fitness)

    def shuffled(self, epoch: int) -> tuple[Tensor, ...]:
        """Return an epoch's batches; a last one that is not full is left out."""
        learnt = len(self._rows) - self._plan.held_out
        order = self._plan.held_out + self._shuffle(f"epoch {epoch}", learnt)
        batch = self._plan.batch
        return torch.split(order[: learnt // batch * batch], batch)

    def teach(self, pupil: Pupil, places: Tensor, rate: float, *, moving: bool) -> None:
        """Let a pupil learn from some samples."""
        inputs = [tensor[self._rows[places]] for tensor in self._inputs]
        self._lesson += 1
        if self._varies:
            inputs = [vary(inputs[0], Draws(self._seed, "variants", self._lesson))]
            with torch.no_grad():
                answers = self._student.run(self._student.original, self._student.begin(inputs))
        else:
            answers = [tensor[places] for tensor in self._answers]
        pupil.learn(inputs, answers, self._divergence, rate, moving=moving)

    def examine(self, tensors: Mapping[str, Tensor]) -> float:
        """Return the mean divergence on the samples that nobody learns from."""
        total = 0.0
        with torch.no_grad():
            for places in torch.split(torch.arange(self._plan.held_out), self._plan.batch):
                outputs = self._run(tensors, self._rows[places])
                answers = [tensor[places] for tensor in self._answers]
                total += float(self._divergence.between(outputs, answers)) * len(places)
        return total / self._plan.held_out

    def _run(self, tensors: Mapping[str, Tensor], rows: Tensor) -> list[Tensor]:
        inputs = [tensor[rows] for tensor in self._inputs]
        return self._student.run(tensors, self._student.begin(inputs))

    def _shuffle(self, label: str, count: int) -> Tensor:
        noise = Draws(self._seed, "recover", label).uniform(count)
        return torch.from_numpy(noise.argsort(kind="stable"))


class _Budget:
    """The bits that a pupil may take so that its file fits."""

    def __init__(self, pupil: Pupil, target_bytes: int, file_bytes: TensorBytes) -> None:
        self._pupil, self._target, self._file_bytes = pupil, target_bytes, file_bytes
        self._first_bits = pupil.bits
        tensors = pupil.tensors()
        empty = {name: torch.zeros_like(tensors[name]) for name in pupil.names}
        self._overhead = file_bytes(tensors | empty)
        # What the foresight says of the bits that weights really take.
        self._foreseen = 1.0

    def allows(self, tensors: Mapping[str, Tensor], room: float = 0.0) -> bool:
        """Tell whether the file fits and leaves a share of the size free."""
        return self._file_bytes(tensors) <= (1.0 - room) * self._target

    def choose(self, share: float) -> None:
        """Choose what is kept at this share of the training."""
        goal = self._goal(_AIM)
        if share < _FALLING:
            goal += max(self._first_bits - goal, 0.0) * (1.0 - share / _FALLING) ** 3
        else:
            self._compare()
            goal = self._goal(_AIM)
        self._pupil.choose(goal)

    def fit(self, room: float) -> None:
        """Choose less and less until the file fits and leaves a share of the size free."""
        for attempt in range(_FITTINGS):
            if self.allows(self._pupil.tensors(), room):
                return
            self._compare()
            self._pupil.choose(self._goal(_AIM - room - _LESS * attempt**2))

    def _compare(self) -> None:
        taken = self._file_bytes(self._pupil.tensors()) - self._overhead
        self._foreseen = self._pupil.bits / (8.0 * max(taken, 1))

    def _goal(self, aim: float) -> float:
        return aim * self._foreseen * 8.0 * max(self._target - self._overhead, 0)


def _rate(share: float) -> float:
    """Return the learning rate: two cosines, the second, for levels, down to nothing."""
    if share < _FALLING:
        return _LOW_RATE + (_PEAK_RATE - _LOW_RATE) * (1 + cos(pi * share / _FALLING)) / 2
    return _PEAK_RATE * (1 + cos(pi * (share - _FALLING) / (1 - _FALLING))) / 2
