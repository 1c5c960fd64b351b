"""Small sound inputs that the fuzzer starts from."""

import io
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import numpy as np

import spq
import spq.dense
import spq.planes
import spq.sparse


def saved(tensors: dict[str, Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    spq.save(tensors, stream, **options)
    return stream.getvalue()


def _saved_plain(programs: dict[str, bytes]) -> bytes:
    """Save programs without the dictionary, as other writers may."""
    with patch("spqformat.zstd.blocks_of", return_value=None):
        return saved({}, programs=programs)


def files() -> dict[str, bytes]:
    """Return files of a few hundred bytes with every kind of section, encoding and table."""
    random = np.random.Generator(np.random.PCG64(1))
    shape = (48, 32)
    bias = random.normal(size=3)
    columns = random.random(shape) < 0.5 * (random.random(32) < 0.3)
    both = random.random(shape) < np.linspace(0, 1, 48)[:, None] ** 3 * np.linspace(0, 1, 32) ** 3
    values = random.choice([0.37, -1.5, 2.0, 0.1, 0.25, 3.0], shape)
    by_column, by_both = (np.where(ones, values, 0).astype("f4") for ones in (columns, both))
    few = np.where(random.random(300) < 0.1, 1.5, 0).astype("f4")
    grid = (random.integers(-3, 5, 300) * 0.125).astype("f4")
    steps = random.integers(0, 5, 200).astype("u2")
    # The decoder uses eight lanes from 2048 symbols on.
    long = random.choice(np.array([0, 0, 0, 3, 9, 70], dtype="i2"), 4100)
    # Kernels of both signs, and NaNs, infinities and negative zero in a matrix.
    signed = random.integers(-3, 4, (7, 6, 3, 3)) * (random.random((7, 6, 1, 1)) < 0.4) * 0.25
    odd = np.array([0, 1, 0x3C00, 0x7C01, 0x8000, 0xFC00], dtype="u2").view("f2")
    odd = odd[random.integers(0, 6, (12, 11)) * (random.random((12, 11)) < 0.3)]
    lines = (random.integers(1, 8, (5, 9, 7)) * (random.random((5, 9, 1)) < 0.4)).astype("f8")
    wide = np.where(random.random((60, 320)) < 0.06, 7, 0).astype("u1")
    return {
        "nothing": saved({}),
        "raw": saved(
            {
                "a": bias,
                "b": np.array(True),
                "c": bias,
                "d": np.zeros((0, 3), dtype="u8"),
                "flags": np.array([True, False, True]),
            },
            metadata={"k": "v", "licence": "é"},
        ),
        "constants": saved(
            {
                f"{layer}.norm.{name}": np.full(shape, value)
                for layer in ("first", "second")
                for name, shape, value in (("mean", 9, 0.0), ("on", (), True), ("var", 9, 1.0))
            }
        ),
        "plain zstd": _saved_plain(programs={"torch": b"{" + b" " * 90 + b"}"}),
        "programs": saved({"w": bias}, programs={"onnx": b"xyz" * 40, "torch": b"{}"}),
        "dense": saved({"w": grid, "x": steps * 7, "y": grid > 0}),
        "sparse": saved({"w": by_column, "x": few, "y": (few * 2).astype("i8")}),
        "sparse, both classes": saved({"w": by_both}),
        "planes": saved(
            {"w": 20_000 - 7 * np.arange(300), "x": random.normal(size=300).astype("f2")}
        ),
        "mixed": saved({"w": signed.astype("f4"), "x": odd}, fast_load=False),
        "mixed, one sign": saved({"w": -few.reshape(20, 15), "x": lines}, fast_load=False),
        "many symbols": saved({"w": long}),
        "wide": saved({"w": wide}),
    }


def files_of_chunks(chunk_elements: int) -> dict[str, bytes]:
    """Return the same files with smaller chunks, so that tensors have several."""
    with ExitStack() as stack:
        for module in (spq.dense, spq.planes, spq.sparse):
            stack.enter_context(patch.object(module, "CHUNK_ELEMENTS", chunk_elements))
        return {f"{name} in chunks of {chunk_elements}": data for name, data in files().items()}


def all_files() -> dict[str, bytes]:
    """Return all files of the corpus, each once."""
    found = files() | files_of_chunks(64) | files_of_chunks(1024)
    names = {data: name for name, data in reversed(found.items())}
    return {name: data for name, data in found.items() if names[data] == name}
