"""Errors carry a stable reason, a sentence and a place."""

import copy
import re

import pytest

from spqformat import Reason, SpqError
from spqformat.limits import Limits


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SpqError(Reason.BAD_MAGIC, "no"), "no [bad_magic]"),
        (SpqError(Reason.BAD_MAGIC, "no", offset=0), "no [bad_magic at byte 0]"),
        (SpqError(Reason.BAD_TABLES, "no", section="w"), "no [bad_tables in 'w']"),
        (
            SpqError(Reason.BAD_STREAM, "no", offset=70, section="a\x1b[2J"),
            r"no [bad_stream in 'a\x1b[2J' at byte 70]",
        ),
    ],
)
def test_text(error: SpqError, text: str) -> None:
    assert str(error) == text


def test_fields() -> None:
    error = SpqError(Reason.TRUNCATED, "short", offset=3, section="header")
    assert (error.code, error.message) == (Reason.TRUNCATED, "short")
    assert (error.offset, error.section) == (3, "header")
    assert isinstance(error, ValueError)


def test_can_be_copied_as_pools_of_processes_do() -> None:
    error = SpqError(Reason.BAD_ARGUMENT, "no", offset=7, section="header")
    again = copy.copy(error)
    assert str(again) == str(error)
    assert (again.code, again.offset, again.section) == (error.code, 7, "header")


def test_reasons_are_words_that_programs_can_switch_on() -> None:
    for reason in Reason:
        assert re.fullmatch("[a-z]+(_[a-z]+)*", reason)
        assert reason.value == reason.name.lower()


def test_limits_do_not_change() -> None:
    limits = Limits()
    with pytest.raises(AttributeError):
        limits.max_tensors = 1  # type: ignore[misc]
    assert limits == Limits()
