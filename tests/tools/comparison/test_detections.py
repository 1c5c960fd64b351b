"""Outputs of detectors become boxes in the image, each object once."""

from typing import Any

import numpy as np
import pytest

from spqtools.comparison.detections import (
    Boxes,
    Detections,
    UnknownLayoutError,
    overlaps,
    read_detections,
    suppress,
)
from spqtools.comparison.matching import found_by, matches
from spqtools.reading.preprocess import Placement, parse_preprocess

SIZE = (832, 416)
LETTERBOX = parse_preprocess("size=416,fit=letterbox").placement(*SIZE)
# Two objects in the image: left, top, right, bottom, and a score for each of three classes.
BOXES = np.array([[64, 32, 192, 160], [512, 200, 640, 264]], dtype="f4")
SCORES = np.array([[0.0, 0.75, 0.0], [0.0, 0.0, 0.5]], dtype="f4")


def in_input() -> Any:
    """Centre, width and height of the boxes in pixels of the letterboxed input."""
    corners = BOXES * 0.5 + np.array([0, 104, 0, 104], dtype="f4")
    return np.concatenate(
        [(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1
    )


def padded(rows: Any, count: int) -> Any:
    """Add rows of zeros, which no detector is sure of."""
    return np.concatenate([rows, np.zeros((count - len(rows), rows.shape[1]), "f4")])


def layouts() -> dict[str, tuple[list[Any], Placement | None]]:
    """The same answer in all layouts."""
    objectness = np.array([[0.75], [0.5]], dtype="f4")
    eight = padded(np.concatenate([in_input(), SCORES], 1), 20).T
    five = padded(np.concatenate([in_input(), objectness, np.sign(SCORES)], 1), 20)
    raw = np.zeros((1, 3, 2, 2, 8), "f4")
    return {
        "zoo": ([BOXES[None][..., [1, 0, 3, 2]], SCORES.T[None], np.zeros((1, 2, 3), "i4")], None),
        "8": ([eight[None]], LETTERBOX),
        "5": ([five[None]], LETTERBOX),
        "5 with raw outputs": ([five[None], raw, raw], LETTERBOX),
        "half": ([eight[None].astype("f2")], LETTERBOX),
    }


@pytest.mark.parametrize("name", layouts())
def test_layouts(name: str) -> None:
    outputs, placement = layouts()[name]
    found = read_detections(outputs, placement, SIZE)
    assert np.array_equal(found.boxes, BOXES)
    assert found.classes.tolist() == [1, 2]
    assert found.confidences.tolist() == [0.75, 0.5]
    assert found.class_count == 3


@pytest.mark.parametrize(
    ("shapes", "placement"),
    [
        ([(1, 5, 4)], None),
        ([(1, 5, 4), (1, 3, 6)], None),
        ([(1, 5, 4), (1, 5, 3)], None),
        ([(2, 5, 4), (2, 3, 5)], None),
        ([(1, 5, 4), (1, 0, 5)], None),
        ([(1, 5, 4), (3, 5)], None),
        ([(1, 5, 4), (1, 3, 5)], LETTERBOX),
        ([(1, 4, 20)], LETTERBOX),
        ([(1, 20, 5)], LETTERBOX),
        ([(1, 7, 7)], LETTERBOX),
        ([(2, 7, 20)], LETTERBOX),
        ([(1, 3, 13, 13, 85)], LETTERBOX),
        ([(1, 40, 100), (1, 32, 16, 16)], LETTERBOX),
        ([(1, 7, 20)], None),
        ([(), ()], LETTERBOX),
        ([(1000,)], LETTERBOX),
    ],
)
def test_other_shapes(shapes: list[tuple[int, ...]], placement: Placement | None) -> None:
    outputs = [np.zeros(shape, "f4") for shape in shapes]
    with pytest.raises(UnknownLayoutError, match="has outputs "):
        read_detections(outputs, placement, SIZE)


@pytest.mark.parametrize("score", [1.01, -0.01, np.inf, -np.inf])
def test_confidences_are_probabilities(score: float) -> None:
    # Such as the class numbers in the last column of detectors that do their own suppression.
    outputs = layouts()["8"][0]
    outputs[0][0, 5, 3] = score
    with pytest.raises(UnknownLayoutError, match="not within 0 and 1"):
        read_detections(outputs, LETTERBOX, SIZE)


def test_boxes_are_cut_to_the_image() -> None:
    outputs, placement = layouts()["zoo"]
    outputs[0] = np.array([[[-50, 700, 90, 900], [10, -9, 20, -1]]], dtype="f4")
    found = read_detections(outputs, placement, SIZE)
    assert found.boxes.tolist() == [[700, 0, 832, 90]]


@pytest.mark.parametrize("side", [np.inf, -np.inf, 3e38, -5.0, 0.0])
def test_senseless_boxes(side: float) -> None:
    outputs, placement = layouts()["8"]
    outputs[0][0, 2, 0] = side
    found = read_detections(outputs, placement, SIZE)
    assert np.isfinite(found.boxes).all()
    assert (found.boxes[:, :2] < found.boxes[:, 2:]).all()
    assert 2 in found.classes


def test_unsure_ones_are_left_out() -> None:
    outputs, placement = layouts()["zoo"]
    outputs[1] = np.array([[[0.004, 0.0]], [[0.0, 0.006]]], dtype="f4").transpose(1, 0, 2)
    found = read_detections(outputs, placement, SIZE)
    assert found.classes.tolist() == [1]


def test_one_box_may_be_of_two_classes() -> None:
    outputs, placement = layouts()["zoo"]
    outputs[1] = np.full((1, 3, 2), 0.5, "f4")
    found = read_detections(outputs, placement, SIZE)
    assert found.classes.tolist() == [0, 1, 2, 0, 1, 2]


def test_at_least() -> None:
    outputs, placement = layouts()["zoo"]
    found = read_detections(outputs, placement, SIZE)
    assert [len(found.at_least(bound)) for bound in (0.5, 0.6, 0.75, 0.8)] == [2, 1, 1, 0]


# Suppression


def slow_overlap(one: Any, other: Any) -> float:
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    shared = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return float(shared / (areas[0] + areas[1] - shared))


def slow_suppress(boxes: Any, classes: Any, confidences: Any) -> list[int]:
    """Each class on its own, as the definition has it."""
    kept = []
    for kind in set(classes.tolist()):
        chosen: list[int] = []
        members = [number for number in range(len(boxes)) if classes[number] == kind]
        for number in sorted(members, key=lambda number: (-confidences[number], number)):
            if all(slow_overlap(boxes[number], boxes[other]) <= 0.45 for other in chosen):
                chosen.append(number)
        kept += chosen
    return sorted(kept, key=lambda number: (-confidences[number], number))[:100]


def crowd(seed: int, count: int) -> tuple[Boxes, Any, Any]:
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 60, (count, 2))
    boxes = np.concatenate([corners, corners + random.uniform(1, 40, (count, 2))], 1)
    # Coarse, so that there are ties.
    confidences = random.integers(1, 30, count) / 30
    return boxes, random.integers(0, 4, count), confidences


@pytest.mark.parametrize("seed", range(12))
def test_suppression_does_as_the_definition_says(seed: int) -> None:
    candidates = crowd(seed, [0, 1, 7, 60, 300, 900][seed % 6])
    assert suppress(*candidates).tolist() == slow_suppress(*candidates)


def test_at_most_a_hundred() -> None:
    left = np.arange(150.0)[:, None] * 2
    boxes = np.concatenate([left, left * 0, left + 1, left * 0 + 1], 1)
    confidences = np.linspace(0.1, 0.9, 150)
    assert suppress(boxes, np.zeros(150, dtype=np.int64), confidences).tolist() == list(
        range(149, 49, -1)
    )


def test_overlaps() -> None:
    boxes, others = crowd(1, 20)[0], crowd(2, 30)[0]
    expected = [[slow_overlap(one, other) for other in others] for one in boxes]
    assert np.allclose(overlaps(boxes, others), expected, rtol=1e-12)
    assert (np.diag(overlaps(boxes, boxes)) == 1).all()


# Matching


def detections(*rows: tuple[float, float, int, float]) -> Detections:
    """Boxes of height 10 from left to right."""
    return Detections(
        np.array([[left, 0, right, 10] for left, right, _, _ in rows], dtype="f8").reshape(-1, 4),
        np.array([kind for _, _, kind, _ in rows], dtype="i8"),
        np.array([confidence for *_, confidence in rows], dtype="f8"),
        3,
    )


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        (detections(), [False, False]),
        (detections((0, 10, 1, 0.5)), [True, False]),
        (detections((0, 5, 1, 0.5)), [True, False]),
        (detections((0, 4.9, 1, 0.5)), [False, False]),
        (detections((0, 10, 2, 0.5)), [False, False]),
        (detections((4, 14, 1, 0.5)), [False, True]),
        (detections((3, 13, 1, 0.5)), [True, False]),
        (detections((3, 13, 1, 0.5), (0, 10, 1, 0.4)), [True, True]),
    ],
)
def test_matching(others: Detections, expected: list[bool]) -> None:
    objects = detections((0, 10, 1, 0.9), (5, 15, 1, 0.8))
    assert found_by(objects, others).tolist() == expected


def test_which_one_matches() -> None:
    objects = detections((0, 10, 1, 0.9), (50, 60, 1, 0.8))
    others = detections((3, 13, 1, 0.5), (0, 10, 1, 0.4))
    assert matches(objects, others).tolist() == [1, -1]


def test_nothing_to_match() -> None:
    assert found_by(detections(), detections((0, 10, 1, 0.9))).tolist() == []


@pytest.mark.parametrize("seed", range(4))
def test_everyone_finds_what_he_finds(seed: int) -> None:
    boxes, classes, confidences = crowd(seed, 80)
    kept = suppress(boxes, classes, confidences)
    own = Detections(boxes[kept], classes[kept], confidences[kept], 4)
    assert found_by(own, own).all()


def test_what_has_been_chosen_already_is_not_read() -> None:
    """A score and the number of a class behind each box, as detectors without NMS have them."""
    rows = padded(np.concatenate([BOXES, [[0.75, 0.0], [0.5, 2.0]]], 1).astype("f4"), 20)
    with pytest.raises(UnknownLayoutError, match="1x20x6"):
        read_detections([rows[None]], LETTERBOX, SIZE)
