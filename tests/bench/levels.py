"""Where the levels lie: each method alone beside the choice that is made per layer.

    python -m tests.bench.levels --data FOLDER

Each network is pruned once; then every method puts the same survivors on levels, of
which there are at most 3, 7 or 15 besides zero. Bytes are those of a file with the tensors alone.
Divergence is that from the teacher on the quarter of the calibration images that nothing has seen.
The last column compares it with the lower hull of all rows of the network: the least that two of
them reach between them at as many bytes.
"""

import argparse
import io
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import spq
from spqtools.evolve.effort import EFFORTS
from spqtools.evolve.search import Evolution
from spqtools.evolve.sparse import Sparse
from spqtools.levels.alternatives import METHODS
from spqtools.levels.placing import place_levels
from tests.bench import networks, resnets

DEFAULT = "chosen per layer"
_HEADS = "network | data | zeros | bits | method | bytes | divergence | above the hull"

Point = tuple[int, float]
"""Bytes and divergence."""


def main() -> None:
    """Prune each network, put it on levels in every way and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--networks", nargs="*", default=list(networks.BUILDERS))
    parser.add_argument("--data-sets", nargs="*", default=["mnist", resnets.DATA_SET])
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--bits", nargs="*", type=int, default=(2, 3, 4))
    arguments = parser.parse_args()
    networks.prepare(arguments.data, arguments.data_sets)
    print(f"| {_HEADS} |\n|{' --- |' * len(_HEADS.split('|'))}", flush=True)
    for network, data_set in product(arguments.networks, arguments.data_sets):
        if networks.fits(network, data_set):
            _compare(network, data_set, arguments.sparsity, arguments.bits)


def _compare(network: str, data_set: str, sparsity: float, bits: Sequence[int]) -> None:
    """Prune one network, put it on levels in every way and print its rows."""
    evolution = networks.evolution(network, data_set, EFFORTS["fast"])
    (student,) = networks.students(evolution, [sparsity])
    ways = list(product(bits, [DEFAULT, *METHODS]))
    points = [_measure(evolution, student, most, method) for most, method in ways]
    for (most, method), (size, divergence) in zip(ways, points, strict=True):
        excess = divergence / _hull(points, size) - 1
        print(
            f"| {network} | {data_set} | {sparsity:.0%} | {most} | {method} | {size:,} "
            f"| {divergence:.5f} | {f'{excess:.1%}' if excess > 1e-9 else 'on it'} |",
            flush=True,
        )


def _measure(evolution: Evolution, student: Sparse, bits: int, method: str) -> Point:
    """Put a student on the levels of one method and measure it."""
    methods = None if method == DEFAULT else (method,)
    tensors = place_levels(evolution, student, student.bit_price, (1 << bits) - 1, methods=methods)
    state = {name: tensor.numpy() for name, tensor in tensors.items()}
    return spq.save(state, io.BytesIO()), evolution.measure(tensors)


def _hull(points: Sequence[Point], size: int) -> float:
    """Return the least divergence of a mixture of two points, of at most so many bytes."""
    smaller = [point for point in points if point[0] <= size]
    larger = [point for point in points if point[0] > size]
    mixtures = [
        low + (high - low) * (size - few) / (many - few)
        for (few, low), (many, high) in product(smaller, larger)
    ]
    return min([*mixtures, *(low for _, low in smaller)])


if __name__ == "__main__":
    main()
