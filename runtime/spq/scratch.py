"""Memory that a thread uses again from chunk to chunk, so that each page is touched once."""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item", bound=np.generic)


class Scratch:
    """Arrays by purpose; they grow and never shrink."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, type[np.generic]], NDArray[Any]] = {}

    def array(self, purpose: str, size: int, item: type[Item]) -> NDArray[Item]:
        """Return an array of `size` elements that holds anything, valid until the next call.

        Parameters
        ----------
        purpose : str
            What it is for; arrays of different purposes do not overlap.
        size : int
            Number of elements.
        item : type of NumPy scalars
            Element type.
        """
        key = purpose, item
        array = self._arrays.get(key)
        if array is None or array.size < size:
            array = self._arrays[key] = np.empty(size, dtype=item)
        shortened: NDArray[Item] = array[:size]
        return shortened
