"""How fast a network of 25 million weights loads, and in how much memory, beside its rivals.

    python -m tests.bench.loading

A convolutional network with normal random weights, 90 % of each layer zero by magnitude, the
others on 14 even levels, both programs in the file. The rest is `spq bench`: fresh processes in
turns, the page cache warm, two threads.
"""

import argparse
import tempfile
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

import spq
from spqtools.benchmark.processes import benchmark_json, benchmark_text, run_benchmark
from spqtools.progress import Progress
from spqtools.reading.ingest import Source
from spqtools.reading.programs import trace, write_programs

_CHANNELS = (3, 64, 128, 256, 512)
_DEEP = 6
_SPARSITY = 0.9
_LEVELS_ON_A_SIDE = 7


def main() -> None:
    """Write the network, load it in every way and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.spq"
        write(file)
        found = run_benchmark(file, arguments.runs, arguments.threads, Progress())
    print(benchmark_json(found) if arguments.json else benchmark_text(found))


def build() -> nn.Sequential:
    """Return a network for images of 64 by 64 pixels, 25.0 million weights."""
    layers: list[nn.Module] = []
    for before, after in pairwise(_CHANNELS):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
    width = _CHANNELS[-1]
    for _ in range(_DEEP):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    layers += [nn.Flatten(), nn.Linear(width * 16, 1120), nn.ReLU(), nn.Linear(1120, 100)]
    return nn.Sequential(*layers)


def write(file: Path) -> None:
    """Prune the network, put it on levels and save it with its programs."""
    torch.manual_seed(0)
    network = build().eval()
    with torch.no_grad():
        for tensor in network.parameters():
            if tensor.dim() > 1:
                tensor.copy_(_on_levels(tensor))
    source = Source({}, "", module=network)
    traced = trace(source, (torch.zeros(2, 3, 64, 64),))
    assert traced is not None
    state = network.state_dict()
    programs = write_programs(traced, state)
    spq.save({**state, **programs.constants}, file, programs=programs.stored)


def _on_levels(weight: torch.Tensor) -> torch.Tensor:
    """Zero the smallest weights and round the others to even levels, none of them zero."""
    magnitudes = weight.abs()
    kept = magnitudes >= magnitudes.flatten().kthvalue(int(_SPARSITY * weight.numel())).values
    step = float(magnitudes.max()) / _LEVELS_ON_A_SIDE
    numbers = (magnitudes / step).ceil().clamp(1, _LEVELS_ON_A_SIDE)
    return weight.sign() * numbers * step * kept


if __name__ == "__main__":
    main()
