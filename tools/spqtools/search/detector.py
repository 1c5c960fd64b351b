"""Divergence of the raw heads of a YOLO detector: boxes, objects and classes."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Anchors of a cell in heads that have them; values of a box and its object before the classes.
_ANCHORS = 3
_BOX = 4
# Values of one side's distribution in heads without anchors, four sides to a box.
_BINS = 16
# An error of this much, in cells or in logarithms of a box's size, costs half a nat: what a normal
# distribution of this deviation diverges by when it is moved so far.
_BOX_DEVIATION = 0.2


def yolo(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Return what a student's heads say differently, in nats for each of the teacher's objects.

    How much there is in a cell is the teacher's own confidence there. Objectness and classes count
    with the KL divergence of their Bernoulli distributions, boxes with that of normal distributions
    around place and logarithm of size, or with that of their own distributions where the heads have
    such. Boxes, and classes that have an objectness beside them, count as much as there is in their
    cell. The sum over an image is relative to all that there is in it, and one more.

    Parameters
    ----------
    student, teacher : sequence of Tensor
        Raw heads before any sigmoid. Either each has shape (images, 3 * (5 + classes), height,
        width), box, objectness and classes for each of three anchors (YOLOv3 and v4, whose boxes
        are the sigmoid of a place and the logarithm of a size); or they come in pairs of equal
        height and width, (images, 64, height, width) and (images, classes, height, width),
        distributions of a box's sides and its classes (YOLOv8 and v11).

    Returns
    -------
    Tensor
        Scalar, the mean over the images.

    Raises
    ------
    ValueError
        The heads have other shapes.
    """
    if any(head.ndim != 4 for head in teacher):
        raise ValueError("the heads of YOLO have four dimensions")
    if len(teacher) % 2 == 0 and any(head.shape[1] == _BOX * _BINS for head in teacher):
        pairs = zip(_pairs(student), _pairs(teacher), strict=True)
        parts = [_without_anchors(*pair) for pair in pairs]
    else:
        parts = [_with_anchors(*heads) for heads in zip(student, teacher, strict=True)]
    errors, confidences = zip(*parts, strict=True)
    return (torch.stack(errors).sum(0) / (torch.stack(confidences).sum(0) + 1.0)).mean()


def _with_anchors(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of a head's errors and how much there is in its cells, image by image."""
    images, channels, height, width = teacher.shape
    if channels % _ANCHORS or channels // _ANCHORS <= _BOX + 1:
        raise ValueError(f"a head of {channels} channels is none of three anchors")
    shape = (images, _ANCHORS, channels // _ANCHORS, height, width)
    said, right = student.float().reshape(shape), teacher.float().reshape(shape)
    there = right[:, :, _BOX].sigmoid()
    weight, classes = there[:, :, None], slice(_BOX + 1, None)
    parts = [
        weight * ((_box(said) - _box(right)) / _BOX_DEVIATION) ** 2 / 2,
        _bernoulli(said[:, :, _BOX], right[:, :, _BOX]),
        weight * _bernoulli(said[:, :, classes], right[:, :, classes]),
    ]
    return torch.stack([part.flatten(1).sum(1) for part in parts]).sum(0), there.flatten(1).sum(1)


def _box(head: Tensor) -> Tensor:
    """Return the place in the cell, and the logarithm of the size."""
    return torch.cat([head[:, :, :2].sigmoid(), head[:, :, 2:_BOX]], 2)


def _without_anchors(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return what `_with_anchors` does, for a pair of heads."""
    (said_box, said), (right_box, right) = student, teacher
    images, _, height, width = right_box.shape
    shape = (images, _BOX, _BINS, height, width)
    there = right.float().sigmoid().amax(1)
    sides = F.log_softmax(right_box.float().reshape(shape), 2)
    ratio = sides - F.log_softmax(said_box.float().reshape(shape), 2)
    box = there[:, None] * (sides.exp() * ratio).sum(2)
    classes = _bernoulli(said.float(), right.float())
    return box.flatten(1).sum(1) + classes.flatten(1).sum(1), there.flatten(1).sum(1)


def _pairs(heads: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return the heads in pairs of boxes and classes, the largest images first."""
    boxes = [head for head in heads if head.shape[1] == _BOX * _BINS]
    classes = [head for head in heads if head.shape[1] != _BOX * _BINS]
    pairs = list(zip(*(sorted(some, key=_area) for some in (boxes, classes)), strict=False))
    if 2 * len(pairs) != len(heads) or any(box.shape[2:] != one.shape[2:] for box, one in pairs):
        raise ValueError("the heads are no pairs of boxes and classes of equal size")
    return pairs


def _area(head: Tensor) -> int:
    return -head.shape[2] * head.shape[3]


def _bernoulli(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the KL divergence of yes and no, from logits."""
    probability = teacher.sigmoid()
    yes = F.logsigmoid(teacher) - F.logsigmoid(student)
    no = F.logsigmoid(-teacher) - F.logsigmoid(-student)
    return probability * yes + (1.0 - probability) * no
