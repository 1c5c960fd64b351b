"""Work is begun only where it fits into the time, judged by the longest of its kind."""

import pytest

from spqtools.search.deadline import Deadline, TimeUp


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def test_without_a_limit_everything_fits() -> None:
    deadline = Deadline()
    with deadline.timing("cycle"):
        pass
    assert deadline.allows("cycle")
    deadline.check("cycle")


def test_what_was_slow_once_is_expected_to_be_slow_again() -> None:
    clock = Clock()
    deadline = Deadline(100.0, clock)
    assert deadline.allows("cycle", "quantise")
    for seconds in (20.0, 10.0):
        with deadline.timing("cycle"):
            clock.now += seconds
    with deadline.timing("quantise"):
        clock.now += 30.0
    # 60 of 100 seconds are over, and the last 10 are kept for what comes after the search.
    assert deadline.allows("cycle")
    assert not deadline.allows("quantise")
    assert not deadline.allows("cycle", "quantise")
    assert deadline.allows("something else")
    with pytest.raises(TimeUp):
        deadline.check("quantise")


def test_work_that_is_given_up_says_nothing_about_its_kind() -> None:
    clock = Clock()
    deadline = Deadline(100.0, clock)

    def give_up() -> None:
        with deadline.timing("cycle"):
            clock.now += 80.0
            raise TimeUp

    with pytest.raises(TimeUp):
        give_up()
    assert deadline.allows("cycle")
    clock.now += 10.0
    assert not deadline.allows("cycle")
