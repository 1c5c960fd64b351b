"""Scores detections against labels with COCO's own code."""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

from spq._extras import extra
from spqtools.comparison.detections import Boxes, Detections
from spqtools.comparison.yolo_labels import Labels


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's average precision over classes with labels, at most 100 detections an image.

    Parameters
    ----------
    at_half : float
        AP50: at an intersection over union of 0.5.
    mean : float
        AP50:95: averaged over ten overlaps from 0.5 to 0.95.
    """

    at_half: float
    mean: float


def check_scoring() -> None:
    """Refuse with `missing_extra` without pycocotools, before long work for a score."""
    with extra("all"):
        import pycocotools.cocoeval  # noqa: F401


def average_precision(
    labels: Sequence[Labels], detections: Sequence[Detections]
) -> AveragePrecision:
    """Score detections.

    Parameters
    ----------
    labels : sequence of Labels
        What is in each image; at least one box in all.
    detections : sequence of Detections
        What was found in each image.

    Returns
    -------
    AveragePrecision
        The scores.

    Raises
    ------
    SpqError
        `missing_extra` without pycocotools.
    """
    with extra("all"):
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    found = [
        {**box, "score": float(confidence)}
        for image, one in enumerate(detections)
        for box, confidence in zip(
            _as_coco(image, one.boxes, one.classes.tolist()), one.confidences, strict=True
        )
    ]
    if not found:
        return AveragePrecision(0.0, 0.0)  # which COCO's code cannot tell
    truth = [
        box for image, one in enumerate(labels) for box in _as_coco(image, one.boxes, one.classes)
    ]
    with redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": image} for image in range(len(labels))],
            "categories": [{"id": number} for number in range(detections[0].class_count)],
            # To COCO's code, a number 0 means none.
            "annotations": [{**box, "id": number} for number, box in enumerate(truth, 1)],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return AveragePrecision(at_half=float(evaluation.stats[1]), mean=float(evaluation.stats[0]))


def _as_coco(image: int, boxes: Boxes, classes: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {
            "image_id": image,
            "category_id": number,
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top),
            "iscrowd": 0,
        }
        for (left, top, right, bottom), number in zip(boxes.tolist(), classes, strict=True)
    ]
