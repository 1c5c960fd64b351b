"""Sizes and numbers on the command line mean what they say."""

import click
import pytest

from spqtools import parameters


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("12000", 12_000),
        ("12B", 12),
        ("100kB", 100_000),
        ("100 kB", 100_000),
        ("1.5MiB", 1_572_864),
        ("2MB", 2_000_000),
        ("1KiB", 1024),
        ("1GiB", 1 << 30),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parameters.size(text) == size


@pytest.mark.parametrize(
    "text", ["", "0", "0.4", "-1", "1e9", "kB", "1kb", "1 k", "1TBB", "1_000", "٣kB", "1kB "]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a size"):
        parameters.size(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("0.5 s", 0.5), ("10min", 600), ("1h", 3600), ("1.5h", 5400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parameters.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "90", "-1s", "1e3s", "min", "1 d", "5 minutes", "infs"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a duration"):
        parameters.duration(text)


def test_bits() -> None:
    assert parameters.bits("auto") is None
    assert parameters.bits("8") == 8
    for text in ("0", "9", "4.0", "08", "", "Auto"):
        with pytest.raises(click.BadParameter, match="neither auto nor"):
            parameters.bits(text)


def test_numbers() -> None:
    read = parameters.number(lambda value: value > 1, "above 1")
    assert read("1.5") == 1.5
    for text in ("1", "nan", "-inf"):
        with pytest.raises(click.BadParameter, match="is not above 1"):
            read(text)
    with pytest.raises(click.BadParameter, match="is not a number"):
        read("two")
