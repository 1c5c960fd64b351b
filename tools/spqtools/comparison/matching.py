"""Tells which objects of one detector another one finds too."""

import numpy as np
from numpy.typing import NDArray

from spqtools.comparison.detections import Detections, overlaps

LEAST_OVERLAP = 0.5


def found_by(objects: Detections, others: Detections) -> NDArray[np.bool_]:
    """Tell which objects have a detection of their class that overlaps them by at least half.

    The surest object chooses first, and takes the detection that overlaps it most; each detection
    counts for one object.

    Parameters
    ----------
    objects, others : Detections
        In the same image.

    Returns
    -------
    array of bool
        One for each object.
    """
    found = np.zeros(len(objects), dtype=np.bool_)
    if not len(others):
        return found
    shared = overlaps(objects.boxes, others.boxes)
    shared[objects.classes[:, None] != others.classes] = 0.0
    for number, row in enumerate(shared):
        best = row.argmax()
        if row[best] >= LEAST_OVERLAP:
            found[number] = True
            shared[:, best] = 0.0
    return found
