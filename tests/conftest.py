"""Fixtures that several folders of tests share."""

import runpy
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from spqtools.waiting import let_threads_sleep

# Tests also run from where their folder was copied to; helpers are imported as `tests.FOLDER.NAME`.
sys.path.append(str(Path(__file__).parents[1]))

# A shell starts what runs in the background with Ctrl-C ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Before a test imports PyTorch.
let_threads_sleep()


@pytest.fixture(autouse=True)
def same_random_weights() -> None:
    """Begin each test with the same random numbers, whatever ran before it."""
    import torch

    torch.manual_seed(0)


# A small trained network on disk, as a user has it.

NETWORK_SOURCE = """
from torch import nn


def build(hidden=32):
    first, second, third = nn.Linear(16, hidden), nn.Linear(hidden, 24), nn.Linear(24, 4)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)


def build_wider():
    return build(64)
"""


@dataclass(frozen=True)
class TrainedNetwork:
    """Files of a trained network of 1,436 parameters that tells four clouds of points apart."""

    folder: Path
    model: Path
    arch: str
    calibration: Path


@pytest.fixture(scope="session")
def trained_network(tmp_path_factory: pytest.TempPathFactory) -> TrainedNetwork:
    import torch
    from torch.nn.functional import cross_entropy

    folder = tmp_path_factory.mktemp("network")
    files = TrainedNetwork(
        folder, folder / "model.pt", f"{folder / 'net.py'}:build", folder / "calibration.npz"
    )
    (folder / "net.py").write_text(NETWORK_SOURCE, encoding="utf-8")
    random = np.random.Generator(np.random.PCG64(7))
    labels = random.integers(0, 4, 768)
    centres = random.normal(size=(4, 16))
    points = (centres[labels] + 0.7 * random.normal(size=(768, 16))).astype("f4")
    np.savez(files.calibration, x=points, y=labels)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = runpy.run_path(str(folder / "net.py"))["build"]()
        optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
        for _ in range(60):
            optimiser.zero_grad()
            loss = cross_entropy(network(torch.from_numpy(points)), torch.from_numpy(labels))
            torch.autograd.backward(loss)
            optimiser.step()
    torch.save(network.state_dict(), files.model)
    return files
