"""Puts a sparse student on levels, once through the network."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from spqtools.evolve.moments import Moments
from spqtools.evolve.search import Evolution
from spqtools.evolve.sparse import Sparse
from spqtools.evolve.student import Layer
from spqtools.levels.biases import round_bias
from spqtools.levels.quantise import quantise_layer
from spqtools.levels.rounds import Rounds

AfterStep = Callable[[Mapping[str, Tensor], float], None]
"""Hears of the tensors of a layer that is on levels, or of none after a batch's gradients before
that, and of the share of the work that is done."""

# Share of the work that the gradients before the first layer take, roughly: of YOLOv3's, a sixth to
# a fifth.
_BEGINNING = 0.2


def place_levels(
    evolution: Evolution,
    student: Sparse,
    bit_price: float,
    max_levels: int,
    *,
    may_zero: bool = True,
    methods: Sequence[str] | None = None,
    initial_price: float | None = None,
    begun: Mapping[str, Tensor] | None = None,
    rounds: Rounds | None = None,
    model: Mapping[str, Tensor] | None = None,
    after_step: AfterStep = lambda _layer, _share: None,
) -> dict[str, Tensor]:
    """Return all tensors of a student, the layers' weights on levels and their biases on steps.

    Parameters
    ----------
    evolution : Evolution
        The search that the student comes from.
    student : Sparse
        The student.
    bit_price : float
        Divergence that one bit may cost.
    max_levels : int
        Most levels of a layer besides zero.
    may_zero : bool
        Whether a survivor may become zero where that pays.
    methods : sequence of str, optional
        Kinds of levels to choose from; all by default.
    initial_price : float, optional
        Price of a bit that levels are initialised at; by default `bit_price`.
    begun : mapping of str to Tensor, optional
        Tensors of the layers that the same placing is through with; the result is the same.
    rounds : Rounds, optional
        What the same placing has reached in the layer behind those.
    model : mapping of str to Tensor, optional
        Tensors of what the student is to stay near to; the teacher's by default.
    after_step : AfterStep
        Hears of each further step.
    """
    begun = begun or {}
    work = evolution.work.layers
    if all(name in begun for name in work):
        return {**student.tensors, **begun}
    done = share_of(evolution, begun)
    looks = 1 if evolution.sensing.knows(student) else 2

    def looked(share: float) -> None:
        after_step({}, max(done, _BEGINNING * share / looks))

    def coupled(share: float) -> None:
        after_step({}, max(done, _BEGINNING * (looks - 1 + share) / looks))

    evolution.sensing.look(student, looked)
    coupling = evolution.sensing.couplings(student, coupled)
    share = max(done, _BEGINNING)

    def revise(
        layer: Layer, moments: Moments, weight: Tensor, bias: Tensor | None
    ) -> dict[str, Tensor]:
        nonlocal share
        name = layer.weight
        levelled, fitted = quantise_layer(
            layer,
            moments,
            student.keep[name],
            weight,
            bias,
            coupling[name],
            bit_price,
            max_levels,
            may_zero=may_zero,
            methods=methods,
            initial_price=initial_price,
            rounds=rounds,
        )
        share += (1 - _BEGINNING) * work[name]
        named = {name: levelled.reshape(student.tensors[name].shape)}
        if layer.bias is not None and fitted is not None:
            named[layer.bias] = round_bias(layer, moments, coupling[name], fitted, bit_price)
        after_step(named, share)
        return named

    return evolution.revise(student, revise, begun, model)


def share_of(evolution: Evolution, begun: Mapping[str, Tensor]) -> float:
    """Return the share of the work that is done when some layers are on levels."""
    done = sum(one for name, one in evolution.work.layers.items() if name in begun)
    return _BEGINNING + (1 - _BEGINNING) * done if done else 0.0
