"""Same tensors, same bytes: whatever the hash seed, the threads, the folder and the CPU's path."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import hashlib, io, os
import numpy, spq
random = numpy.random.Generator(numpy.random.PCG64(8))
tensors = {}
for number in range(12):
    shape = (30 + number, 40)
    mask = random.random(shape) < 0.3 * random.random(40)[None, :]
    tensors[f"layer{number}.weight"] = (random.integers(-7, 8, shape) * mask).astype("f4")
    tensors[f"layer{number}.bias"] = random.normal(size=9).astype("f4")
tensors["long"] = random.integers(0, 5, LONG).astype("u1")
tensors["tied"] = tensors["long"]
names = set(tensors)  # in the order of their hashes
stream = io.BytesIO()
spq.save({name: tensors[name] for name in names}, stream,
         metadata={name: "x" for name in set("abcdefgh")},
         programs={name: b"program" * 50 for name in set("pqrst")})
digest = hashlib.sha256(stream.getvalue())
with spq.open(stream.getvalue()) as archive:
    for threads in (1, 2, 8):
        decoded = archive.tensors(threads)
        assert all(decoded[name].tobytes() == tensors[name].tobytes() for name in decoded)
print(digest.hexdigest())
"""


def digest(folder: Path, variables: dict[str, str], long: int = 600_000) -> str:
    child = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("LONG", str(long))],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return child.stdout.strip()


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> str:
    return digest(tmp_path_factory.mktemp("first"), {"PYTHONHASHSEED": "0"})


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONHASHSEED": "1", "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        {"PYTHONHASHSEED": "2", "NUMBA_NUM_THREADS": "8", "OMP_NUM_THREADS": "8"},
        {"PYTHONHASHSEED": "0", "TZ": "Asia/Tokyo", "LC_ALL": "C", "HOSTNAME": "elsewhere"},
    ],
)
def test_same_bytes(first: str, variables: dict[str, str], tmp_path: Path) -> None:
    assert digest(tmp_path, variables) == first


def test_same_bytes_without_compiler(tmp_path: Path) -> None:
    compiled = digest(tmp_path, {}, 900)
    assert digest(tmp_path, {"NUMBA_DISABLE_JIT": "1"}, 900) == compiled


def test_other_tensors_other_bytes(first: str, tmp_path: Path) -> None:
    assert digest(tmp_path, {}, 599_999) != first
