"""From the elements of a tensor to its stored parts: the encoder's choices, each by size."""

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spq.chunks import SMALL_ELEMENTS
from spq.dense import encode_dense
from spq.mixed import encode_mixed
from spq.planes import encode_planes
from spq.sparse import encode_sparse, views
from spqformat.codebook import Codebook, smallest_codebook, spanning_codebook
from spqformat.cursor import varint
from spqformat.ids import DType, Encoding
from spqformat.mixed_tables import can_be_mixed
from spqformat.writer import EncodedTensor

# What mixed predictions gain less than that is not worth the time of their decoding.
_MIXED_MIN_GAIN = 1 / 64


@dataclass(frozen=True)
class _Indexed:
    """A tensor as indices into its distinct values."""

    dtype: DType
    shape: tuple[int, ...]
    levels: NDArray[np.generic]  # ascending bit patterns, shape (level_count,)
    indices: NDArray[np.uint8]  # shape (element_count,)


def encode_tensor(
    elements: NDArray[np.generic], dtype: DType, *, fast_load: bool = True
) -> EncodedTensor:
    """Encode a tensor exactly, by the encoding of the fewest bytes.

    Parameters
    ----------
    elements : ndarray, any shape, C-contiguous
        Elements in the NumPy type of `dtype`.
    dtype : DType
        Element type.
    fast_load : bool
        Whether mixed predictions, which are slow to decode, are left out. Else they are taken where
        they save a 64th or more.

    Returns
    -------
    EncodedTensor
        A constant where all elements are the same, else indices into a codebook; in planes of
        bytes or raw when there are more than 256 distinct values or indices gain nothing.
    """
    little = np.ascontiguousarray(elements).astype(dtype.numpy, copy=False)
    bits = little.reshape(-1).view(f"u{dtype.item_bytes}")
    if dtype is DType.BOOL:
        # Memory that was never written may hold other bytes than 0 and 1.
        bits = (bits != 0).view(np.uint8)
    crc = zlib.crc32(bits.data)
    if bits.size and bits[0] == bits[-1] and (bits == bits[0]).all():
        element = bits[:1].tobytes()
        return EncodedTensor(dtype, Encoding.CONSTANT, elements.shape, crc, [], element)
    raw = EncodedTensor(dtype, Encoding.RAW, elements.shape, crc, [bits.tobytes()])
    best = min([raw, *_encode_indexed(bits, dtype, elements.shape, crc, fast_load)], key=_cost)
    if best is not raw or bits.size == 0:
        return best
    planes = encode_planes(bits, dtype, elements.shape, crc)
    return raw if planes is None else min([raw, planes], key=_directory_and_stored_bytes)


def _encode_indexed(
    bits: NDArray[np.generic], dtype: DType, shape: tuple[int, ...], crc: int, fast_load: bool
) -> list[EncodedTensor]:
    """Encode a tensor as indices into its distinct values; nothing when these are too many."""
    indexed = _index(bits, dtype, shape)
    if indexed is None:
        return []
    options = []
    zero = np.flatnonzero(indexed.levels == 0)
    zero_share = 0.0
    if zero.size:
        zero_share = float(np.mean(indexed.indices == zero[0]))
    small = bits.size <= SMALL_ELEMENTS
    if zero_share > 0.5 or (small and zero_share > 0.0):
        options.append(_encode_sparse(indexed, int(zero[0]), crc))
    if zero_share <= 0.5 or small:
        options.extend(_encode_dense(indexed, crc))
    if not fast_load and can_be_mixed(dtype, shape):
        options.extend(_encode_mixed(indexed, int(zero[0]) if zero.size else None, crc))
    return options


def _cost(tensor: EncodedTensor) -> float:
    """Count bytes, those under mixed predictions for more."""
    surcharge = _MIXED_MIN_GAIN if tensor.encoding is Encoding.MIXED else 0.0
    return _directory_and_stored_bytes(tensor) / (1 - surcharge)


def _directory_and_stored_bytes(tensor: EncodedTensor) -> int:
    """Count what a tensor adds to the file: its parts and their entries in the directory."""
    part_count_bytes = 0 if tensor.encoding is Encoding.RAW else len(varint(len(tensor.parts)))
    return part_count_bytes + sum(len(part) + len(varint(len(part))) + 4 for part in tensor.parts)


def _index(bits: NDArray[np.generic], dtype: DType, shape: tuple[int, ...]) -> _Indexed | None:
    """Number the distinct values in ascending order, or return None for more than 256 or none."""
    if bits.size == 0:
        return None
    from spq._kernels import index_levels

    levels = np.empty(256, dtype=bits.dtype)
    indices = np.empty(bits.size, dtype=np.uint8)
    count = index_levels(bits, np.full(1024, -1, dtype=np.int16), levels, indices)
    if count < 0:
        return None
    order = np.argsort(levels[:count], kind="stable")
    rank = np.empty(count, dtype=np.uint8)
    rank[order] = np.arange(count, dtype=np.uint8)
    return _Indexed(dtype, shape, levels[:count][order], rank[indices])


def _encode_sparse(indexed: _Indexed, zero_index: int, crc: int) -> EncodedTensor:
    """Encode a mask of the non-zero elements and their level indices, in the best view."""
    codebook = smallest_codebook(np.delete(indexed.levels, zero_index), indexed.dtype)
    options = [
        EncodedTensor(
            indexed.dtype,
            Encoding.SPARSE,
            indexed.shape,
            crc,
            encode_sparse(indexed.indices, zero_index, codebook, view),
        )
        for view in views(indexed.shape, indexed.indices.size)
    ]
    return min(options, key=_directory_and_stored_bytes)


def _encode_mixed(indexed: _Indexed, zero_index: int | None, crc: int) -> list[EncodedTensor]:
    """Encode all elements under mixed predictions, if they fit."""
    levels = indexed.levels if zero_index is None else np.delete(indexed.levels, zero_index)
    codebook = smallest_codebook(levels, indexed.dtype)
    parts = encode_mixed(indexed.indices, zero_index, codebook, indexed.shape)
    if parts is None:
        return []
    return [EncodedTensor(indexed.dtype, Encoding.MIXED, indexed.shape, crc, parts)]


def _encode_dense(indexed: _Indexed, crc: int) -> list[EncodedTensor]:
    """Encode all elements as level indices, with each codebook that fits."""
    options = [(indexed.indices, smallest_codebook(indexed.levels, indexed.dtype))]
    options += _as_uniform(indexed)
    return [
        EncodedTensor(indexed.dtype, Encoding.DENSE, indexed.shape, crc, encode_dense(*option))
        for option in options
    ]


def _as_uniform(indexed: _Indexed) -> list[tuple[NDArray[np.uint8], Codebook]]:
    """Return the tensor as integers times a power of two, when at most 256 integers span it."""
    if indexed.dtype is not DType.F32:
        return []
    codebook = spanning_codebook(indexed.levels)
    if codebook is None:
        return []
    values = indexed.levels.view(np.float32).astype(np.float64)
    rank = (np.ldexp(values, -codebook.exponent) - codebook.first).astype(np.uint8)
    return [(rank[indexed.indices], codebook)]
