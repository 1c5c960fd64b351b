"""Puts pruned students on levels, at prices of a bit that come nearer and nearer to the goal."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, log

import torch
from torch import Tensor

from spqformat import Reason, SpqError
from spqtools.evolve.search import Evolution
from spqtools.evolve.sparse import Sparse
from spqtools.levels.placing import place_levels, share_of
from spqtools.levels.rounds import Rounds
from spqtools.memory import digest_of
from spqtools.progress import Tick
from spqtools.reading.calibration import Calibration
from spqtools.search.deadline import Deadline
from spqtools.search.goal import Goal, Options, Point
from spqtools.search.next_price import DIVERGENCE_ELASTICITY, SIZE_ELASTICITY, next_price
from spqtools.search.outcome import Compressed, FileBytes, State
from spqtools.search.placings import Placing, Placings

OnPoint = Callable[[Compressed, float | None], None]
"""Hears of each student on levels, and of the points of accuracy that it loses."""

# Ticks of putting a student on levels once, and how often that happens on the way to a goal of size
# and to one of quality, about.
TICKS = 100
_SIZE_PLACINGS, _QUALITY_PLACINGS = 8, 4
_AUTO_BITS = 5
# The kind of levels that suits all layers.
_ONE_KIND = ("entropy-constrained",)
# Share of a student's divergence below which what levels add does not matter.
_FINE = 0.003
# Share of a student's own price where the zeros are given: "What levels cost where zeros are given"
# in tests/bench/RESULTS.md.
_SHARE_AT_SPARSITY = 0.5
# Prices, in units of the last student's own, that carry the frontier on beyond the goal.
_ONWARDS = (2.0, 4.0, 8.0)


@dataclass(frozen=True)
class Found:
    """A student on levels and what it measures.

    Parameters
    ----------
    tensors : dict of str to Tensor
        All tensors of the network.
    point : Point
        What is measured.
    """

    tensors: dict[str, Tensor]
    point: Point


@dataclass
class Rung:
    """A student and, once it was put on levels at its own price, what came of it.

    Parameters
    ----------
    student : Sparse
        The student, not yet on levels.
    found : Found or None
        The student on levels.
    """

    student: Sparse
    found: Found | None = None


class Landing:
    """Puts students on levels and measures the files that they would become.

    Parameters
    ----------
    evolution : Evolution
        The search that the students come from.
    calibration : Calibration
        Its labels, where there are some, tell the accuracy.
    options : Options
        Bits, and whether the goal is a sparsity.
    goal : Goal
        What is to be hit.
    file_bytes : callable
        Size of the file that a state becomes.
    on_point : callable or None
        Hears of every student on levels.
    deadline : Deadline
        When to stop.

    Raises
    ------
    SpqError
        `bad_calibration` when the goal is an accuracy that cannot be told.
    """

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
        self.placings = Placings()
        self.after_step: Callable[[], None] = _nobody
        self._teacher_hits = self._hits(evolution.teacher)
        self.is_cut = False
        if options.max_drop is not None and self._teacher_hits is None:
            raise SpqError(
                Reason.BAD_CALIBRATION,
                "accuracy needs labels 'y' in the calibration file and a classifier; "
                "use --max-divergence instead",
            )

    @property
    def foreseen(self) -> int:
        """Ticks of what `best` does, as far as they can be foreseen."""
        if self._options.sparsity is not None:
            return TICKS
        return TICKS * (_SIZE_PLACINGS if self._goal.is_size else _QUALITY_PLACINGS)

    @property
    def shows_points(self) -> bool:
        """Whether anybody hears of students on levels."""
        return self._on_point is not None

    def best(self, before: Rung, beyond: Rung | None, tick: Tick) -> Found:
        """Put the students on either side of the goal on levels that hit it; return the best."""
        own = self._own_price((beyond or before).student) / 2
        best = self._land(before, own, tick)
        if beyond is not None and self._is_worth_landing(beyond):
            best = self._better(best, self._land(beyond, own, tick))
        return best

    def own(self, rung: Rung, tick: Tick | None = None) -> Found:
        """Put a student on levels at its own price, once."""
        if rung.found is None:
            rung.found = self._put(rung.student, self._own_price(rung.student), tick)
        elif tick is not None:
            tick(TICKS, behind=True)
        return rung.found

    def near(self, student: Sparse, tick: Tick) -> Found:
        """Put a student that has learnt on levels at its own price, as near to itself as can be."""
        return self._put(student, self._own_price(student), tick, model=student.tensors)

    def forget_all_but(self, rungs: Sequence[Rung]) -> None:
        """Forget the layers on levels, and the gradients, of all other students."""
        self.placings.keep({digest_of(rung.student.tensors) for rung in rungs})
        self._evolution.sensing.forget_all_but([rung.student for rung in rungs])

    def go_onwards(self, rung: Rung) -> None:
        """Let the frontier end beyond the goal."""
        if not self.shows_points or self._options.sparsity is not None:
            return
        for factor in _ONWARDS:
            if self._deadline.allows("quantise"):
                self._put(rung.student, factor * self._own_price(rung.student))

    def bytes_of(self, tensors: Mapping[str, Tensor], divergence: float | None) -> int:
        """Return the size of the file that tensors become."""
        return self._file_bytes(_as_state(tensors), divergence, self._kind)

    def compressed(self, found: Found, missed: str | None = None) -> Compressed:
        """Return what leaves the search."""
        return Compressed(
            _as_state(found.tensors),
            found.point.divergence,
            self._kind,
            self._evolution.evaluations,
            is_cut=self.is_cut,
            missed=missed,
        )

    def _own_price(self, student: Sparse) -> float:
        """Return the price of a bit that suits a student.

        Where its next zeros cost nothing, as those of dead units do, their price would buy levels
        far finer than its answers are good. An error that falls by four with each bit of each
        survivor falls by ``2 log(2) / survivors`` of itself with one bit.

        Bits are worth less where the zeros are given: no size is asked for, and levels are not to
        spoil what so many zeros have left.
        """
        divergence = self._evolution.glance(student.tensors)
        fine = 2 * log(2) * _FINE * divergence / max(student.kept, 1)
        share = 1.0 if self._options.sparsity is None else _SHARE_AT_SPARSITY
        return max(share * student.bit_price, fine)

    def _is_worth_landing(self, rung: Rung) -> bool:
        """Tell whether levels can bring a student back that lies beyond the goal."""
        limit = self._goal.max_divergence
        return limit is None or self._evolution.measure(rung.student.tensors) <= limit

    def _land(self, rung: Rung, least: float, tick: Tick) -> Found:
        """Put a student on levels at prices that come nearer to the goal; return the best.

        Where a layer takes another kind of levels, or begins with more or fewer of them, the size
        jumps. If the goal lies in such a jump, one kind serves all layers, initialised at the price
        that came nearest.
        """
        best = self.own(rung, tick)
        if self._options.sparsity is not None:
            return best
        best, has_jumped = self._approach(rung.student, best, least, tick)
        if not (self._goal.is_size and has_jumped and self._may_go_on()):
            return best
        price = best.point.bit_price
        first = self._put(rung.student, price, tick, price)
        return self._better(best, self._approach(rung.student, first, least, tick, price)[0])

    def _approach(
        self,
        student: Sparse,
        best: Found,
        least: float,
        tick: Tick,
        initial_price: float | None = None,
    ) -> tuple[Found, bool]:
        """Go on from a first attempt until the goal is hit, out of reach or in a jump.

        The teacher and students with weights to spare have a price of about nothing; theirs counts
        as `least`.

        Returns
        -------
        tuple of Found and bool
            The best attempt, and whether the goal lay between two of them and none hit it.
        """
        goal = self._goal
        tried = [(best.point.bit_price, goal.share(best.point))]
        elasticity = SIZE_ELASTICITY if goal.is_size else DIVERGENCE_ELASTICITY
        own = max(self._own_price(student), least)
        while (bit_price := next_price(tried, own, elasticity)) is not None:
            if not self._may_go_on():
                break
            found = self._put(student, bit_price, tick, initial_price)
            tried.append((bit_price, goal.share(found.point)))
            best = self._better(best, found)
        sides = {share > 1.0 for _, share in tried}
        return best, len(sides) == 2 and bool(goal.rank(best.point)[0])

    def _may_go_on(self) -> bool:
        """Tell whether there is time for one more attempt; where there is none, that is a cut."""
        has_time = self._deadline.allows("quantise")
        self.is_cut = self.is_cut or not has_time
        return has_time

    def _better(self, one: Found, other: Found) -> Found:
        return min(one, other, key=lambda found: self._goal.rank(found.point))

    def _put(
        self,
        student: Sparse,
        bit_price: float,
        tick: Tick | None = None,
        initial_price: float | None = None,
        model: Mapping[str, Tensor] | None = None,
    ) -> Found:
        """Put a student on levels near to a model, and measure it.

        Levels are of all kinds, or of one that is initialised at another price.
        """
        with self._deadline.timing("quantise"):
            tensors = self._on_levels(student, bit_price, tick or _silent, initial_price, model)
            hits, before = self._hits(tensors), self._teacher_hits
            divergence = self._evolution.measure(tensors)
            point = Point(
                bit_price,
                self.bytes_of(tensors, divergence),
                divergence,
                None if hits is None or before is None else before - hits,
            )
        found = Found(tensors, point)
        if self._on_point is not None and isfinite(divergence):
            self._on_point(self.compressed(found), point.drop)
        return found

    def _on_levels(
        self,
        student: Sparse,
        bit_price: float,
        tick: Tick,
        initial_price: float | None,
        model: Mapping[str, Tensor] | None,
    ) -> dict[str, Tensor]:
        """Put the survivors on levels."""
        evolution, options = self._evolution, self._options
        placing = Placing(
            digest_of(student.tensors), f"{bit_price!r} {initial_price!r} {model is None}"
        )
        begun = self.placings.of(placing)
        behind = share_of(evolution, begun)
        tick(int(TICKS * behind), behind=True)
        advance = by_share(tick, behind)

        def hear(layer: Mapping[str, Tensor], share: float) -> None:
            if layer:
                self.placings.add(placing, layer)
            self.after_step()
            advance(share)

        tensors = place_levels(
            evolution,
            student,
            bit_price,
            (1 << (options.bits or _AUTO_BITS)) - 1,
            may_zero=options.sparsity is None,
            methods=None if initial_price is None else _ONE_KIND,
            initial_price=initial_price,
            begun=begun,
            rounds=Rounds(self.placings.rounds_of(placing), self.after_step),
            model=model,
            after_step=hear,
        )
        advance(1.0)
        return tensors

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


def by_share(tick: Tick, begun: float = 0.0) -> Callable[[float], None]:
    """Return what advances a stage by `TICKS`, told the share of a piece of work that is done.

    A share of it, `begun`, may be behind us.
    """
    done = int(TICKS * begun)

    def advance(share: float) -> None:
        nonlocal done
        # A search that has lost its gradients says less than before.
        before, done = done, max(done, int(TICKS * share))
        tick(done - before)

    return advance


def _silent(steps: int = 1, /, total: int | None = None, *, behind: bool = False) -> None:
    """Tell nobody."""


def _nobody() -> None:
    """Tell nobody either."""


def _as_state(tensors: Mapping[str, Tensor]) -> State:
    """Return tensors as arrays, without bfloat16 ones: NumPy lacks them, no search changes them."""
    return {
        name: tensor.detach().numpy()
        for name, tensor in tensors.items()
        if tensor.dtype is not torch.bfloat16
    }
