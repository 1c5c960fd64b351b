"""Work side by side: results in order, errors let through, PyTorch's threads as they were."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, get_ident

import pytest
import torch

from spqtools.threads import side_by_side


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_keep_their_order() -> None:
    assert side_by_side([lambda n=n: n * n for n in range(7)]) == [n * n for n in range(7)]  # type: ignore[misc]


def test_two_at_a_time_with_one_thread_each() -> None:
    meeting = Barrier(2, timeout=60)

    def job() -> tuple[int, int]:
        meeting.wait()
        return get_ident(), torch.get_num_threads()

    (one, own), (other, its) = side_by_side([job, job])
    assert one != other
    assert own == its == 1
    assert torch.get_num_threads() == 2


def test_a_job_that_is_alone_has_all_threads() -> None:
    assert side_by_side([lambda: (get_ident(), torch.get_num_threads())]) == [(get_ident(), 2)]


def test_an_error_is_let_through() -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        side_by_side([fail, lambda: None])
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_those_that_have_begun_are_told_to_end(error: type[BaseException]) -> None:
    is_abandoned, has_begun = Event(), Event()
    ended: list[bool] = []

    def fail() -> None:
        assert has_begun.wait(60)
        raise error

    def wait() -> None:
        has_begun.set()
        ended.append(is_abandoned.wait(60))

    with pytest.raises(error):
        side_by_side([fail, wait], is_abandoned.set)
    assert ended == [True]


def test_threads_that_come_later_have_as_many_as_before() -> None:
    side_by_side([lambda: None, lambda: None])
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 2
