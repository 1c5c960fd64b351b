"""Shows the whole way on real data: train, pack, load in PyTorch and ONNX Runtime, compare."""

import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import nn

import spq
from spqtools.pack import PackRequest, run_pack
from spqtools.progress import Progress, seconds_text
from spqtools.report import Report, escape, table
from spqtools.search.goal import Options

SEED = 20
TEST_SAMPLES = 597
EPOCHS = 15
BATCH_SAMPLES = 64


@dataclass(frozen=True)
class Digits:
    """Handwritten digits of 8x8 pixels in a training and a test part.

    Parameters
    ----------
    train_images, test_images : ndarray of float32, shape (n, 1, 8, 8)
        Pixels from 0 to 1.
    train_labels, test_labels : ndarray of int64, shape (n,)
        The digits.
    """

    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int64]


def build_network() -> nn.Module:
    """Build the untrained network of the demonstration, 151,306 parameters.

    Returns
    -------
    nn.Module
        Two convolutions and two dense layers for images of shape (n, 1, 8, 8).
    """
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 32, 3, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(32, 64, 3, padding=1),
            relu2=nn.ReLU(),
            pool=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            dense1=nn.Linear(64 * 4 * 4, 128),
            relu3=nn.ReLU(),
            dense2=nn.Linear(128, 10),
        )
    )


def run_demo(folder: Path, progress: Progress) -> str:
    """Train, pack and load a small network, and compare the three.

    Parameters
    ----------
    folder : Path
        Where to leave the files; created when missing.
    progress : Progress
        Hears of the stages.

    Returns
    -------
    str
        What came of it, for people.

    Raises
    ------
    SpqError
        Every reason of packing and loading.
    OSError
        The folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model, calibration, packed = (
        folder / name for name in ("digits.pt", "digits-calibration.npz", "digits.spq")
    )
    digits = read_digits()
    network = _train(digits, progress)
    with model.open("wb") as stream:
        torch.save(network.state_dict(), stream)
    with calibration.open("wb") as stream:
        np.savez(stream, x=digits.train_images, y=digits.train_labels)
    report = run_pack(
        PackRequest(
            model=model,
            output=packed,
            arch=f"{__name__}:{build_network.__name__}",
            calibration=calibration,
            options=Options(max_drop=0.5, effort="fast"),
        ),
        progress,
    )
    return _summary(network, digits, model, packed, report)


def read_digits() -> Digits:
    """Read scikit-learn's digits, 1,797 real images, and set a test part aside.

    Returns
    -------
    Digits
        The same split each time.
    """
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(images))
    images = (images[order] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    labels = labels[order].astype(np.int64)
    return Digits(
        images[TEST_SAMPLES:], labels[TEST_SAMPLES:], images[:TEST_SAMPLES], labels[:TEST_SAMPLES]
    )


def _train(digits: Digits, progress: Progress) -> nn.Module:
    """Train the network for some seconds, seeded."""
    torch.manual_seed(SEED)
    network = build_network()
    images, labels = torch.from_numpy(digits.train_images), torch.from_numpy(digits.train_labels)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    with progress.stage("train", EPOCHS) as tick:
        for _ in range(EPOCHS):
            for batch in torch.split(torch.randperm(len(images)), BATCH_SAMPLES):
                optimiser.zero_grad()
                loss = nn.functional.cross_entropy(network(images[batch]), labels[batch])
                torch.autograd.backward(loss)
                optimiser.step()
            tick()
    return network.eval()


def _summary(network: nn.Module, digits: Digits, model: Path, packed: Path, report: Report) -> str:
    """Load the packed file in both runtimes and compare them with the original."""
    images = torch.from_numpy(digits.test_images)
    spq.warmup()
    started = time.perf_counter()
    loaded = spq.load(packed)
    torch_seconds = time.perf_counter() - started
    started = time.perf_counter()
    session = spq.session(packed)
    onnx_seconds = time.perf_counter() - started
    with torch.inference_mode():
        answers = {
            "original, PyTorch": network(images).numpy(),
            "packed, PyTorch": loaded(images).numpy(),
        }
    answers["packed, ONNX Runtime"] = session.run(
        None, {session.get_inputs()[0].name: digits.test_images}
    )[0]
    sizes = [report.bytes_before, report.bytes_after, report.bytes_after]
    loads = ["", f"{1000 * torch_seconds:.1f} ms", f"{1000 * onnx_seconds:.1f} ms"]
    rows = [
        [
            name,
            f"{size:,}",
            f"{report.bytes_before / size:.1f}x",
            f"{np.mean(values.argmax(axis=1) == digits.test_labels):.2%}",
            load,
        ]
        for (name, values), size, load in zip(answers.items(), sizes, loads, strict=True)
    ]
    return "\n\n".join(
        [
            f"{report.weights:,} parameters, trained on {len(digits.train_labels):,} handwritten "
            f"digits; accuracy on {len(digits.test_labels):,} that neither the training nor the "
            "packing has seen",
            table(rows, ["network", "bytes", "smaller", "accuracy", "load"]),
            f"sparsity {report.sparsity:.1%}, {report.bits_per_weight:.2f} bits per weight, "
            f"packed in {seconds_text(report.seconds)}",
            f"Now try:\n  spq inspect {escape(str(packed))}\n"
            f"  spq verify {escape(str(packed))}\n"
            f"  spq export {escape(str(packed))} -o {escape(str(packed.with_suffix('.onnx')))}\n"
            f"  spq pack {escape(str(model))} --arch spqtools.demo:build_network "
            f"--target-ratio 20 -o small.spq",
        ]
    )
