"""Loading from many threads at once, and in processes forked from one that has loaded."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import spq

ROUNDS = 200
FILES = 8

_FORKING = """
import multiprocessing, sys, zlib
import spq

def digest(path):
    # Large enough for several threads in each child.
    state = spq.load_state_dict(path, threads=2)
    return zlib.crc32(b"".join(tensor.numpy().tobytes() for tensor in state.values()))

if __name__ == "__main__":
    paths, rounds = sys.argv[2:], int(sys.argv[1])
    expected = [digest(path) for path in paths]
    for _ in range(rounds):
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(digest, paths) == expected
    print("sound")
"""


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    paths = []
    for seed in range(FILES):
        random = np.random.default_rng(seed)
        sparse = np.where(random.random((600, 300)) < 0.1, random.integers(1, 9, (600, 300)), 0)
        path = tmp_path / f"{seed}.spq"
        spq.save({"sparse": sparse.astype("f4"), "planes": random.normal(size=(99, 50))}, path)
        paths.append(path)
    return paths


def test_threads(paths: list[Path]) -> None:
    alone = [spq.load_state_dict(path) for path in paths]

    def load(number: int) -> bool:
        state = spq.load_state_dict(paths[number], threads=1 + number % 3)
        return all(bool((state[name] == alone[number][name]).all()) for name in alone[number])

    with ThreadPoolExecutor(FILES) as pool:
        for _ in range(ROUNDS):
            assert all(pool.map(load, range(FILES)))


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")
def test_forks(paths: list[Path]) -> None:
    outcome = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FORKING, str(ROUNDS), *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert outcome.stdout.strip() == "sound", outcome.stderr
