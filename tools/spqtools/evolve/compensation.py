"""Least-squares weights on a given support: survivors make up for what was zeroed."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from spqtools.evolve.moments import Moments
from spqtools.evolve.row_solver import solve_rows
from spqtools.evolve.student import Layer

# Share of the mean curvature that holds a row to its present weights, the same for all networks.
# Ten and a hundred times as much stand in tests/bench/RESULTS.md, for a detector alone.
_DAMPING = 1e-3
# Steps of conjugate gradients. On the layers of LeNet-300-100 at 5 to 30 % of their weights, 20
# come within 0.4 % of the least error that the support allows; 5 come within 10 %, in its last
# layer of 1,000 weights within 30 %, and only tell candidates apart.
STEPS = 20
RACING_STEPS = 5
_TINY = 1e-30
# Below this share of survivors, supports alone are visited, which takes less than products of
# whole matrices: 0.7 s instead of 8.8 s in a layer of 1,024 rows and 4,608 columns at a tenth.
_FEW = 0.2


def compensate(
    layer: Layer,
    moments: Moments,
    keep: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    steps: int = STEPS,
) -> tuple[Tensor, Tensor | None]:
    """Return the weights on a support that bring a layer's outputs nearest to the teacher's.

    Each row solves its own ridge regression towards its present weights,
    ``(H + d I) w = c + d w0`` on its support, as in optimal brain compression (Frantar and
    Alistarh, arXiv 2208.11580), with the moments of the student's real inputs. All rows share the
    products with H: conjugate gradients with a diagonal preconditioner, projected on the supports
    (Golub and Van Loan, Matrix Computations, 11.5), whose error falls with every step.

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
    steps : int
        Steps of the solver.

    Returns
    -------
    tuple of Tensor and Tensor or None
        Weight, zero outside the support, and bias.
    """
    if int(keep.sum()) < _FEW * keep.numel():
        return _compensate_few(layer, moments, keep, weight, bias, steps)
    support = by_group(layer, with_constant(keep.float(), None if bias is None else 1.0))
    present = by_group(layer, with_constant(weight, bias)) * support
    diagonal = moments.inputs.diagonal(dim1=1, dim2=2)[:, None, :]
    ridge = _DAMPING * (support * diagonal).sum(2, keepdim=True)
    ridge = ridge / support.sum(2, keepdim=True).clamp_min(1.0) + _TINY
    scale = support / (diagonal + ridge)

    solved = present
    residual = (moments.targets.transpose(1, 2) - present @ moments.inputs) * support
    direction = scaled = residual * scale
    size = (residual * scaled).sum(2, keepdim=True)
    for _ in range(steps):
        image = (direction @ moments.inputs + ridge * direction) * support
        length = size / (direction * image).sum(2, keepdim=True).clamp_min(_TINY)
        solved = solved + length * direction
        residual = residual - length * image
        scaled = residual * scale
        previous, size = size, (residual * scaled).sum(2, keepdim=True)
        direction = scaled + size / previous.clamp_min(_TINY) * direction
    return without_constant(solved.reshape(layer.rows, -1), bias)


def _compensate_few(
    layer: Layer,
    moments: Moments,
    keep: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    steps: int,
) -> tuple[Tensor, Tensor | None]:
    """Do the same where there are few survivors, row by row, on as many threads as PyTorch has."""
    solved = with_constant(weight, bias).clone(memory_format=torch.contiguous_format)
    support = with_constant(keep.float(), None if bias is None else 1.0) > 0
    targets = moments.targets.transpose(1, 2).flatten(0, 1).contiguous().numpy()
    most = int(support.sum(1).max())
    threads = torch.get_num_threads()
    rows = layer.rows // layer.groups
    size = -(-rows // threads) if layer.groups == 1 else rows

    def solve(start: int) -> None:
        part = slice(start, min(start + size, layer.rows))
        solve_rows(
            moments.inputs[start // rows].numpy(),
            targets[part],
            support[part].numpy(),
            _DAMPING,
            steps,
            np.empty(most, dtype=np.int32),
            np.empty((most, most), dtype=np.float32),
            np.empty((4, most), dtype=np.float32),
            solved[part].numpy(),
        )

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(solve, range(0, layer.rows, size)))
    return without_constant(solved, bias)


def with_constant(matrix: Tensor, constant: Tensor | float | None) -> Tensor:
    """Append the column of the constant feature to a matrix of a layer with a bias."""
    if constant is None:
        return matrix
    last = matrix.new_empty(len(matrix), 1)
    last[:, 0] = constant
    return torch.cat([matrix, last], dim=1)


def without_constant(matrix: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Split what `with_constant` has joined into weight and bias."""
    if bias is None:
        return matrix, None
    return matrix[:, :-1].contiguous(), matrix[:, -1].contiguous()


def by_group(layer: Layer, matrix: Tensor) -> Tensor:
    """Return rows by group, shape (groups, rows of a group, features)."""
    return matrix.reshape(layer.groups, layer.rows // layer.groups, -1)
