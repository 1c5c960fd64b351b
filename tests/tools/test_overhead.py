"""What a file has besides coded weights: header, directory, metadata and both programs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import spq
from spqtools.cli import main
from tests import lenets

MAX_OVERHEAD_BYTES = 600


def overhead(path: Path) -> dict[str, int]:
    """Return the bytes of each section before the data."""
    head = path.read_bytes()[:64]
    sizes = [int.from_bytes(head[place : place + 4], "little") for place in (48, 52, 56)]
    return dict(zip(("header", "directory", "metadata", "programs"), (64, *sizes), strict=True))


@pytest.mark.parametrize("build", [lenets.lenet_300_100, lenets.lenet_5])
def test_small_files(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.save(build().state_dict(), tmp_path / "model.pt")
    images = np.random.Generator(np.random.PCG64(1)).random((128, 1, 28, 28), dtype="f4")
    np.savez(tmp_path / "calibration.npz", x=images)
    path = tmp_path / "model.spq"
    arguments = [
        *("pack", str(tmp_path / "model.pt"), "--arch", f"{lenets.__file__}:{build.__name__}"),
        *("--calib", str(tmp_path / "calibration.npz"), "-o", str(path), "--effort", "fast"),
        *("--sparsity", "0.9"),
    ]
    assert main(arguments) == 0
    with spq.open(path) as archive:
        assert set(archive.program_kinds) == {"onnx", "torch"}
        assert set(archive.metadata) == {"spq.divergence", "spq.options", "spq.teacher", "spq.tool"}
    sections = overhead(path)
    assert sum(sections.values()) <= MAX_OVERHEAD_BYTES, sections
