"""How long a training is, and the samples that it goes through."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from spqtools.evolve.divergence import Divergence, Fitness
from spqtools.evolve.rng import Draws
from spqtools.evolve.student import Student
from spqtools.training.pupil import Pupil
from spqtools.training.state import State, number
from spqtools.training.variants import vary

DEFAULT_SECONDS = 600.0
TICKS = 200
# Multiplications of all forward passes of the student, and in how many steps they are taken where
# batches of these sizes allow it.
_PRODUCTS = 4 * 10**12
_GOOD_STEPS = 1500
_LEAST_BATCH, _MOST_BATCH = 8, 256
_LEAST_STEPS, _MOST_STEPS = 500, 5000
# Samples that tell what kind of answers there are, and how large, where all others are variants.
_SEEN = 32


class Plan:
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
        self.share, self.ticks = 0.0, 0
        self._done, self._brought, self._brought_share = 0, 0, 0.0
        self._clock, self._start, self._seconds = clock, clock(), seconds
        self._first = self._start

    def advance(self) -> float:
        """Count a step; return the share of the training that is done."""
        self._done += 1
        left = max(self.steps - self._done + 1, 1)
        now, end = self._clock(), self._start + self._seconds
        taken = self._done - self._brought - 1
        shown = 0.0
        if taken == 0:
            # What comes before the second step comes but once.
            self._first = now
        elif end - now < (pace := max(now - self._first, 1e-9) / taken) * left:
            # Time, not the steps, tells how far this is from its end.
            by_time = (now - self._first) / max(end - self._first, 1e-9)
            shown = self._brought_share + (1.0 - self._brought_share) * by_time
            if end - now < self._seconds / 2:
                left, self.is_cut = max(int((end - now) / pace), 1), True
        self.share += (1.0 - self.share) / left
        self.ticks = max(self.ticks, int(TICKS * min(max(self.share, shown), 1.0)))
        return self.share

    def state(self) -> State:
        """Return what `restore` needs."""
        return {
            "done": number(self._done),
            "share": number(self.share),
            "is_cut": number(self.is_cut),
        }

    def restore(self, state: State) -> None:
        """Go on from where a training was killed; the time that it had taken does not count."""
        self._done = self._brought = int(state["done"])
        self.share = self._brought_share = float(state["share"])
        self.is_cut = bool(state["is_cut"])
        self.ticks = int(TICKS * self.share)


class Course:
    """Samples with the teacher's answers; the first of a shuffled pack are for examinations."""

    def __init__(
        self,
        student: Student,
        inputs: Sequence[Tensor],
        plan: Plan,
        seed: int,
        fitness: Fitness | None,
        varies: bool,
    ) -> None:
        self._student, self._inputs, self._plan, self._seed = student, inputs, plan, seed
        self._varies, self._lesson = varies, 0
        wanted = plan.held_out + plan.steps * plan.batch
        self._rows = self._shuffle("samples", inputs[0].shape[0])[:wanted]
        # Variants are answered when they are there.
        answered = self._rows[: max(plan.held_out, _SEEN)] if varies else self._rows
        with torch.no_grad():
            batches = torch.split(answered, plan.batch)
            answers = [self._run(student.original, rows) for rows in batches]
        self._answers = [torch.cat(parts) for parts in zip(*answers, strict=True)]
        self._divergence = Divergence([self._answers], fitness)

    def state(self) -> State:
        """Return what `restore` needs."""
        return {"lesson": number(self._lesson)}

    def restore(self, state: State) -> None:
        """Go on from where a training on the same inputs was killed."""
        self._lesson = int(state["lesson"])

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
