"""Finds density classes: lines of a mask grouped so that it costs the fewest bits."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spqformat.ids import MAX_CONTEXTS

# Pairs of (row classes, column classes) that are tried, and passes of refinement for each.
_CANDIDATES = ((1, 2), (2, 1), (2, 2), (3, 3), (4, 4), (2, 6), (6, 2), (6, 6), (8, 8))
_PASSES = 6
_LARGE_CELLS = 1 << 15
_LARGE_CANDIDATES = ((3, 3), (6, 6))
_LARGE_PASSES = 3
# What a class and a context cost besides their streams: frequencies, and a Bernoulli table.
_CLASS_BITS = 16.0
_CONTEXT_BITS = 16.0
_STREAM_BITS = 64.0


@dataclass(frozen=True)
class DensityClasses:
    """Classes of the rows and columns of a mask, in ascending order of density.

    Parameters
    ----------
    rows : ndarray of uint8, shape (row_count,)
        Class of each row.
    columns : ndarray of uint8, shape (unit_count,)
        Class of each unit of columns.
    row_class_count, column_class_count : int
        Numbers of classes.
    """

    rows: NDArray[np.uint8]
    columns: NDArray[np.uint8]
    row_class_count: int
    column_class_count: int


def find_density_classes(ones: NDArray[np.uint8], unit_columns: int) -> DensityClasses:
    """Group rows and columns by alternating assignment to the class that codes them best.

    Parameters
    ----------
    ones : ndarray of uint8, shape (row_count, unit_count), C-contiguous
        Non-zero elements of each row in each unit of columns.
    unit_columns : int
        Columns of a unit.

    Returns
    -------
    DensityClasses
        The cheapest grouping by estimated bits, classes and tables included; one class each when
        nothing is gained. Alternating minimisation of the code length as in information-theoretic
        co-clustering (Dhillon, Mallela and Modha, KDD 2003).
    """
    row_count, unit_count = ones.shape
    large = ones.size > _LARGE_CELLS
    best = one_class(row_count, unit_count)
    by_row, by_column = _count(ones, best)
    total = np.array([[ones.size * unit_columns]])
    best_bits = _mask_bits(by_row.sum(keepdims=True), total) + _CONTEXT_BITS
    row_density, column_density = by_row[:, 0], by_column[:, 0]
    for row_class_count, column_class_count in _LARGE_CANDIDATES if large else _CANDIDATES:
        if row_class_count > row_count or column_class_count > unit_count:
            continue
        if row_class_count * column_class_count > MAX_CONTEXTS:
            continue
        classes = DensityClasses(
            _equal_groups(row_density, row_class_count),
            _equal_groups(column_density, column_class_count),
            row_class_count,
            column_class_count,
        )
        for _ in range(_LARGE_PASSES if large else _PASSES):
            classes = _refine(ones, unit_columns, classes)
        classes, bits = _tidy(ones, unit_columns, classes)
        if bits < best_bits:
            best, best_bits = classes, bits
    return best


def one_class(row_count: int, unit_count: int) -> DensityClasses:
    """Return the grouping that tells nothing apart."""
    rows, columns = np.zeros(row_count, dtype=np.uint8), np.zeros(unit_count, dtype=np.uint8)
    return DensityClasses(rows, columns, 1, 1)


def _count(
    ones: NDArray[np.uint8], classes: DensityClasses
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return ones of each row per column class and of each column per row class."""
    from spq._kernels import count_ones_by_class

    by_row = np.zeros((ones.shape[0], classes.column_class_count), dtype=np.int64)
    by_column = np.zeros((ones.shape[1], classes.row_class_count), dtype=np.int64)
    count_ones_by_class(ones, classes.rows, classes.columns, by_row, by_column)
    return by_row, by_column


def _equal_groups(density: NDArray[np.int64], class_count: int) -> NDArray[np.uint8]:
    """Return groups of equal size in ascending order of density."""
    groups = np.empty(density.size, dtype=np.uint8)
    order = np.argsort(density, kind="stable")
    groups[order] = np.arange(density.size) * class_count // density.size
    return groups


def _refine(ones: NDArray[np.uint8], unit_columns: int, classes: DensityClasses) -> DensityClasses:
    """Move each row, then each column, to the class that codes it in the fewest bits."""
    by_row, _ = _count(ones, classes)
    column_sizes = unit_columns * np.bincount(classes.columns, minlength=classes.column_class_count)
    rows = _assign(by_row, column_sizes, classes.rows, classes.row_class_count)
    moved = DensityClasses(
        rows, classes.columns, classes.row_class_count, classes.column_class_count
    )
    _, by_column = _count(ones, moved)
    row_sizes = unit_columns * np.bincount(rows, minlength=classes.row_class_count)
    columns = _assign(by_column, row_sizes, classes.columns, classes.column_class_count)
    return DensityClasses(rows, columns, classes.row_class_count, classes.column_class_count)


def _assign(
    ones: NDArray[np.int64],
    sizes: NDArray[np.int64],
    groups: NDArray[np.uint8],
    class_count: int,
) -> NDArray[np.uint8]:
    """Assign each line to its cheapest class; `ones` per line and class of the other axis."""
    members = np.bincount(groups, minlength=class_count)
    pooled = np.zeros((class_count, sizes.size), dtype=np.float64)
    np.add.at(pooled, groups, ones.astype(np.float64))
    # Half a pseudo-count keeps the logarithms finite.
    density = (pooled + 0.5) / (members[:, None] * sizes[None, :] + 1.0)
    prior = (members + 0.5) / (groups.size + 0.5 * class_count)
    bits = -(ones @ np.log2(density).T + (sizes - ones) @ np.log2(1.0 - density).T)
    chosen: NDArray[np.int64] = np.argmin(bits - np.log2(prior), axis=1)
    return chosen.astype(np.uint8)


def _tidy(
    ones: NDArray[np.uint8], unit_columns: int, classes: DensityClasses
) -> tuple[DensityClasses, float]:
    """Drop empty classes, sort by density, and estimate the bits of mask, classes and tables."""
    by_row, by_column = _count(ones, classes)
    rows, row_class_count = _sorted_by_density(classes.rows, by_row.sum(axis=1))
    columns, column_class_count = _sorted_by_density(classes.columns, by_column.sum(axis=1))
    tidy = DensityClasses(rows, columns, row_class_count, column_class_count)
    by_row, _ = _count(ones, tidy)
    by_pair = np.zeros((row_class_count, column_class_count), dtype=np.int64)
    np.add.at(by_pair, rows, by_row)
    row_sizes = np.bincount(rows, minlength=row_class_count)
    column_sizes = np.bincount(columns, minlength=column_class_count)
    bits = (
        _mask_bits(by_pair, unit_columns * np.outer(row_sizes, column_sizes))
        + _class_bits(row_sizes)
        + _class_bits(column_sizes)
        + _CONTEXT_BITS * by_pair.size
    )
    return tidy, bits


def _sorted_by_density(
    groups: NDArray[np.uint8], ones: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], int]:
    """Renumber classes in ascending order of density without gaps."""
    members = np.bincount(groups)
    density = np.bincount(groups, weights=ones) / np.maximum(members, 1)
    used = np.flatnonzero(members)
    order = used[np.argsort(density[used], kind="stable")]
    renumbered = np.zeros(members.size, dtype=np.uint8)
    renumbered[order] = np.arange(order.size, dtype=np.uint8)
    return renumbered[groups], int(order.size)


def _mask_bits(ones: NDArray[np.int64], totals: NDArray[np.int64]) -> float:
    """Return the ideal code length of masks with these numbers of ones."""
    zeros = totals - ones
    share = np.maximum(totals, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = -(
            np.where(ones > 0, ones * np.log2(ones / share), 0.0)
            + np.where(zeros > 0, zeros * np.log2(zeros / share), 0.0)
        )
    return float(bits.sum())


def _class_bits(sizes: NDArray[np.int64]) -> float:
    """Return the code length of one class per line."""
    if sizes.size == 1:
        return 0.0
    share = sizes / sizes.sum()
    return float(-(sizes * np.log2(share)).sum()) + _CLASS_BITS * sizes.size + _STREAM_BITS
