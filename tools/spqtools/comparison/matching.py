"""Tells which objects of one detector another one finds too."""

import numpy as np
from numpy.typing import NDArray

from spqtools.comparison.detections import Detections, overlaps

LEAST_OVERLAP = 0.5


def matches(objects: Detections, others: Detections) -> NDArray[np.int64]:
    """Find for each object a detection of its class that overlaps it by at least half.

    The surest object chooses first, and takes the detection that overlaps it most; each detection
    counts for one object.

    Parameters
    ----------
    objects, others : Detections
        In the same image.

    Returns
    -------
    array of int64
        Number of the detection for each object, -1 without one.
    """
    found = np.full(len(objects), -1, dtype=np.int64)
    if not len(others):
        return found
    shared = overlaps(objects.boxes, others.boxes)
    shared[objects.classes[:, None] != others.classes] = 0.0
    for number, row in enumerate(shared):
        best = row.argmax()
        if row[best] >= LEAST_OVERLAP:
            found[number] = best
            shared[:, best] = 0.0
    return found


def found_by(objects: Detections, others: Detections) -> NDArray[np.bool_]:
    """Tell which objects `matches` finds a detection for.

    Parameters
    ----------
    objects, others : Detections
        In the same image.

    Returns
    -------
    array of bool
        One for each object.
    """
    return matches(objects, others) >= 0
