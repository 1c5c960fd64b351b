"""A student between two cycles, and between two layers of one."""

from dataclasses import dataclass, field

from torch import Tensor

# What a zero saves: the survivor's place in the mask and its level, in bits. The files of the first
# table in tests/bench/RESULTS.md have 5 to 9 bits for each survivor, all else in them included: the
# ResNets 5 to 6, LeNet-300-100 6 to 8, LeNet-5 6 to 9.
BITS_PER_SURVIVOR = 6.5
# A set of zeros costs more than its members one by one. Of 1/2 to 8, 4 to 8 gave LeNet-300-100 the
# least divergence at 45x and at 65x, by hand: no table has it.
_SET_SURCHARGE = 6.0


@dataclass(frozen=True)
class Sparse:
    """A student between two cycles.

    Parameters
    ----------
    tensors : dict of str to Tensor
        All weights.
    keep : dict of str to Tensor of bool, shape (rows, columns)
        Support of each layer by its weight's name.
    tilt : dict of str to float
        What evolution has added to each layer's log-scores.
    zero_cost : float
        Divergence that the dearest of the next zeros is estimated to cost alone; 0 before the first
        cycle.
    credit : dict of str to float
        What each kind of proposal has earned.
    """

    tensors: dict[str, Tensor]
    keep: dict[str, Tensor]
    tilt: dict[str, float]
    zero_cost: float = 0.0
    credit: dict[str, float] = field(default_factory=dict)

    @property
    def kept(self) -> int:
        """How many of the layers' weights are kept."""
        return sum(int(mask.sum()) for mask in self.keep.values())

    @property
    def density(self) -> float:
        """Share of the layers' weights that are kept."""
        return self.kept / max(1, sum(mask.numel() for mask in self.keep.values()))

    @property
    def bit_price(self) -> float:
        """Divergence that one bit is worth, from what the next zeros would cost and save.

        Nothing before the first cycle, in which masks are free therefore.
        """
        return _SET_SURCHARGE * self.zero_cost / BITS_PER_SURVIVOR


@dataclass(frozen=True)
class Begun:
    """A cycle on its way.

    Parameters
    ----------
    student : Sparse
        What it has made so far; supports are those of the layers that it is through with.
    evaluations : int
        Candidates that the search had assessed by then.
    opening : float
        What the gradients that the cycle begins with take, all layers together being 1.
    share : float
        Share of the cycle's work that is done.
    goals : dict of str to int
        Weights that each layer is to keep; none before they are chosen.
    fits : list of Tensor
        How good the candidates were, see `Fits`, among which it is choosing: shifts between layers
        before there are goals, zero-sets of the layer that comes next afterwards.
    """

    student: Sparse
    evaluations: int
    opening: float
    share: float = 0.0
    goals: dict[str, int] = field(default_factory=dict)
    fits: list[Tensor] = field(default_factory=list)
