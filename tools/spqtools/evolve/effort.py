"""How much a cycle of evolution may try."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """How much a cycle may try.

    Parameters
    ----------
    proposals : int
        Criteria's zero-sets that begin a layer's population.
    generations, children : int
        Generations after that, and children in each.
    tilts : int
        Allocations that a cycle tries besides the present one.
    densities : tuple of float
        Shares of weights that the first cycles keep.
    ratio : float
        Factor between the densities of later cycles.
    """

    proposals: int
    generations: int
    children: int
    tilts: int
    densities: tuple[float, ...]
    ratio: float


EFFORTS = {
    "fast": Effort(2, 0, 0, 0, (0.3, 0.18), 0.72),
    "default": Effort(6, 2, 4, 2, (0.6, 0.4, 0.25, 0.18), 0.82),
    "max": Effort(8, 5, 8, 6, (0.7, 0.5, 0.35, 0.25, 0.18, 0.14), 0.88),
}
