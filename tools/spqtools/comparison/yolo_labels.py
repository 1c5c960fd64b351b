"""Reads labels of images in YOLO's form."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spqformat import Reason, SpqError
from spqtools.comparison.detections import Boxes

OPTION = "--labels"


@dataclass(frozen=True)
class Labels:
    """What is in one image.

    Parameters
    ----------
    boxes : array of float64, shape (n, 4)
        Left, top, right and bottom in pixels of the image.
    classes : sequence of int
        Class of each box.
    """

    boxes: Boxes
    classes: Sequence[int]


def read_labels(file: Path, size: tuple[int, int], class_count: int) -> Labels:
    """Read the labels of one image.

    Parameters
    ----------
    file : Path
        Text with a line for each box: its class and, as fractions of the image's width and height,
        the centre, the width and the height. A file that is not there stands for an image without
        objects.
    size : tuple of int and int
        Width and height of the image.
    class_count : int
        Number of classes.

    Returns
    -------
    Labels
        The boxes.

    Raises
    ------
    SpqError
        `bad_calibration` for lines that say something else.
    OSError
        The file cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8-sig", errors="replace")
        lines = text.splitlines()
    except FileNotFoundError:
        lines = []
    classes: list[int] = []
    boxes = []
    for number, line in enumerate(lines):
        words = line.split()
        if not words:
            continue
        try:
            values = np.array(words, dtype=np.float64)
        except ValueError:
            values = np.zeros(0)
        is_box = values.shape == (5,) and values[0] in range(class_count)
        if not (is_box and (np.abs(values[1:]) <= 2).all() and (values[3:] > 0).all()):
            raise SpqError(
                Reason.BAD_CALIBRATION,
                f"{OPTION}: line {number + 1} of {file} is not a class below {class_count} and "
                "centre, width and height as fractions of the image's size; correct it",
            )
        classes.append(int(values[0]))
        half = values[3:] / 2
        boxes.append(np.concatenate([values[1:3] - half, values[1:3] + half]))
    return Labels(np.reshape(boxes, (-1, 4)) * np.tile(size, 2), classes)
