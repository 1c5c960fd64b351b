"""Small files that the attacks start from."""

import io
from typing import Any

import numpy as np
import pytest

import spq


def file_of(tensors: dict[str, Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    spq.save(tensors, stream, **options)
    return stream.getvalue()


@pytest.fixture(scope="session")
def victims() -> dict[str, bytes]:
    """Sound files of at most one KiB with every kind of section and encoding."""
    random = np.random.Generator(np.random.PCG64(9))
    shape = (48, 32)
    uneven = random.random(shape) < 0.5 * (random.random(32) < 0.3)
    sparse = (random.integers(1, 4, shape) * uneven).astype("f4") * np.float32(0.37)
    dense = random.integers(0, 5, 400).astype("i2") * 7
    bias = random.normal(size=3)
    files = {
        "dense": file_of({"dense": dense, "bias": bias, "tied": bias}, metadata={"a": "b"}),
        "sparse": file_of({"sparse": sparse, "empty": np.zeros((0, 2), dtype="u1")}),
        "programs": file_of(
            {"w": np.zeros(300, dtype="?")}, programs={"onnx": b"xyz" * 40, "torch": b"{}"}
        ),
    }
    assert all(len(data) <= 1024 for data in files.values())
    for name, encoding in (("dense", "dense"), ("sparse", "sparse")):
        with spq.open(files[name]) as archive:
            assert archive.info(name).encoding == encoding
    return files
