"""Remembers how good candidates were, so that an interrupted search need not assess them again."""

from collections.abc import Callable, Sequence

from torch import Tensor


class Fits:
    """How good candidates are, in the order in which they are assessed.

    Parameters
    ----------
    known : sequence of Tensor
        What the same candidates have got before.
    after_fit : callable
        Hears of all of them after each further one.
    """

    def __init__(self, known: Sequence[Tensor], after_fit: Callable[[list[Tensor]], None]) -> None:
        self._fits, self._known = list(known), iter(known)
        self._after_fit = after_fit

    def of(self, assess: Callable[[], Tensor]) -> Tensor:
        """Return how good the next candidate is; it is assessed only if that is not known."""
        found = next(self._known, None)
        if found is None:
            found = assess()
            self._fits.append(found)
            self._after_fit(list(self._fits))
        return found
