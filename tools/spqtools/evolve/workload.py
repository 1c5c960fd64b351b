"""How the work of a cycle is spread over the layers, for progress that tells the time left."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spqtools.evolve.moments import wanted_places
from spqtools.evolve.student import Layer

# What a layer costs beside its products: calls of PyTorch for each candidate.
_LEAST_PRODUCTS = 10**7
# What a look at the gradients of a sample takes, in forward passes: YOLOv3's took 183 s where its
# layers took 580, whose work is estimated as 18 forward passes of each sample.
_LOOK_PASSES = 6


@dataclass(frozen=True)
class Tries:
    """How often each part of the work on a layer is done.

    Parameters
    ----------
    samples : int
        Samples that the moments are measured on.
    steps : int
        Steps of the solver that compensates, of all candidates together.
    passes : int
        Samples that are run from the layer on, of all candidates together.
    """

    samples: int
    steps: int
    passes: int


@dataclass(frozen=True)
class Work:
    """What a cycle's work consists of, all layers together being 1.

    Parameters
    ----------
    layers : dict of str to float
        Of each layer, by its weight's name.
    look : float
        Of a look at the gradients of all samples.
    """

    layers: dict[str, float]
    look: float


def spread_work(layers: Sequence[Layer], products: Mapping[str, int], tries: Tries) -> Work:
    """Return how the work is spread.

    Parameters
    ----------
    layers : sequence of Layer
        All layers in order.
    products : mapping of str to int
        Multiplications that each takes for one sample, by the weight's name.
    tries : Tries
        What is done.

    Returns
    -------
    Work
        An estimate.
    """
    rest = whole = sum(products.values())
    work: dict[str, float] = {}
    for layer in layers:
        own = products[layer.weight]
        places = own * tries.samples // (layer.rows * layer.columns)
        seen = min(places, wanted_places(layer.columns)) * layer.groups
        moments = seen * layer.columns * (layer.columns + layer.rows // layer.groups)
        inverse = layer.groups * layer.columns**3
        solving = layer.rows * layer.columns**2 * tries.steps
        running = tries.passes * rest + 2 * tries.samples * own
        work[layer.weight] = moments + inverse + solving + running + _LEAST_PRODUCTS
        rest -= own
    total = max(sum(work.values()), 1)
    look = _LOOK_PASSES * whole * tries.samples / total
    return Work({name: one / total for name, one in work.items()}, look)
