"""What a goal of quality gives: how small the file is, and what it has lost on images never seen.

    python -m tests.bench.goals --data FOLDER

Each row is one run of `spq pack --max-drop` or `--max-divergence`, which judge by the held-out
quarter of the calibration inputs, and one measurement of the file on all 10,000 test images through
`spq.load`. The calibration inputs are those of `accuracy.py`, here with their labels.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

import spq
from spqtools.search.goal import Options
from tests.bench import lenets, networks

_DROPS = (0.2, 0.5, 1.0, 2.0)
_DIVERGENCES = (0.005, 0.01, 0.02, 0.05)
_HEADS = "network | data | goal | asked | bytes | ratio | held out | test | loss | seconds"


def main() -> None:
    """Pack towards every goal and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--networks", nargs="*", default=list(lenets.RECIPES))
    parser.add_argument("--data-sets", nargs="*", default=list(lenets.DATA_SETS))
    parser.add_argument("--drops", nargs="*", type=float, default=_DROPS)
    parser.add_argument("--divergences", nargs="*", type=float, default=_DIVERGENCES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--effort", default="default")
    arguments = parser.parse_args()
    common = Options(seed=arguments.seed, effort=arguments.effort)
    goals = [(drop, replace(common, max_drop=drop)) for drop in arguments.drops]
    goals += [(most, replace(common, max_divergence=most)) for most in arguments.divergences]
    networks.prepare(arguments.data, arguments.data_sets)
    print(f"| {_HEADS} |\n|{' --- |' * len(_HEADS.split('|'))}", flush=True)
    for network in arguments.networks:
        for data_set in arguments.data_sets:
            if networks.fits(network, data_set):
                for row in _rows(arguments.data, network, data_set, goals):
                    print(row, flush=True)


def _rows(
    data: Path, network: str, data_set: str, goals: Sequence[tuple[float, Options]]
) -> Iterator[str]:
    """Pack a network towards each goal and measure the file."""
    images, labels = networks.read_test(data, data_set)
    original = networks.answers(networks.load(network, data_set), images)
    labelled = _labelled_calibration(data, data_set)
    for asked, options in goals:
        goal = "drop" if options.max_drop is not None else "divergence"
        packed = lenets.MODELS / f"{network}-{data_set}-{goal}-{asked:g}-{options.seed}.spq"
        report = networks.pack(network, data_set, packed, options, calibration=labelled)
        answers = networks.answers(spq.load(packed), images)
        loss = lenets.accuracy(original, labels) - lenets.accuracy(answers, labels)
        if options.max_drop is not None and report.accuracy is not None:
            held_out = report.accuracy.before - report.accuracy.after
            test = loss
        else:
            held_out, test = report.divergence or 0.0, _divergence(original, answers)
        yield (
            f"| {network} | {data_set} | `--max-{goal}` | {asked:g} | {report.bytes_after:,} "
            f"| {report.ratio:.1f}x | {held_out:.4f} | {test:.4f} | {loss:.2f} "
            f"| {report.seconds:.0f} |"
        )


def _divergence(original: NDArray[np.float32], answers: NDArray[np.float32]) -> float:
    """Return the mean KL divergence of the original's distribution, in nats."""
    theirs, ours = (F.log_softmax(torch.from_numpy(side), -1) for side in (original, answers))
    return float(F.kl_div(ours, theirs, reduction="batchmean", log_target=True))


def _labelled_calibration(data: Path, data_set: str) -> Path:
    """Write the calibration inputs with their labels, and return where."""
    path = lenets.MODELS / f"{data_set}-labelled.npz"
    images, labels = networks.read_calibration_images(data, data_set)
    np.savez(path, x=images.numpy(), y=labels.numpy())
    return path


if __name__ == "__main__":
    main()
