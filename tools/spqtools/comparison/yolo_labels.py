"""Reads labels of images in YOLO's form, and names of classes in Darknet's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spqformat import Reason, SpqError
from spqtools.comparison.detections import Boxes

OPTION = "--labels"
NAMES_OPTION = "--names"


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


def label_file(folder: Path, image: Path) -> Path:
    """Return where the labels of an image are, if it has any."""
    return folder / f"{image.stem}.txt"


def count_labelled(folder: Path, images: Sequence[Path]) -> int:
    """Count the images that have labels, before long work for a score.

    Parameters
    ----------
    folder : Path
        Folder of labels.
    images : sequence of Path
        The images.

    Returns
    -------
    int
        Images with a file, perhaps without a box; at least one has a line in it.

    Raises
    ------
    SpqError
        `bad_calibration` for a folder without a box for the images.
    OSError
        A file cannot be read.
    """
    files = [file for image in images if (file := label_file(folder, image)).exists()]
    if not any(map(_lines, files)):
        raise SpqError(
            Reason.BAD_CALIBRATION,
            f"{OPTION}: {folder} has no boxes for the images; "
            f"those of {images[0].name} belong in {label_file(folder, images[0])}",
        )
    return len(files)


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
    classes: list[int] = []
    boxes = []
    for number, words in _lines(file) if file.exists() else ():
        try:
            values = np.array(words, dtype=np.float64)
        except ValueError:
            values = np.zeros(0)
        is_box = values.shape == (5,) and values[0] in range(class_count)
        if not (is_box and (np.abs(values[1:]) <= 2).all() and (values[3:] > 0).all()):
            raise SpqError(
                Reason.BAD_CALIBRATION,
                f"{OPTION}: line {number} of {file} is not a class below {class_count} and "
                "centre, width and height as fractions of the image's size; correct it",
            )
        classes.append(int(values[0]))
        half = values[3:] / 2
        boxes.append(np.concatenate([values[1:3] - half, values[1:3] + half]))
    return Labels(np.reshape(boxes, (-1, 4)) * np.tile(size, 2), classes)


def read_names(file: Path) -> dict[int, str]:
    """Read names of classes.

    Parameters
    ----------
    file : Path
        Text in UTF-8 with a name in each line, that of class 0 first.

    Returns
    -------
    dict of int to str
        The names by class.

    Raises
    ------
    SpqError
        `bad_argument` for what is not UTF-8.
    OSError
        The file cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpqError(
            Reason.BAD_ARGUMENT, f"{NAMES_OPTION}: {file} is not text in UTF-8; save it as such"
        ) from error
    return dict(enumerate(map(str.strip, text.rstrip().splitlines())))


def _lines(file: Path) -> list[tuple[int, list[str]]]:
    """Return the numbers of the lines that are not blank, and their words."""
    text = file.read_text(encoding="utf-8-sig", errors="replace")
    return [
        (number, words)
        for number, line in enumerate(text.splitlines(), 1)
        if (words := line.split())
    ]
