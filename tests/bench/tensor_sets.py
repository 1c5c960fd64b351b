"""The tensor sets of the codec benchmark: real and synthetic weights on small codebooks.

FOLDER holds ``resnet-cifar10`` and ``tiny-yolov3``. Each layer is pruned by magnitude to the same
sparsity, then put on 16 levels: zero and 15 k-means levels when it is pruned, else 16 k-means
levels. Everything is deterministic.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import spq
from tests.bench.lenets import MODELS

NETWORKS = ("resnet56", "tiny-yolov3", "laplacian")
LENETS = "lenets"
SETS = (*NETWORKS, LENETS)
SPARSITIES = (0.0, 0.8, 0.9, 0.95)
LEVELS = 16
SEED = 0
_FULL_SIDE, _QUICK_SIDE = 4096, 1024
_MAX_LEVELS = 256
_K_MEANS_ROUNDS = 60


@dataclass(frozen=True)
class Tensor:
    """A float32 tensor as indices into its levels, zero first if it has one.

    Parameters
    ----------
    shape : tuple of int
        Dimensions.
    levels : ndarray of float32, shape (level_count,)
        Distinct values; all elements when there are more than 256 distinct ones.
    indices : ndarray of uint8, shape (element_count,), or None
        Level of each element in storage order; None for more than 256 distinct values.
    """

    shape: tuple[int, ...]
    levels: NDArray[np.float32]
    indices: NDArray[np.uint8] | None

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.levels.size if self.indices is None else self.indices.size

    @property
    def codebook_bytes(self) -> int:
        """Bytes of the levels as float32, or of all elements when they are stored as they are."""
        return self.levels.nbytes

    def elements(self) -> NDArray[np.float32]:
        """Return the float32 elements."""
        flat = self.levels if self.indices is None else self.levels[self.indices]
        return flat.reshape(self.shape)


TensorSet = Mapping[str, Tensor]


def build(
    names: list[str], sparsities: list[float], data: Path, quick: bool
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the title and the tensors of each set that is asked for."""
    for name in names:
        if name == LENETS:
            yield from _packed_lenets()
            continue
        weights = _read(name, data, quick)
        for sparsity in sparsities:
            tensors = {key: _compress(weight, sparsity) for key, weight in weights.items()}
            yield f"{name}, {sparsity:.0%} zeros", tensors


def write(tensors: TensorSet, path: Path) -> None:
    """Write a set for another process."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, tensor in tensors.items():
        arrays[f"{name}:shape"] = np.array(tensor.shape, dtype=np.int64)
        arrays[f"{name}:levels"] = tensor.levels
        if tensor.indices is not None:
            arrays[f"{name}:indices"] = tensor.indices
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read(path: Path) -> dict[str, Tensor]:
    """Read a set that `write` has written."""
    with np.load(path, allow_pickle=False) as arrays:  # noqa: TID251
        names = [key.removesuffix(":shape") for key in arrays if key.endswith(":shape")]
        return {
            name: Tensor(
                tuple(arrays[f"{name}:shape"].tolist()),
                arrays[f"{name}:levels"],
                arrays.get(f"{name}:indices"),
            )
            for name in names
        }


def _read(name: str, data: Path, quick: bool) -> dict[str, NDArray[np.float32]]:
    """Return the weights of a network before pruning."""
    if name == "resnet56":
        return _resnet56(data / "resnet-cifar10" / "resnet56-4bfd9763.th")
    if name == "tiny-yolov3":
        return _convolutions(data / "tiny-yolov3" / "tiny-yolov3-11.onnx")
    side = _QUICK_SIDE if quick else _FULL_SIDE
    random = np.random.default_rng(SEED)
    return {"weight": random.laplace(size=(side, side)).astype(np.float32)}


def _resnet56(path: Path) -> dict[str, NDArray[np.float32]]:
    """Return the convolutions and the dense layer of a PyTorch checkpoint."""
    import torch

    state = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
    return {name: tensor.numpy() for name, tensor in state.items() if tensor.ndim >= 2}


def _convolutions(path: Path) -> dict[str, NDArray[np.float32]]:
    """Return the four-dimensional float32 initializers of an ONNX model."""
    import onnx

    return {
        initializer.name: onnx.numpy_helper.to_array(initializer)
        for initializer in onnx.load(path).graph.initializer
        if len(initializer.dims) == 4 and initializer.data_type == onnx.TensorProto.FLOAT
    }


def _packed_lenets() -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the tensors of each network that `accuracy` has packed, as they are stored."""
    for path in sorted(MODELS.glob("*.spq")):
        with spq.open(path) as archive:
            stored = archive.tensors()
        if all(array.dtype == np.float32 for array in stored.values()):
            yield path.stem, {name: _index(array) for name, array in stored.items()}


def _index(array: NDArray[np.generic]) -> Tensor:
    """Number the distinct values of a float32 tensor, zero first, then ascending."""
    # As bit patterns, so that -0.0 and NaN stay what they are.
    bits, indices = np.unique(array.reshape(-1).view(np.uint32), return_inverse=True)
    if bits.size > _MAX_LEVELS:
        return Tensor(array.shape, array.reshape(-1).view(np.float32), None)
    levels = bits.view(np.float32)
    order = np.lexsort((levels, bits != 0))
    rank = np.argsort(order).astype(np.uint8)
    return Tensor(array.shape, levels[order], rank[indices])


def _compress(weight: NDArray[np.float32], sparsity: float) -> Tensor:
    """Zero the smallest magnitudes and move the others to their nearest level."""
    flat = weight.reshape(-1)
    zeros = round(sparsity * flat.size)
    survives = np.ones(flat.size, dtype=bool)
    if zeros:
        survives[np.argpartition(np.abs(flat), zeros - 1)[:zeros]] = False
    survivors = flat[survives]
    levels = _k_means(survivors, LEVELS - 1 if zeros else LEVELS)
    nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, survivors).astype(np.uint8)
    if not zeros:
        return Tensor(weight.shape, levels, nearest)
    indices = np.zeros(flat.size, dtype=np.uint8)
    indices[survives] = nearest + np.uint8(1)
    return Tensor(weight.shape, np.concatenate([np.zeros(1, np.float32), levels]), indices)


def _k_means(values: NDArray[np.float32], level_count: int) -> NDArray[np.float32]:
    """Return ascending levels by Lloyd's rounds from the quantiles."""
    ordered = np.sort(values).astype(np.float64)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    places = (np.arange(level_count) + 0.5) / level_count * ordered.size
    levels = np.unique(ordered[places.astype(np.int64)])
    for _ in range(_K_MEANS_ROUNDS):
        borders = np.searchsorted(ordered, (levels[1:] + levels[:-1]) / 2)
        ends = np.concatenate([[0], borders, [ordered.size]])
        counts = np.diff(ends)
        moved = np.where(counts > 0, np.diff(sums[ends]) / np.maximum(counts, 1), levels)
        if np.array_equal(moved, levels):
            break
        levels = moved
    return np.unique(levels.astype(np.float32))
