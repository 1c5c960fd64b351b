"""Tells whether what comes next still fits into the time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf

# Share of the time that is kept for checking and writing what was found.
_RESERVE = 0.1


class TimeUp(Exception):
    """Work was given up because its time is over; never leaves the library."""


class Deadline:
    """Wall time, and how long each kind of work has taken.

    Parameters
    ----------
    seconds : float, optional
        Time from now on; without it everything fits.
    clock : Callable[[], float]
        Seconds, monotonic.
    """

    def __init__(
        self, seconds: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._end = inf if seconds is None else clock() + (1.0 - _RESERVE) * seconds
        self._longest: dict[str, float] = {}

    def sooner(self, share: float) -> "Deadline":
        """Return a deadline at a share of the time that is left."""
        return Deadline(share * self.left / (1.0 - _RESERVE), self._clock)

    def allows(self, *kinds: str) -> bool:
        """Tell whether work of these kinds fits; the first of a kind counts as short."""
        needed = sum(self._longest.get(kind, 0.0) for kind in kinds)
        return self._clock() + needed < self._end

    @property
    def left(self) -> float:
        """Seconds until the end, below 0 after it; infinite where there is none."""
        return self._end - self._clock()

    def check(self, *kinds: str) -> None:
        """Give up with `TimeUp` where `allows` says no."""
        if not self.allows(*kinds):
            raise TimeUp

    @contextmanager
    def timing(self, kind: str) -> Iterator[None]:
        """Remember how long work of a kind takes."""
        started = self._clock()
        yield
        self._longest[kind] = max(self._longest.get(kind, 0.0), self._clock() - started)
