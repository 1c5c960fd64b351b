"""From the elements of a tensor to its stored parts: the encoder's choices, each by size."""

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spq import rans
from spq.classes import DensityClasses, find_density_classes
from spq.decode import byte_classes, column_order, mask_contexts
from spq.frequencies import CodedTable, cheapest_table, mask_table
from spqformat.cursor import varint
from spqformat.ids import DType, Encoding
from spqformat.tables import (
    Codebook,
    dense_alphabet,
    smallest_codebook,
    uniform_codebook,
    write_classes,
    write_dense_head,
    write_one_class,
    write_sparse_shape,
)
from spqformat.writer import EncodedTensor

_CHUNK_ELEMENTS = 1 << 19
_FLAT_ROW_LENGTH = 4096
_SMALL_ELEMENTS = 1 << 16
_MASK_FREQ_LOG2 = (12, 14)
_MAX_UNIFORM_LEVELS = 256


@dataclass(frozen=True)
class _Indexed:
    """A tensor as indices into its distinct values."""

    dtype: DType
    shape: tuple[int, ...]
    levels: NDArray[np.generic]  # ascending bit patterns, shape (level_count,)
    indices: NDArray[np.uint8]  # shape (element_count,)


def encode_tensor(elements: NDArray[np.generic], dtype: DType) -> EncodedTensor:
    """Encode a tensor exactly, in the fewest bytes that the format's encodings take.

    Parameters
    ----------
    elements : ndarray, any shape, C-contiguous
        Elements in the NumPy type of `dtype`.
    dtype : DType
        Element type.

    Returns
    -------
    EncodedTensor
        Raw when there are more than 256 distinct values or nothing is gained.
    """
    little = np.ascontiguousarray(elements).astype(dtype.numpy, copy=False)
    bits = little.reshape(-1).view(f"u{dtype.item_bytes}")
    if dtype is DType.BOOL:
        # Memory that was never written may hold other bytes than 0 and 1.
        bits = (bits != 0).view(np.uint8)
    crc = zlib.crc32(bits.data)
    raw = EncodedTensor(dtype, Encoding.RAW, elements.shape, crc, [bits.tobytes()])
    indexed = _index(bits, dtype, elements.shape)
    if indexed is None:
        return raw
    options = [raw]
    zero = np.flatnonzero(indexed.levels == 0)
    zero_share = 0.0
    if zero.size and indexed.levels.size > 1:
        zero_share = float(np.mean(indexed.indices == zero[0]))
    small = bits.size <= _SMALL_ELEMENTS
    if zero_share > 0.5 or (small and zero_share > 0.0):
        options.append(_encode_sparse(indexed, int(zero[0]), crc))
    if zero_share <= 0.5 or small:
        options.extend(_encode_dense(indexed, crc))
    return min(options, key=lambda option: _directory_and_stored_bytes(option))


def _directory_and_stored_bytes(tensor: EncodedTensor) -> int:
    """Count what a tensor adds to the file: its parts and their entries in the directory."""
    return sum(len(part) + len(varint(len(part))) + 4 for part in tensor.parts)


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


# --- dense -----------------------------------------------------------------------------------


def _encode_dense(indexed: _Indexed, crc: int) -> list[EncodedTensor]:
    """Encode all elements as level indices, with each codebook that fits."""
    options = [_dense(indexed, smallest_codebook(indexed.levels, indexed.dtype), crc)]
    uniform = _as_uniform(indexed)
    if uniform is not None:
        options.append(_dense(*uniform, crc))
    return options


def _dense(indexed: _Indexed, codebook: Codebook, crc: int) -> EncodedTensor:
    """Encode level indices under one table, several in a symbol where that is as small."""
    wide = [bits for bits in (1, 2, 4) if codebook.level_count <= 1 << bits][:1]
    chunk_elements = _CHUNK_ELEMENTS
    best: tuple[float, int, int, CodedTable, NDArray[np.uint8]] | None = None
    for index_bits in (*wide, 8):
        symbols = _pack_indices(indexed.indices, index_bits)
        alphabet = dense_alphabet(index_bits, codebook.level_count)
        counts = np.bincount(symbols, minlength=alphabet)
        # Flat tables also promise the symbols that stand for no level.
        complete = codebook.level_count in (alphabet, 1 << index_bits)
        freq_log2, table = cheapest_table(counts, complete)
        if best is None or table.bits < best[0]:
            best = (table.bits, index_bits, freq_log2, table, symbols)
    assert best is not None
    _, index_bits, freq_log2, table, symbols = best
    coder = rans.build_tables(table.frequencies[None, :], freq_log2)
    tables = write_dense_head(codebook, index_bits, chunk_elements)
    parts = [tables + bytes([freq_log2]) + table.written]
    symbols_per_chunk = chunk_elements * index_bits // 8
    parts += [
        rans.encode(symbols[first : first + symbols_per_chunk], coder, None)
        for first in range(0, symbols.size, symbols_per_chunk)
    ]
    return EncodedTensor(indexed.dtype, Encoding.DENSE, indexed.shape, crc, parts)


def _pack_indices(indices: NDArray[np.uint8], index_bits: int) -> NDArray[np.uint8]:
    """Pack indices into symbols of eight bits, first index lowest, zeros behind the last."""
    per_symbol = 8 // index_bits
    if per_symbol == 1:
        return indices
    padded = np.zeros(-(-indices.size // per_symbol) * per_symbol, dtype=np.uint8)
    padded[: indices.size] = indices
    symbols = np.zeros(padded.size // per_symbol, dtype=np.uint8)
    for place in range(per_symbol):
        symbols |= padded[place::per_symbol] << np.uint8(place * index_bits)
    return symbols


def _as_uniform(indexed: _Indexed) -> tuple[_Indexed, Codebook] | None:
    """Return the tensor as integers times a power of two, when at most 256 integers span it."""
    if indexed.dtype is not DType.F32:
        return None
    singles = indexed.levels.view(np.float32)
    if not np.isfinite(singles).all() or (indexed.levels == 0x80000000).any() or not singles.any():
        return None
    # Only now, because converting a signalling NaN warns.
    values = singles.astype(np.float64)
    mantissas, exponents = np.frexp(values[values != 0])
    integers = (np.abs(mantissas) * (1 << 24)).astype(np.int64)
    lowest_ones = np.log2(integers & -integers).astype(np.int64)
    exponent = int((exponents + lowest_ones).min()) - 24
    if not -126 <= exponent <= 102:
        return None
    scaled = np.ldexp(values, -exponent)
    first, last = int(scaled.min()), int(scaled.max())
    if last - first >= _MAX_UNIFORM_LEVELS:
        return None
    level_count = last - first + 1
    # A full power of two costs nothing more and allows the flat table.
    rounded = 1 << (level_count - 1).bit_length()
    if max(-first, first + rounded - 1) > 1 << 24:
        return None
    codebook = uniform_codebook(exponent, first, rounded)
    rank = (scaled.astype(np.int64) - first).astype(np.uint8)
    levels = codebook.levels
    return _Indexed(indexed.dtype, indexed.shape, levels, rank[indexed.indices]), codebook


# --- sparse ----------------------------------------------------------------------------------


def _encode_sparse(indexed: _Indexed, zero_index: int, crc: int) -> EncodedTensor:
    """Encode a mask of the non-zero elements under density classes, and their level indices."""
    mask = indexed.indices != zero_index
    levels = np.delete(indexed.levels, zero_index)
    codebook = smallest_codebook(levels, indexed.dtype)
    options = []
    if len(indexed.shape) > 1 and indexed.indices.size // indexed.shape[0] >= 8:
        row_length = indexed.indices.size // indexed.shape[0]
        classes = find_density_classes(mask.reshape(-1, row_length))
        options.append(_sparse(indexed, zero_index, mask, classes, codebook, crc))
    if not options or classes.row_class_count * classes.column_class_count == 1:
        row_length = min(_FLAT_ROW_LENGTH, mask.size)
        flat = DensityClasses(
            np.zeros(-(-mask.size // row_length), dtype=np.uint8),
            np.zeros(row_length, dtype=np.uint8),
            1,
            1,
        )
        options.append(_sparse(indexed, zero_index, mask, flat, codebook, crc))
    return min(options, key=_directory_and_stored_bytes)


def _sparse(
    indexed: _Indexed,
    zero_index: int,
    mask: NDArray[np.bool_],
    classes: DensityClasses,
    codebook: Codebook,
    crc: int,
) -> EncodedTensor:
    """Encode under given density classes."""
    row_length, row_count = classes.columns.size, classes.rows.size
    order = column_order(classes.columns)
    first_classes = byte_classes(classes.columns)
    flat = np.zeros(row_count * row_length, dtype=np.uint8)
    # One more than the level index, so that zero still marks the zeros.
    shifted = indexed.indices + (indexed.indices < zero_index)
    flat[: mask.size] = np.where(mask, shifted, 0)
    grid = flat.reshape(row_count, row_length)
    if order is not None:
        grid = np.ascontiguousarray(grid[:, order])
    mask_bytes = np.packbits(grid != 0, axis=1, bitorder="little")
    contexts = mask_contexts(classes.rows, first_classes, classes.column_class_count)
    context_count = classes.row_class_count * classes.column_class_count
    keys = mask_bytes.ravel().astype(np.int64)
    if contexts is not None:
        keys += contexts.astype(np.int64) << 8
    counts = np.bincount(keys, minlength=256 * context_count).reshape(context_count, 256)
    mask_freq_log2, mask_tables = min(
        (
            (freq_log2, [mask_table(row, freq_log2) for row in counts])
            for freq_log2 in _MASK_FREQ_LOG2
        ),
        key=lambda option: sum(table.bits for table in option[1]),
    )
    mask_coder = rans.build_tables(
        np.stack([table.frequencies for table in mask_tables]), mask_freq_log2
    )
    values = grid[grid != 0] - np.uint8(1)
    value_freq_log2, value_table = cheapest_table(
        np.bincount(values, minlength=codebook.level_count)
    )
    value_coder = rans.build_tables(value_table.frequencies[None, :], value_freq_log2)

    rows_per_chunk = max(1, _CHUNK_ELEMENTS // row_length)
    tables = (
        write_sparse_shape(codebook, row_length, rows_per_chunk)
        + _write_classes(classes.rows)
        + _write_classes(classes.columns)
        + bytes([mask_freq_log2])
        + b"".join(table.written for table in mask_tables)
        + bytes([value_freq_log2])
        + value_table.written
    )
    parts = [tables]
    ones = np.bitwise_count(mask_bytes).sum(axis=1, dtype=np.int64)
    value_starts = np.concatenate([[0], np.cumsum(ones)])
    row_bytes = mask_bytes.shape[1]
    for first in range(0, row_count, rows_per_chunk):
        last = min(first + rows_per_chunk, row_count)
        chunk_contexts = contexts
        if contexts is not None:
            chunk_contexts = contexts[first * row_bytes : last * row_bytes]
        mask_stream = rans.encode(mask_bytes[first:last].ravel(), mask_coder, chunk_contexts)
        chunk_values = values[value_starts[first] : value_starts[last]]
        parts.append(
            varint(len(mask_stream)) + mask_stream + rans.encode(chunk_values, value_coder, None)
        )
    return EncodedTensor(indexed.dtype, Encoding.SPARSE, indexed.shape, crc, parts)


def _write_classes(classes: NDArray[np.uint8]) -> bytes:
    """Code and write the density class of each row or of each column."""
    if not classes.any():
        return write_one_class()
    counts = np.bincount(classes)
    freq_log2, table = cheapest_table(counts)
    coder = rans.build_tables(table.frequencies[None, :], freq_log2)
    return write_classes(counts.size, freq_log2, table.written, rans.encode(classes, coder, None))
