"""Which weights to zero: Directed Evolution beside the criteria that it starts from.

    python -m tests.bench.selection --data FOLDER

At each total sparsity, every method chooses its zeros from the same calibration images, with the
same closed-form compensation of the survivors. Nothing is quantised. Criteria score the teacher's
weights once; "per layer" zeroes the same share of every layer, "global" the lowest scores of all.
"In cycles" does so by the steps that Directed Evolution takes, scored and compensated anew in each.
SparseGPT (arXiv 2301.00774) scores a layer by optimal brain surgeon when the layers before it have
their zeros already; here it has the compensation of the others in the place of its own.

Divergence is that from the teacher on the quarter of the calibration images that no method has
seen, accuracy that on all 10,000 test images.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from spqtools.evolve.allocation import allocate
from spqtools.evolve.compensation import compensate
from spqtools.evolve.effort import EFFORTS
from spqtools.evolve.moments import Moments, inverse_diagonal
from spqtools.evolve.population import top
from spqtools.evolve.search import Evolution
from spqtools.evolve.student import Layer, Student
from tests.bench import lenets, networks

SPARSITIES = (0.8, 0.9, 0.95)
CRITERIA = {
    "magnitude, per layer": ("magnitude", False),
    "magnitude, global": ("magnitude", True),
    "Wanda, per layer": ("wanda", False),
    "diagonal Fisher, global": ("fisher", True),
    "second order (OBS), global": ("curvature", True),
}
_HEADS = "network | data | zeros | method | divergence | accuracy | evaluations"


def main() -> None:
    """Prune every network by every method and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--networks", nargs="*", default=list(networks.BUILDERS))
    parser.add_argument("--data-sets", nargs="*", default=list(networks.DATA_SETS))
    parser.add_argument("--sparsities", nargs="*", type=float, default=SPARSITIES)
    parser.add_argument("--effort", default="default", choices=EFFORTS)
    arguments = parser.parse_args()
    networks.prepare(arguments.data, arguments.data_sets)
    print(f"| {_HEADS} |\n|{' --- |' * len(_HEADS.split('|'))}", flush=True)
    for data_set in arguments.data_sets:
        for network in arguments.networks:
            if networks.fits(network, data_set):
                evolution = networks.evolution(network, data_set, EFFORTS[arguments.effort])
                test = networks.read_test(arguments.data, data_set)
                _compare(f"{network} | {data_set}", evolution, test, sorted(arguments.sparsities))


def _compare(
    name: str, evolution: Evolution, test: tuple[Tensor, Tensor], sparsities: Sequence[float]
) -> None:
    """Print the rows of one network."""
    images, labels = test
    whole = Student(evolution.graph, [images], networks.BATCH_SAMPLES)

    def show(sparsity: float, method: str, tensors: Mapping[str, Tensor], evaluations: int) -> None:
        with torch.no_grad():
            outputs = torch.cat([batch[0] for batch in whole.outputs(tensors)])
        print(
            f"| {name} | {sparsity:.0%} | {method} "
            f"| {evolution.measure(tensors):.4f} | {lenets.accuracy(outputs.numpy(), labels):.2f} "
            f"| {evaluations} |",
            flush=True,
        )

    scores = evolution.scores(evolution.start(), [criterion for criterion, _ in CRITERIA.values()])
    # The most trusted proposal alone, and nothing else tried.
    alone = replace(evolution.effort, proposals=1, generations=0, children=0, tilts=0)
    stepwise = networks.students(replace(evolution, effort=alone), sparsities)
    evolved = networks.students(evolution, sparsities)
    for sparsity in sparsities:
        for method, tensors in _rivals(evolution, scores, sparsity):
            show(sparsity, method, tensors, 0)
        show(sparsity, "second order (OBS), in cycles", next(stepwise).tensors, 0)
        student = next(evolved)
        show(sparsity, "Directed Evolution", student.tensors, evolution.evaluations)


def _rivals(
    evolution: Evolution, scores: Mapping[str, Mapping[str, Tensor]], sparsity: float
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the other methods and the tensors of their students."""
    for method, (criterion, pooled) in CRITERIA.items():
        yield method, _at_once(evolution, scores[criterion], sparsity, pooled)
    yield "SparseGPT-like, per layer", _layer_after_layer(evolution, sparsity)


def _at_once(
    evolution: Evolution, scores: Mapping[str, Tensor], sparsity: float, pooled: bool
) -> dict[str, Tensor]:
    """Zero the lowest scores at once, over all layers together or in each alike."""
    state = evolution.start()
    counts = {name: _kept(mask.numel(), sparsity) for name, mask in state.keep.items()}
    if pooled:
        total = _kept(sum(mask.numel() for mask in state.keep.values()), sparsity)
        counts, _ = allocate(scores, state.keep, state.tilt, total)
    keep = {name: top(scores[name], state.keep[name], counts[name]) for name in counts}
    return evolution.prune(state, keep)


def _layer_after_layer(evolution: Evolution, sparsity: float) -> dict[str, Tensor]:
    """Zero the lowest scores in each layer alike, scored when the layers before have their zeros.

    The weights that are scored have made up for those zeros.
    """
    state = evolution.start()

    def revise(
        layer: Layer, moments: Moments, weight: Tensor, bias: Tensor | None
    ) -> dict[str, Tensor]:
        scores = weight.square() / inverse_diagonal(layer, moments)
        keep = top(scores, state.keep[layer.weight], _kept(weight.numel(), sparsity))
        settled = compensate(layer, moments, keep, weight, bias)
        return networks.by_name(evolution, layer, *settled)

    return evolution.revise(state, revise)


def _kept(weights: int, sparsity: float) -> int:
    return round((1 - sparsity) * weights)


if __name__ == "__main__":
    main()
