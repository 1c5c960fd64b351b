"""Does pieces of work side by side, one thread for each."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

R = TypeVar("R")


def side_by_side(
    jobs: Iterable[Callable[[], R]], abandon: Callable[[], None] = lambda: None
) -> list[R]:
    """Do jobs on as many threads as PyTorch has, and return their results in order.

    PyTorch itself has one thread in each job; in one that is alone it has them all.

    Parameters
    ----------
    jobs : iterable of callable
        What is to be done, at least one; an error of one, or Ctrl-C, is let through when those that
        have begun are done.
    abandon : callable
        Called before that, so that they can end early.
    """
    first, *others = jobs
    if not others:
        return [first()]
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                return list(pool.map(lambda job: job(), [first, *others]))
            except BaseException:
                abandon()
                raise
    finally:
        # What a thread sets holds for those that are yet to come, too.
        torch.set_num_threads(threads)
