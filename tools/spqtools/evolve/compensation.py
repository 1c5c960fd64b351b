"""Least-squares weights on a given support: survivors make up for what was zeroed."""

import torch
from torch import Tensor

from spqtools.evolve.moments import Moments
from spqtools.evolve.student import Layer

DAMPING = 1e-3
_BLOCK_BYTES = 128 << 20


def compensate(
    layer: Layer, moments: Moments, keep: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return the weights on a support that bring a layer's outputs nearest to the teacher's.

    Each row solves its own ridge regression towards its present weights,
    ``(H + d I) w = c + d w0`` on its support, as in optimal brain compression (Frantar and
    Alistarh, arXiv 2208.11580), with the moments of the student's real inputs.

    Parameters
    ----------
    layer : Layer
        Geometry.
    moments : Moments
        Moments of its inputs.
    keep : Tensor of bool, shape (rows, columns)
        Support.
    weight : Tensor of float32, shape (rows, columns)
        Present weights.
    bias : Tensor of float32, shape (rows,), or None
        Present bias.

    Returns
    -------
    tuple of Tensor and Tensor or None
        Weight, zero outside the support, and bias.
    """
    present, support = weight, keep
    if bias is not None:
        present = torch.cat([weight, bias[:, None]], dim=1)
        support = torch.cat([keep, torch.ones(layer.rows, 1, dtype=torch.bool)], dim=1)
    solved = torch.zeros_like(present)
    rows_per_group = layer.rows // layer.groups
    for group in range(layer.groups):
        first = group * rows_per_group
        rows = slice(first, first + rows_per_group)
        solved[rows] = _solve(
            moments.inputs[group], moments.targets[group].T, support[rows], present[rows]
        )
    if bias is None:
        return solved, None
    return solved[:, :-1].contiguous(), solved[:, -1].contiguous()


def supports(keep: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's kept columns, first ones first, and which of them are real.

    Parameters
    ----------
    keep : Tensor of bool, shape (rows, columns)

    Returns
    -------
    tuple of Tensor
        Columns, int64, and validity, bool, both of shape (rows, most kept columns in a row).
    """
    counts = keep.sum(1)
    width = max(int(counts.max()), 1)
    order = torch.argsort((~keep).to(torch.uint8), dim=1, stable=True)[:, :width]
    return order, torch.arange(width)[None, :] < counts[:, None]


def restricted(hessian: Tensor, columns: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's damped Hessian on its support and its ridge; identity where nothing is.

    Parameters
    ----------
    hessian : Tensor of float32, shape (features, features)
    columns, valid : Tensor
        As `supports` returns them.

    Returns
    -------
    tuple of Tensor
        Float64, shapes (rows, width, width) and (rows, 1).
    """
    blocks = hessian[columns[:, :, None], columns[:, None, :]].double()
    if not bool(valid.all()):
        blocks.mul_(valid[:, :, None]).mul_(valid[:, None, :])
    diagonal = blocks.diagonal(dim1=1, dim2=2)
    ridge = DAMPING * diagonal.sum(1, keepdim=True) / valid.sum(1, keepdim=True).clamp_min(1)
    ridge = ridge + 1e-12
    diagonal.add_(torch.where(valid, ridge, 1.0))
    return blocks, ridge


def work(keep: Tensor) -> float:
    """Return about how many multiplications `compensate` takes on a support."""
    return float((keep.sum(1).double() ** 3).sum()) / 3


def row_blocks(rows: int, width: int) -> range:
    """Return starts of row blocks whose Hessians fit a bounded memory, and their length as step."""
    return range(0, rows, max(1, _BLOCK_BYTES // (8 * width * width)))


def _solve(hessian: Tensor, targets: Tensor, support: Tensor, present: Tensor) -> Tensor:
    """Solve the rows of one group."""
    solved = torch.zeros_like(present)
    counts = support.sum(1)
    # Rows of like size share a block, so that little is padded.
    by_count = torch.argsort(counts, stable=True)
    step = 64
    for start in range(0, len(by_count), step):
        rows = by_count[start : start + step]
        columns, valid = supports(support[rows])
        for first in (blocks := row_blocks(len(rows), columns.shape[1])):
            part = slice(first, first + blocks.step)
            index, real = columns[part], valid[part]
            matrix, ridge = restricted(hessian, index, real)
            right = targets[rows[part]].gather(1, index).double()
            right = right + ridge * present[rows[part]].gather(1, index).double()
            right = torch.where(real, right, 0.0)
            factor = torch.linalg.cholesky(matrix)
            answer = torch.cholesky_solve(right[:, :, None], factor)[:, :, 0]
            block = torch.zeros(len(index), present.shape[1])
            block.scatter_(1, index, torch.where(real, answer, 0.0).float())
            solved[rows[part]] = block
    return solved
