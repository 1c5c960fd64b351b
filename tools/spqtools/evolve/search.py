"""Cycles of evolution: from a dense student to a sparse one, layer by layer, level by level."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import exp, prod

import torch
from torch import Tensor, fx

from spqtools.evolve.allocation import allocate
from spqtools.evolve.compensation import RACING_STEPS, STEPS, compensate
from spqtools.evolve.divergence import SOFTENED, Divergence, Fitness
from spqtools.evolve.effort import Effort
from spqtools.evolve.evidence import surely_less
from spqtools.evolve.fits import Fits
from spqtools.evolve.moments import Moments, measure_moments
from spqtools.evolve.population import (
    Individual,
    criteria,
    evolve,
    invite,
    mutate,
    recombine,
    reward,
    seeds,
    top,
)
from spqtools.evolve.rate import mask_bits, survivor_bits
from spqtools.evolve.rng import Draws
from spqtools.evolve.sensing import AfterBatch, Sensing
from spqtools.evolve.sparse import Begun, Sparse
from spqtools.evolve.student import Layer, Stop, Student
from spqtools.evolve.workload import Tries, spread_work

_HELD_OUT_SHARE = 0.25
_TILT_STEP = 0.35
# What a survivor's level is foreseen to take.
_LEVEL_BITS = 3.0
# Share of the survivors whose zeros set the price of a bit.
_GOES_ON = 0.9
# Elements of the largest value in a batch: what the second-level cache holds, and what the
# allocator keeps. ResNet-20 runs twice as fast in batches of 64 as in one of 1,024.
_BATCH_ELEMENTS = 1 << 20
_LARGEST_BATCH = 1024
# Elements of the values that a walk through the network holds for all samples together: 2 GiB, and
# as much again for the teacher beside it, less a few times what the weights take, of which a search
# holds several copies; but half a gigabyte. No fewer samples than these, whatever they take.
_WALKED_ELEMENTS, _LEAST_WALKED_ELEMENTS = 1 << 29, 1 << 27
_WEIGHT_COPIES = 4
_LEAST_WALKED = 8
# Multiplications of a whole forward pass on which candidates race, and on which finalists meet.
_RACE_PRODUCTS = 10**10
_FINAL_PRODUCTS = 4 * 10**10
# A layer that keeps more than this share of its weights has no choice worth a population.
_HARDLY_CHANGED = 0.985
# Candidates that meet on all samples in the end, the most trusted proposal among them.
_FINALISTS = 3


def held_out_samples(samples: int) -> int:
    """Return how many samples at the end of a calibration set never steer the search."""
    return max(1, int(samples * _HELD_OUT_SHARE)) if samples > 1 else 0


@dataclass(frozen=True)
class Watch:
    """Who follows a cycle.

    Parameters
    ----------
    before_layer : Callable[[], None]
        Called before each layer; what it raises ends the cycle.
    after_step : Callable[[Begun], None]
        Called when the cycle is through with a batch's gradients, a shift between layers, a
        candidate for a layer's zeros or a layer: where it stands.
    """

    before_layer: Callable[[], None] = lambda: None
    after_step: Callable[[Begun], None] = lambda _begun: None


NOBODY = Watch()


@dataclass(frozen=True)
class Revised:
    """What a walk has made of a layer.

    Parameters
    ----------
    keep : Tensor of bool, shape (rows, columns)
        Support.
    tensors : dict of str to Tensor
        Weight and bias in their own shapes, by name.
    """

    keep: Tensor
    tensors: dict[str, Tensor]


@dataclass
class Evolution:
    """The search for a sparse student.

    Parameters
    ----------
    graph : fx.GraphModule
        Teacher, traced.
    inputs : sequence of Tensor
        Calibration inputs; the last quarter is held out and never steers the search.
    seed : int
        Seed of all random choices.
    effort : Effort
        How much is tried.
    compensation : bool
        Whether survivors make up for zeros.
    batch_size : int, optional
        Samples of a batch; by default what a processor's cache holds.
    fitness : callable, optional
        What students are judged by; by default what their outputs look like, see `Divergence`.
    after_answers : Callable[[], None]
        Called after each batch that the teacher answers to at first.
    """

    graph: fx.GraphModule
    inputs: Sequence[Tensor]
    seed: int
    effort: Effort
    compensation: bool = True
    batch_size: int | None = None
    fitness: Fitness | None = None
    after_answers: Callable[[], None] = lambda: None
    evaluations: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        samples = self.inputs[0].shape[0]
        held = held_out_samples(samples)
        network = Student(self.graph, [tensor[:1] for tensor in self.inputs], 1)
        needs = network.needs()
        self.weights = sum(layer.rows * layer.columns for layer in network.layers)
        elements = max(_WALKED_ELEMENTS - _WEIGHT_COPIES * self.weights, _LEAST_WALKED_ELEMENTS)
        self.walked = walked = min(samples - held, max(elements // needs.live, _LEAST_WALKED))
        self.held = held = min(held, walked)
        search = [tensor[:walked] for tensor in self.inputs]
        held_out = [tensor[samples - held :] for tensor in self.inputs] if held else search
        batch_size = self.batch_size or min(
            max(_BATCH_ELEMENTS // needs.largest, 1), _LARGEST_BATCH
        )
        self.student = network.on(search, batch_size)
        self.held_out = network.on(held_out, batch_size)
        # Whole batches, so that the search's divergence knows the teacher's outputs on them.
        products = max(sum(needs.products.values()), 1)
        count, per_batch = len(self.student.batches), products * batch_size
        self.final = range(min(max(_FINAL_PRODUCTS // per_batch, 1), count))
        self.race = range(min(max(_RACE_PRODUCTS // per_batch, 1), max(count // 3, 1)))
        scouted = len(self.race) * batch_size
        self.scout = network.on([tensor[:scouted] for tensor in search], batch_size)
        self.teacher = self.student.original
        self.layers: list[Layer] = self.student.layers
        self.divergence = Divergence(self._answers(self.student), self.fitness, SOFTENED)
        answers = self._answers(self.held_out)
        self.held_out_divergence = Divergence(answers, self.fitness)
        # Nothing, unless the teacher's answers are no numbers.
        self.own_divergence = self.held_out_divergence(answers, range(len(answers)))
        self.sensing = Sensing(self.student, self.divergence, self.seed)
        self._scored: tuple[Mapping[str, Tensor], dict[str, Tensor]] = ({}, {})
        candidates = self.effort.proposals + self.effort.generations * self.effort.children
        tries = Tries(
            walked,
            RACING_STEPS * candidates + STEPS * _FINALISTS,
            batch_size * (candidates * len(self.race) + _FINALISTS * len(self.final)),
        )
        self.work = spread_work(self.layers, needs.products, tries)

    def _answers(self, student: Student) -> list[list[Tensor]]:
        """Return what the teacher says to a student's samples, batch by batch."""
        answers = []
        for batch in range(len(student.batches)):
            with torch.no_grad():
                answers += student.outputs(self.teacher, [batch])
            self.after_answers()
        return answers

    def start(self) -> Sparse:
        """Return the teacher as a student that keeps everything but the zeros that are there."""
        keep = {
            layer.weight: self.teacher[layer.weight].reshape(layer.rows, layer.columns) != 0
            for layer in self.layers
        }
        return Sparse(dict(self.teacher), keep, {layer.weight: 0.0 for layer in self.layers})

    def measure(self, tensors: Mapping[str, Tensor]) -> float:
        """Return the divergence on the held-out part of the calibration set."""
        with torch.no_grad():
            outputs = self.held_out.outputs(tensors)
            return self.held_out_divergence(outputs, range(len(outputs)))

    def glance(self, tensors: Mapping[str, Tensor]) -> float:
        """Return the divergence that steers the search, on the samples that candidates race on."""
        with torch.no_grad():
            return self.divergence(self.student.outputs(tensors, self.race), self.race)

    def cycle(
        self,
        state: Sparse,
        density: float,
        number: int,
        begun: Begun | None = None,
        watch: Watch = NOBODY,
    ) -> Sparse:
        """Zero weights until a share of `density` is left, and compensate.

        Parameters
        ----------
        state : Sparse
            Student to begin with; its zeros stay.
        density : float
            Share of the layers' weights to keep.
        number : int
            Number of the cycle, which keys its random choices.
        begun : Begun, optional
            Where the same cycle has stood before; the result is the same.
        watch : Watch
            Who follows it.
        """
        reached = begun or self._open(state)
        whole = reached.opening + 1.0 + self.work.look
        if not reached.goals:
            reached = self._begin(reached, state, density, number, watch)
        watch.after_step(reached)
        credit = dict(reached.student.credit)
        keep = dict(reached.student.keep)

        def choose(stop: Stop, moments: Moments) -> Revised:
            nonlocal reached
            name = stop.layer.weight
            fits = Fits(reached.fits, hear)
            chosen = self._evolve_layer(
                stop, moments, state, reached.goals[name], number, credit, fits
            )
            keep[name] = chosen.keep
            tensors = {**stop.weights, **chosen.tensors}
            student = Sparse(tensors, dict(keep), reached.student.tilt, credit=dict(credit))
            share = reached.share + self.work.layers[name] / whole
            reached = replace(reached, student=student, share=share, fits=[])
            watch.after_step(reached)
            return chosen

        def hear(fits: list[Tensor]) -> None:
            nonlocal reached
            reached = replace(reached, evaluations=self.evaluations, fits=fits)
            watch.after_step(reached)

        if len(keep) < len(self.layers):
            self.sensing.look(state, lambda _: watch.after_step(reached))
            with torch.no_grad():
                self._sweep(self.student, state, choose, watch, reached.student)

        def see(share: float) -> None:
            left = (1.0 - share) * self.work.look / whole
            watch.after_step(replace(reached, share=max(reached.share, 1.0 - left)))

        student = reached.student
        return replace(student, zero_cost=self._zero_cost(student, see))

    def _open(self, state: Sparse) -> Begun:
        """Return a cycle that has done nothing yet."""
        # The cycle before has ended with the same gradients, if it has led to this student.
        opening = 0.0 if self.sensing.knows(state) else self.work.look
        student = Sparse(dict(state.tensors), {}, state.tilt, credit=state.credit)
        return Begun(student, self.evaluations, opening)

    def _begin(
        self, begun: Begun, state: Sparse, density: float, number: int, watch: Watch
    ) -> Begun:
        """Return a cycle before its first layer."""
        opening = begun.opening / (begun.opening + 1.0 + self.work.look)

        def see(share: float) -> None:
            watch.after_step(replace(begun, share=max(begun.share, opening * share)))

        scores = self._outlook(state, see)
        kept_total = round(density * sum(mask.numel() for mask in state.keep.values()))
        with torch.no_grad():
            looked = replace(begun, share=opening)
            tilt = self._evolve_tilt(looked, state, scores, kept_total, number, watch)
        goals, _ = allocate(scores, state.keep, tilt, kept_total)
        student = replace(begun.student, tilt=tilt)
        return Begun(student, self.evaluations, begun.opening, opening, goals)

    def _outlook(self, state: Sparse, after_batch: AfterBatch) -> dict[str, Tensor]:
        """Return the log-scores by curvature that a cycle begins with.

        The cycle before has needed them for what zeros cost.
        """
        tensors, scores = self._scored
        if tensors is not state.tensors:
            self.sensing.look(state, after_batch)
            scores = self.scores(state, ("curvature",))["curvature"]
            self._scored = state.tensors, scores
        return scores

    def _zero_cost(self, state: Sparse, after_batch: AfterBatch = lambda _: None) -> float:
        """Return what zeros would cost each if the search went on with this student a little."""
        scores = self._outlook(state, after_batch)
        _, threshold = allocate(scores, state.keep, state.tilt, round(_GOES_ON * state.kept))
        return exp(threshold) / 2

    def revise(
        self,
        state: Sparse,
        revise_layer: Callable[[Layer, Moments, Tensor, Tensor | None], dict[str, Tensor]],
        begun: Mapping[str, Tensor] | None = None,
        model: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Walk once through the student and let a function replace each layer's weights.

        The function gets the layer, the moments of its present inputs, and its weight matrix and
        bias; it returns tensors by name. Earlier layers already have their new weights. Layers
        whose tensors are in `begun` take those. The layers are to answer as those of the teacher
        do, or of `model`.
        """
        through = {name: keep for name, keep in state.keep.items() if name in (begun or {})}

        def choose(stop: Stop, moments: Moments) -> Revised:
            weight, bias = _matrix(stop.layer, stop.weights)
            keep = state.keep[stop.layer.weight]
            if self.compensation:
                weight, bias = compensate(stop.layer, moments, keep, weight, bias)
            return Revised(keep, revise_layer(stop.layer, moments, weight, bias))

        with torch.no_grad():
            through_with = Sparse(dict(begun or {}), through, {})
            return self._sweep(self.student, state, choose, begun=through_with, model=model)[0]

    def scores(self, state: Sparse, wanted: Sequence[str]) -> dict[str, dict[str, Tensor]]:
        """Return the log-scores of all layers by criterion and name, from one walk on one batch."""
        found: dict[str, dict[str, Tensor]] = {criterion: {} for criterion in wanted}
        rows = self.sensing.look(state).rows

        def choose(stop: Stop, moments: Moments) -> Revised:
            name = stop.layer.weight
            weight, _ = _matrix(stop.layer, stop.weights)
            scores = criteria(stop.layer, moments, weight, rows[name])
            for criterion in wanted:
                found[criterion][name] = scores[criterion]
            return Revised(state.keep[name], {})

        with torch.no_grad():
            self._sweep(self.scout, state, choose)
        return found

    def prune(
        self,
        state: Sparse,
        keep: Mapping[str, Tensor],
        *,
        student: Student | None = None,
        steps: int = STEPS,
        watch: Watch = NOBODY,
    ) -> dict[str, Tensor]:
        """Zero what is not kept, layer by layer, and compensate on the way.

        Parameters
        ----------
        state : Sparse
            Student to begin with.
        keep : mapping of str to Tensor of bool
            Support of each layer.
        student : Student, optional
            The samples to compensate on; by default the whole search part.
        steps : int
            Steps of the compensation.
        watch : Watch
            Hears before each layer.
        """

        def choose(stop: Stop, moments: Moments) -> Revised:
            return self._settle(stop, moments, keep[stop.layer.weight], steps)

        with torch.no_grad():
            return self._sweep(student or self.student, state, choose, watch)[0]

    def _evolve_tilt(
        self,
        begun: Begun,
        state: Sparse,
        scores: Mapping[str, Tensor],
        kept_total: int,
        number: int,
        watch: Watch,
    ) -> dict[str, float]:
        """Try shifts of weight between layers and return the one of least divergence."""

        def hear(fits: list[Tensor]) -> None:
            watch.after_step(replace(begun, evaluations=self.evaluations, fits=fits))

        def fitness(tilt: Mapping[str, float]) -> Tensor:
            goals, _ = allocate(scores, state.keep, tilt, kept_total)
            keep = {name: top(scores[name], state.keep[name], goals[name]) for name in goals}
            tensors = self.prune(state, keep, student=self.scout, steps=RACING_STEPS, watch=watch)
            self.evaluations += 1
            return self.divergence.pieces(self.scout.outputs(tensors), self.race)

        fits = Fits(begun.fits, hear)

        best, names = dict(state.tilt), list(state.tilt)
        if len(names) < 2 or self.effort.tilts == 0:
            return best
        best_fitness = fits.of(partial(fitness, best))
        for trial in range(self.effort.tilts):
            shift = Draws(self.seed, "tilt", number, trial).normal(len(names))
            candidate = {
                name: best[name] + _TILT_STEP * float(step)
                for name, step in zip(names, shift - shift.mean(), strict=True)
            }
            candidate_fitness = fits.of(partial(fitness, candidate))
            if surely_less(candidate_fitness, best_fitness):
                best, best_fitness = candidate, candidate_fitness
        return best

    def _evolve_layer(
        self,
        stop: Stop,
        moments: Moments,
        state: Sparse,
        count: int,
        number: int,
        credit: dict[str, float],
        fits: Fits,
    ) -> Revised:
        """Evolve the zero-set of one layer; its proposals earn credit."""
        name = stop.layer.weight
        allowed = state.keep[name]
        weight, _ = _matrix(stop.layer, stop.weights)
        scores = criteria(stop.layer, moments, weight, self.sensing.look(state).rows[name])
        if count >= _HARDLY_CHANGED * int(allowed.sum()):
            keep = top(scores["curvature"], allowed, count)
            return self._settle(stop, moments, keep, STEPS)
        draws = Draws(self.seed, "layer", number, name)
        unit = prod(stop.layer.kernel)
        bits = survivor_bits(allowed, unit, _LEVEL_BITS)
        proposals = seeds(scores, bits, draws)
        guests = invite(proposals, credit, self.effort.proposals, draws)
        invited = {name: top(scored, allowed, count) for name, scored in guests.items()}
        if self.effort.generations == 0 and self.effort.proposals == 1:
            return self._settle(stop, moments, invited["curvature"], STEPS)
        blend = (scores["curvature"] + scores["fisher"]) / 2

        finals: list[Revised] = []

        def fit(keep: Tensor, on_all: bool) -> Tensor:
            settled = self._settle(stop, moments, keep, STEPS if on_all else RACING_STEPS)
            if on_all:
                finals.append(settled)
            batches = self.final if on_all else self.race
            self.evaluations += 1
            outputs = stop.finish(settled.tensors, batches)
            rate = state.bit_price * mask_bits(keep, unit)
            if on_all:
                return self.divergence.pieces(outputs, batches) + rate
            return torch.tensor([self.divergence(outputs, batches) + rate], dtype=torch.float64)

        def assess(keep: Tensor, on_all: bool) -> Individual:
            return Individual(keep, fits.of(partial(fit, keep, on_all)))

        def breed(parents: list[Tensor], child: int) -> Tensor:
            first = parents[draws.below(len(parents))]
            guide = scores["curvature"] if child % 3 else blend
            if child % 2:
                return mutate(first, guide, allowed, count, draws)
            second = parents[draws.below(len(parents))]
            return recombine(first, second, guide, allowed, count, draws)

        effort = self.effort
        fittest, ranking = evolve(
            invited, breed, assess, effort.generations, effort.children, _FINALISTS - 1
        )
        reward(credit, ranking)
        for final in finals:
            if final.keep is fittest.keep:
                return final
        # It was assessed before an interruption.
        return self._settle(stop, moments, fittest.keep, STEPS)

    def _settle(self, stop: Stop, moments: Moments, keep: Tensor, steps: int) -> Revised:
        """Zero what is not kept and compensate the survivors."""
        weight, bias = _matrix(stop.layer, stop.weights)
        if self.compensation:
            weight, bias = compensate(stop.layer, moments, keep, weight, bias, steps)
        else:
            weight = torch.where(keep, weight, 0.0)
        return Revised(keep, _tensors(stop.layer, weight, bias, stop.weights))

    def _sweep(
        self,
        student: Student,
        state: Sparse,
        choose: Callable[[Stop, Moments], Revised],
        watch: Watch = NOBODY,
        begun: Sparse | None = None,
        model: Mapping[str, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Walk student and teacher side by side and replace each layer by what `choose` returns.

        Layers that have a support in `begun` are taken from there. Another `model` may take the
        teacher's place.
        """
        tensors = dict(state.tensors)
        keep = {}
        places = self.sensing.look(state).places
        for stop, original in zip(
            student.walk(tensors), student.walk(dict(model or self.teacher)), strict=True
        ):
            name = stop.layer.weight
            if begun is not None and name in begun.keep:
                settled = _tensors(stop.layer, *_matrix(stop.layer, begun.tensors), begun.tensors)
                chosen = Revised(begun.keep[name], settled)
            else:
                watch.before_layer()
                chosen = choose(stop, measure_moments(stop, original, places[name]))
            tensors.update(chosen.tensors)
            keep[name] = chosen.keep
        return tensors, keep


def _matrix(layer: Layer, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return a layer's weight as a matrix, and its bias."""
    weight = tensors[layer.weight].reshape(layer.rows, layer.columns)
    return weight, None if layer.bias is None else tensors[layer.bias]


def _tensors(
    layer: Layer, weight: Tensor, bias: Tensor | None, like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return a layer's matrix and bias by name in their own shapes."""
    named = {layer.weight: weight.reshape(like[layer.weight].shape)}
    if layer.bias is not None and bias is not None:
        named[layer.bias] = bias
    return named
