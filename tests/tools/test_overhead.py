"""What a file has besides coded weights: header, directory, metadata and both programs."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import spq
from spqtools.cli import main

MAX_OVERHEAD_BYTES = 600


def lenet_300_100() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(784, 300),
            relu1=nn.ReLU(),
            fc2=nn.Linear(300, 100),
            relu2=nn.ReLU(),
            fc3=nn.Linear(100, 10),
        )
    )


def lenet_5() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 20, 5),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(800, 500),
            relu3=nn.ReLU(),
            fc2=nn.Linear(500, 10),
        )
    )


def overhead(path: Path) -> dict[str, int]:
    """Return the bytes of each section before the data."""
    head = path.read_bytes()[:64]
    sizes = [int.from_bytes(head[place : place + 4], "little") for place in (48, 52, 56)]
    return dict(zip(("header", "directory", "metadata", "programs"), (64, *sizes), strict=True))


@pytest.mark.parametrize("build", [lenet_300_100, lenet_5])
def test_small_files(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.save(build().state_dict(), tmp_path / "model.pt")
    images = np.random.Generator(np.random.PCG64(1)).random((128, 1, 28, 28), dtype="f4")
    np.savez(tmp_path / "calibration.npz", x=images)
    path = tmp_path / "model.spq"
    arguments = [
        *("pack", str(tmp_path / "model.pt"), "--arch", f"{__file__}:{build.__name__}"),
        *("--calib", str(tmp_path / "calibration.npz"), "-o", str(path), "--effort", "fast"),
        *("--sparsity", "0.9"),
    ]
    assert main(arguments) == 0
    with spq.open(path) as archive:
        assert set(archive.program_kinds) == {"onnx", "torch"}
        assert set(archive.metadata) == {"spq.divergence", "spq.options", "spq.teacher", "spq.tool"}
    sections = overhead(path)
    assert sum(sections.values()) <= MAX_OVERHEAD_BYTES, sections
