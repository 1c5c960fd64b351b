"""What the user wants, and which density to try next to get there."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf, isfinite

from spqformat import Reason, SpqError
from spqtools.evolve.effort import Effort
from spqtools.search.fitness import stored_name

# Without a goal: mean KL divergence in nats, or what else the divergence is measured in. No row of
# tests/bench/RESULTS.md has this goal. The nearest are six of its ablation, LeNet-300-100 on MNIST
# at 65x: 0.014 to 0.020 nats on held-out inputs, and 0.2 to 0.5 points of accuracy lost.
DEFAULT_MAX_DIVERGENCE = 0.02
# From this share of a size or divergence on, the goal counts as hit.
CLOSE = 0.98
_LEAST_DENSITY = 0.004
# Where a goal of quality lies while nothing is known of it.
LIKELY_DENSITY = 0.1
# Two densities of at least this ratio enclose the goal well enough for `next_price` to do the rest.
_NEAR = 0.7
_REAL_GOALS = ("sparsity", "target_ratio", "max_divergence", "max_drop")


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
    recovers : bool
        Whether training follows the search; the goal is then a sparsity or a size.
    fitness : str, optional
        Name of what students are judged by, see `named_fitness`; by default what their outputs look
        like.
    fast_load : bool
        Whether the file is to open faster, at the expense of some bytes, see `spq.save`.
    """

    sparsity: float | None = None
    target_ratio: float | None = None
    target_size: int | None = None
    max_divergence: float | None = None
    max_drop: float | None = None
    bits: int | None = None
    effort: str = "default"
    seed: int = 0
    recovers: bool = False
    fitness: str | None = None
    fast_load: bool = False

    def __post_init__(self) -> None:
        goals = [name for name in (*_REAL_GOALS, "target_size") if getattr(self, name) is not None]
        if len(goals) > 1:
            raise SpqError(Reason.BAD_ARGUMENT, f"{' and '.join(goals)} exclude each other")
        if self.recovers and goals not in (["sparsity"], ["target_ratio"], ["target_size"]):
            raise SpqError(
                Reason.BAD_ARGUMENT,
                "training goes down to a size or keeps a sparsity; give one of these as the goal",
            )
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise SpqError(
                Reason.BAD_ARGUMENT, f"sparsity is {self.sparsity}; it must lie in [0, 1)"
            )
        if self.bits is not None and not 1 <= self.bits <= 8:
            raise SpqError(Reason.BAD_ARGUMENT, f"bits is {self.bits}; allowed are 1 to 8")

    def described(self) -> dict[str, object]:
        """Return all options as a file may tell them, without paths.

        Raises
        ------
        OSError
            The code of the fitness cannot be read.
        """
        fitness = None if self.fitness is None else stored_name(self.fitness)
        # 65 and 65.0 are one goal, and would be of different length in a file that has to fit.
        numbers = {
            name: float(value) for name in _REAL_GOALS if (value := getattr(self, name)) is not None
        }
        return {**asdict(self), **numbers, "fitness": fitness}

    def goal(self, float_bytes: int) -> "Goal":
        """Return the goal in numbers; without one, the default divergence.

        Parameters
        ----------
        float_bytes : int
            What the network takes as float32.
        """
        target = self.target_size
        if self.target_ratio is not None:
            target = int(float_bytes / self.target_ratio)
        is_free = self.sparsity is None and target is None and self.max_drop is None
        default = DEFAULT_MAX_DIVERGENCE if is_free else None
        return Goal(target, self.max_divergence or default, self.max_drop)


@dataclass(frozen=True)
class Point:
    """What a student on levels measures.

    Parameters
    ----------
    bit_price : float
        Divergence that one bit was worth when its levels were placed.
    file_bytes : int
        Bytes of the whole file.
    divergence : float
        From the teacher, on held-out inputs.
    drop : float or None
        Points of accuracy lost on them; None without labels or class scores.
    """

    bit_price: float
    file_bytes: int
    divergence: float
    drop: float | None


@dataclass(frozen=True)
class Goal:
    """A goal in numbers: at most one is given, and none where a sparsity is wanted.

    Parameters
    ----------
    target_bytes : int, optional
        Bytes that the file may have; among such files the least divergence is wanted.
    max_divergence, max_drop : float, optional
        Loss that is acceptable; among such files the smallest is wanted.
    """

    target_bytes: int | None = None
    max_divergence: float | None = None
    max_drop: float | None = None

    @property
    def is_size(self) -> bool:
        """Whether it lies at the end of the small files, not at that of the good ones."""
        return self.target_bytes is not None

    def share(self, point: Point) -> float:
        """Return how much a point takes of what is allowed: above 1 it misses the goal.

        A drop counts in whole samples, so it is 0 where the goal is met and infinite elsewhere.
        """
        if self.target_bytes is not None:
            return point.file_bytes / self.target_bytes
        if self.max_divergence is not None:
            return point.divergence / self.max_divergence
        if self.max_drop is not None:
            return 0.0 if point.drop is not None and point.drop <= self.max_drop else inf
        return 0.0

    def rank(self, point: Point) -> tuple[int, float]:
        """Return what is least for the best point."""
        share = self.share(point)
        if self.is_size:
            if share > 1.0:
                return 2, share
            return int(share < CLOSE), point.divergence
        return (1, point.divergence) if share > 1.0 else (0, point.file_bytes)

    def miss(self, point: Point) -> str | None:
        """Say by how much a point misses the goal; None where it does not."""
        if not isfinite(point.divergence):
            return "answers that are no finite numbers"
        if self.share(point) <= 1.0:
            return None
        if self.target_bytes is not None:
            return f"{point.file_bytes:,} bytes where {self.target_bytes:,} are allowed"
        if self.max_divergence is not None:
            return f"divergence {point.divergence:.3g} where {self.max_divergence:g} is allowed"
        return f"{point.drop:.2f} points of accuracy lost where {self.max_drop:g} are allowed"


@dataclass(frozen=True)
class Trial:
    """A density that was tried.

    Parameters
    ----------
    density : float
        Share of weights kept.
    beyond : bool
        Whether the goal lies at a higher density: quality is lost, or the size is reached.
    share : float or None
        Of the size that is allowed, what the student takes, where it was put on levels to tell.
    """

    density: float
    beyond: bool
    share: float | None = None


def next_density(trials: Sequence[Trial], sparsity: float | None, effort: Effort) -> float | None:
    """Return the density to try next, or None when the search is over.

    Down the effort's ladder until a trial is beyond the goal, then halfway between the last that
    was not and the first that was, until they are near each other. A pure function of the trials,
    so that a resumed search goes the same way.

    Parameters
    ----------
    trials : sequence of Trial
        What was tried, in order.
    sparsity : float or None
        Explicit goal, reached by the same steps.
    effort : Effort
        The ladder.
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
    bad = max(trial.density for trial in beyond)
    return None if bad >= _NEAR * good.density else (good.density * bad) ** 0.5


def planned_cycles(
    sparsity: float | None,
    effort: Effort,
    trials: Sequence[Trial] = (),
    likely: float = LIKELY_DENSITY,
) -> int:
    """Return how many cycles a search takes in all, those of its trials among them.

    Exactly for a sparsity, otherwise if the goal lies at a likely density.
    """
    foreseen = list(trials)
    while (density := next_density(foreseen, sparsity, effort)) is not None:
        foreseen.append(Trial(density, beyond=sparsity is None and density <= likely))
    return len(foreseen)


def _next_rung(density: float, effort: Effort) -> float:
    """Return the first density of the ladder that is clearly below the present one."""
    for rung in effort.densities:
        if rung < density * 0.95:
            return rung
    return density * effort.ratio
