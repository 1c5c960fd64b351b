"""How far the student's output is from the teacher's: the fitness that everything is judged by."""

from collections.abc import Callable, Sequence
from math import inf, isnan

import torch
import torch.nn.functional as F
from torch import Tensor

from spqformat import Reason, SpqError

KL_DIVERGENCE = "KL divergence in nats"
SQUARED_ERROR = "squared error relative to the variance"
GIVEN_FITNESS = "divergence by the fitness that was given"

Fitness = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
"""Mean divergence of a student's outputs, the first argument, from a teacher's on the same samples;
a differentiable scalar that is zero where they are equal and never less."""


def squared(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Return the squared error that outputs are compared by which are no classifier's.

    As a fitness it says that none is one's; `Divergence` relates it to each output's variance.
    """
    errors = [
        (one.float() - answer).square().mean() for one, answer in zip(student, teacher, strict=True)
    ]
    return torch.stack(errors).sum()


# Temperature of the divergence that steers a search. A teacher is far surer of the inputs that it
# has learnt from than of others, so that its own distributions hardly tell what an error costs:
# ResNet-20 at 17x was 0.081 nats from it on test images with levels by this one, 0.097 without.
SOFTENED = 3.0
# About so many pieces tell how far the samples agree about a student.
_PIECES = 32
# How far from one a sum may be that is one but for rounding.
_ROUNDED = 1e-3
# The same for a row's length, also in bfloat16.
_ROUNDED_LENGTH = 1e-2
# Part of the outputs' deviation by which they are moved to learn a fitness's curvature.
_MOVED = 0.01


class Divergence:
    """Mean divergence of a student's outputs from a teacher's.

    A floating-point output of shape (batch, classes) with at least two classes is taken for the
    scores of a classifier: mean KL divergence of the teacher's distribution from the student's.
    Rows that already are distributions are compared as they are, others go through a softmax.
    Every other floating-point output, as one whose rows have a length of one, counts with its
    squared error relative to the variance of the teacher's. Several outputs add up. Another fitness
    may take the place of all that; `squared` says that no output is a classifier's.

    Parameters
    ----------
    outputs : sequence of list of Tensor
        The teacher's outputs, batch by batch.
    fitness : callable, optional
        What to judge by instead, see `Fitness`.
    temperature : float
        Divisor of a classifier's scores, which softens its distributions (Hinton et al., arXiv
        1503.02531).

    Raises
    ------
    SpqError
        `unsupported_model` for a network without floating-point outputs.
    """

    def __init__(
        self,
        outputs: Sequence[list[Tensor]],
        fitness: Fitness | None = None,
        temperature: float = 1.0,
    ) -> None:
        if not outputs[0]:
            raise SpqError(
                Reason.UNSUPPORTED_MODEL,
                "the network has no floating-point output to compare; leave out --calib",
            )
        self._teacher = outputs
        self._temperature = temperature
        self._fitness = None if fitness is squared else fitness
        self._kinds = []
        self._scales = []
        for index in range(len(outputs[0])):
            whole = torch.cat([batch[index].detach().float() for batch in outputs])
            self._kinds.append("squared" if fitness is squared else _kind(whole))
            self._scales.append(float(whole.var(unbiased=False)) + 1e-12)

    def __call__(self, outputs: Sequence[list[Tensor]], batches: Sequence[int]) -> float:
        """Return the mean over the samples of the given batches, in nats or relative error.

        What is not a number, as where a student's answers overflow, is infinite.
        """
        total, samples = 0.0, 0
        for student, batch in zip(outputs, batches, strict=True):
            size = student[0].shape[0]
            total += float(self.of_batch(student, batch)) * size
            samples += size
        # Rounding alone makes it less than nothing.
        return inf if isnan(total) else max(total / samples, 0.0)

    def pieces(self, outputs: Sequence[list[Tensor]], batches: Sequence[int]) -> Tensor:
        """Return the means over some pieces of the samples of the given batches, which tell chance.

        Float64, shape (pieces,); what is not a number is infinite.
        """
        per_batch = -(-_PIECES // len(batches))
        found = []
        for student, batch in zip(outputs, batches, strict=True):
            count = min(per_batch, student[0].shape[0])
            parts = [
                [output.tensor_split(count) for output in side]
                for side in (student, self._teacher[batch])
            ]
            for piece in range(count):
                ours, theirs = ([output[piece] for output in side] for side in parts)
                found.append(self.between(ours, theirs))
        return torch.stack(found).double().nan_to_num(nan=inf, posinf=inf)

    @property
    def description(self) -> str:
        """What the number means, in words."""
        if self._fitness is not None:
            return GIVEN_FITNESS
        if all(kind == "squared" for kind in self._kinds):
            return SQUARED_ERROR
        return KL_DIVERGENCE

    @property
    def guesses_classes(self) -> bool:
        """Whether an output is taken for a classifier's because of its shape alone."""
        return self._fitness is None and "scores" in self._kinds

    @property
    def has_places(self) -> bool:
        """Whether an output has dimensions besides samples and classes, as maps have."""
        return any(output.ndim > 2 for output in self._teacher[0])

    def of_batch(self, student: list[Tensor], batch: int) -> Tensor:
        """Return the mean divergence over one batch as a differentiable scalar."""
        return self.between(student, self._teacher[batch])

    def between(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Return the mean divergence of any outputs from the teacher's on the same samples."""
        if self._fitness is not None:
            return self._fitness(student, teacher)
        parts = []
        for index, answer in enumerate(teacher):
            output, kind = student[index].float(), self._kinds[index]
            if kind == "squared":
                parts.append(((output - answer) ** 2).mean() / self._scales[index])
                continue
            target = _log_distribution(answer.float(), kind, self._temperature)
            log_ratio = target - _log_distribution(output, kind, self._temperature)
            parts.append((target.exp() * log_ratio).sum(-1).mean())
        return torch.stack(parts).sum()

    def pseudo_loss(self, student: Sequence[Tensor], signs: Sequence[Tensor]) -> Tensor:
        """Return a scalar whose squared gradients average to the Gauss-Newton diagonal.

        Its gradient at the outputs is a random combination of the columns of a root of the
        divergence's curvature there, which for a classifier is Fisher's information (Martens,
        arXiv 1412.1193). Labels drawn from the classes would give the same on average, but from a
        teacher that is sure of itself hardly one label in a hundred tells anything. Of another
        fitness, outputs that are moved a little along the signs tell the diagonal of the curvature
        (Bekas, Kokiopoulou and Saad, 2007), and its root is taken for the whole.

        Parameters
        ----------
        student : sequence of Tensor
            Outputs.
        signs : sequence of Tensor of float32
            As many random ones of plus and minus one.
        """
        if self._fitness is not None:
            return self._moved_loss(self._fitness, student, signs)
        parts = []
        for output, sign, kind, scale in zip(
            student, signs, self._kinds, self._scales, strict=True
        ):
            if kind == "squared":
                root = (2.0 * output.shape[0] / (scale * output.numel())) ** 0.5
                parts.append((output.float() * sign).sum() * root)
                continue
            logarithms = _log_distribution(output.float(), kind, self._temperature)
            parts.append((logarithms * (logarithms.detach() / 2).exp() * sign).sum())
        return torch.stack(parts).sum()

    def _moved_loss(
        self, fitness: Fitness, student: Sequence[Tensor], signs: Sequence[Tensor]
    ) -> Tensor:
        """Return the pseudo-loss of a fitness of which nothing is known."""
        rest = [output.detach().float() for output in student]
        steps = [
            sign * (_MOVED * scale**0.5) for sign, scale in zip(signs, self._scales, strict=True)
        ]
        with torch.enable_grad():
            moved = [
                (output + step).requires_grad_(True)
                for output, step in zip(rest, steps, strict=True)
            ]
            found = fitness(moved, rest)
            slopes = torch.autograd.grad(found, moved, allow_unused=True, materialize_grads=True)
        samples = student[0].shape[0]
        parts = [
            (output.float() * (samples * slope / step).clamp_min(0.0).sqrt() * sign).sum()
            for output, slope, step, sign in zip(student, slopes, steps, signs, strict=True)
        ]
        return torch.stack(parts).sum()

    def predictions(self, outputs: Sequence[list[Tensor]]) -> Tensor | None:
        """Return the classes that a classifier predicts, int64, shape (samples,), else None."""
        if self._kinds[0] == "squared":
            return None
        return torch.cat([batch[0].argmax(-1) for batch in outputs])


def _kind(output: Tensor) -> str:
    """Tell scores and distributions of a classifier from other outputs."""
    if output.ndim != 2 or output.shape[1] < 2:
        return "squared"
    sums = output.sum(-1)
    if bool((output >= 0).all()) and bool(((sums - 1).abs() < _ROUNDED).all()):
        return "distribution"
    if bool((output <= 0).all()) and bool(((output.exp().sum(-1) - 1).abs() < _ROUNDED).all()):
        return "log-distribution"
    return "squared" if _has_unit_rows(output) else "scores"


def _has_unit_rows(output: Tensor) -> bool:
    """Tell whether all rows have a length of one, as embeddings have; or none, of empty inputs."""
    lengths = output.norm(dim=1)
    is_unit = (lengths - 1).abs() < _ROUNDED_LENGTH
    return bool(is_unit.any() and (is_unit | (lengths == 0)).all())


def _log_distribution(output: Tensor, kind: str, temperature: float) -> Tensor:
    if kind == "distribution":
        output = output.clamp_min(1e-12).log()
    if kind == "scores" or temperature != 1.0:
        output = F.log_softmax(output / temperature, -1)
    return output
