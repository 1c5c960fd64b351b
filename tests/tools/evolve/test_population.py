"""Operators on zero-sets keep their counts, respect old zeros, and are the same every time."""

import pytest
import torch
from torch import Tensor

from spqtools.evolve.allocation import allocate
from spqtools.evolve.population import (
    Individual,
    evolve,
    invite,
    mutate,
    recombine,
    reward,
    seeds,
    top,
)
from spqtools.evolve.rng import Draws


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


SCORES = {
    name: randn(12, 10, seed=seed)
    for seed, name in enumerate(("curvature", "obs", "fisher", "wanda", "magnitude"))
}
ALLOWED = randn(12, 10, seed=9) > -0.5
BITS = 4 + randn(12, 10, seed=10).clamp(-3, 3)


def individual(keep: Tensor, fitness: float = 0.0) -> Individual:
    return Individual(keep, torch.tensor([fitness], dtype=torch.float64))


def test_top_takes_the_best_allowed() -> None:
    scores = torch.tensor([[5.0, 1.0, 4.0], [2.0, 3.0, 9.0]])
    allowed = torch.tensor([[True, True, True], [True, True, False]])
    assert top(scores, allowed, 3).tolist() == [[True, False, True], [False, True, False]]


def test_top_breaks_ties_by_position() -> None:
    keep = top(torch.zeros(3, 4), torch.ones(3, 4, dtype=torch.bool), 5)
    assert keep.flatten().nonzero().flatten().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("count", [0, 1, 40, int(ALLOWED.sum())])
def test_top_counts(count: int) -> None:
    keep = top(SCORES["obs"], ALLOWED, count)
    assert int(keep.sum()) == count
    assert not (keep & ~ALLOWED).any()


def test_top_never_takes_what_is_not_allowed() -> None:
    assert torch.equal(top(SCORES["obs"], ALLOWED, 10_000), ALLOWED)


@pytest.mark.parametrize("count", [1, 30, 60])
def test_every_operator_is_exact(count: int) -> None:
    proposals = {
        name: top(scores, ALLOWED, count)
        for name, scores in seeds(SCORES, BITS, Draws(1, "seeds")).items()
    }
    first, second = proposals["obs"], proposals["random"]
    children = [
        recombine(first, second, SCORES["fisher"], ALLOWED, count, Draws(1, "child")),
        mutate(first, SCORES["fisher"], ALLOWED, count, Draws(1, "child")),
    ]
    for keep in (*proposals.values(), *children):
        assert keep.dtype is torch.bool
        assert int(keep.sum()) == count
        assert not (keep & ~ALLOWED).any()


def test_seeds_come_in_the_order_of_trust() -> None:
    proposals = seeds(SCORES, BITS, Draws(1, "seeds"))
    assert next(iter(proposals)) == "curvature"
    for name, scores in SCORES.items():
        assert torch.equal(proposals[name], scores)
    keeps = [top(scores, ALLOWED, 30) for scores in proposals.values()]
    different = {tuple(keep.flatten().tolist()) for keep in keeps}
    assert len(different) == len(proposals)


def test_a_child_has_what_both_parents_keep_and_nothing_that_neither_keeps() -> None:
    first, second = (top(SCORES[name], ALLOWED, 40) for name in ("obs", "fisher"))
    child = recombine(first, second, SCORES["wanda"], ALLOWED, 40, Draws(1, "child"))
    assert not ((first & second) & ~child).any()
    assert not (child & ~(first | second)).any()
    assert not torch.equal(child, first)


def test_a_mutant_stays_near_its_parent() -> None:
    scores = SCORES["obs"]
    parent = top(scores, ALLOWED, 40)
    mutant = mutate(parent, scores, ALLOWED, 40, Draws(1, "mutant"))
    stranger = top(SCORES["fisher"], ALLOWED, 40)
    changed = int((mutant ^ parent).sum())
    assert 0 < changed < int((stranger ^ parent).sum())


def test_operators_draw_the_same_again() -> None:
    first, second = (
        mutate(ALLOWED, SCORES["obs"], ALLOWED, 30, Draws(4, "again")) for _ in range(2)
    )
    other = mutate(ALLOWED, SCORES["obs"], ALLOWED, 30, Draws(5, "again"))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


# Evolution

TARGET = randn(12, 10, seed=20)


def distance(keep: Tensor) -> float:
    return float((TARGET * ~keep).square().sum())


@pytest.mark.parametrize("bias", [0.0, 1e9])
def test_the_winner_is_never_worse_than_the_first_proposal(bias: float) -> None:
    """Also not when the race on few samples misleads."""
    first = top(TARGET, ALLOWED, 30)
    others = [top(SCORES[name], ALLOWED, 30) for name in ("obs", "fisher")]

    def assess(keep: Tensor, on_all: bool) -> Individual:
        misled = bias if not on_all and torch.equal(keep, first) else 0.0
        return individual(keep, distance(keep) + misled)

    def breed(parents: list[Tensor], number: int) -> Tensor:
        return mutate(parents[0], SCORES["wanda"], ALLOWED, 30, Draws(1, "child", number))

    proposals = {"first": first, "obs": others[0], "fisher": others[1]}
    winner, _ = evolve(proposals, breed, assess, 2, 3, 2)
    assert winner.fitness <= distance(first)


def test_evolution_gets_better_over_generations() -> None:
    start = top(SCORES["obs"], ALLOWED, 30)

    def assess(keep: Tensor, on_all: bool) -> Individual:
        return individual(keep, distance(keep))

    def breed(parents: list[Tensor], number: int) -> Tensor:
        draws = Draws(2, "child", number)
        return mutate(parents[0], torch.zeros(12, 10), ALLOWED, 30, draws)

    before = distance(start)
    fitness = [
        evolve({"obs": start}, breed, assess, count, 8, 2)[0].fitness for count in (0, 4, 16)
    ]
    assert fitness[0] == before
    assert fitness[2] < fitness[1] < before


def test_the_trusted_one_wins_against_luck() -> None:
    """Another one is better in the mean, by what one piece of the samples says."""
    trusted, other = top(SCORES["obs"], ALLOWED, 30), top(SCORES["wanda"], ALLOWED, 30)
    for seen, winner in (([0.0, 4.0, 4.1, 4.0], trusted), ([3.0, 3.0, 3.1, 3.0], other)):

        def assess(keep: Tensor, on_all: bool, seen: list[float] = seen) -> Individual:
            numbers = seen if torch.equal(keep, other) else [4.0] * 4
            return Individual(keep, torch.tensor(numbers, dtype=torch.float64))

        proposals = {"trusted": trusted, "other": other}
        found, _ = evolve(proposals, lambda parents, number: parents[0], assess, 0, 0, 2)
        assert torch.equal(found.keep, winner)


def test_twins_are_assessed_on_all_samples_once() -> None:
    keep = top(SCORES["obs"], ALLOWED, 30)
    finals: list[Tensor] = []

    def assess(keep: Tensor, on_all: bool) -> Individual:
        if on_all:
            finals.append(keep)
        return individual(keep, distance(keep))

    twins = {"one": keep, "two": keep.clone(), "three": keep.clone()}
    evolve(twins, lambda parents, number: keep, assess, 3, 2, 2)
    assert len(finals) == 1


def test_the_ranking_is_that_of_the_race() -> None:
    proposals = {name: top(SCORES[name], ALLOWED, 30) for name in ("wanda", "obs", "fisher")}
    order = {"obs": 0.0, "wanda": 1.0, "fisher": 2.0}

    def assess(keep: Tensor, on_all: bool) -> Individual:
        (name,) = [name for name, other in proposals.items() if torch.equal(keep, other)]
        return individual(keep, -order[name] if on_all else order[name])

    _, ranking = evolve(proposals, lambda parents, number: parents[0], assess, 0, 0, 3)
    assert ranking == ["obs", "wanda", "fisher"]


# What pays


def invited(credit: dict[str, float], count: int, label: int = 0) -> list[str]:
    proposals = dict.fromkeys("abcdef", ALLOWED)
    return list(invite(proposals, credit, count, Draws(1, "invite", label)))


def test_the_trusted_one_and_those_that_have_paid_are_invited() -> None:
    for label in range(5):
        assert invited({"e": 2.0, "c": 1.0}, 4, label)[:3] == ["a", "e", "c"]


def test_chance_invites_the_others_in_turn() -> None:
    last = {invited({"e": 2.0, "c": 1.0}, 4, label)[-1] for label in range(60)}
    assert last == {"b", "d", "f"}


@pytest.mark.parametrize("count", [1, 2, 5, 6, 9])
def test_nobody_is_invited_twice(count: int) -> None:
    names = invited({"f": 1.0}, count)
    assert len(set(names)) == len(names) == min(count, 6)
    assert names[0] == "a"


def test_credit_is_earned_by_the_first_two_and_fades() -> None:
    credit: dict[str, float] = {}
    reward(credit, ["a", "b", "c"])
    assert credit == {"a": 1.0, "b": 0.5}
    reward(credit, ["c"])
    assert credit["c"] == 1.0
    assert 0.9 < credit["a"] < 1.0


def test_rated_proposals_empty_what_is_dear() -> None:
    bits = torch.ones(12, 10)
    bits[:, :5] = 40.0
    flat = {name: torch.zeros(12, 10) for name in SCORES}
    rated = top(seeds(flat, bits, Draws(1, "seeds"))["rated"], ALLOWED, 20)
    assert not rated[:, :5].any()


# Allocation


def allocation(
    kept_total: int, tilt: dict[str, float] | None = None
) -> tuple[dict[str, Tensor], dict[str, int]]:
    scores = {"a": randn(40, 30, seed=1) + 2, "b": randn(50, 60, seed=2), "c": randn(2, 3, seed=3)}
    allowed = {name: torch.ones_like(value, dtype=torch.bool) for name, value in scores.items()}
    allowed["a"][:5] = False
    tilt = tilt or dict.fromkeys(scores, 0.0)
    return allowed, allocate(scores, allowed, tilt, kept_total)[0]


@pytest.mark.parametrize("kept_total", [100, 1000, 3000, 4056])
def test_allocation_adds_up(kept_total: int) -> None:
    allowed, counts = allocation(kept_total)
    assert abs(sum(counts.values()) - kept_total) <= 6
    assert all(1 <= counts[name] <= int(mask.sum()) for name, mask in allowed.items())


def test_worthier_layers_keep_more() -> None:
    _, counts = allocation(1000)
    assert counts["a"] / 1050 > 2 * counts["b"] / 3000


def test_a_tilt_moves_weights_between_layers() -> None:
    _, even = allocation(1000)
    _, tilted = allocation(1000, {"a": -1.0, "b": 1.0, "c": 0.0})
    assert tilted["a"] < even["a"]
    assert tilted["b"] > even["b"]
    assert abs(sum(tilted.values()) - 1000) <= 6


def test_every_layer_keeps_a_few() -> None:
    _, counts = allocation(50, {"a": 50.0, "b": -50.0, "c": -50.0})
    assert counts["b"] == int(0.002 * 3000)
    assert counts["c"] == 1


def test_more_than_there_is() -> None:
    allowed, counts = allocation(10**6)
    assert counts == {name: int(mask.sum()) for name, mask in allowed.items()}


def test_the_threshold_parts_kept_from_zeroed() -> None:
    scores = {"a": torch.arange(100.0).reshape(10, 10), "b": torch.arange(50.0).reshape(5, 10)}
    allowed = {name: torch.ones_like(value, dtype=torch.bool) for name, value in scores.items()}
    counts, threshold = allocate(scores, allowed, {"a": 0.0, "b": 30.0}, 60)
    assert threshold == 60.0
    assert counts == {"a": 40, "b": 20}
