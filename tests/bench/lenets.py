"""The networks of the accuracy benchmarks, their data, and how they are trained.

    python -m tests.bench.lenets --data FOLDER

FOLDER holds ``mnist`` and ``fashion-mnist`` in the IDX format. The trained networks and their
calibration inputs, the first 4,096 training images, go to ``tests/bench/models``; networks that are
there already stay.
"""

import argparse
import gzip
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.lenets import lenet_5, lenet_300_100

MODELS = Path(__file__).parent / "models"
DATA_SETS = ("mnist", "fashion-mnist")
CALIBRATION_SAMPLES = 4096
SEED = 0
THREADS = 2
_BATCH_SAMPLES = 128
_PEAK_LEARNING_RATE = 3e-3


@dataclass(frozen=True)
class Recipe:
    """How a network is built and for how long it is trained."""

    build: Callable[[], nn.Module]
    epochs: int


RECIPES = {"lenet_300_100": Recipe(lenet_300_100, 12), "lenet_5": Recipe(lenet_5, 5)}


def read_part(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Read ``train`` or ``t10k``: images as float32 (n, 1, 28, 28) in [0, 1], labels as int64."""
    images = _read_idx(folder / f"{part}-images-idx3-ubyte.gz").reshape(-1, 1, 28, 28)
    labels = _read_idx(folder / f"{part}-labels-idx1-ubyte.gz")
    return torch.from_numpy(images.astype("f4") / 255), torch.from_numpy(labels.astype("i8"))


def model_path(network: str, data_set: str) -> Path:
    """Return where a trained network lies."""
    return MODELS / f"{network}-{data_set}.pt"


def calibration_path(data_set: str) -> Path:
    """Return where the calibration inputs of a data set lie."""
    return MODELS / f"{data_set}-calibration.npz"


def accuracy(answers: NDArray[np.generic], labels: Tensor) -> float:
    """Return the per cent of right answers."""
    return 100 * float(np.mean(answers.argmax(axis=1) == labels.numpy()))


def prepare(data: Path) -> None:
    """Train what is not trained yet and write the calibration inputs."""
    torch.set_num_threads(THREADS)
    MODELS.mkdir(exist_ok=True)
    for data_set in DATA_SETS:
        images, labels = read_part(data / data_set, "train")
        calibration = images[:CALIBRATION_SAMPLES].numpy()
        np.savez(calibration_path(data_set), x=calibration)
        for name, recipe in RECIPES.items():
            path = model_path(name, data_set)
            if path.exists():
                continue
            started = time.monotonic()
            network = _train(recipe, images, labels)
            torch.save(network.state_dict(), path)
            test_images, test_labels = read_part(data / data_set, "t10k")
            with torch.inference_mode():
                reached = accuracy(network(test_images).numpy(), test_labels)
            print(f"{path.name}: {reached:.2f} % after {time.monotonic() - started:.0f} s")


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """Read the elements of an IDX file of bytes."""
    content = gzip.decompress(path.read_bytes())
    rank = content[3]
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank)


def _train(recipe: Recipe, images: Tensor, labels: Tensor) -> nn.Module:
    """Train with weight decay and a one-cycle learning rate."""
    torch.manual_seed(SEED)
    network = recipe.build()
    steps = len(images) // _BATCH_SAMPLES
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, _PEAK_LEARNING_RATE, total_steps=recipe.epochs * steps
    )
    for _ in range(recipe.epochs):
        order = torch.randperm(len(images))
        for batch in torch.split(order[: steps * _BATCH_SAMPLES], _BATCH_SAMPLES):
            loss = nn.functional.cross_entropy(
                network(images[batch]), labels[batch], label_smoothing=0.05
            )
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
    return network.eval()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    prepare(parser.parse_args().data)
