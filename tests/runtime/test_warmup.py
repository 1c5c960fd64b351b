"""Warming up compiles what loading needs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import spq
from spqformat import Reason, SpqError

SAVE_AND_LOAD = """
import io
import numpy, spq
random = numpy.random.Generator(numpy.random.PCG64(1))
tensors = {}
for kind in ("u1", "i2", "f4", "f8"):
    values = random.integers(1, 9, (300, 200))
    tensors["dense" + kind] = values.astype(kind)
    tensors["even" + kind] = (values * (random.random(values.shape) < 0.05)).astype(kind)
    uneven = random.random(values.shape) < 0.3 * (random.random(200) < 0.2)
    tensors["uneven" + kind] = (values * uneven).astype(kind)
    kernels = values[:, :180].reshape(60, 100, 3, 3) * (random.random((60, 100, 1, 1)) < 0.2)
    tensors["kernels" + kind] = kernels.astype(kind)
    uneven = random.random((60, 100, 1, 1)) < 0.8 * (random.random((60, 1, 1, 1)) < 0.3)
    tensors["uneven kernels" + kind] = (kernels * uneven).astype(kind)
    if kind != "u1":
        tensors["planes" + kind] = (random.normal(size=3000) * 99).astype(kind)
for kind in ("f2", "f4", "f8"):
    values = random.integers(-1, 2, (40, 9, 3, 3)) * (random.random((40, 9, 1, 1)) < 0.2)
    tensors["mixed" + kind] = values.astype(kind)
stream = io.BytesIO()
spq.save(tensors, stream, fast_load=False)
with spq.open(stream.getvalue()) as archive:
    archive.verify()
    print(*sorted({archive.info(name).encoding for name in tensors}))
"""


def child(script: str, folder: Path) -> str:
    outcome = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "SPQ_CACHE_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout.strip()


def test_compiles_everything_into_the_chosen_folder(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    assert child("import spq; print(spq.warmup())", folder) == str(folder)
    compiled = sorted(path.name for path in folder.rglob("*.nbc"))
    for kernel in (
        "code_signed_indices",
        "decode_symbols",
        "decode_mask",
        "decode_values",
        "encode_symbols",
        "gather_values",
        "index_levels",
        "join_planes",
        "lay_out_tables",
        "look_up",
        "read_tables",
    ):
        assert any(kernel in name for name in compiled)
    assert child(SAVE_AND_LOAD, folder) == "dense mixed planes sparse"
    assert sorted(path.name for path in folder.rglob("*.nbc")) == compiled


def test_unsafe_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.setenv("SPQ_CACHE_DIR", str(tmp_path))
    with pytest.raises(SpqError) as caught:
        spq.warmup()
    assert caught.value.code is Reason.UNSAFE_CACHE
