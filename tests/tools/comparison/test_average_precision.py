"""Labels are read as YOLO writes them, and COCO's code scores detections against them."""

from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest

from spqformat import Reason, SpqError
from spqtools.comparison.average_precision import AveragePrecision, average_precision
from spqtools.comparison.detections import Detections
from spqtools.comparison.yolo_labels import Labels, read_labels

SIZE = (200, 100)
BOXES = np.array([[10, 10, 50, 90], [100, 20, 180, 80], [5, 5, 25, 25]], dtype="f8")


def found(boxes: object, classes: list[int], confidences: list[float]) -> Detections:
    return Detections(
        np.array(boxes, dtype="f8").reshape(-1, 4), np.array(classes), np.array(confidences), 4
    )


LABELS = [Labels(BOXES[:2], [0, 3]), Labels(BOXES[2:], [3]), Labels(BOXES[:0], [])]
PERFECT = [
    found(BOXES[:2], [0, 3], [0.9, 0.2]),
    found(BOXES[2:], [3], [0.6]),
    found([], [], []),
]


def test_perfect_detections(capsys: pytest.CaptureFixture[str]) -> None:
    score = average_precision(LABELS, PERFECT)
    assert astuple(score) == pytest.approx((1.0, 1.0))
    assert capsys.readouterr().out == ""


def test_nothing_found() -> None:
    nothing = found([], [], [])
    assert average_precision(LABELS, [nothing] * 3) == AveragePrecision(0.0, 0.0)


def test_false_alarms_of_other_classes_do_not_count() -> None:
    alarm = found(BOXES[:1], [1], [1.0])
    assert average_precision(LABELS, [*PERFECT[:2], alarm]).at_half == pytest.approx(1.0)


def test_boxes_that_are_off() -> None:
    # 0.6 of the label of class 3 is covered, which three of the ten overlaps allow.
    off = BOXES[2:] + np.array([0, 0, 0, -8])
    score = average_precision(LABELS[1:2], [found(off, [3], [0.6])])
    assert astuple(score) == pytest.approx((1.0, 0.3))


def test_half_of_the_classes() -> None:
    score = average_precision(LABELS, [found(BOXES[:1], [0], [0.9]), found([], [], []), PERFECT[2]])
    assert astuple(score) == pytest.approx((0.5, 0.5))


# Labels


def test_labels(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("2 0.5 0.25 0.1 0.5\n0 0 0 2.0 1e0\n")
    labels = read_labels(path, SIZE, 3)
    assert labels.classes == [2, 0]
    assert np.allclose(labels.boxes, [[90, 0, 110, 50], [-200, -50, 200, 50]])


@pytest.mark.parametrize("content", [None, ""])
def test_images_without_objects(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "a.txt").write_text(content)
    labels = read_labels(tmp_path / "a.txt", SIZE, 3)
    assert labels.boxes.shape == (0, 4)
    assert labels.classes == []


@pytest.mark.parametrize(
    "line",
    [
        *("3 0.5 0.5 0.1 0.1", "-1 0.5 0.5 0.1 0.1", "0.5 0.5 0.5 0.1 0.1", "nan 0.5 0.5 0.1 0.1"),
        *("0 0.5 0.5 0.1", "0 0.5 0.5 0.1 0.1 0.9", "dog 0.5 0.5 0.1 0.1", "\0"),
        *("0 0.5 0.5 0 0.1", "0 0.5 0.5 0.1 -0.1", "0 nan 0.5 0.1 0.1", "0 0.5 0.5 0.1 inf"),
        *("0 250 30 40 40", "0x0 0.5 0.5 0.1 0.1"),
    ],
)
def test_lines_that_are_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(SpqError, match=r"line 2 of .* is not a class below 3") as caught:
        read_labels(path, SIZE, 3)
    assert caught.value.code is Reason.BAD_CALIBRATION


def test_blank_lines_and_a_mark_at_the_beginning(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\ufeff0 0.5 0.5 0.1 0.1\n\n1 0.5 0.5 0.1 0.1\n \n", encoding="utf-8")
    assert read_labels(path, SIZE, 3).classes == [0, 1]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(bytes(range(256)))
    with pytest.raises(SpqError):
        read_labels(tmp_path / "a.txt", SIZE, 3)
