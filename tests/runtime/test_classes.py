"""Density classes: numbered without gaps in ascending order of density, and only where they pay."""

import numpy as np
import pytest
from numpy.typing import NDArray

from spq.classes import find_density_classes
from spqformat.ids import MAX_CLASSES, MAX_CONTEXTS


def mask_of(shape: tuple[int, int], seed: int, contrast: float) -> NDArray[np.bool_]:
    """A mask whose rows and columns differ in density by a factor."""
    random = np.random.Generator(np.random.PCG64(seed))
    rows = np.where(random.random(shape[0]) < 0.3, 0.4, 0.4 / contrast)
    columns = np.where(random.random(shape[1]) < 0.5, 1.0, 1.0 / contrast)
    return random.random(shape) < rows[:, None] * columns[None, :]


@pytest.mark.parametrize("shape", [(1, 8), (8, 1), (2, 2), (3, 100), (100, 9), (64, 96)])
@pytest.mark.parametrize("contrast", [1.0, 3.0, 30.0])
def test_invariants(shape: tuple[int, int], contrast: float) -> None:
    mask = mask_of(shape, shape[0], contrast)
    classes = find_density_classes(mask)
    counts = (classes.row_class_count, classes.column_class_count)
    assert counts[0] * counts[1] <= MAX_CONTEXTS
    for axis, groups, count in ((1, classes.rows, counts[0]), (0, classes.columns, counts[1])):
        assert groups.dtype == np.uint8
        assert groups.shape == (shape[1 - axis],)
        assert np.unique(groups).tolist() == list(range(count))
        assert count <= MAX_CLASSES
        density = [mask.mean(axis=axis)[groups == kind].mean() for kind in range(count)]
        assert density == sorted(density)


def test_same_mask_same_classes() -> None:
    mask = mask_of((64, 96), 5, 10.0)
    first, second = find_density_classes(mask), find_density_classes(mask.copy())
    assert first.rows.tobytes() == second.rows.tobytes()
    assert first.columns.tobytes() == second.columns.tobytes()


def test_no_classes_where_nothing_is_gained() -> None:
    random = np.random.Generator(np.random.PCG64(1))
    for mask in (
        random.random((60, 60)) < 0.1,
        np.zeros((60, 60), dtype=bool),
        np.ones((9, 9)) > 0,
    ):
        classes = find_density_classes(mask)
        assert (classes.row_class_count, classes.column_class_count) == (1, 1)
        assert not classes.rows.any()
        assert not classes.columns.any()


def test_empty_columns_are_told_apart() -> None:
    mask = np.random.Generator(np.random.PCG64(2)).random((200, 128)) < 0.3
    empty = np.arange(128) % 3 == 0
    mask[:, empty] = False
    classes = find_density_classes(mask)
    assert (classes.columns[empty] == 0).all()
    assert (classes.columns[~empty] > 0).all()
