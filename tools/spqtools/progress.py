"""Says what a long piece of work is doing and when it will be done."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

SHOW_AFTER_SECONDS = 2.0
TERMINAL_PERIOD_SECONDS = 0.1
PLAIN_PERIOD_SECONDS = 10.0
BAR_CELLS = 24


class Tick(Protocol):
    """Advances a stage."""

    def __call__(
        self, steps: int = 1, /, total: int | None = None, *, behind: bool = False
    ) -> None:
        """Count `steps` more steps as done, of `total` if more is known of that now.

        Those that were `behind` us before tell nothing of the time that others take.
        """


class Progress:
    """Silent progress, for library use and tests; `ConsoleProgress` is the one that speaks."""

    @contextmanager
    def stage(self, name: str, total: int | None = None, done: int = 0) -> Iterator[Tick]:
        """Open a stage of the work.

        Parameters
        ----------
        name : str
            What is done, a word or two: ``"evolve"``.
        total : int, optional
            Number of steps, when it is known; without it no time left can be told.
        done : int
            Those of them that are behind us, which tell nothing of the time that others take.

        Yields
        ------
        Tick
            Call it with the number of steps just done.
        """
        yield lambda steps=1, /, total=None, *, behind=False: None

    def note(self, sentence: str) -> None:
        """Tell the user one fact that is not an error."""


class ConsoleProgress(Progress):
    """Progress on a stream: a bar on a terminal, a plain line every ten seconds elsewhere.

    Stages that are over within two seconds stay silent.

    Parameters
    ----------
    stream : TextIO, optional
        Where to write; standard error by default, so that standard output stays clean.
    clock : Callable[[], float]
        Seconds, monotonic.
    """

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._is_terminal = self._stream.isatty()

    @contextmanager
    def stage(self, name: str, total: int | None = None, done: int = 0) -> Iterator[Tick]:
        """Open a stage of the work; see `Progress.stage`."""
        period = TERMINAL_PERIOD_SECONDS if self._is_terminal else PLAIN_PERIOD_SECONDS
        started = self._clock()
        next_show = started if self._is_terminal else started + period
        before = done

        foreseen = total

        def tick(steps: int = 1, /, total: int | None = None, *, behind: bool = False) -> None:
            nonlocal done, before, next_show, foreseen
            done, foreseen = done + steps, total or foreseen
            before += steps * behind
            now = self._clock()
            elapsed = now - started
            own = done - before
            # Work beyond what was foreseen takes nobody knows how long.
            is_known = foreseen is not None and own > 0 and done <= foreseen
            left = elapsed / own * (foreseen - done) if foreseen and is_known else None
            if now < next_show or elapsed + (left or 0.0) < SHOW_AFTER_SECONDS:
                return
            next_show = now + period
            self._show(_describe(name, done, foreseen, elapsed, left, bar=self._is_terminal))

        try:
            yield tick
        finally:
            elapsed = self._clock() - started
            if elapsed >= SHOW_AFTER_SECONDS:
                self._line(f"  {name}: {seconds_text(elapsed)}")
            elif self._is_terminal:
                self._write("\r\x1b[K")

    def note(self, sentence: str) -> None:
        """Tell the user one fact that is not an error."""
        self._line(sentence)

    def _show(self, text: str) -> None:
        """Redraw the bar in place, or print a plain line."""
        if self._is_terminal:
            self._write(f"\r\x1b[K{text}")
        else:
            self._line(text)

    def _line(self, text: str) -> None:
        """Write a line that stays."""
        self._write(f"\r\x1b[K{text}\n" if self._is_terminal else f"{text}\n")

    def _write(self, text: str) -> None:
        """Write at once, past any line buffering."""
        self._stream.write(text)
        self._stream.flush()


def seconds_text(seconds: float) -> str:
    """Write a duration the way people say it.

    Parameters
    ----------
    seconds : float
        The duration, not negative.

    Returns
    -------
    str
        ``"3.2 s"``, ``"2 min 05 s"`` or ``"1 h 04 min"``.
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _describe(
    name: str, done: int, total: int | None, elapsed: float, left: float | None, *, bar: bool
) -> str:
    """One line on the state of a stage."""
    if not total:
        return f"  {name}: {done} done, {seconds_text(elapsed)}"
    share = min(done / total, 1.0)
    filled = round(share * BAR_CELLS)
    cells = f" [{'#' * filled}{'.' * (BAR_CELLS - filled)}]" if bar else ":"
    eta = "" if left is None else f", {seconds_text(max(left, 0.0))} left"
    return f"  {name}{cells} {share:4.0%}{eta}"
