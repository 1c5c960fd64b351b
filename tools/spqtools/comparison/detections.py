"""Reads what detectors answer: boxes in pixels of the image, each object once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spqtools.reading.preprocess import Placement

LEAST_CONFIDENCE = 0.005
MOST_OVERLAP = 0.45
MOST_DETECTIONS = 100
# Probabilities may be off by the rounding of float16.
_ROUNDING = 1e-3

Boxes = NDArray[np.float64]
"""Of shape (n, 4): left, top, right and bottom in pixels of the image."""


class UnknownLayoutError(ValueError):
    """Says why outputs cannot be read as detections."""


@dataclass(frozen=True)
class Detections:
    """Objects found in one image, surest first.

    Parameters
    ----------
    boxes : array of float64, shape (n, 4)
        Left, top, right and bottom in pixels of the image.
    classes : array of int64, shape (n,)
        Their classes.
    confidences : array of float64, shape (n,)
        How sure the network is of each, at most 1.
    class_count : int
        Number of classes that the network knows.
    """

    boxes: Boxes
    classes: NDArray[np.int64]
    confidences: NDArray[np.float64]
    class_count: int

    def __len__(self) -> int:
        return len(self.boxes)

    def at_least(self, confidence: float) -> "Detections":
        """Return those that are so sure."""
        count = int((self.confidences >= confidence).sum())
        return Detections(
            self.boxes[:count], self.classes[:count], self.confidences[:count], self.class_count
        )


def read_detections(
    outputs: Sequence[NDArray[Any]], placement: Placement | None, size: tuple[int, int]
) -> Detections:
    """Read the outputs for one image.

    Boxes of one class that overlap are reduced to the surest of them. Classes compete for no box.

    Parameters
    ----------
    outputs : sequence of array
        Outputs of one of these layouts, told by their shapes:

        - boxes (1, n, 4) with top, left, bottom and right in pixels of the image, then scores
          (1, classes, n), and whatever comes after them, without a placement: YOLOv3 of the ONNX
          model zoo;
        - (1, 4 + classes, n) with more columns than rows: centre, width and height in pixels of the
          input, class probabilities: YOLOv8 and later;
        - (1, n, 5 + classes) with more rows than columns: the same with a probability that there is
          an object before those of the classes: YOLOv5 and YOLOv7. After these two only outputs of
          five dimensions may come, which are raw.
    placement : Placement or None
        Where in the input the image lies; None for a network that is told the image's size.
    size : tuple of int and int
        Width and height of the image.

    Returns
    -------
    Detections
        At most 100, of a confidence of at least 0.005, cut to the image.

    Raises
    ------
    UnknownLayoutError
        The outputs have none of these layouts, or probabilities above 1 or below 0.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # students may answer anything
        boxes, scores = _decode(outputs, placement)
        boxes = np.clip(boxes, 0.0, np.tile(size, 2))
    if scores.size and not -_ROUNDING <= scores.min() <= scores.max() <= 1.0 + _ROUNDING:
        raise UnknownLayoutError("has outputs whose confidences are not within 0 and 1")
    is_inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    rows, classes = np.nonzero((scores >= LEAST_CONFIDENCE) & is_inside[:, None])
    confidences = np.minimum(scores[rows, classes], 1.0)
    kept = suppress(boxes[rows], classes, confidences)
    return Detections(boxes[rows[kept]], classes[kept], confidences[kept], scores.shape[1])


def suppress(
    boxes: Boxes, classes: NDArray[np.int64], confidences: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Choose boxes that overlap no surer one of their class by more than 0.45.

    Parameters
    ----------
    boxes, classes, confidences : arrays of n boxes, n classes, n confidences
        The candidates.

    Returns
    -------
    array of int64
        Numbers of the boxes to keep, surest first, at most 100; equally sure ones in their order.
    """
    left = np.argsort(-confidences, kind="stable")
    kept: list[np.int64] = []
    while left.size and len(kept) < MOST_DETECTIONS:
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[
            (classes[left] != classes[best])
            | (overlaps(boxes[best : best + 1], boxes[left])[0] <= MOST_OVERLAP)
        ]
    return np.array(kept, dtype=np.int64)


def overlaps(boxes: Boxes, others: Boxes) -> NDArray[np.float64]:
    """Compute the intersection over union of all pairs.

    Parameters
    ----------
    boxes, others : arrays of n and m boxes
        Boxes that are not empty.

    Returns
    -------
    array of float64, shape (n, m)
        0 for boxes apart to 1 for equal ones.
    """
    first, second = boxes[:, None], others[None]
    corners = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(
        first[..., :2], second[..., :2]
    )
    shared = np.maximum(corners, 0.0).prod(-1)
    both = _areas(boxes)[:, None] + _areas(others)[None] - shared
    quotient: NDArray[np.float64] = shared / both
    return quotient


def _areas(boxes: Boxes) -> NDArray[np.float64]:
    areas: NDArray[np.float64] = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    return areas


def _decode(
    outputs: Sequence[NDArray[Any]], placement: Placement | None
) -> tuple[Boxes, NDArray[np.float64]]:
    """Return boxes (n, 4) in pixels of the image and scores (n, classes)."""
    shapes = [output.shape for output in outputs]
    if placement is None:
        expected = "1xNx4 and 1xCLASSESxN from networks that take the image's size"
        if len(shapes) >= 2 and len(shapes[0]) == len(shapes[1]) == 3:
            (batch, count, sides), (_, classes, _) = shapes[:2]
            if (batch, sides) == (1, 4) and classes and shapes[1] == (1, classes, count):
                boxes, scores = (output[0].astype(np.float64) for output in outputs[:2])
                return boxes[:, [1, 0, 3, 2]], scores.T
    else:
        expected = "1x(4+CLASSES)xN and 1xNx(5+CLASSES) from networks that take an image alone"
        first = shapes[0]
        if len(first) == 3 and first[0] == 1 and all(len(shape) == 5 for shape in shapes[1:]):
            values = outputs[0][0].astype(np.float64)
            if 4 < first[1] < first[2]:
                return placement.to_image(_corners(values[:4].T)), values[4:].T
            if 5 < first[2] < first[1] and not _are_decided(values):
                scores = values[:, 4:5] * values[:, 5:]
                return placement.to_image(_corners(values[:, :4])), scores
    listed = ", ".join("x".join(map(str, shape)) or "scalar" for shape in shapes[:4])
    raise UnknownLayoutError(f"has outputs {listed}; read are {expected}")


def _are_decided(values: NDArray[np.float64]) -> bool:
    """Tell whether rows are boxes with a score and the number of a class, as after NMS."""
    return values.shape[1] == 6 and bool((values[:, 5] == values[:, 5].round()).all())


def _corners(boxes: Boxes) -> Boxes:
    """Turn centres, widths and heights into corners."""
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
