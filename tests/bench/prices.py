"""What levels cost at shares of a student's own price of a bit, where its zeros are given.

    python -m tests.bench.prices --data FOLDER

Each network is pruned to some sparsities; then its survivors are put on at most 15 levels. Bytes
are those of a file with the tensors alone, coded as `spq pack` codes them. Divergence is that from
the teacher on the quarter of the calibration images that nothing has seen; the last column compares
it with that of the survivors as real numbers.
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
from spqtools.levels.placing import place_levels
from tests.bench import networks, resnets

_SHARES = (1.0, 0.5, 0.25, 0.1)
_BITS = 4
_HEADS = "network | data | zeros | share of the price | bytes | divergence | of real numbers'"


def main() -> None:
    """Prune each network, put it on levels at every price and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--networks", nargs="*", default=list(networks.BUILDERS))
    parser.add_argument("--data-sets", nargs="*", default=["mnist", resnets.DATA_SET])
    parser.add_argument("--sparsities", nargs="*", type=float, default=(0.9, 0.95))
    arguments = parser.parse_args()
    networks.prepare(arguments.data, arguments.data_sets)
    print(f"| {_HEADS} |\n|{' --- |' * len(_HEADS.split('|'))}", flush=True)
    for network, data_set in product(arguments.networks, arguments.data_sets):
        if networks.fits(network, data_set):
            _compare(network, data_set, arguments.sparsities)


def _compare(network: str, data_set: str, sparsities: Sequence[float]) -> None:
    """Prune one network, put it on levels at every price and print its rows."""
    evolution = networks.evolution(network, data_set, EFFORTS["fast"])
    students = networks.students(evolution, sparsities)
    for sparsity, student in zip(sparsities, students, strict=True):
        real = evolution.measure(student.tensors)
        for share in _SHARES:
            size, divergence = _measure(evolution, student, share)
            print(
                f"| {network} | {data_set} | {sparsity:.0%} | {share:g} | {size:,} "
                f"| {divergence:.5f} | {divergence / real:.2f} |",
                flush=True,
            )


def _measure(evolution: Evolution, student: Sparse, share: float) -> tuple[int, float]:
    """Put a student on levels at a share of its own price, and measure it."""
    tensors = place_levels(
        evolution, student, share * student.bit_price, (1 << _BITS) - 1, may_zero=False
    )
    state = {name: tensor.numpy() for name, tensor in tensors.items()}
    return spq.save(state, io.BytesIO(), fast_load=False), evolution.measure(tensors)


if __name__ == "__main__":
    main()
