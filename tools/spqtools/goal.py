"""What the user wants, and which density to try next to get there."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

from spqformat import Reason, SpqError
from spqtools.evolve.search import Effort

# Without a goal: mean KL divergence in nats. It costs LeNet-300-100 on MNIST about half a point of
# accuracy (tests/bench/RESULTS.md).
DEFAULT_MAX_DIVERGENCE = 0.02
_LEAST_DENSITY = 0.004
# From this share of a size or divergence on, the goal counts as hit.
_CLOSE = 0.98
# A step between two trials goes at least this share of the way, in logarithms.
_LEAST_STEP = 0.1


@dataclass(frozen=True)
class Options:
    """Goal and effort of a search; at most one goal is given.

    Parameters
    ----------
    sparsity : float, optional
        Share of the layers' weights to zero, in [0, 1).
    target_ratio : float, optional
        How many times smaller than the float32 bytes the file is to be.
    target_size : int, optional
        Bytes that the file may have.
    max_divergence : float, optional
        Divergence from the teacher that is acceptable, on held-out calibration inputs.
    max_drop : float, optional
        Points of accuracy that may be lost, on held-out labelled calibration inputs.
    bits : int, optional
        Most bits of a level index, zero included, 1 to 8; by default what the goal leaves.
    effort : str
        ``fast``, ``default`` or ``max``.
    seed : int
        Seed of all random choices.
    """

    sparsity: float | None = None
    target_ratio: float | None = None
    target_size: int | None = None
    max_divergence: float | None = None
    max_drop: float | None = None
    bits: int | None = None
    effort: str = "default"
    seed: int = 0

    def __post_init__(self) -> None:
        goals = [
            name
            for name in (
                "sparsity",
                "target_ratio",
                "target_size",
                "max_divergence",
                "max_drop",
            )
            if getattr(self, name) is not None
        ]
        if len(goals) > 1:
            raise SpqError(Reason.BAD_ARGUMENT, f"{' and '.join(goals)} exclude each other")
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise SpqError(
                Reason.BAD_ARGUMENT, f"sparsity is {self.sparsity}; it must lie in [0, 1)"
            )
        if self.bits is not None and not 1 <= self.bits <= 8:
            raise SpqError(Reason.BAD_ARGUMENT, f"bits is {self.bits}; allowed are 1 to 8")

    def target_bytes(self, float_bytes: int) -> int | None:
        """Return the size that is aimed at, when the goal is a size."""
        if self.target_size is not None:
            return self.target_size
        if self.target_ratio is not None:
            return int(float_bytes / self.target_ratio)
        return None


@dataclass(frozen=True)
class Trial:
    """A density that was tried.

    Parameters
    ----------
    density : float
        Share of weights kept.
    beyond : bool
        Whether the goal lies at a higher density: quality is lost, or the size is reached.
    measured : float
        Size or divergence as a share of the goal; 0 where neither was measured.
    """

    density: float
    beyond: bool
    measured: float = 0.0


def next_density(trials: Sequence[Trial], sparsity: float | None, effort: Effort) -> float | None:
    """Return the density to try next, or None when the search is over.

    Down the effort's ladder until a trial is beyond the goal, then between the last that was not
    and the first that was, where the measurements say that the goal lies. A pure function of the
    trials, so that a resumed search goes the same way.

    Parameters
    ----------
    trials : sequence of Trial
        What was tried, in order.
    sparsity : float or None
        Explicit goal, reached by the same steps.
    effort : Effort
        Ladder and number of bisections.
    """
    good = min(
        (trial for trial in trials if not trial.beyond),
        key=lambda trial: trial.density,
        default=Trial(1.0, beyond=False),
    )
    if sparsity is not None:
        goal = 1.0 - sparsity
        if good.density <= goal:
            return None
        # A step that would end just before the goal goes all the way.
        step = _next_rung(good.density, effort)
        return goal if step < goal * 1.05 else step
    beyond = [trial for trial in trials if trial.beyond]
    if not beyond:
        step = _next_rung(good.density, effort)
        return step if step >= _LEAST_DENSITY else None
    bisections = len(trials) - 1 - trials.index(beyond[0])
    if bisections >= effort.bisections or _CLOSE < trials[-1].measured <= 1.0:
        return None
    return _between(good, max(beyond, key=lambda trial: trial.density))


def _between(good: Trial, bad: Trial) -> float:
    """Return a density between two trials, on the line through them in logarithms."""
    share = 0.5
    if good.measured > 0.0 and bad.measured > 0.0 and good.measured != bad.measured:
        aim = log((1.0 + _CLOSE) / 2)
        share = (aim - log(good.measured)) / (log(bad.measured) - log(good.measured))
        share = min(max(share, _LEAST_STEP), 1.0 - _LEAST_STEP)
    return float(good.density ** (1.0 - share) * bad.density**share)


def planned_cycles(sparsity: float | None, effort: Effort) -> int:
    """Return how many cycles a search takes: exactly for a sparsity, else a fair guess."""
    trials: list[Trial] = []
    last_density = 0.03 if sparsity is None else 0.0
    while (density := next_density(trials, sparsity, effort)) is not None:
        trials.append(Trial(density, beyond=False))
        if density < last_density:
            return len(trials) + effort.bisections
    return len(trials)


def _next_rung(density: float, effort: Effort) -> float:
    """Return the first density of the ladder that is clearly below the present one."""
    for rung in effort.densities:
        if rung < density * 0.95:
            return rung
    return density * effort.ratio
