"""Counts how often one classifier answers as another does, and scores both on labels."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from spqformat import Reason, SpqError
from spqtools.comparison.network import Network
from spqtools.evolve.divergence import KL_DIVERGENCE, Divergence
from spqtools.progress import Progress, Tick
from spqtools.reading.calibration import Calibration, read_calibration
from spqtools.reading.preprocess import Preprocess

_BATCH_SAMPLES = 64
_FEW = 5

Scores = NDArray[np.float32]
"""Of shape (samples, classes)."""


@dataclass(frozen=True)
class TopShares:
    """Shares of samples, 0 to 1.

    Parameters
    ----------
    top1 : float
        The class wanted has the highest score.
    top5 : float
        It is among the five highest.
    """

    top1: float
    top5: float


@dataclass(frozen=True)
class ClassifierFigures:
    """What a comparison of classifiers has found.

    Parameters
    ----------
    samples : int
        Number of samples.
    agreement : TopShares
        How often the student has the class that the teacher answers with.
    divergence : float
        Mean KL divergence of the student's distributions from the teacher's, in nats.
    teacher_accuracy, student_accuracy : TopShares or None
        How often each has the right answer; None without labels.
    """

    samples: int
    agreement: TopShares
    divergence: float
    teacher_accuracy: TopShares | None
    student_accuracy: TopShares | None


def compare_classifiers(
    teacher: Network,
    student: Network,
    data: Path,
    preprocess: Preprocess | None,
    progress: Progress,
) -> ClassifierFigures:
    """Run two classifiers on samples.

    Parameters
    ----------
    teacher, student : Network
        The classifiers; their first output has a score for each class.
    data : Path
        What `read_calibration` reads.
    preprocess : Preprocess, optional
        What is done to images.
    progress : Progress
        Hears of the samples.

    Returns
    -------
    ClassifierFigures
        The shares and the divergence.

    Raises
    ------
    SpqError
        `bad_argument` for networks that are no classifiers of the same classes or do not take the
        samples; all that `read_calibration` refuses.
    OSError
        A file cannot be read.
    """
    samples = read_calibration(data, preprocess)
    networks = teacher, student
    with progress.stage("compare", 2 * samples.samples) as tick:
        expected, answers = (_scores(one, samples, tick) for one in networks)
    if expected.shape != answers.shape:
        raise student.refuse(
            f"knows {answers.shape[1]} classes, the teacher {expected.shape[1]}; "
            "compare networks for the same classes"
        )
    divergence = Divergence([[torch.from_numpy(expected)]])
    assert divergence.description == KL_DIVERGENCE
    accuracies: list[TopShares] | list[None] = [None, None]
    if samples.labels is not None:
        labels = samples.labels.numpy()
        if labels.min() < 0 or labels.max() >= expected.shape[1]:
            raise SpqError(
                Reason.BAD_CALIBRATION,
                f"labels 'y' of {data} are not all within the {expected.shape[1]} classes",
            )
        accuracies = [_shares(scores, labels) for scores in (expected, answers)]
    return ClassifierFigures(
        samples.samples,
        _shares(answers, _ranked(expected)[:, 0]),
        divergence([[torch.from_numpy(answers)]], [0]),
        *accuracies,
    )


def _scores(network: Network, samples: Calibration, tick: Tick) -> Scores:
    """Return the scores of all classes."""
    return np.concatenate(list(_batches(network, samples, tick)))


def _batches(network: Network, samples: Calibration, tick: Tick) -> Iterator[Scores]:
    """Yield the scores of some samples at a time."""
    if len(network.inputs) != len(samples.inputs):
        raise network.refuse(
            f"takes {len(network.inputs)} inputs, the data have {len(samples.inputs)}"
        )
    for start in range(0, samples.samples, _BATCH_SAMPLES):
        part = slice(start, start + _BATCH_SAMPLES)
        inputs = [tensor[part].numpy() for tensor in samples.inputs]
        output, count = network.run_all(inputs)[0], len(inputs[0])
        # Some networks leave the dimensions that they have averaged over.
        is_scores = output.ndim >= 2 and output.shape[:1] == (count,) and output.dtype.kind == "f"
        if not is_scores or output.shape[1] < 2 or output.size != count * output.shape[1]:
            raise network.refuse(
                f"answers with {'x'.join(map(str, output.shape)) or 'a scalar'}; "
                "a classifier answers with a score for each sample and class"
            )
        scores = output.reshape(count, -1).astype(np.float32)
        if not np.isfinite(scores).all():
            raise network.refuse("answers with scores that are not finite; pack it anew")
        yield scores
        tick(count)


def _ranked(scores: Scores) -> NDArray[np.int64]:
    """Return the classes, best first; equally good ones in their order."""
    return np.argsort(-scores, axis=1, kind="stable")


def _shares(scores: Scores, wanted: NDArray[np.int64]) -> TopShares:
    """Return how often the classes wanted are the best, or among the best."""
    hits = _ranked(scores)[:, :_FEW] == wanted[:, None]
    return TopShares(float(hits[:, 0].mean()), float(hits.any(axis=1).mean()))
