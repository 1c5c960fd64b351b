"""From a teacher to a few levels and many zeros: the outer search."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, fx

from spqformat import Reason, SpqError
from spqtools.allocator import keep_freed_memory
from spqtools.calibration import Calibration
from spqtools.checkpoint import Checkpoint, read_checkpoint, search_digest, write_checkpoint
from spqtools.deadline import Deadline, TimeUp
from spqtools.evolve.effort import EFFORTS
from spqtools.evolve.search import Evolution
from spqtools.evolve.sparse import Begun, Sparse
from spqtools.fitness import named_fitness
from spqtools.goal import (
    Goal,
    Options,
    Point,
    Trial,
    next_density,
    planned_cycles,
)
from spqtools.landing import DIVERGENCE_ELASTICITY, PASSES, SIZE_ELASTICITY, next_slope
from spqtools.outcome import Compressed, FileBytes, State, no_such_file
from spqtools.placing import place_levels, round_biases
from spqtools.progress import Progress, Tick
from spqtools.recover import recover


@dataclass(frozen=True)
class Lessons:
    """What a student is trained on after the search.

    Parameters
    ----------
    inputs : sequence of Tensor
        Inputs of the network without answers.
    seconds : float
        Wall time for the training.
    """

    inputs: Sequence[Tensor]
    seconds: float


OnPoint = Callable[[Compressed, float | None], None]
"""Hears of each student on levels, and of the points of accuracy that it loses."""

_THREADS = 2
# Ticks of a cycle, and of putting a student on levels.
_TICKS = 100
# Least time from one checkpoint to the next within a cycle.
_SAVING_SECONDS = 20.0
_AUTO_BITS = 5
# A pruned student under this share of the budget is not quantised before the search goes on.
_TRUSTED_SHARE = 0.25
# No survivor costs less than this in any file, so larger students need not be encoded.
_LEAST_BITS_PER_SURVIVOR = 2.0
# A student that would fit at so many bits for each survivor can leave the rest to training, which
# wins back what levels cost but zeroes worse than evolution and compensation do.
_MOST_BITS_PER_SURVIVOR = 6.0
_RECOVERED_BITS = 3
# Share of the time that is left to the search where training follows.
_SEARCHING = 0.5
# Takes as many digits in a file as any.
_LONG_DIVERGENCE = 1.234e-100
# The kind of levels that suits all layers.
_ONE_KIND = ("entropy-constrained",)
# Prices, in units of the last student's own, that carry the frontier on beyond the goal.
_ONWARDS = (2.0, 4.0, 8.0)


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
        Where the search leaves its state after each cycle and, in long ones, on the way; if the
        file exists, the search goes on from it and ends with the same result.
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
        evolution = _start(graph, calibration, options)
        deadline = deadline or Deadline()
        searching = deadline if lessons is None else deadline.sooner(_SEARCHING)
        search = _Search(evolution, calibration, options, goal, file_bytes, on_point, searching)
        if checkpoint is not None and checkpoint.exists():
            search.restore(checkpoint)
        cycles = planned_cycles(options.sparsity, EFFORTS[options.effort])
        with progress.stage("evolve", cycles * _TICKS) as tick:
            search.run(checkpoint, tick)
        if lessons is not None:
            seconds = min(lessons.seconds, deadline.left)
            return search.recovered(lessons.inputs, seconds, progress)
        placings = 1 if options.sparsity is not None else 3 * (PASSES + 1)
        with progress.stage("place levels", placings * _TICKS) as tick:
            return search.result(tick)


def _silent(steps: int = 1, /) -> None:
    """Tell nobody."""


def _by_share(tick: Tick) -> Callable[[float], None]:
    """Return what advances a stage to a share of one cycle, or of putting a student on levels."""
    done = 0

    def advance(share: float) -> None:
        nonlocal done
        before, done = done, int(_TICKS * share)
        tick(done - before)

    return advance


@dataclass
class _Rung:
    """A student and, once it was put on levels at its own price, what came of it."""

    student: Sparse
    found: "_Found | None" = None


@dataclass(frozen=True)
class _Found:
    """A student on levels and what it measures."""

    tensors: dict[str, Tensor]
    point: Point


class _Search:
    """The outer loop: students on either side of the goal, nearer and nearer to it."""

    def __init__(
        self,
        evolution: Evolution,
        calibration: Calibration,
        options: Options,
        goal: Goal,
        file_bytes: FileBytes,
        on_point: OnPoint | None,
        deadline: Deadline,
    ) -> None:
        self._evolution = evolution
        self._options = options
        self._goal = goal
        self._file_bytes = file_bytes
        self._on_point = on_point
        self._deadline = deadline
        self._kind = evolution.divergence.description
        self._labels = calibration.labels
        self._digest = search_digest(evolution, options)
        self._trials: list[Trial] = []
        self._before = _Rung(evolution.start())
        self._beyond: _Rung | None = None
        self._begun: Begun | None = None
        self._is_cut = False
        self._teacher_hits = self._hits(evolution.teacher)
        if options.max_drop is not None and self._teacher_hits is None:
            raise SpqError(
                Reason.BAD_CALIBRATION,
                "accuracy needs labels 'y' in the calibration file and a classifier; "
                "use --max-divergence instead",
            )

    def run(self, checkpoint: Path | None, tick: Tick) -> None:
        """Try densities until the goal lies between two of them."""
        self._refuse_hopeless_size()
        tick(_TICKS * len(self._trials))
        effort = EFFORTS[self._options.effort]
        while (density := next_density(self._trials, self._options.sparsity, effort)) is not None:
            try:
                self._deadline.check("cycle", "quantise")
                with self._deadline.timing("cycle"):
                    rung = _Rung(self._cycle(density, checkpoint, tick))
            except TimeUp:
                self._is_cut = True
                return
            trial = self._judge(rung, density)
            if trial.beyond:
                self._beyond = rung
            else:
                self._before = rung
            self._trials.append(trial)
            if checkpoint is not None:
                self._save(checkpoint)
            if trial.beyond and self._options.recovers:
                return

    def _cycle(self, density: float, checkpoint: Path | None, tick: Tick) -> Sparse:
        """Run a cycle; look at the time before each layer, and leave the state on the way."""
        evolution, begun = self._evolution, self._begun
        saved, advance = time.monotonic(), _by_share(tick)

        def hear(reached: Begun, share: float) -> None:
            nonlocal begun, saved
            begun = reached
            if checkpoint is not None and time.monotonic() - saved >= _SAVING_SECONDS:
                self._save(checkpoint, begun)
                saved = time.monotonic()
            advance(share)

        evolution.before_layer = lambda: self._deadline.check("quantise")
        evolution.after_layer = hear
        try:
            student = evolution.cycle(self._before.student, density, len(self._trials), begun)
        except (KeyboardInterrupt, TimeUp):
            if checkpoint is not None and begun is not None:
                self._save(checkpoint, begun)
            raise
        finally:
            evolution.before_layer = lambda: None
            evolution.after_layer = lambda _begun, _share: None
        self._begun = None
        advance(1.0)
        return student

    def recovered(self, inputs: Sequence[Tensor], seconds: float, progress: Progress) -> Compressed:
        """Train the student down to the goal."""

        def file_bytes(tensors: Mapping[str, Tensor]) -> int:
            return self._file_bytes(_as_state(tensors), _LONG_DIVERGENCE, self._kind)

        options = self._options
        found = recover(
            self._evolution.student,
            self._before.student,
            inputs,
            file_bytes,
            progress,
            target_bytes=self._goal.target_bytes,
            max_levels=(1 << (options.bits or _RECOVERED_BITS)) - 1,
            seconds=seconds,
            seed=options.seed,
            fitness=self._evolution.fitness,
        )
        divergence = self._evolution.measure(found.tensors)
        point = Point(0.0, file_bytes(found.tensors), divergence, None)
        missed = self._goal.miss(point)
        if missed is not None and not found.is_cut:
            raise no_such_file(self._goal.target_bytes or 0)
        compressed = self._compressed(_Found(found.tensors, point), missed)
        return replace(compressed, is_hurried=found.is_cut)

    def result(self, tick: Tick) -> Compressed:
        """Put the students on either side of the goal on levels that hit it; return the best."""
        best, rung = self._land(self._before, tick), self._before
        if self._beyond is not None and self._is_worth_landing(self._beyond):
            other = self._land(self._beyond, tick)
            if self._better(best, other) is other:
                best, rung = other, self._beyond
        if self._goal.is_size and self._goal.rank(best.point)[0] and not self._is_cut:
            best = self._better(best, self._land(rung, tick, best.point.slope))
        missed = self._goal.miss(best.point)
        if missed is not None and not self._is_cut:
            raise SpqError(
                Reason.GOAL_NOT_REACHED,
                f"the best file found has {missed}; allow more, or try --effort max",
            )
        self._go_onwards()
        return self._compressed(best, missed)

    def restore(self, path: Path) -> None:
        """Go back to where a checkpoint of the same search was written."""
        saved = read_checkpoint(path, self._digest)
        self._trials = saved.trials
        self._evolution.evaluations = saved.evaluations
        self._before = _Rung(saved.students["before"])
        if "beyond" in saved.students:
            self._beyond = _Rung(saved.students["beyond"])
        self._begun = saved.begun

    def _save(self, path: Path, begun: Begun | None = None) -> None:
        """Leave what `restore` needs."""
        students = {"before": self._before.student}
        if self._beyond is not None:
            students["beyond"] = self._beyond.student
        evaluations = (begun or self._evolution).evaluations
        checkpoint = Checkpoint(self._trials, evaluations, students, begun)
        write_checkpoint(path, checkpoint, self._digest)

    def _refuse_hopeless_size(self) -> None:
        """Refuse a size that even a student of zeros does not fit."""
        target = self._goal.target_bytes
        if target is None:
            return
        weights = {layer.weight for layer in self._evolution.layers}
        empty = {
            name: torch.zeros_like(tensor) if name in weights else tensor
            for name, tensor in self._evolution.teacher.items()
        }
        if (
            self._file_bytes(_as_state(round_biases(self._evolution, empty)), None, self._kind)
            > target
        ):
            raise no_such_file(target)

    def _judge(self, rung: _Rung, density: float) -> Trial:
        """Tell on which side of the goal a student lies; on levels where its zeros do not tell."""
        goal, student = self._goal, rung.student
        if self._options.recovers and self._options.sparsity is None:
            kept = sum(int(mask.sum()) for mask in student.keep.values())
            fits = kept * _MOST_BITS_PER_SURVIVOR <= 8 * (goal.target_bytes or 0)
            return Trial(density, beyond=fits)
        if self._on_point is not None:
            self._own(rung)
        if self._options.sparsity is not None:
            return Trial(density, beyond=False)
        if goal.target_bytes is not None:
            kept = sum(int(mask.sum()) for mask in student.keep.values())
            if kept * _LEAST_BITS_PER_SURVIVOR / 8 > goal.target_bytes:
                return Trial(density, beyond=False)
            return Trial(density, beyond=goal.share(self._own(rung).point) <= 1.0)
        if goal.max_divergence is not None:
            share = self._evolution.measure(student.tensors) / goal.max_divergence
            if not _TRUSTED_SHARE < share <= 1.0:
                return Trial(density, beyond=share > 1.0)
        return Trial(density, beyond=goal.share(self._own(rung).point) > 1.0)

    def _is_worth_landing(self, rung: _Rung) -> bool:
        """Tell whether levels can bring a student back that lies beyond the goal."""
        limit = self._goal.max_divergence
        return limit is None or self._evolution.measure(rung.student.tensors) <= limit

    def _land(self, rung: _Rung, tick: Tick, start: float | None = None) -> _Found:
        """Put a student on levels at prices that come nearer to the goal; return the best.

        Where a layer takes another kind of levels, the size jumps. If a first landing has ended
        beside such a jump, a price to `start` with says that one kind is to serve all layers.
        """
        goal, methods = self._goal, None if start is None else _ONE_KIND
        if start is None:
            best = self._own(rung, tick)
        else:
            best = self._found(rung.student, start, tick, methods)
        if self._options.sparsity is not None:
            return best
        tried = [(best.point.slope, goal.share(best.point))]
        elasticity = SIZE_ELASTICITY if goal.is_size else DIVERGENCE_ELASTICITY
        # The teacher and students with weights to spare have a price of about nothing.
        own = max(rung.student.slope, (self._beyond or rung).student.slope / 2)
        while (slope := next_slope(tried, own, elasticity)) is not None:
            if not self._deadline.allows("quantise"):
                self._is_cut = True
                break
            found = self._found(rung.student, slope, tick, methods)
            tried.append((slope, goal.share(found.point)))
            best = self._better(best, found)
        return best

    def _go_onwards(self) -> None:
        """Let the frontier end beyond the goal."""
        last = self._beyond or self._before
        if self._on_point is None or self._options.sparsity is not None:
            return
        for factor in _ONWARDS:
            if self._deadline.allows("quantise"):
                self._found(last.student, factor * last.student.slope)

    def _better(self, one: _Found, other: _Found) -> _Found:
        return min(one, other, key=lambda found: self._goal.rank(found.point))

    def _own(self, rung: _Rung, tick: Tick = _silent) -> _Found:
        """Put a student on levels at its own price, once."""
        if rung.found is None:
            rung.found = self._found(rung.student, rung.student.slope, tick)
        else:
            tick(_TICKS)
        return rung.found

    def _found(
        self,
        student: Sparse,
        slope: float,
        tick: Tick = _silent,
        methods: Sequence[str] | None = None,
    ) -> _Found:
        """Put a student on levels, of all kinds by default, and measure it."""
        with self._deadline.timing("quantise"):
            tensors = self._on_levels(student, slope, tick, methods)
            hits, before = self._hits(tensors), self._teacher_hits
            divergence = self._evolution.measure(tensors)
            point = Point(
                slope,
                self._file_bytes(_as_state(tensors), divergence, self._kind),
                divergence,
                None if hits is None or before is None else before - hits,
            )
        found = _Found(tensors, point)
        if self._on_point is not None:
            self._on_point(self._compressed(found), point.drop)
        return found

    def _compressed(self, found: _Found, missed: str | None = None) -> Compressed:
        """Return what leaves the search."""
        return Compressed(
            _as_state(found.tensors),
            found.point.divergence,
            self._kind,
            self._evolution.evaluations,
            is_cut=self._is_cut,
            missed=missed,
        )

    def _hits(self, tensors: Mapping[str, Tensor]) -> float | None:
        """Return the per cent of right answers on the held-out samples, where they can be told."""
        if self._labels is None:
            return None
        outputs = self._evolution.held_out.outputs(tensors)
        predictions = self._evolution.held_out_divergence.predictions(outputs)
        if predictions is None:
            return None
        right = predictions == self._labels[-len(predictions) :]
        return 100.0 * float(right.double().mean())

    def _on_levels(
        self, student: Sparse, slope: float, tick: Tick, methods: Sequence[str] | None
    ) -> dict[str, Tensor]:
        """Put the survivors on levels and round the biases."""
        evolution, options = self._evolution, self._options
        advance = _by_share(tick)
        tensors = place_levels(
            evolution,
            student,
            slope,
            (1 << (options.bits or _AUTO_BITS)) - 1,
            may_zero=options.sparsity is None,
            methods=methods,
            after_layer=advance,
        )
        advance(1.0)
        return round_biases(evolution, tensors)


def _start(graph: fx.GraphModule, calibration: Calibration, options: Options) -> Evolution:
    """Run the teacher once and refuse what cannot be searched."""
    fitness = None if options.fitness is None else named_fitness(options.fitness)
    effort = EFFORTS[options.effort]
    try:
        evolution = Evolution(graph, calibration.inputs, options.seed, effort, fitness=fitness)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise SpqError(
            Reason.BAD_CALIBRATION,
            f"the network does not run on the calibration inputs ({reason}); "
            "check their number, shape and type",
        ) from error
    if not evolution.layers:
        raise SpqError(
            Reason.UNSUPPORTED_MODEL,
            "the network has no linear or convolutional layer to compress; leave out --calib",
        )
    return evolution


def _as_state(tensors: Mapping[str, Tensor]) -> State:
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


@contextmanager
def _fixed_threads() -> Iterator[None]:
    """Run on a fixed number of threads: sums of floats depend on how they are split."""
    before = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)
