"""Calibration inputs come from arrays and images; nothing else gets through."""

import io
import pickle  # noqa: TID251 - to write what must be refused
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib import format as npy
from PIL import Image

from spqformat import Reason, SpqError
from spqtools.reading.calibration import read_calibration

X = np.arange(24, dtype="f4").reshape(6, 4)


def refused(path: Path) -> str:
    with pytest.raises(SpqError) as caught:
        read_calibration(path)
    assert caught.value.code == Reason.BAD_CALIBRATION
    return caught.value.message


# Arrays


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_with_labels(tmp_path: Path, save: Callable[..., None]) -> None:
    save(tmp_path / "c.npz", x=X, y=np.array([3, 1, 4, 1, 5, 9], dtype="u1"))
    calibration = read_calibration(tmp_path / "c.npz")
    (inputs,) = calibration.inputs
    assert inputs.dtype is torch.float32
    assert np.array_equal(inputs.numpy(), X)
    assert calibration.samples == 6
    assert calibration.labels is not None
    assert calibration.labels.dtype is torch.int64
    assert calibration.labels.tolist() == [3, 1, 4, 1, 5, 9]


def test_inputs_keep_the_order_of_the_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", zebra=X, y=np.zeros(6, dtype=int), ant=X[:, :1])
    calibration = read_calibration(tmp_path / "c.npz")
    assert [tuple(tensor.shape) for tensor in calibration.inputs] == [(6, 4), (6, 1)]
    assert calibration.labels is not None


def test_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.asfortranarray(X))
    calibration = read_calibration(tmp_path / "c.npy")
    assert np.array_equal(calibration.inputs[0].numpy(), X)
    assert calibration.inputs[0].is_contiguous()
    assert calibration.labels is None


def test_the_contents_decide_not_the_name(tmp_path: Path) -> None:
    with (tmp_path / "c.npy").open("wb") as stream:
        np.savez(stream, x=X)
    assert read_calibration(tmp_path / "c.npy").samples == 6


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("f8", torch.float32),
        ("f2", torch.float32),
        (">f4", torch.float32),
        ("u1", torch.uint8),
        ("i1", torch.int64),
        ("i4", torch.int64),
        (">i8", torch.int64),
        ("?", torch.int64),
    ],
)
def test_types(tmp_path: Path, dtype: str, expected: torch.dtype) -> None:
    array = (X % 2).astype(dtype)
    np.savez(tmp_path / "c.npz", x=array)
    (inputs,) = read_calibration(tmp_path / "c.npz").inputs
    assert inputs.dtype is expected
    assert np.array_equal(inputs.numpy(), X % 2)


def test_float64_is_rounded_to_float32(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", x=np.full((2, 1), 0.1))
    (inputs,) = read_calibration(tmp_path / "c.npz").inputs
    assert inputs[0, 0].item() == float(np.float32(0.1))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_are_not_finite_as_float32(tmp_path: Path, value: float) -> None:
    array = X.astype("f8")
    array[3, 2] = value
    np.savez(tmp_path / "c.npz", x=array)
    assert "not finite" in refused(tmp_path / "c.npz")


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        ({}, "holds no inputs"),
        ({"y": np.zeros(6, dtype=int)}, "holds no inputs"),
        ({"x": X[:0]}, "no samples"),
        ({"x": np.float32(1)}, "no samples"),
        ({"x": X, "z": X[:5]}, "array 'z' has 5 samples, others have 6"),
        ({"x": X.astype("c8")}, "type complex64"),
        ({"x": X.astype("U")}, "type <U"),
        ({"x": X.astype("S")}, "type |S"),
        ({"x": X.astype("M8[s]")}, "type datetime64[s]"),
        ({"x": X.view([("a", "f4")])}, "type [('a'"),
        ({"x": X, "y": np.zeros(5, dtype=int)}, "6 integers"),
        ({"x": X, "y": np.zeros((6, 1), dtype=int)}, "6 integers"),
        ({"x": X, "y": np.zeros(6)}, "6 integers"),
        ({"x": X, "y": np.zeros(6, dtype=bool)}, "6 integers"),
    ],
)
def test_arrays_that_are_refused(tmp_path: Path, arrays: dict[str, Any], part: str) -> None:
    np.savez(tmp_path / "c.npz", **arrays)
    assert part in refused(tmp_path / "c.npz")


# Objects and code


class Touch:
    """Unpickles by creating a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["c.npz", "c.npy"])
def test_arrays_of_objects(tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    array = np.empty(2, dtype=object)
    array[:] = Touch(canary)
    save = np.savez if name == "c.npz" else np.save
    save(tmp_path / name, array)
    assert "objects" in refused(tmp_path / name)
    assert not canary.exists()


def test_pickle_instead_of_arrays(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    evil = pickle.dumps(Touch(canary))
    (tmp_path / "c.npy").write_bytes(evil)
    assert "neither .npz nor .npy" in refused(tmp_path / "c.npy")
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("x.npy", evil)
    refused(tmp_path / "c.npz")
    assert not canary.exists()


def with_header(header: str, data: bytes = b"") -> bytes:
    raw = header.encode("latin1")
    return b"\x93NUMPY\x01\x00" + len(raw).to_bytes(2, "little") + raw + data


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}\n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 8)}\n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-4,)}\n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 'x')}\n",
        "{'descr': '<f4', 'shape': (2,)}\n",
        "{'descr': 'x', 'fortran_order': False, 'shape': (2,)}\n",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2,)}\n",
        "__import__('os').system('touch canary')\n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)\n",
        "[" * 9_000,
        "(" * 20_000,
        "\x00\n",
    ],
)
def test_hostile_headers(tmp_path: Path, header: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.npy").write_bytes(with_header(header, bytes(64)))
    refused(tmp_path / "c.npy")
    with zipfile.ZipFile(tmp_path / "c.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", with_header(header, bytes(64)))
    refused(tmp_path / "c.npz")
    assert not (tmp_path / "canary").exists()


# Damage


@pytest.mark.parametrize("name", ["c.npz", "packed.npz", "c.npy"])
def test_only_refusals_leave_on_damage(tmp_path: Path, name: str) -> None:
    stream = io.BytesIO()
    if name == "c.npy":
        np.save(stream, X)
    else:
        (np.savez if name == "c.npz" else np.savez_compressed)(stream, x=X, y=np.arange(6))
    whole, noise, refusals = stream.getvalue(), random.Random(4), 0
    path = tmp_path / name
    for place in range(len(whole)):
        flipped = whole[:place] + bytes([whole[place] ^ 1 << noise.randrange(8)])
        for content in (whole[:place], flipped + whole[place + 1 :]):
            path.write_bytes(content)
            try:
                read_calibration(path)
            except SpqError as error:
                refusals += error.code is Reason.BAD_CALIBRATION
    assert refusals > len(whole)


@pytest.mark.parametrize("content", [b"", b"text", b"PK", b"PK\3\4", npy.MAGIC_PREFIX])
def test_what_is_no_calibration(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.npz").write_bytes(content)
    refused(tmp_path / "c.npz")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_calibration(tmp_path / "c.npz")


# Images


def test_folder_of_images(tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (3, 5, 4, 3), dtype="u1")
    for name, image in zip(("b.png", "a.bmp", "c.PNG"), pixels, strict=True):
        Image.fromarray(image).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    calibration = read_calibration(tmp_path)
    expected = pixels[[1, 0, 2]].transpose(0, 3, 1, 2).astype("f4") / np.float32(255)
    assert calibration.labels is None
    assert calibration.inputs[0].dtype is torch.float32
    assert np.array_equal(calibration.inputs[0].numpy(), expected)


def test_grey_images_get_three_channels(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 255, dtype="u1")).save(tmp_path / "a.png")
    assert torch.equal(read_calibration(tmp_path).inputs[0], torch.ones(1, 3, 2, 2))


def test_images_of_different_sizes(tmp_path: Path) -> None:
    for name, size in (("a.png", 4), ("b.png", 5)):
        Image.fromarray(np.zeros((size, 4), dtype="u1")).save(tmp_path / name)
    assert "another size" in refused(tmp_path)


def test_folder_without_images(tmp_path: Path) -> None:
    assert "no images" in refused(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp"])
def test_damaged_images(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(3).integers(0, 256, (24, 24, 3), dtype="u1")
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    for content in (b"", b"text", whole[:10], whole[:60], whole[: len(whole) // 2]):
        path.write_bytes(content)
        refused(path.parent)
