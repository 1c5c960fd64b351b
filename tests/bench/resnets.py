"""The residual networks of the accuracy benchmarks with their published weights, and CIFAR-10.

FOLDER holds ``resnet-cifar10`` with the weights and ``cifar10`` with the images. The calibration
inputs are the first 2,048 training images, without labels.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.bench.lenets import MODELS, calibration_path, model_path
from tests.resnets import resnet_20, resnet_56

DATA_SET = "cifar10"
BUILDERS = {"resnet_20": resnet_20, "resnet_56": resnet_56}
CALIBRATION_SAMPLES = 2048
_MEAN = np.array((0.485, 0.456, 0.406), np.float32)
_DEVIATION = np.array((0.229, 0.224, 0.225), np.float32)


def prepare(data: Path) -> None:
    """Write the networks as state dicts under plain names, and the calibration inputs."""
    MODELS.mkdir(exist_ok=True)
    images, _ = read_part(data, "train_5k")
    np.savez(calibration_path(DATA_SET), x=images[:CALIBRATION_SAMPLES].numpy())
    for name, build in BUILDERS.items():
        (path,) = (data / "resnet-cifar10").glob(f"{name.replace('_', '')}-*.th")
        stored = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
        network = build()
        plain = {key.removeprefix("module."): value for key, value in stored.items()}
        # The weights are older than the count of batches.
        network.load_state_dict({**network.state_dict(), **plain})
        torch.save(network.state_dict(), model_path(name, DATA_SET))


def read_part(data: Path, part: str) -> tuple[Tensor, Tensor]:
    """Read ``train_5k`` or ``test``: images as the networks want them, labels as int64."""
    with np.load(data / DATA_SET / f"cifar10_{part}.npz") as archive:  # noqa: TID251
        images: NDArray[np.float32] = (archive["x"].astype("f4") / 255 - _MEAN) / _DEVIATION
        labels = archive["y"].astype("i8").reshape(-1)
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels)
