"""How many candidates the search assesses in a second, beside a full forward pass for each.

    python -m tests.bench.engine --data FOLDER

One cycle of ResNet-56 and ResNet-20 at default effort, everything included: moments, compensation
of every candidate, races and finals. The rival runs each candidate through the whole network on
all images of the search; its time is that of one pass in the same batches, times the candidates,
and it pays for nothing else.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from spqtools.evolve.effort import EFFORTS
from spqtools.evolve.search import Evolution
from tests.bench import networks, resnets

_DENSITY = 0.6
_PASSES = 3
_HEADS = "network | candidates | seconds | candidates/s | full pass, s | passes/s | times as many"


def main() -> None:
    """Run one cycle of each network and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--networks", nargs="*", default=list(resnets.BUILDERS))
    arguments = parser.parse_args()
    networks.prepare(arguments.data, [resnets.DATA_SET])
    print(f"| {_HEADS} |\n|{' --- |' * len(_HEADS.split('|'))}", flush=True)
    for name in arguments.networks:
        evolution = networks.evolution(name, resnets.DATA_SET, EFFORTS["default"])
        passes = [_full_pass(evolution) for _ in range(_PASSES)]
        started = time.perf_counter()
        evolution.cycle(evolution.start(), _DENSITY, 0)
        seconds = time.perf_counter() - started
        passes += [_full_pass(evolution) for _ in range(_PASSES)]
        one, count = float(np.median(passes)), evolution.evaluations
        print(
            f"| {name} | {count} | {seconds:.1f} | {count / seconds:.2f} "
            f"| {one:.2f} | {1 / one:.2f} | {count * one / seconds:.1f} |",
            flush=True,
        )


def _full_pass(evolution: Evolution) -> float:
    """Return the seconds of one pass of all search images through the network."""
    started = time.perf_counter()
    with torch.no_grad():
        evolution.student.outputs(evolution.teacher)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
