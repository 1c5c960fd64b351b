"""What ideal coders would need for a tensor set: the yardsticks of the codec benchmark.

All count the codebooks as float32, since nobody decodes without them, and no other side
information. Tensors of more than 256 distinct values count as they are.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln  # type: ignore[import-untyped]

from tests.bench.tensor_sets import Tensor, TensorSet

_Counts = NDArray[np.int64]


def static_order_0(tensors: TensorSet) -> int:
    """Return the bytes of each tensor's own entropy; the frequencies themselves cost nothing."""
    return _in_bytes(tensors, lambda tensor: _entropy_bits(_pair_counts(tensor).sum(axis=0)))


def adaptive_order_1(tensors: TensorSet) -> int:
    """Return the bytes of a KT estimator per previous index that starts anew in each tensor."""
    return _in_bytes(tensors, lambda tensor: _kt_bits(_pair_counts(tensor)))


def adaptive_order_1_shared(tensors: TensorSet) -> int:
    """Return the bytes of a KT estimator per previous index that goes on through the whole set."""
    indexed = [tensor for tensor in tensors.values() if tensor.indices is not None]
    alphabet = max((tensor.levels.size for tensor in indexed), default=1)
    counts = np.zeros((alphabet, alphabet), dtype=np.int64)
    for tensor in indexed:
        counts[: tensor.levels.size, : tensor.levels.size] += _pair_counts(tensor)
    return _in_bytes(tensors, lambda _: 0.0) + _up(_kt_bits(counts))


def codebooks(tensors: TensorSet) -> int:
    """Return the bytes of all codebooks, and of the elements that are on none."""
    return sum(tensor.codebook_bytes for tensor in tensors.values())


def _in_bytes(tensors: TensorSet, bits: Callable[[Tensor], float]) -> int:
    """Add up whole bytes over the tensors on a codebook, and the codebooks."""
    indexed = [tensor for tensor in tensors.values() if tensor.indices is not None]
    return codebooks(tensors) + _up(sum(bits(tensor) for tensor in indexed))


def _up(bits: float) -> int:
    return int(np.ceil(bits / 8))


def _pair_counts(tensor: Tensor) -> _Counts:
    """Count each index after each previous one, shape (level_count, level_count); 0 comes first."""
    assert tensor.indices is not None
    alphabet = tensor.levels.size
    current = tensor.indices.astype(np.int64)
    previous = np.concatenate([np.zeros(1, np.int64), current[:-1]])
    counts = np.bincount(previous * alphabet + current, minlength=alphabet * alphabet)
    return counts.reshape(alphabet, alphabet)


def _entropy_bits(counts: _Counts) -> float:
    """Return the bits of a static code that knows the frequencies."""
    present = counts[counts > 0]
    return float(-(present * np.log2(present / present.sum())).sum())


def _kt_bits(counts: _Counts) -> float:
    """Return the bits that Krichevsky and Trofimov's adaptive estimator takes, row by row."""
    half = counts.shape[1] / 2
    totals = counts.sum(axis=1)
    nats = gammaln(totals + half) - gammaln(half)
    nats -= (gammaln(counts + 0.5) - gammaln(0.5)).sum(axis=1)
    return float(nats.sum() / np.log(2))
