"""Rounds are kept while others are being told of, and told of one at a time."""

from threading import Event, Thread

import numpy as np
import pytest
import torch

from spqtools.levels.alternatives import Levels
from spqtools.levels.rounds import Abandoned, Round, Rounds


def round_of(number: int) -> Round:
    levels = Levels(np.array([-1.0, 0.5]), np.array([1.0, 2.0]))
    mask = torch.tensor([[True, False]])
    return Round(number, levels, mask, torch.ones(1, 2), torch.zeros(1, 2))


def test_nobody_waits_for_what_another_thread_tells() -> None:
    reached: dict[str, Round] = {}
    told: list[list[str]] = []
    is_told, may_end = Event(), Event()

    def tell() -> None:
        told.append(sorted(reached))
        is_told.set()
        assert may_end.wait(60)

    rounds = Rounds(reached, tell)
    thread = Thread(target=rounds.keep, args=("k-means", round_of(1)))
    thread.start()
    assert is_told.wait(60)
    rounds.keep("uniform", round_of(1))
    may_end.set()
    thread.join(60)
    assert sorted(reached) == ["k-means", "uniform"]
    assert told == [["k-means"]]
    rounds.keep("uniform", round_of(2))
    assert told[1:] == [["k-means", "uniform"]]
    assert rounds.of("uniform") is reached["uniform"]
    assert rounds.of("ternary") is None


def test_an_alternative_that_is_abandoned_ends_with_its_next_round() -> None:
    reached: dict[str, Round] = {}
    told: list[int] = []
    rounds = Rounds(reached, lambda: told.append(1))
    rounds.keep("uniform", round_of(1))
    rounds.abandon()
    with pytest.raises(Abandoned):
        rounds.keep("uniform", round_of(2))
    assert reached["uniform"].number == 2
    assert told == [1]


def test_a_round_is_its_tensors() -> None:
    one = round_of(3)
    again = Round.from_tensors(one.number, one.tensors())
    assert again.number == 3
    assert all(torch.equal(again.tensors()[name], part) for name, part in one.tensors().items())
    assert again.levels.values.tolist() == [-1.0, 0.5]
    assert again.levels.bits.tolist() == [1.0, 2.0]
