"""Counts which objects of one detector another one still finds, and scores both on labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spqformat import Reason, SpqError
from spqtools.comparison.average_precision import AveragePrecision, average_precision, check_scoring
from spqtools.comparison.detections import Detections, UnknownLayoutError, read_detections
from spqtools.comparison.matching import found_by, matches
from spqtools.comparison.network import Network
from spqtools.comparison.pictures import (
    EXTRA,
    FOUND,
    LOST,
    PAPER,
    UNCOUNTED,
    Half,
    Mark,
    check_picture_folder,
    write_picture,
)
from spqtools.comparison.yolo_labels import (
    NAMES_OPTION,
    Labels,
    count_labelled,
    label_file,
    read_labels,
    read_names,
)
from spqtools.progress import Progress
from spqtools.reading.images import image_files, read_image
from spqtools.reading.preprocess import Preprocess

# As sure as this is sure enough to count as seen.
SURE_ENOUGH = 0.5
_NAME_CHARACTERS = 30


@dataclass(frozen=True)
class DetectorFigures:
    """What a comparison of detectors has found.

    Parameters
    ----------
    images : int
        Number of images.
    confidence : float
        So sure the teacher is of its objects, at least.
    least_confidence : float
        So sure the other network has to be of an object to have seen it: 0.5, or less where
        `confidence` is less.
    objects : int
        Objects that the teacher finds.
    found : int
        Of these, objects that the student sees.
    found_as_sure : int
        Of these, objects that the student is as sure of as `confidence`.
    false_alarms : int
        Objects that the student finds at `confidence` and the teacher does not see.
    labelled : int or None
        Images with a file of labels, the others count as empty; None without labels.
    teacher_precision, student_precision : AveragePrecision or None
        Scores on labels; None without.
    """

    images: int
    confidence: float
    least_confidence: float
    objects: int
    found: int
    found_as_sure: int
    false_alarms: int
    labelled: int | None
    teacher_precision: AveragePrecision | None
    student_precision: AveragePrecision | None


class _Detector:
    """A network that finds objects.

    Parameters
    ----------
    network : Network
        It has one input of floats in four dimensions, the image, and perhaps one in two dimensions
        that takes the height and width that the image had.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        inputs = {len(value.shape): value for value in network.inputs}
        is_known = len(inputs) == len(network.inputs) and 4 in inputs and inputs.keys() <= {2, 4}
        if 2 in inputs and inputs[2].shape[1] != 2:
            is_known = False
        if not is_known or any(value.type != "tensor(float)" for value in network.inputs):
            listed = ", ".join(f"{value.type} {value.shape}" for value in network.inputs[:4])
            raise network.refuse(
                f"takes {listed}; a detector takes one image, float32 in four dimensions, and "
                "perhaps Nx2 with its height and width"
            )
        self._image = inputs[4].name
        self._size = inputs[2].name if 2 in inputs else None

    def detect(
        self, pixels: NDArray[np.float32], size: tuple[int, int], preprocess: Preprocess
    ) -> Detections:
        """Find the objects of an image that had a size."""
        feeds: dict[str, NDArray[Any]] = {self._image: pixels[None]}
        placement = None
        if self._size is None:
            placement = preprocess.placement(*size)
        else:
            feeds[self._size] = np.array([[size[1], size[0]]], dtype=np.float32)
        try:
            return read_detections(self._network.run(feeds), placement, size)
        except UnknownLayoutError as error:
            raise self._network.refuse(str(error)) from error


def compare_detectors(
    teacher: Network,
    student: Network,
    data: Path,
    preprocess: Preprocess,
    labels: Path | None,
    confidence: float,
    pictures: Path | None,
    names: Path | None,
    progress: Progress,
) -> DetectorFigures:
    """Run two detectors on images.

    Parameters
    ----------
    teacher, student : Network
        The detectors.
    data : Path
        Folder of images.
    preprocess : Preprocess
        What is done to them.
    labels : Path, optional
        Folder with a text in YOLO's form for each image.
    confidence : float
        See `DetectorFigures`.
    pictures : Path, optional
        New folder for a picture of each image with what both find.
    names : Path, optional
        What `read_names` reads; by default the teacher's own names.
    progress : Progress
        Hears of the images.

    Returns
    -------
    DetectorFigures
        The counts and scores.

    Raises
    ------
    SpqError
        `bad_argument` for networks that are no detectors of a known kind or know different numbers
        of classes, for images of the same name, for folders that are none, and for names that are
        too few; `bad_calibration` for damaged images and for labels that are damaged or missing.
    OSError
        A file cannot be read or written.
    """
    files = _files(data, labels)
    labelled = None
    if labels is not None:
        check_scoring()
        labelled = count_labelled(labels, files)
    if pictures is not None:
        check_picture_folder(pictures)
    class_names = teacher.class_names if names is None else read_names(names)
    detectors = _Detector(teacher), _Detector(student)
    counts = np.zeros(4, dtype=np.int64)
    truth: list[Labels] = []
    answers: list[tuple[Detections, Detections]] = []
    with progress.stage("compare", len(files)) as tick:
        for file in files:
            image = read_image(file)
            pixels = preprocess.apply(image)
            expected, answer = (
                detector.detect(pixels, image.size, preprocess) for detector in detectors
            )
            if expected.class_count != answer.class_count:
                raise student.refuse(
                    f"knows {answer.class_count} classes, the teacher {expected.class_count}; "
                    "compare networks for the same classes"
                )
            if names is not None and len(class_names) < expected.class_count:
                raise SpqError(
                    Reason.BAD_ARGUMENT,
                    f"{NAMES_OPTION}: {names} has {len(class_names)} names, the networks know "
                    f"{expected.class_count} classes; write one in each line",
                )
            pair = _Pair(expected, answer, confidence)
            counts += pair.counts
            if labels is not None:
                text = label_file(labels, file)
                truth.append(read_labels(text, image.size, expected.class_count))
                answers.append((expected, answer))
            if pictures is not None:
                write_picture(pictures / f"{file.stem}.jpg", image, *pair.halves(class_names))
            tick()
    scores = [average_precision(truth, own) for own in zip(*answers, strict=True)]
    objects, found, found_as_sure, false_alarms = counts.tolist()
    return DetectorFigures(
        images=len(files),
        confidence=confidence,
        least_confidence=_enough(confidence),
        objects=objects,
        found=found,
        found_as_sure=found_as_sure,
        false_alarms=false_alarms,
        labelled=labelled,
        teacher_precision=scores[0] if scores else None,
        student_precision=scores[1] if scores else None,
    )


class _Pair:
    """What both find in one image."""

    def __init__(self, teacher: Detections, student: Detections, confidence: float) -> None:
        self._objects = teacher.at_least(confidence)
        self._seen = student.at_least(_enough(confidence))
        self._matches = matches(self._objects, self._seen)
        self._found = self._matches >= 0
        sure = student.at_least(confidence)
        self._found_as_sure = found_by(self._objects, sure)
        self._alarms = ~found_by(sure, teacher.at_least(_enough(confidence)))

    @property
    def counts(self) -> NDArray[np.int64]:
        """Return objects, found, found as sure, false alarms."""
        return np.array(
            [
                len(self._objects),
                self._found.sum(),
                self._found_as_sure.sum(),
                self._alarms.sum(),
            ],
            dtype=np.int64,
        )

    def halves(self, names: dict[int, str]) -> tuple[Half, Half]:
        """Return what is drawn for the teacher and for the student."""
        lost = _marks(self._objects, names, LOST, ~self._found)
        # The surest of what the student sees may be false alarms.
        alarms = np.zeros(len(self._seen), dtype=np.bool_)
        alarms[: len(self._alarms)] = self._alarms
        matched = np.isin(np.arange(len(self._seen)), self._matches)
        uncounted = ~(matched | alarms)
        left = [*_marks(self._objects, names, FOUND, self._found), *lost]
        right = [
            *_marks(self._seen, names, UNCOUNTED, uncounted),
            *_marks(self._seen, names, FOUND, matched & ~alarms),
            *_marks(self._seen, names, EXTRA, alarms),
            *lost,
        ]
        objects, found, _, extra = self.counts
        return (
            Half([(f"teacher: {objects} found", PAPER)], left),
            Half(
                [
                    ("student:", PAPER),
                    (f"{found} found", FOUND),
                    (f"{objects - found} lost", LOST),
                    (f"{extra} false", EXTRA),
                    (f"{uncounted.sum()} not counted", UNCOUNTED),
                ],
                right,
            ),
        )


def _marks(
    detections: Detections, names: dict[int, str], colour: str, chosen: NDArray[np.bool_]
) -> list[Mark]:
    """Return the boxes to draw of those chosen."""
    return [
        Mark(
            detections.boxes[number].tolist(),
            f"{names.get(kind, str(kind))[:_NAME_CHARACTERS]} {detections.confidences[number]:.2f}",
            colour,
        )
        for number, kind in enumerate(detections.classes.tolist())
        if chosen[number]
    ]


def _enough(confidence: float) -> float:
    """Return how sure a network has to be to have seen an object."""
    return min(confidence, SURE_ENOUGH)


def _files(data: Path, labels: Path | None) -> Sequence[Path]:
    """List the images, whose names without ending tell them apart."""
    for folder in (data, labels):
        if folder is not None and not folder.is_dir():
            raise SpqError(Reason.BAD_ARGUMENT, f"{folder} is not a folder; detectors need folders")
    files = image_files(data)
    known: dict[str, Path] = {}
    for file in files:
        if (other := known.setdefault(file.stem, file)) is not file:
            raise SpqError(
                Reason.BAD_ARGUMENT,
                f"{other} and {file.name} have the same labels and pictures; rename one",
            )
    return files
