"""Cuts the supports of a layer's rows into windows, and factorises the Hessian on each."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spq._jit import kernel

# Most survivors of a row that are chosen together.
_MOST_SURVIVORS = 256
# Entries of factors that stay from round to round, 128 MiB, and that are made at once, 16 MiB.
_MOST_ENTRIES, _BATCH_ENTRIES = 1 << 24, 1 << 21
_TRACE = np.float64(1e-60)


@dataclass(frozen=True)
class Windows:
    """Survivors of some rows that are chosen together, row after row.

    Parameters
    ----------
    rows : ndarray of int64, shape (window_count,)
        Row of each window.
    starts : ndarray of int64, shape (window_count + 1,)
        Where the features of each window begin.
    features : ndarray of int64, shape (total,)
        Features, in the order in which they are chosen.
    factor_starts : ndarray of int64, shape (window_count,)
        Where the factor of each window begins.
    factors : ndarray of float64, shape (entry_count,)
        Of each window's Hessian ``F' F`` the lower triangle F, row after row.
    """

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    features: NDArray[np.int64]
    factor_starts: NDArray[np.int64]
    factors: NDArray[np.float64]


def windows_of(hessian: Tensor, keep: Tensor) -> Iterator[Windows]:
    """Yield the windows of all rows, as many at a time as the memory for their factors allows.

    Columns of the largest inputs come first. The free features behind the columns are chosen with
    the last survivors of each row. Rows of the same support share their factors with the row
    before.

    Parameters
    ----------
    hessian : Tensor of float32, shape (features, features)
        Second moments of the inputs; positive definite.
    keep : Tensor of bool, shape (rows, columns)
        Supports.
    """
    columns = keep.shape[1]
    free = torch.arange(columns, len(hessian))
    order = hessian.diagonal()[:columns].argsort(descending=True, stable=True)
    before: Tensor | None = None
    batch = _Batch()
    for row, survives in enumerate(keep):
        if before is None or not torch.equal(survives, before):
            if batch.entry_count > _BATCH_ENTRIES:
                yield batch.windows()
                batch = _Batch()
            before = survives
            supports = list(torch.split(order[survives[order]], _MOST_SURVIVORS))
            supports[-1] = torch.cat([supports[-1], free])
            starts = [batch.add_factor(hessian, support) for support in supports]
        for support, start in zip(supports, starts, strict=True):
            if len(support):
                batch.add_window(row, support, start)
    yield batch.windows()


def fit_at_once(hessian: Tensor, keep: Tensor) -> bool:
    """Tell whether the factors of all rows fit in memory together."""
    counts = keep.sum(1)
    widest = counts.clamp_max(_MOST_SURVIVORS) + len(hessian) - keep.shape[1]
    return int(((counts + 1) * widest).sum()) <= _MOST_ENTRIES


@kernel
def factorise(
    hessian: NDArray[np.float32], support: NDArray[np.int64], factor: NDArray[np.float64]
) -> int:
    """Factorise a Hessian on a support as ``F' F``, F lower triangular.

    Cholesky's method from the last row upwards (Golub and Van Loan, Matrix Computations, 4.2).

    Parameters
    ----------
    hessian : ndarray of float32, shape (features, features), C-contiguous
        A positive definite matrix.
    support : ndarray of int64, shape (count,)
        Features.
    factor : ndarray of float64, shape (count * (count + 1) / 2,)
        Receives the lower triangle F, row after row.

    Returns
    -------
    int
        Number of rows in which rounding has left nothing of the matrix; of those a trace is taken.
    """
    lost = 0
    for row in range(support.size):
        start = row * (row + 1) // 2
        for column in range(row + 1):
            factor[start + column] = np.float64(hessian[support[row], support[column]])
    for pivot in range(support.size - 1, -1, -1):
        start = pivot * (pivot + 1) // 2
        line = factor[start : start + pivot + 1]
        own = line[pivot]
        if own < _TRACE:
            own = _TRACE
            lost += 1
        root = np.sqrt(own)
        for column in range(line.size):
            line[column] /= root
        line[pivot] = root
        for row in range(pivot):
            begin = row * (row + 1) // 2
            target = factor[begin : begin + row + 1]
            share = line[row]
            for column in range(target.size):
                target[column] -= share * line[column]
    return lost


class _Batch:
    """Windows that are being gathered."""

    def __init__(self) -> None:
        self.entry_count = 0
        self._rows: list[int] = []
        self._features: list[NDArray[np.int64]] = []
        self._factor_starts: list[int] = []
        self._factors: list[NDArray[np.float64]] = []

    def add_factor(self, hessian: Tensor, support: Tensor) -> int:
        """Factorise the Hessian on a support; returns where the factor begins."""
        entries = np.empty(len(support) * (len(support) + 1) // 2)
        factorise(hessian.numpy(), support.numpy(), entries)
        start = self.entry_count
        self._factors.append(entries)
        self.entry_count += len(entries)
        return start

    def add_window(self, row: int, support: Tensor, factor_start: int) -> None:
        """Add a window of a row."""
        self._rows.append(row)
        self._features.append(support.numpy())
        self._factor_starts.append(factor_start)

    def windows(self) -> Windows:
        """Return what has been gathered."""
        lengths = [0, *(len(features) for features in self._features)]
        nothing = np.empty(0, dtype=np.int64)
        return Windows(
            np.array(self._rows, dtype=np.int64),
            np.cumsum(lengths, dtype=np.int64),
            np.concatenate([nothing, *self._features]),
            np.array(self._factor_starts, dtype=np.int64),
            np.concatenate([nothing.astype(np.float64), *self._factors]),
        )
