"""Reads the values on the command line that click has no type for."""

import re
from collections.abc import Callable

import click

_UNITS = {
    "": 1,
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_SECONDS = {"s": 1, "min": 60, "h": 3600}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?(s|min|h)", re.ASCII)
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?([A-Za-z]{0,3})", re.ASCII)


def size(text: str) -> int:
    """Read a number of bytes.

    Parameters
    ----------
    text : str
        ``12000``, ``100kB`` (thousands) or ``1.5MiB`` (powers of 1024).

    Returns
    -------
    int
        The number of bytes, 1 or more.

    Raises
    ------
    click.BadParameter
        The text says something else.
    """
    match = _SIZE.fullmatch(text)
    unit = _UNITS.get(match[2]) if match else None
    if match is None or unit is None or (count := int(float(match[1]) * unit)) < 1:
        raise click.BadParameter(f"{text!r} is not a size such as 12000, 100kB or 1.5MiB.")
    return count


def duration(text: str) -> float:
    """Read a duration.

    Parameters
    ----------
    text : str
        ``90s``, ``10min`` or ``1.5h``.

    Returns
    -------
    float
        Seconds, above 0.

    Raises
    ------
    click.BadParameter
        The text says something else.
    """
    match = _DURATION.fullmatch(text)
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if seconds == 0.0:
        raise click.BadParameter(f"{text!r} is not a duration such as 90s, 10min or 1.5h.")
    return seconds


def bits(text: str) -> int | None:
    """Read a number of bits: ``auto`` (None) or 1 to 8; refuses with `click.BadParameter`."""
    if text == "auto":
        return None
    if text not in {"1", "2", "3", "4", "5", "6", "7", "8"}:
        raise click.BadParameter(f"{text!r} is neither auto nor a whole number from 1 to 8.")
    return int(text)


def number(allows: Callable[[float], bool], expected: str) -> Callable[[str], float]:
    """Make a reader of real numbers.

    Parameters
    ----------
    allows : Callable[[float], bool]
        Tells whether a number is allowed; a comparison refuses NaN of itself.
    expected : str
        What is allowed, in words that follow "is not".

    Returns
    -------
    Callable[[str], float]
        The reader; it refuses with `click.BadParameter`.
    """

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise click.BadParameter(f"{text!r} is not a number.") from None
        if not allows(value):
            raise click.BadParameter(f"{text} is not {expected}.")
        return value

    return read
