"""Density classes: numbered without gaps in ascending order of density, and only where they pay."""

import numpy as np
import pytest
from numpy.typing import NDArray

from spq.classes import find_density_classes
from spqformat.ids import MAX_CLASSES, MAX_CONTEXTS


def mask_of(
    shape: tuple[int, int], seed: int, contrast: float, unit_columns: int = 1
) -> NDArray[np.uint8]:
    """Ones of units whose rows and columns differ in density by a factor."""
    random = np.random.Generator(np.random.PCG64(seed))
    rows = np.where(random.random(shape[0]) < 0.3, 0.4, 0.4 / contrast)
    columns = np.where(random.random(shape[1]) < 0.5, 1.0, 1.0 / contrast)
    return random.binomial(unit_columns, rows[:, None] * columns[None, :]).astype(np.uint8)


@pytest.mark.parametrize("shape", [(1, 8), (8, 1), (2, 2), (3, 100), (100, 9), (64, 96)])
@pytest.mark.parametrize("contrast", [1.0, 3.0, 30.0])
@pytest.mark.parametrize("unit_columns", [1, 5, 9])
def test_invariants(shape: tuple[int, int], contrast: float, unit_columns: int) -> None:
    mask = mask_of(shape, shape[0], contrast, unit_columns)
    classes = find_density_classes(mask, unit_columns)
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
    first, second = find_density_classes(mask, 1), find_density_classes(mask.copy(), 1)
    assert first.rows.tobytes() == second.rows.tobytes()
    assert first.columns.tobytes() == second.columns.tobytes()


@pytest.mark.parametrize("unit_columns", [1, 9])
def test_no_classes_where_nothing_is_gained(unit_columns: int) -> None:
    random = np.random.Generator(np.random.PCG64(1))
    for ones in (
        random.binomial(unit_columns, 0.1, (60, 60)).astype(np.uint8),
        np.zeros((60, 60), dtype=np.uint8),
        np.full((9, 9), unit_columns, dtype=np.uint8),
    ):
        classes = find_density_classes(ones, unit_columns)
        assert (classes.row_class_count, classes.column_class_count) == (1, 1)
        assert not classes.rows.any()
        assert not classes.columns.any()


@pytest.mark.parametrize("unit_columns", [1, 9])
def test_empty_columns_are_told_apart(unit_columns: int) -> None:
    random = np.random.Generator(np.random.PCG64(2))
    ones = random.binomial(unit_columns, 0.3, (200, 128)).astype(np.uint8)
    empty = np.arange(128) % 3 == 0
    ones[:, empty] = 0
    classes = find_density_classes(ones, unit_columns)
    assert (classes.columns[empty] == 0).all()
    assert (classes.columns[~empty] > 0).all()


def test_units_count_every_column() -> None:
    """Classes that are worth their bits for nine columns a unit are not for one."""
    random = np.random.Generator(np.random.PCG64(3))
    density = np.where(np.arange(24) < 12, 0.25, 0.5)[:, None]
    ones = random.binomial(9, np.broadcast_to(density, (24, 12))).astype(np.uint8)
    single = (random.random((24, 12)) < density).astype(np.uint8)
    assert find_density_classes(ones, 9).row_class_count > 1
    assert find_density_classes(single, 1).row_class_count == 1
