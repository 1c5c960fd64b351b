"""Which weights to zero: Directed Evolution beside the criteria that it starts from.

    python -m tests.bench.selection --data FOLDER

At each total sparsity, every method chooses its zeros from the same calibration images, once
without and once with the same closed-form compensation. Nothing is quantised. Divergence is that
from the teacher on the quarter of the calibration images that no method has seen, accuracy that on
all 10,000 test images.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spq import torch_program
from spqtools.evolve.allocation import allocate
from spqtools.evolve.population import top
from spqtools.evolve.search import EFFORTS, Evolution, Sparse
from spqtools.evolve.student import Student
from spqtools.goal import Trial, next_density
from tests.bench import lenets

SPARSITIES = (0.8, 0.9, 0.95)
CRITERIA = {
    "magnitude, per layer": ("magnitude", False),
    "magnitude, global": ("magnitude", True),
    "second order (OBS), global": ("curvature", True),
}
_HEADS = (
    "network | data | zeros | method | divergence | accuracy "
    "| compensated: divergence | accuracy | evaluations"
)


def main() -> None:
    """Prune both networks on both data sets by every method and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist, fashion-mnist")
    parser.add_argument("--networks", nargs="*", default=list(lenets.RECIPES))
    parser.add_argument("--data-sets", nargs="*", default=list(lenets.DATA_SETS))
    parser.add_argument("--sparsities", nargs="*", type=float, default=SPARSITIES)
    arguments = parser.parse_args()
    torch.set_num_threads(lenets.THREADS)
    lenets.prepare(arguments.data)
    print(f"| {_HEADS} |\n|{' --- |' * len(_HEADS.split('|'))}", flush=True)
    for data_set in arguments.data_sets:
        for network in arguments.networks:
            _compare(network, data_set, arguments.data, arguments.sparsities)


def _compare(network: str, data_set: str, data: Path, sparsities: list[float]) -> None:
    """Print the rows of one network."""
    module = lenets.RECIPES[network].build()
    module.load_state_dict(torch.load(lenets.model_path(network, data_set), weights_only=True))
    calibration = torch.from_numpy(np.load(lenets.calibration_path(data_set))["x"])  # noqa: TID251
    graph = torch_program.capture(module, (calibration[:2],)).module()
    assert isinstance(graph, torch.fx.GraphModule)
    images, labels = lenets.read_part(data / data_set, "t10k")
    test = Student(graph, [images], 1000)
    plain, compensated = (
        Evolution(graph, [calibration], 0, EFFORTS["default"], compensation=compensation)
        for compensation in (False, True)
    )

    def measured(evolution: Evolution, tensors: Mapping[str, Tensor]) -> str:
        with torch.no_grad():
            outputs = torch.cat([batch[0] for batch in test.outputs(tensors)])
        accuracy = lenets.accuracy(outputs.numpy(), labels)
        return f"{evolution.measure(tensors):.4f} | {accuracy:.2f}"

    students = {False: plain.start(), True: compensated.start()}
    trials: list[Trial] = []
    sensitivity = plain.sensitivities(plain.teacher, 0)
    scores = plain.scores(plain.start(), sensitivity)
    for sparsity in sparsities:
        rows = {
            method: [
                measured(evolution, _one_shot(evolution, scores[criterion], sparsity, pooled))
                for evolution in (plain, compensated)
            ]
            for method, (criterion, pooled) in CRITERIA.items()
        }
        while (density := next_density(trials, sparsity, EFFORTS["default"])) is not None:
            for evolution in (plain, compensated):
                before = students[evolution.compensation]
                students[evolution.compensation] = evolution.cycle(before, density, len(trials))
            trials.append(Trial(density, beyond=False))
        rows["Directed Evolution"] = [
            measured(evolution, students[evolution.compensation].tensors)
            for evolution in (plain, compensated)
        ]
        for method, (bare, mended) in rows.items():
            evaluations = compensated.evaluations if method == "Directed Evolution" else 0
            print(
                f"| {network} | {data_set} | {sparsity:.0%} | {method} | {bare} | {mended} "
                f"| {evaluations} |",
                flush=True,
            )


def _one_shot(
    evolution: Evolution, scores: Mapping[str, Tensor], sparsity: float, pooled: bool
) -> dict[str, Tensor]:
    """Zero the lowest scores at once, over all layers together or in each alike."""
    state: Sparse = evolution.start()
    sizes = {name: mask.numel() for name, mask in state.keep.items()}
    if pooled:
        total = round((1 - sparsity) * sum(sizes.values()))
        counts, _ = allocate(scores, state.keep, state.tilt, total)
    else:
        counts = {name: round((1 - sparsity) * size) for name, size in sizes.items()}
    keep = {name: top(scores[name], state.keep[name], counts[name]) for name in counts}
    return evolution.prune(replace(state, keep=keep), keep)


if __name__ == "__main__":
    main()
