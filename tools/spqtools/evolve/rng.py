"""Random words that depend on the seed and a label alone, not on what was drawn before."""

import hashlib

import numpy as np
from numpy.typing import NDArray


class Draws:
    """A stream of random numbers for one purpose.

    Words come from Philox, whose raw output NumPy keeps stable; numbers are derived here, because
    NumPy promises nothing about its distributions. A stream is keyed by seed and label, so a
    resumed search draws what an uninterrupted one would have drawn.

    Parameters
    ----------
    seed : int
        Seed of the search.
    *label : str or int
        What the numbers are for.
    """

    def __init__(self, seed: int, *label: str | int) -> None:
        text = "/".join(str(part) for part in (seed, *label))
        key = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], dtype="<u8")
        self._words = np.random.Philox(key=key)

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Return numbers in [0, 1), shape (count,)."""
        words = self._words.random_raw(count)
        return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def signs(self, count: int) -> NDArray[np.float32]:
        """Return numbers of 1 and -1, shape (count,)."""
        return np.where(self.uniform(count) < 0.5, np.float32(-1), np.float32(1))

    def normal(self, count: int) -> NDArray[np.float64]:
        """Return standard normal numbers, shape (count,), by the Box-Muller transform."""
        radius = np.sqrt(-2.0 * np.log1p(-self.uniform(count)))
        return radius * np.cos(2.0 * np.pi * self.uniform(count))

    def below(self, limit: int) -> int:
        """Return an integer in [0, limit)."""
        return min(int(self.uniform(1)[0] * limit), limit - 1)
