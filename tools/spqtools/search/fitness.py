"""Finds the fitness that students are judged by, under its name."""

from collections.abc import Sequence
from hashlib import sha256
from math import inf
from pathlib import Path

import torch
from torch import Tensor

from spqformat import Reason, SpqError
from spqtools.evolve.divergence import Fitness, squared
from spqtools.reading.callables import failed, find_named
from spqtools.search.detector import yolo

OPTION = "--fitness"
_DIGEST_DIGITS = 16
BUILT_IN: dict[str, Fitness] = {"squared": squared, "yolo": yolo}


def stored_name(name: str) -> str:
    """Return what a file may say of a fitness: no path, but which contents a file of code had.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    place, _, function = name.rpartition(":")
    if name in BUILT_IN or not place.endswith(".py"):
        return name
    path = Path(place)
    return f"{path.name}:{function}@{sha256(path.read_bytes()).hexdigest()[:_DIGEST_DIGITS]}"


def named_fitness(name: str) -> Fitness:
    """Return a fitness.

    Parameters
    ----------
    name : str
        One of `BUILT_IN`, or ``MODULE:CALLABLE`` or ``FILE.py:CALLABLE`` of a `Fitness`.

    Returns
    -------
    Fitness
        A function whose own errors, and results that are no scalar or have no gradient, are
        `bad_argument`; what is not a number is infinite. `squared` is returned as it is.

    Raises
    ------
    SpqError
        `bad_argument`.
    OSError
        The file cannot be read.
    """
    if name not in BUILT_IN and ":" not in name:
        known = ", ".join(BUILT_IN)
        raise SpqError(
            Reason.BAD_ARGUMENT,
            f"{OPTION} {name!r} is none of {known}, MODULE:CALLABLE and FILE.py:CALLABLE",
        )
    given = BUILT_IN.get(name) or find_named(name, OPTION)
    if given is squared:
        return squared

    def fitness(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        try:
            found = given(student, teacher)
        except (Exception, SystemExit) as error:  # the caller's own code may raise anything
            raise failed(name, OPTION, error) from error
        learns = torch.is_grad_enabled() and any(one.requires_grad for one in student)
        if not isinstance(found, Tensor) or found.ndim or (learns and not found.requires_grad):
            raise SpqError(
                Reason.BAD_ARGUMENT,
                f"{OPTION} {name!r} must return one number as a tensor that has a gradient",
            )
        # A student whose answers overflow is bad, and no reason to end the search.
        return found.nan_to_num(nan=inf, posinf=inf)

    return fitness
