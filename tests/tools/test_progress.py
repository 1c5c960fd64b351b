"""Progress speaks on long work, stays silent on short work, and draws only on a terminal."""

import io

import pytest

from spqtools.progress import ConsoleProgress, Progress, seconds_text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run(stream: io.StringIO, steps: int, seconds_each: float, total: int | None) -> str:
    clock = Clock()
    with ConsoleProgress(stream, clock).stage("evolve", total) as tick:
        for _ in range(steps):
            clock.now += seconds_each
            tick()
    return stream.getvalue()


def test_short_work_leaves_nothing() -> None:
    assert run(io.StringIO(), 10, 0.1, 10) == ""
    assert run(Terminal(), 10, 0.1, 10) == "\r\x1b[K"


def test_terminal_shows_the_time_left() -> None:
    text = run(Terminal(), 4, 1.0, 4)
    assert "evolve [######..................]  25%, 3.0 s left" in text
    assert text.endswith("\r\x1b[K  evolve: 4.0 s\n")


def test_elsewhere_plain_lines_every_ten_seconds() -> None:
    lines = run(io.StringIO(), 25, 1.0, 25).splitlines()
    assert lines == [
        "  evolve:  40%, 15.0 s left",
        "  evolve:  80%, 5.0 s left",
        "  evolve: 25.0 s",
    ]


def test_steps_of_an_earlier_run_tell_nothing_of_the_time_left() -> None:
    terminal, clock = Terminal(), Clock()
    with ConsoleProgress(terminal, clock).stage("evolve", 10, 6) as tick:
        clock.now += 3.0
        tick()
    assert "evolve [#################.......]  70%, 9.0 s left" in terminal.getvalue()


def test_steps_that_were_behind_tell_nothing_either() -> None:
    terminal, clock = Terminal(), Clock()
    with ConsoleProgress(terminal, clock).stage("evolve", 10) as tick:
        tick(4, behind=True)
        tick(2, behind=True)
        clock.now += 3.0
        tick()
    assert "evolve [#################.......]  70%, 9.0 s left" in terminal.getvalue()


def test_unknown_total_shows_steps() -> None:
    assert "  evolve: 10 done, 10.0 s\n" in run(io.StringIO(), 12, 1.0, None)


def test_more_steps_than_announced_never_exceed_the_bar() -> None:
    assert " 100%, 0.0 s left" in run(Terminal(), 6, 1.0, 4)


def test_nobody_knows_how_long_more_work_than_announced_takes() -> None:
    lines = run(io.StringIO(), 45, 1.0, 15).splitlines()
    assert lines == ["  evolve:  67%, 5.0 s left", *["  evolve: 100%"] * 3, "  evolve: 45.0 s"]


def test_steps_may_become_more_or_fewer() -> None:
    stream, clock = io.StringIO(), Clock()
    with ConsoleProgress(stream, clock).stage("evolve", 40) as tick:
        for total in (20, 80, None):
            clock.now += 10.0
            tick(10, total)
    assert stream.getvalue().splitlines() == [
        "  evolve:  50%, 10.0 s left",
        "  evolve:  25%, 1 min 00 s left",
        "  evolve:  38%, 50.0 s left",
        "  evolve: 30.0 s",
    ]


def test_line_is_cleared_when_the_work_fails() -> None:
    terminal = Terminal()

    def fail() -> None:
        with ConsoleProgress(terminal, Clock()).stage("evolve", 9):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert terminal.getvalue() == "\r\x1b[K"


def test_silent_progress_counts_for_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    with progress.stage("evolve", 3) as tick:
        tick()
        tick(2)
    progress.note("no calibration")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (125, "2 min 05 s"), (3840, "1 h 04 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text
