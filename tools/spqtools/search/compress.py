"""From a teacher to a few levels and many zeros: the outer search."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

import torch
from torch import Tensor, fx

from spqformat import Reason, SpqError
from spqtools.evolve.effort import EFFORTS
from spqtools.evolve.search import Evolution, Watch
from spqtools.evolve.sparse import BITS_PER_SURVIVOR, Begun, Sparse
from spqtools.progress import Progress, Tick
from spqtools.reading.calibration import Calibration
from spqtools.search.allocator import keep_freed_memory
from spqtools.search.beginning import begin_search, remarks
from spqtools.search.checkpoint import Checkpoint, read_checkpoint, search_digest, write_checkpoint
from spqtools.search.deadline import Deadline, TimeUp
from spqtools.search.goal import (
    LIKELY_DENSITY,
    Goal,
    Options,
    Point,
    Trial,
    next_density,
    planned_cycles,
)
from spqtools.search.landing import TICKS, Found, Landing, OnPoint, Rung, by_share
from spqtools.search.outcome import Compressed, FileBytes, no_such_file
from spqtools.training.recover import recover
from spqtools.training.refine import refine
from spqtools.training.state import State


@dataclass(frozen=True)
class Lessons:
    """What a student is trained on after the search.

    Parameters
    ----------
    inputs : sequence of Tensor
        Inputs of the network without answers.
    seconds : float
        Wall time for the training.
    varies : bool
        Whether the only input is images, to be varied from step to step.
    """

    inputs: Sequence[Tensor]
    seconds: float
    varies: bool = False

    def within(self, seconds: float) -> "Lessons":
        """Return the same with no more time than that."""
        return replace(self, seconds=min(self.seconds, seconds))


_THREADS = 2
# Least time from one checkpoint to the next within a cycle or a placing of levels.
_SAVING_SECONDS = 20.0
# The same in units of what the last checkpoint took to be written: large networks take seconds.
_SAVING_RATIO = 4.0
# A pruned student under this share of the budget is not quantised before the search goes on.
_TRUSTED_SHARE = 0.25
# Survivors cost more than this in all files of tests/bench/RESULTS.md, so larger students are not
# encoded.
_LEAST_BITS_PER_SURVIVOR = 2.0
# Nor are those that would take this share of the size at the bits that each survivor took in a
# student of more of them: the fewer they are, the more bits each takes. LeNet-5's take 5.2 where a
# quarter is kept, and 7.1 where a fifteenth is.
_PROBABLY_LARGER = 1.1
# Training down to a size begins with the last student that is larger, and would fit at no fewer
# bits for each survivor. It wins back what levels cost, but zeroes worse than evolution does.
_MOST_BITS_PER_SURVIVOR = 6.0
_RECOVERED_BITS = 3
# Share of the time that is left to the search where training follows.
_SEARCHING = 0.5
# Share of the rest that is left to the training where levels are placed after it.
_REFINING = 0.6
_NO_GAIN = "training was no gain; the file is that of the search alone"
# Takes as many digits in a file as any.
_LONG_DIVERGENCE = 1.234e-100


def compress(
    graph: fx.GraphModule,
    calibration: Calibration,
    options: Options,
    goal: Goal,
    progress: Progress,
    file_bytes: FileBytes,
    *,
    checkpoint: Path | None = None,
    on_point: OnPoint | None = None,
    deadline: Deadline | None = None,
    lessons: Lessons | None = None,
) -> Compressed:
    """Evolve, quantise and measure until the goal is reached.

    Parameters
    ----------
    graph : fx.GraphModule
        Teacher as a graph of ATen calls with ``get_attr`` parameters; it is not changed.
    calibration : Calibration
        Inputs, the last quarter held out; labels are needed for `max_drop` alone.
    options : Options
        Bits, effort, seed, and the sparsity if that is the goal.
    goal : Goal
        What the options want otherwise.
    progress : Progress
        Hears of the cycles.
    file_bytes : callable
        Size of the file that a state becomes.
    checkpoint : Path, optional
        Where the search leaves its state after each cycle and, in long ones, while levels are
        placed and in a training, on the way; if the file exists, the search goes on from it and
        ends with the same result.
    on_point : callable, optional
        Hears of every student on levels; with it, each cycle's student is put on levels, and
        further ones beyond the goal. The result is the same.
    deadline : Deadline, optional
        When to stop, with the best that there is.
    lessons : Lessons, optional
        What the student is trained on when the search has made it about as sparse as it can be
        without; needed when the options say that it recovers.

    Returns
    -------
    Compressed
        Reproducible for equal inputs and seed on one machine unless time ends the search: it runs
        on two threads whatever the process was set to.

    Raises
    ------
    SpqError
        `bad_calibration` when the network refuses the inputs or labels are missing,
        `unsupported_model` when it has no layer to compress, `goal_not_reached`,
        `bad_checkpoint`.
    """
    keep_freed_memory()
    with _fixed_threads():
        with progress.stage("answer") as tick:
            evolution = begin_search(graph, calibration, options, tick)
        deadline = deadline or Deadline()
        searching = deadline if lessons is None else deadline.sooner(_SEARCHING)
        landing = Landing(evolution, calibration, options, goal, file_bytes, on_point, searching)
        search = _Search(
            evolution, options, goal, landing, searching, checkpoint, calibration.labels
        )
        search.restore()
        notes = remarks(evolution, calibration)
        for note in notes:
            progress.note(note)
        try:
            with progress.stage("evolve", search.foreseen, search.done) as tick:
                search.run(tick)
            if lessons is not None and goal.target_bytes is None:
                compressed = search.refined(lessons.within(_REFINING * deadline.left), progress)
            else:
                with progress.stage("place levels", landing.foreseen) as tick:
                    landed = search.landed(tick)
                if lessons is None or goal.target_bytes is None:
                    compressed = search.result(landed)
                else:
                    within = lessons.within(deadline.left)
                    compressed = search.recovered(landed, within, goal.target_bytes, progress)
            return replace(compressed, notes=(*notes, *compressed.notes))
        except KeyboardInterrupt:
            search.save()
            raise


class _Search:
    """The outer loop: students on either side of the goal, nearer and nearer to it."""

    def __init__(
        self,
        evolution: Evolution,
        options: Options,
        goal: Goal,
        landing: Landing,
        deadline: Deadline,
        checkpoint: Path | None,
        labels: Tensor | None,
    ) -> None:
        self._evolution = evolution
        self._options = options
        self._goal = goal
        self._deadline = deadline
        self._landing = landing
        self._checkpoint = checkpoint
        self._digest = search_digest(evolution, options, labels)
        self._saved, self._saving = time.monotonic(), 0.0
        landing.after_step = self._save_sometimes
        self._trials: list[Trial] = []
        self._before = Rung(evolution.start())
        self._beyond: Rung | None = None
        self._taught = self._before
        self._begun: Begun | None = None
        self._training: State | None = None

    @property
    def done(self) -> int:
        """Ticks of the cycles that a checkpoint has brought."""
        return TICKS * len(self._trials) + int(TICKS * self._begun_share)

    @property
    def foreseen(self) -> int:
        """Ticks of all cycles, as far as they can be foreseen."""
        likely = LIKELY_DENSITY
        if self._goal.target_bytes is not None:
            likely = self._density_at(BITS_PER_SURVIVOR)
        options = self._options
        effort = EFFORTS[options.effort]
        return TICKS * planned_cycles(options.sparsity, effort, self._trials, likely)

    def _density_at(self, bits: float) -> float:
        """Return the density at which survivors of so many bits fill the file that is asked."""
        return 8 * (self._goal.target_bytes or 0) / (bits * self._evolution.weights)

    @property
    def _begun_share(self) -> float:
        return 0.0 if self._begun is None else self._begun.share

    def run(self, tick: Tick) -> None:
        """Try densities until the goal lies between two of them."""
        self._refuse_hopeless_size()
        while (density := self._next_density()) is not None:
            try:
                self._deadline.check("cycle", "quantise")
                with self._deadline.timing("cycle"):
                    rung = Rung(self._cycle(density, tick))
            except TimeUp:
                self.save()
                self._landing.is_cut = True
                return
            if self._answers(rung):
                trial = self._judge(rung, density)
                if trial.beyond:
                    self._beyond = rung
                else:
                    self._before = rung
                    if density >= self._density_at(_MOST_BITS_PER_SURVIVOR):
                        self._taught = rung
            else:
                trial = Trial(density, beyond=True)
            trials = [*self._trials, trial]
            # Nothing may come between the two: an interruption saves both.
            self._trials, self._begun = trials, None
            rungs = [rung for rung in (self._before, self._beyond) if rung is not None]
            self._landing.forget_all_but(rungs)
            tick(0, self.foreseen)
            self.save()

    def _next_density(self) -> float | None:
        options = self._options
        return next_density(self._trials, options.sparsity, EFFORTS[options.effort])

    def _cycle(self, density: float, tick: Tick) -> Sparse:
        """Run a cycle; look at the time before each layer, and leave the state on the way."""
        advance = by_share(tick, self._begun_share)

        def hear(reached: Begun) -> None:
            self._begun = reached
            self._save_sometimes()
            advance(reached.share)

        watch = Watch(lambda: self._deadline.check("quantise"), hear)
        before, number = self._before.student, len(self._trials)
        student = self._evolution.cycle(before, density, number, self._begun, watch)
        advance(1.0)
        return student

    def recovered(
        self, landed: Found, lessons: Lessons, target_bytes: int, progress: Progress
    ) -> Compressed:
        """Train a student down to a size; return the better of it and the one that landed there."""

        def file_bytes(tensors: Mapping[str, Tensor]) -> int:
            return self._landing.bytes_of(tensors, _LONG_DIVERGENCE)

        options = self._options
        found = recover(
            self._evolution.student,
            self._taught.student,
            lessons.inputs,
            file_bytes,
            progress,
            rival=landed.tensors,
            target_bytes=target_bytes,
            max_levels=(1 << (options.bits or _RECOVERED_BITS)) - 1,
            seconds=lessons.seconds,
            seed=options.seed,
            fitness=self._evolution.fitness,
            varies=lessons.varies,
            begun=self._training,
            after_step=self._hear_training,
        )
        divergence = self._evolution.measure(found.tensors)
        point = Point(0.0, file_bytes(found.tensors), divergence, None)
        missed = self._missed(point), self._missed(landed.point)
        taught = missed[0] is not None, found.divergence
        is_gain = taught < (missed[1] is not None, found.rival_divergence)
        best = Found(found.tensors, point) if is_gain else landed
        is_cut = found.is_cut or self._landing.is_cut
        if None not in missed and not (is_cut and isfinite(best.point.divergence)):
            raise no_such_file(target_bytes)
        compressed = self._landing.compressed(best, missed[not is_gain])
        notes = () if is_gain else (_NO_GAIN,)
        return replace(compressed, is_hurried=found.is_cut, notes=notes)

    def refined(self, lessons: Lessons, progress: Progress) -> Compressed:
        """Train the student where its zeros are, and put the better of both on levels."""
        found = refine(
            self._evolution.student,
            self._before.student,
            lessons.inputs,
            progress,
            seconds=lessons.seconds,
            seed=self._options.seed,
            fitness=self._evolution.fitness,
            varies=lessons.varies,
            begun=self._training,
            after_step=self._hear_training,
        )
        measure, student = self._evolution.measure, self._before.student
        is_gain = measure(found.tensors) < measure(student.tensors)
        with progress.stage("place levels", TICKS) as tick:
            if is_gain:
                best = self._landing.near(replace(student, tensors=found.tensors), tick)
            else:
                best = self._landing.own(self._before, tick)
        compressed = self._landing.compressed(best, self._missed(best.point))
        notes = () if is_gain else (_NO_GAIN,)
        return replace(compressed, is_hurried=found.is_cut, notes=notes)

    def landed(self, tick: Tick) -> Found:
        """Put the students on either side of the goal on levels that hit it; return the best."""
        return self._landing.best(self._before, self._beyond, tick)

    def result(self, best: Found) -> Compressed:
        """Return the best student where it hits the goal, or time has ended the search."""
        landing = self._landing
        missed = self._missed(best.point)
        if missed is not None and not (landing.is_cut and isfinite(best.point.divergence)):
            raise SpqError(
                Reason.GOAL_NOT_REACHED,
                f"the best file found has {missed}; allow more, or try --effort max",
            )
        landing.go_onwards(self._beyond or self._before)
        return landing.compressed(best, missed)

    def _missed(self, point: Point) -> str | None:
        """Say by how much the goal is missed; None where it is not."""
        wanted, reached = self._options.sparsity, 1.0 - self._before.student.density
        if wanted is not None and self._landing.is_cut and reached < wanted:
            return f"{reached:.1%} zeros where {wanted:.1%} are asked"
        return self._goal.miss(point)

    def restore(self) -> None:
        """Go back to where a checkpoint of the same search was written, if there is one."""
        if self._checkpoint is None or not self._checkpoint.exists():
            return
        saved = read_checkpoint(self._checkpoint, self._digest, self._evolution)
        self._trials = saved.trials
        self._evolution.evaluations = saved.evaluations
        self._before = self._taught = Rung(saved.students["before"])
        if "taught" in saved.students:
            self._taught = Rung(saved.students["taught"])
        if "beyond" in saved.students:
            self._beyond = Rung(saved.students["beyond"])
        self._begun = saved.begun
        self._landing.placings = saved.placings
        self._evolution.sensing.sums = saved.sums
        self._training = saved.training

    def save(self, started: float | None = None) -> None:
        """Leave what `restore` needs, once there is anything; it may have begun with a state."""
        placings = self._landing.placings.copy()
        has_any = self._trials or self._begun or placings.packed or placings.rounds
        if self._checkpoint is None or not has_any:
            return
        started = started or time.monotonic()
        students = {"before": self._before.student}
        if self._options.recovers and self._taught is not self._before:
            students["taught"] = self._taught.student
        if self._beyond is not None:
            students["beyond"] = self._beyond.student
        evaluations = (self._begun or self._evolution).evaluations
        sums = self._evolution.sensing.sums
        checkpoint = Checkpoint(
            self._trials, evaluations, students, self._begun, placings, sums, self._training
        )
        write_checkpoint(self._checkpoint, checkpoint, self._digest, self._evolution.teacher)
        self._saved = time.monotonic()
        self._saving = self._saved - started

    @property
    def _is_time_to_save(self) -> bool:
        waited = time.monotonic() - self._saved
        return waited >= max(_SAVING_SECONDS, _SAVING_RATIO * self._saving)

    def _save_sometimes(self) -> None:
        if self._is_time_to_save:
            self.save()

    def _hear_training(self, share: float, state: Callable[[], State]) -> None:
        """Leave a training's state now and then, and at its end, as levels may come next."""
        if self._checkpoint is not None and (share >= 1.0 or self._is_time_to_save):
            started = time.monotonic()
            self._training = state()
            self.save(started)

    def _refuse_hopeless_size(self) -> None:
        """Refuse a size that even a student of zeros does not fit."""
        target = self._goal.target_bytes
        if target is None:
            return
        layers = self._evolution.layers
        emptied = {name for layer in layers for name in (layer.weight, layer.bias)}
        empty = {
            name: torch.zeros_like(tensor) if name in emptied else tensor
            for name, tensor in self._evolution.teacher.items()
        }
        if self._landing.bytes_of(empty, None) > target:
            raise no_such_file(target)

    def _answers(self, rung: Rung) -> bool:
        """Tell whether a student's answers are numbers; without them it cannot be put on levels."""
        if isfinite(self._evolution.measure(rung.student.tensors)):
            return True
        if self._options.sparsity is not None:
            raise SpqError(
                Reason.GOAL_NOT_REACHED,
                "with so many zeros the network's answers are no finite numbers; ask for fewer",
            )
        return False

    def _judge(self, rung: Rung, density: float) -> Trial:
        """Tell on which side of the goal a student lies; on levels where its zeros do not tell."""
        goal, student = self._goal, rung.student
        if self._landing.shows_points:
            self._landing.own(rung)
        if self._options.sparsity is not None:
            return Trial(density, beyond=False)
        if goal.target_bytes is not None:
            if self._is_probably_larger(student.kept, density, goal.target_bytes):
                return Trial(density, beyond=False)
            share = goal.share(self._landing.own(rung).point)
            return Trial(density, share <= 1.0, share)
        if goal.max_divergence is not None:
            share = self._evolution.measure(student.tensors) / goal.max_divergence
            if not _TRUSTED_SHARE < share <= 1.0:
                return Trial(density, beyond=share > 1.0)
        return Trial(density, beyond=goal.share(self._landing.own(rung).point) > 1.0)

    def _is_probably_larger(self, kept: int, density: float, target_bytes: int) -> bool:
        """Tell whether a student takes more than a size, as far as it can be foreseen."""
        if kept * _LEAST_BITS_PER_SURVIVOR / 8 > target_bytes:
            return True
        foreseen = (
            trial.share * density / trial.density
            for trial in self._trials
            if trial.share is not None and trial.density > density
        )
        return min(foreseen, default=0.0) > _PROBABLY_LARGER


@contextmanager
def _fixed_threads() -> Iterator[None]:
    """Run on a fixed number of threads: sums of floats depend on how they are split."""
    before = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)
