"""Which density comes next is a pure function of the goal and of what was tried."""

import json
from dataclasses import replace

import pytest

from spqformat import Reason, SpqError
from spqtools.evolve.effort import EFFORTS, Effort
from spqtools.search.goal import Goal, Options, Point, Trial, next_density, planned_cycles

EFFORT = replace(EFFORTS["default"], densities=(0.5, 0.3, 0.2), ratio=0.8)


def ladder(sparsity: float, effort: Effort = EFFORT) -> list[float]:
    """Return all densities on the way to a sparsity."""
    trials: list[Trial] = []
    while (density := next_density(trials, sparsity, effort)) is not None:
        trials.append(Trial(density, beyond=False))
        assert len(trials) < 200
    return [trial.density for trial in trials]


@pytest.mark.parametrize(
    ("sparsity", "expected"),
    [
        (0.0, []),
        (0.2, [0.8]),
        (0.5, [0.5]),
        (0.6, [0.5, 0.4]),
        (0.7, [0.5, 0.3]),
        (0.8, [0.5, 0.3, 0.2]),
        (0.805, [0.5, 0.3, 0.195]),
        (0.85, [0.5, 0.3, 0.2, 0.16, 0.15]),
        (0.9, [0.5, 0.3, 0.2, 0.16, 0.128, 0.1]),
    ],
)
def test_the_way_to_a_sparsity(sparsity: float, expected: list[float]) -> None:
    assert ladder(sparsity) == pytest.approx(expected)


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.82, 0.9, 0.95, 0.99, 0.999])
def test_every_effort_arrives_exactly(effort: str, sparsity: float) -> None:
    densities = ladder(sparsity, EFFORTS[effort])
    assert densities == sorted(densities, reverse=True)
    assert densities[-1] == 1 - sparsity
    assert planned_cycles(sparsity, EFFORTS[effort]) == len(densities)


def search(limit: float) -> list[Trial]:
    """Look for a density below which quality is lost."""
    trials: list[Trial] = []
    while (density := next_density(trials, None, EFFORT)) is not None:
        trials.append(Trial(density, beyond=density < limit))
        assert len(trials) < 200
    return trials


@pytest.mark.parametrize("limit", [0.9, 0.31, 0.11, 0.02])
def test_quality_is_bisected(limit: float) -> None:
    trials = search(limit)
    first = next(index for index, trial in enumerate(trials) if trial.beyond)
    good = min((trial.density for trial in trials if not trial.beyond), default=1.0)
    bad = max(trial.density for trial in trials if trial.beyond)
    assert good >= limit > bad >= 0.7 * good
    assert len(trials) <= first + 1 + 3
    for number in range(first + 1, len(trials)):
        before = trials[:number]
        good = min((trial.density for trial in before if not trial.beyond), default=1.0)
        bad = max(trial.density for trial in before if trial.beyond)
        assert trials[number].density == pytest.approx((good * bad) ** 0.5)


def test_the_ladder_ends_somewhere() -> None:
    trials = search(0.0)
    assert not any(trial.beyond for trial in trials)
    assert 0.004 <= trials[-1].density < 0.006


def test_the_function_is_pure() -> None:
    trials = search(0.11)
    for number in range(len(trials)):
        expected = trials[number].density
        assert next_density(trials[:number], None, EFFORT) == expected
        assert next_density(tuple(trials[:number]), None, EFFORT) == expected


@pytest.mark.parametrize("limit", [0.9, 0.11, 0.04])
def test_planned_cycles_are_those_to_the_likely_density(limit: float) -> None:
    trials = search(limit)
    likely = limit * (1 - 1e-9)
    for number in range(len(trials) + 1):
        assert planned_cycles(None, EFFORT, trials[:number], likely) == len(trials)


@pytest.mark.parametrize("likely", [0.001, 0.1, 2.0])
def test_planned_cycles_follow_the_trials_where_the_guess_was_wrong(likely: float) -> None:
    trials = search(0.11)
    assert planned_cycles(None, EFFORT, trials, likely) == len(trials)
    for number in range(len(trials)):
        assert planned_cycles(None, EFFORT, trials[:number], likely) > number


@pytest.mark.parametrize(
    "options",
    [
        {"sparsity": 1.0},
        {"sparsity": -0.1},
        {"sparsity": float("nan")},
        {"bits": 0},
        {"bits": 9},
        {"sparsity": 0.5, "target_size": 1000},
        {"target_ratio": 9.0, "max_drop": 1.0},
    ],
)
def test_options_that_make_no_sense(options: dict[str, float]) -> None:
    with pytest.raises(SpqError) as caught:
        Options(**options)  # type: ignore[arg-type]
    assert caught.value.code == Reason.BAD_ARGUMENT


@pytest.mark.parametrize("name", ["sparsity", "target_ratio", "max_divergence", "max_drop"])
def test_a_whole_number_is_the_same_goal(name: str) -> None:
    """Also in a file, where it would be of another length."""
    value = 0 if name == "sparsity" else 12
    goals = [
        Options(**{name: kind(value)})  # type: ignore[arg-type]
        for kind in (int, float)
    ]
    told, again = (json.dumps(goal.described()) for goal in goals)
    assert told == again


def test_goals_in_numbers() -> None:
    assert Options().goal(1000) == Goal(max_divergence=0.02)
    assert Options(max_divergence=0.5).goal(1000) == Goal(max_divergence=0.5)
    assert Options(max_drop=0.0).goal(1000) == Goal(max_drop=0.0)
    assert Options(target_size=70).goal(1000) == Goal(target_bytes=70)
    assert Options(target_ratio=30.0).goal(1000) == Goal(target_bytes=33)
    assert Options(sparsity=0.5).goal(1000) == Goal()


def point(file_bytes: int, divergence: float, drop: float | None = None) -> Point:
    return Point(1.0, file_bytes, divergence, drop)


@pytest.mark.parametrize(
    ("goal", "ranked"),
    [
        (
            Goal(target_bytes=1000),
            [
                point(985, 0.3),
                point(1000, 0.4),
                point(900, 0.1),
                point(1001, 0.0),
                point(1500, 0.0),
            ],
        ),
        (
            Goal(max_divergence=0.5),
            [point(90, 0.5), point(100, 0.1), point(10, 0.6), point(1, 0.7)],
        ),
        (
            Goal(max_drop=1.0),
            [point(90, 0.5, 1.0), point(100, 0.1, 0.0), point(20, 0.6, 1.1), point(10, 0.7, 2.0)],
        ),
    ],
)
def test_the_best_points_of_a_goal(goal: Goal, ranked: list[Point]) -> None:
    assert [min(ranked[start:][::-1], key=goal.rank) for start in range(4)] == ranked[:4]
    misses = [goal.miss(one) for one in ranked]
    within = [goal.share(one) <= 1.0 for one in ranked]
    assert [miss is None for miss in misses] == within
    assert within == sorted(within, reverse=True)
    assert not all(within)


def test_misses_in_words() -> None:
    assert Goal(target_bytes=1000).miss(point(1200, 0.0)) == "1,200 bytes where 1,000 are allowed"
    divergence = "divergence 0.0123 where 0.01 is allowed"
    assert Goal(max_divergence=0.01).miss(point(1, 0.01234)) == divergence
    drop = "1.50 points of accuracy lost where 1 are allowed"
    assert Goal(max_drop=1.0).miss(point(1, 0.0, 1.5)) == drop
