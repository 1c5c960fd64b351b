"""Second moments of a layer's inputs, and what they say about its weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor

from spqtools.evolve.student import Layer, Stop

# Share of the mean diagonal that is added to a Hessian before it is inverted. Where many weights go
# at once, less of each can be made up for than the Hessian alone says: see tests/bench/RESULTS.md.
_DAMPING = 1e-1
# Places that are looked at for each feature: a convolution has far more of them than its moments
# need.
_PLACES_PER_FEATURE = 48
_LEAST_PLACES = 24576
# Columns that are multiplied at once where there are many.
_WIDE = 1024


@dataclass(frozen=True)
class Moments:
    """Sums over the calibration set that determine the least-squares weights of a layer.

    With a bias, a constant feature of one stands behind the columns.

    Parameters
    ----------
    inputs : Tensor of float32, shape (groups, features, features)
        Mean over samples of the features' outer products: the layer's Hessian for squared error.
    targets : Tensor of float32, shape (groups, features, rows of a group)
        Mean over samples of features times the teacher's outputs.
    """

    inputs: Tensor
    targets: Tensor

    def row_inputs(self, layer: Layer) -> Tensor:
        """Return the columns' Hessian without the constant, shape (groups, columns, columns)."""
        return self.inputs[:, : layer.columns, : layer.columns]


def measure_moments(student: Stop, teacher: Stop, places: Sequence[Tensor] = ()) -> Moments:
    """Add up the moments of a layer over all batches.

    Parameters
    ----------
    student, teacher : Stop
        Both networks before the same layer: the features are the student's, the targets the
        teacher's outputs, so that errors of earlier layers are corrected here; at the end of a
        residual block those of its shortcut too.
    places : sequence of Tensor of float32, shape (samples * places,)
        How much each place of the layer's output counts, by batch; all the same by default.
    """
    layer = student.layer
    features = layer.columns + (layer.bias is not None)
    inputs = torch.zeros(layer.groups, features, features)
    targets = torch.zeros(layer.groups, features, layer.rows // layer.groups)
    samples = 0
    wanted = wanted_places(features) // len(student.values)
    for batch in range(len(student.values)):
        seen, answer = student.inputs(batch), teacher.output(batch)
        present, wanted_beside = student.beside(batch), teacher.beside(batch)
        if present is not None and wanted_beside is not None and present.shape == answer.shape:
            answer = answer + (wanted_beside - present)
        step = _step(answer.numel() // layer.rows, wanted, seen.shape[0])
        matrix = layer.features(seen, step)
        if layer.bias is not None:
            matrix = torch.cat([matrix, torch.ones(*matrix.shape[:2], 1)], dim=2)
        rows = layer.outputs(answer, step)
        grouped = rows.reshape(len(rows), layer.groups, -1).transpose(0, 1)
        if places:
            root = places[batch][::step, None].sqrt()
            matrix, grouped = matrix * root, grouped * root
        inputs += step * _gram(matrix)
        targets += step * (matrix.transpose(1, 2) @ grouped)
        samples += seen.shape[0]
    return Moments(inputs / samples, targets / samples)


def wanted_places(features: int) -> int:
    """Return how many places a layer of so many features is looked at, where it has so many."""
    return max(_PLACES_PER_FEATURE * features, _LEAST_PLACES)


def _gram(matrix: Tensor) -> Tensor:
    """Return all products of two columns; of a wide matrix, half of them are copied."""
    width = matrix.shape[2]
    if width <= _WIDE:
        return matrix.transpose(1, 2) @ matrix
    products = matrix.new_empty(len(matrix), width, width)
    for start in range(0, width, _WIDE):
        end = min(start + _WIDE, width)
        some = matrix[:, :, start:end].transpose(1, 2)
        products[:, start:end, :end] = some @ matrix[:, :, :end]
        products[:, :start, start:end] = products[:, start:end, :start].transpose(1, 2)
    return products


def _step(places: int, wanted: int, samples: int) -> int:
    """Return the distance of the places to look at; it visits every place of a sample in turn."""
    step = max(1, places // max(wanted, 1))
    while gcd(step, max(1, places // samples)) != 1:
        step += 1
    return step


def inverse_diagonal(layer: Layer, moments: Moments) -> Tensor:
    """Return the diagonal of the damped inverse Hessian, float32, shape (rows, columns)."""
    hessian = moments.inputs.clone()
    squares = hessian.diagonal(dim1=1, dim2=2)
    squares += _DAMPING * squares.mean(1, keepdim=True) + 1e-12
    # With the damping, single precision is enough to rank weights.
    inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(hessian).L)
    return _per_row(layer, inverse.diagonal(dim1=1, dim2=2)[:, : layer.columns])


def diagonal(layer: Layer, moments: Moments) -> Tensor:
    """Return the mean squares of the columns, float32, shape (rows, columns)."""
    return _per_row(layer, moments.row_inputs(layer).diagonal(dim1=1, dim2=2))


def _per_row(layer: Layer, by_group: Tensor) -> Tensor:
    return by_group.repeat_interleave(layer.rows // layer.groups, dim=0)
