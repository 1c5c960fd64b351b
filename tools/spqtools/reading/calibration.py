"""Reads calibration inputs: arrays without pickle, or a folder of images."""

import errno
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from spqformat import Reason, SpqError
from spqtools.reading.images import image_files, read_image
from spqtools.reading.preprocess import OPTION, Preprocess

LABELS = "y"
_MAX_HEADER_CHARACTERS = 10_000
# What zipfile and its decompressors raise on damage, as if the system had refused something.
_DAMAGE = (None, errno.EINVAL)


@dataclass(frozen=True)
class Calibration:
    """Inputs that the search may look at.

    Parameters
    ----------
    inputs : tuple of Tensor
        One per model input, the first dimension the samples; floating-point ones are finite.
    labels : Tensor of int64, shape (samples,), or None
        Right answers, when the file has them.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor | None

    @property
    def samples(self) -> int:
        """Number of samples."""
        return int(self.inputs[0].shape[0])


def read_calibration(path: Path, preprocess: Preprocess | None = None) -> Calibration:
    """Read calibration inputs.

    Parameters
    ----------
    path : Path
        ``.npz`` with one array per model input in the order of the inputs (a single one is
        usually called ``x``) and optional labels ``y``; ``.npy`` with one array; or a folder of
        images.
    preprocess : Preprocess, optional
        What is done to the images of a folder; without it they must be of equal size and become
        float32 of shape (samples, 3, height, width) in [0, 1].

    Returns
    -------
    Calibration
        The inputs.

    Raises
    ------
    SpqError
        `bad_calibration` for files that are not arrays, arrays of objects, no samples, unequal
        numbers of samples, or values that are not finite; `bad_argument` for arrays with a
        `preprocess`.
    OSError
        The file cannot be read.
    """
    if path.is_dir():
        return Calibration((_read_images(path, preprocess or Preprocess()),), None)
    if preprocess is not None:
        raise SpqError(
            Reason.BAD_ARGUMENT,
            f"{OPTION} is for folders of images, and {path} is a file; leave it out",
        )
    with path.open("rb") as stream:
        magic = stream.read(4)
        stream.seek(0)
        if magic.startswith(b"PK"):
            arrays = _read_npz(stream, path)
        elif magic.startswith(npy.MAGIC_PREFIX[:4]):
            arrays = {"x": _read_array(stream, path.name)}
        else:
            raise _refuse(f"{path} is neither .npz nor .npy; save it with numpy.savez")
    labels = arrays.pop(LABELS, None)
    if not arrays:
        raise _refuse(f"{path} holds no inputs; save them as numpy.savez(path, x=...)")
    inputs = tuple(_checked(name, array) for name, array in arrays.items())
    samples = inputs[0].shape[0]
    for name, tensor in zip(arrays, inputs, strict=True):
        if tensor.shape[0] != samples:
            raise _refuse(f"array {name!r} has {tensor.shape[0]} samples, others have {samples}")
    return Calibration(inputs, None if labels is None else _checked_labels(labels, samples))


def _read_npz(stream: IO[bytes], path: Path) -> dict[str, NDArray[np.generic]]:
    """Read the arrays of an .npz in their stored order."""
    try:
        with zipfile.ZipFile(stream) as archive:
            arrays = {}
            for entry in archive.infolist():
                with archive.open(entry) as member:
                    name = entry.filename.removesuffix(".npy")
                    arrays[name] = _read_array(member, name)
            return arrays
    except SpqError:
        raise
    except OSError as error:
        if error.errno not in _DAMAGE:
            raise
        raise _refuse(f"{path} is a damaged .npz; write it again") from error
    except Exception as error:  # zipfile raises whatever its parts raise on damaged input
        raise _refuse(f"{path} is a damaged .npz; write it again") from error


def _read_array(stream: IO[bytes], name: str) -> NDArray[np.generic]:
    """Read one array; objects, which only pickle could restore, are refused."""
    try:
        array: NDArray[np.generic] = npy.read_array(
            stream, allow_pickle=False, max_header_size=_MAX_HEADER_CHARACTERS
        )
    except OSError:
        raise
    except Exception as error:  # the reader raises whatever its parts raise on damaged input
        raise _refuse(f"array {name!r} cannot be read: it is damaged or holds objects") from error
    return array


def _checked(name: str, array: NDArray[np.generic]) -> Tensor:
    """Return an input as a tensor: float32 or integers, with samples, finite."""
    if array.ndim == 0 or array.shape[0] == 0:
        raise _refuse(f"array {name!r} has no samples; its first dimension counts them")
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            floats = np.ascontiguousarray(array, dtype=np.float32)
        if not np.isfinite(floats).all():
            raise _refuse(f"array {name!r} has values that are not finite as float32; clean it")
        return torch.from_numpy(floats)
    if array.dtype.kind in "iub":
        kept = np.uint8 if array.dtype == np.uint8 else np.int64
        return torch.from_numpy(np.ascontiguousarray(array, dtype=kept))
    raise _refuse(f"array {name!r} has type {array.dtype}; numbers are needed")


def _checked_labels(labels: NDArray[np.generic], samples: int) -> Tensor:
    """Return labels as class numbers."""
    if labels.shape != (samples,) or labels.dtype.kind not in "iu":
        raise _refuse(f"labels 'y' must be {samples} integers, one for each sample")
    return torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int64))


def _read_images(folder: Path, preprocess: Preprocess) -> Tensor:
    """Read a folder of images in the order of their names."""
    images: list[NDArray[np.float32]] = []
    for file in image_files(folder):
        pixels = preprocess.apply(read_image(file))
        if images and pixels.shape != images[0].shape:
            raise _refuse(f"{file} has another size than those before it; add {OPTION} size=...")
        images.append(pixels)
    return torch.from_numpy(np.stack(images))


def _refuse(message: str) -> SpqError:
    return SpqError(Reason.BAD_CALIBRATION, message)
