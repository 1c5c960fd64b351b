"""The residual networks of the accuracy benchmarks with their published weights, and CIFAR-10.

FOLDER holds ``resnet-cifar10`` with the weights and ``cifar10`` with the images. The calibration
inputs are the first 2,048 training images, without labels.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from spqtools.reading.calibration import read_calibration
from tests.bench.lenets import MODELS, calibration_path, model_path
from tests.resnets import resnet_20, resnet_56

DATA_SET = "cifar10"
BUILDERS = {"resnet_20": resnet_20, "resnet_56": resnet_56}
CALIBRATION_SAMPLES = 2048
UNLABELLED = MODELS / f"{DATA_SET}-unlabelled.npz"
_VARIANTS = 16
_SHIFT = 4
_MEAN = np.array((0.485, 0.456, 0.406), np.float32)
_DEVIATION = np.array((0.229, 0.224, 0.225), np.float32)


def prepare(data: Path) -> None:
    """Write the networks as state dicts under plain names, and the calibration inputs."""
    MODELS.mkdir(exist_ok=True)
    images, _ = read_part(data, "train_5k")
    np.savez(calibration_path(DATA_SET), x=images[:CALIBRATION_SAMPLES].numpy())
    np.savez(UNLABELLED, x=images.numpy())
    for name, build in BUILDERS.items():
        (path,) = (data / "resnet-cifar10").glob(f"{name.replace('_', '')}-*.th")
        stored = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
        network = build()
        plain = {key.removeprefix("module."): value for key, value in stored.items()}
        # The weights are older than the count of batches.
        network.load_state_dict({**network.state_dict(), **plain})
        torch.save(network.state_dict(), model_path(name, DATA_SET))


def varied() -> Iterator[Tensor]:
    """Yield the 5,000 unlabelled images sixteen times, shifted and mirrored as in training."""
    (images,) = read_calibration(UNLABELLED).inputs
    random = np.random.Generator(np.random.PCG64(0))
    size = images.shape[-1]
    padded = functional.pad(images, (_SHIFT, _SHIFT, _SHIFT, _SHIFT))
    for _ in range(_VARIANTS):
        places = random.integers(0, 2 * _SHIFT + 1, (len(images), 2))
        mirrored = random.random(len(images)) < 0.5
        yield torch.stack(
            [
                image[:, top : top + size, left : left + size].flip([2] if flip else [])
                for image, (top, left), flip in zip(padded, places, mirrored, strict=True)
            ]
        )


def read_part(data: Path, part: str) -> tuple[Tensor, Tensor]:
    """Read ``train_5k`` or ``test``: images as the networks want them, labels as int64."""
    with np.load(data / DATA_SET / f"cifar10_{part}.npz") as archive:  # noqa: TID251
        images: NDArray[np.float32] = (archive["x"].astype("f4") / 255 - _MEAN) / _DEVIATION
        labels = archive["y"].astype("i8").reshape(-1)
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels)
