"""Small files that the attacks start from."""

import io
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

import spq
from spqformat.sparse_tables import read_sparse_tables


def file_of(tensors: dict[str, Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    spq.save(tensors, stream, **options)
    return stream.getvalue()


@pytest.fixture(scope="session")
def victims() -> dict[str, bytes]:
    """Sound files of at most one KiB with every kind of section and encoding."""
    random = np.random.Generator(np.random.PCG64(9))
    shape = (96, 32)
    uneven = random.random(shape) < 0.5 * (random.random(32) < 0.3)
    sparse = (random.integers(1, 4, shape) * uneven).astype("f4") * np.float32(0.37)
    dense = random.integers(0, 5, 400).astype("i2") * 7
    bias = random.normal(size=3)
    # Whole kernels, so that symbols take two bytes, in runs of a level, so that indices are paired.
    kept = (np.arange(9) < 6) & (random.random((400, 1)) < 0.3)
    kernels = np.where(kept, np.where(np.arange(400) % 80 < 40, 1.5, 2.5)[:, None], 0.0)
    # Both signs, whole kernels and a matrix; NaNs and negative zero among the levels.
    signs = random.integers(-2, 3, (9, 8, 3, 3)) * (random.random((9, 8, 1, 1)) < 0.4)
    matrix = np.array([0, 1, 0x3C00, 0x7C01, 0x8000, 0xFC00], dtype="u2").view("f2")
    matrix = matrix[random.integers(0, 6, (16, 12)) * (random.random((16, 12)) < 0.3)]
    files = {
        "dense": file_of({"dense": dense, "bias": bias, "tied": bias}, metadata={"a": "b"}),
        "sparse": file_of({"sparse": sparse, "empty": np.zeros((0, 2), dtype="u1")}),
        "kernels": file_of({"kernels": kernels.astype("f4").reshape(20, 20, 3, 3)}),
        "planes": file_of(
            {"planes": 20_000 - 7 * np.arange(60), "halves": random.normal(size=200).astype("f2")}
        ),
        "mixed": file_of({"mixed": signs.astype("f4"), "matrix": matrix}, fast_load=False),
        "programs": file_of(
            {"w": np.arange(300) == 7}, programs={"onnx": b"xyz" * 40, "torch": b"{}"}
        ),
    }
    with patch("spqformat.zstd.blocks_of", return_value=None):  # as other writers may
        files["plain zstd"] = file_of({}, programs={"onnx": b"xyz" * 40})
    assert all(len(data) <= 1024 for data in files.values())
    encodings = {name: name for name in ("dense", "sparse", "planes", "mixed")}
    for name, encoding in {**encodings, "kernels": "sparse"}.items():
        with spq.open(files[name]) as archive:
            assert archive.info(name).encoding == encoding
    with spq.open(files["mixed"]) as archive:
        assert archive.info("matrix").encoding == "mixed"
    with spq.open(files["kernels"]) as archive:
        record = archive._container.tensors["kernels"]
        part = record.parts[0]
        stored = files["kernels"][part.offset : part.offset + part.stored_bytes]
        tables = read_sparse_tables(stored, record)
    assert (tables.symbol_bits, tables.index_bits) == (9, 4)
    return files
