"""Conversions between floating-point types round as PyTorch does."""

from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import spq
from spq.floats import FLOATS, as_is, conversion
from spqformat import Reason, SpqError
from spqformat.ids import DType

TORCH = {
    DType.F64: torch.float64,
    DType.F32: torch.float32,
    DType.F16: torch.float16,
    DType.BF16: torch.bfloat16,
}


def patterns_of(dtype: DType) -> NDArray[np.generic]:
    """All patterns of a short type; of a long one, hard cases and many random ones."""
    width = dtype.item_bytes
    if width == 2:
        return np.arange(1 << 16, dtype=np.uint16)
    random = np.random.default_rng(4)
    anything = random.integers(0, 1 << 63, 20_000, dtype=np.uint64) * 2 + 1
    short = np.arange(1 << 16, dtype=np.uint16)
    # Every value of the short types, and the neighbours of where rounding turns.
    halves = short.view(np.float16).astype(dtype.numpy).view(f"u{width}")
    uppers = (short.astype(np.uint32) << np.uint32(16)).view("f4")
    uppers = uppers[~np.isnan(uppers)].astype(dtype.numpy).view(f"u{width}")
    upper_ties = ((short.astype(np.uint32) << np.uint32(16)) | np.uint32(0x8000)).view("f4")
    upper_ties = upper_ties[~np.isnan(upper_ties)].astype(dtype.numpy).view(f"u{width}")
    exact = np.concatenate([halves, uppers, upper_ties])
    near = np.concatenate([exact, exact + exact.dtype.type(1), exact - exact.dtype.type(1)])
    return np.concatenate([near, anything.astype(f"u{width}")])


def as_tensor(patterns: NDArray[np.generic], dtype: DType) -> torch.Tensor:
    signed = patterns.view(f"i{dtype.item_bytes}")
    return torch.from_numpy(signed.copy()).view(TORCH[dtype])


@pytest.mark.parametrize(("source", "target"), list(product(FLOATS, FLOATS)))
def test_rounds_as_pytorch_does(source: DType, target: DType) -> None:
    patterns = patterns_of(source)
    found = conversion(source, target)(patterns)
    assert found.dtype == np.dtype(f"u{target.item_bytes}")
    expected = as_tensor(patterns, source).to(TORCH[target])
    got = as_tensor(found, target)
    assert torch.equal(got.isnan(), expected.isnan())
    numbers = ~expected.isnan()
    # Patterns, so that the sign of a zero counts.
    width = {2: torch.int16, 4: torch.int32, 8: torch.int64}[target.item_bytes]
    assert torch.equal(got[numbers].view(width), expected[numbers].view(width))


def test_the_same_type_is_left_alone() -> None:
    assert conversion(DType.I8, DType.I8) is as_is


def levels(shape: tuple[int, ...], count: int, zeros: float) -> NDArray[np.float32]:
    random = np.random.default_rng(2)
    values = random.normal(size=count).astype("f4")[random.integers(0, count, shape)]
    return np.where(random.random(shape) < zeros, 0, values).astype("f4")


ARRAYS = {
    "raw": np.random.default_rng(1).normal(size=7).astype("f4"),
    "dense": levels((90, 100), 7, 0.0),
    "pairs": levels((301, 3), 3, 0.0),
    "sparse": levels((120, 200), 5, 0.9),
    "planes": np.random.default_rng(3).normal(size=(400, 200)).astype("f4"),
    "constant": np.full((3, 50), 0.1, "f4"),
}


@pytest.mark.parametrize("target", ["f64", "f16", "bf16"])
def test_decoding_is_converting(tmp_path: object, target: str) -> None:
    stored = {**ARRAYS, "integers": np.arange(40), "halves": ARRAYS["dense"].astype("f2")}
    path = f"{tmp_path}/x.spq"
    spq.save(stored, path)
    with spq.open(path) as archive:
        encodings = {archive.info(name).encoding for name in ARRAYS}
        assert encodings == {"raw", "dense", "sparse", "planes", "constant"}
        names = [*ARRAYS, "halves"]
        found = archive.tensors(dtypes=dict.fromkeys(names, target))
        whole = archive.tensors()
        for name in names:
            kind = DType[archive.info(name).dtype.upper()]
            goal = DType[target.upper()]
            expected = conversion(kind, goal)(whole[name].view(f"u{kind.item_bytes}"))
            assert found[name].dtype == goal.numpy
            assert found[name].tobytes() == expected.tobytes()
        assert found["integers"].tobytes() == stored["integers"].tobytes()


def test_only_floats_are_converted(tmp_path: object) -> None:
    path = f"{tmp_path}/x.spq"
    spq.save({"i": np.arange(40), "f": np.ones(3, "f4")}, path)
    with spq.open(path) as archive:
        for dtypes in ({"i": "f32"}, {"f": "i64"}, {"f": "f8"}):
            with pytest.raises(SpqError, match="turn into each other") as caught:
                archive.tensors(dtypes=dtypes)
            assert caught.value.code is Reason.BAD_ARGUMENT
        with pytest.raises(SpqError) as caught:
            archive.tensors(dtypes={"nothing": "f32"})
        assert caught.value.code is Reason.KEY_NOT_FOUND
        assert list(archive.tensors(names=["f"])) == ["f"]
