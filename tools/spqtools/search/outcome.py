"""What a search hands over, and how it asks for the size of the file that it would become."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spqformat import Reason, SpqError

State = dict[str, NDArray[np.generic]]
FileBytes = Callable[[Mapping[str, NDArray[np.generic]], float | None, str], int]
"""Bytes of the whole file that a state would become, given its divergence and the kind of that."""


@dataclass(frozen=True)
class Compressed:
    """What a search has found.

    Parameters
    ----------
    state : dict of str to ndarray
        All tensors of the network; compressed ones have few distinct values.
    divergence : float or None
        Divergence from the teacher on held-out inputs; None for a data-free search.
    divergence_kind : str
        What the divergence means.
    evaluations : int
        Candidates that were assessed on the network.
    is_cut : bool
        Whether time ended the search.
    is_hurried : bool
        Whether time made the training shorter.
    missed : str or None
        By how much the goal was missed, in words, when time did not suffice.
    notes : tuple of str
        What the search has not looked at, in words.
    """

    state: State
    divergence: float | None
    divergence_kind: str
    evaluations: int
    is_cut: bool = False
    is_hurried: bool = False
    missed: str | None = None
    notes: tuple[str, ...] = ()


def no_such_file(target_bytes: int) -> SpqError:
    """Return the refusal of a size that is out of reach."""
    return SpqError(
        Reason.GOAL_NOT_REACHED, f"no file of {target_bytes} bytes was found; allow a larger one"
    )
