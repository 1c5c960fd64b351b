"""Killed writers leave the old file or the new one, and readers never see a mixture."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import spq

WRITER = """
import sys
import numpy, spq
number = 1
while True:
    tensors = {name: numpy.full(200_000, number, dtype="f4") + numpy.arange(200_000, dtype="f4")
               for name in "abc"}
    spq.save(tensors, sys.argv[1], metadata={"number": str(number)})
    number += 1
    print("wrote", flush=True)
"""


def version(path: Path) -> int:
    """Check that a file is one whole version; return its number."""
    with spq.open(path) as archive:
        archive.verify()
        number = int(archive.metadata["number"])
        for name in "abc":
            assert float(archive.get_tensor(name)[0]) == number
    return number


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.spq"
    tensors = {name: np.arange(9, dtype="f4") for name in "abc"}
    spq.save(tensors, path, metadata={"number": "0"})
    return path


@contextmanager
def writing(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that replaces the file again and again, after its first time."""
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "wrote\n"
            yield child
        finally:
            child.kill()


def test_killed_writers(path: Path) -> None:
    random = np.random.Generator(np.random.PCG64(13))
    for _ in range(8):
        with writing(path):
            time.sleep(float(random.uniform(0.0, 0.1)))
        assert version(path) > 0
    left = [entry.name for entry in path.parent.iterdir() if entry != path]
    assert all(name.startswith(".model.spq.") and name.endswith(".partial") for name in left)


def test_readers_during_writes(path: Path) -> None:
    with writing(path):
        versions = [version(path)]
        while len(set(versions)) < 5:
            versions.append(version(path))
    assert versions == sorted(versions)


def test_terminated_by_control_c(path: Path) -> None:
    with writing(path) as child:
        os.kill(child.pid, signal.SIGINT)
        child.wait(60)
    assert version(path) > 0
    assert [entry.name for entry in path.parent.iterdir()] == ["model.spq"]
