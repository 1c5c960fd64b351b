"""From the stored parts of a tensor to its elements, chunk by chunk."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count

import numpy as np
from numpy.typing import NDArray

from spq import rans
from spqformat import Reason, SpqError
from spqformat.cursor import Cursor
from spqformat.ids import Encoding
from spqformat.model import TensorRecord
from spqformat.tables import (
    ClassStream,
    DenseTables,
    SparseTables,
    bad_stream,
    read_dense_tables,
    read_sparse_tables,
)

ReadPart = Callable[[TensorRecord, int], bytes]
"""Returns the checked bytes of a tensor's part."""

_PARALLEL_FROM_BYTES = 1 << 22


def decode_tensors(
    records: Iterable[TensorRecord], read_part: ReadPart, threads: int | None
) -> dict[str, NDArray[np.generic]]:
    """Decode tensors, their chunks in parallel; the result does not depend on `threads`.

    All tables are read and validated before the first element is allocated.

    Parameters
    ----------
    records : iterable of TensorRecord
        Tensors to decode.
    read_part : callable
        Source of stored bytes.
    threads : int or None
        Number of threads; None takes the number of processors when there is enough to do.

    Returns
    -------
    dict of str to ndarray
        New C-contiguous arrays; bf16 tensors as uint16 bit patterns.

    Raises
    ------
    SpqError
        `truncated`, `checksum_mismatch`, `bad_tables`, `bad_stream`.
    """
    wanted = list(records)
    decoders = [_DECODERS[record.encoding](record, read_part) for record in wanted]
    elements = [_allocate(record) for record in wanted]

    def jobs() -> Iterator[Callable[[], None]]:
        for decoder, target in zip(decoders, elements, strict=True):
            for chunk in range(decoder.chunk_count):
                yield lambda d=decoder, t=target, c=chunk: d.decode_chunk(c, t)  # type: ignore[misc]

    if threads is None:
        decoded_bytes = sum(record.decoded_bytes for record in wanted)
        threads = (cpu_count() or 1) if decoded_bytes >= _PARALLEL_FROM_BYTES else 1
    if threads == 1:
        for job in jobs():
            job()
    else:
        with ThreadPoolExecutor(threads) as pool:
            for future in [pool.submit(job) for job in jobs()]:
                future.result()
    return {
        record.name: target.view(record.dtype.numpy).reshape(record.shape)
        for record, target in zip(wanted, elements, strict=True)
    }


def check_decoded(record: TensorRecord, array: NDArray[np.generic]) -> None:
    """Compare a decoded tensor with the checksum of its elements; refuses `checksum_mismatch`."""
    if zlib.crc32(np.ascontiguousarray(array).data) != record.decoded_crc32:
        raise SpqError(
            Reason.CHECKSUM_MISMATCH,
            "decoded elements do not match their checksum; a faulty encoder wrote the file",
            section=record.name,
        )


def _allocate(record: TensorRecord) -> NDArray[np.generic]:
    """Return zeros as unsigned integers of the element's width, shape (element_count,)."""
    return np.zeros(record.element_count, dtype=f"u{record.dtype.item_bytes}")


class _RawDecoder:
    """Elements stored as they are."""

    chunk_count = 1

    def __init__(self, record: TensorRecord, read_part: ReadPart) -> None:
        self._record = record
        self._read_part = read_part

    def decode_chunk(self, chunk: int, elements: NDArray[np.generic]) -> None:
        """Copy the only part."""
        stored = self._read_part(self._record, chunk)
        width = self._record.dtype.item_bytes
        elements[:] = np.frombuffer(stored, dtype=f"<u{width}")


class _DenseDecoder:
    """Level indices under one table."""

    def __init__(self, record: TensorRecord, read_part: ReadPart) -> None:
        self._record = record
        self._read_part = read_part
        self._tables: DenseTables = read_dense_tables(read_part(record, 0), record)
        self._rans = rans.build_tables(self._tables.frequencies[None, :], self._tables.freq_log2)
        self._per_symbol = 8 // self._tables.index_bits
        self._symbol_levels = _levels_of_symbols(self._tables)
        self.chunk_count = len(record.parts) - 1

    def decode_chunk(self, chunk: int, elements: NDArray[np.generic]) -> None:
        """Decode the symbols of one chunk and look their levels up."""
        first = chunk * self._tables.chunk_elements
        target = elements[first : first + self._tables.chunk_elements]
        symbol_count = -(-target.size // self._per_symbol)
        stored = self._read_part(self._record, 1 + chunk)
        status, symbols = rans.decode(stored, self._rans, None, symbol_count)
        if status:
            raise bad_stream(self._record, 1 + chunk, rans.DECODE_FAULTS[status])
        full = target.size // self._per_symbol
        whole = target[: full * self._per_symbol].reshape(full, self._per_symbol)
        # Every symbol with a frequency has been checked against the codebook.
        np.take(self._symbol_levels, symbols[:full], axis=0, out=whole, mode="clip")
        if full < symbol_count:
            used = target.size - full * self._per_symbol
            if int(symbols[-1]) >> (used * self._tables.index_bits):
                raise bad_stream(self._record, 1 + chunk, "padding is not zero")
            target[-used:] = self._symbol_levels[symbols[-1], :used]


def _levels_of_symbols(tables: DenseTables) -> NDArray[np.generic]:
    """Return the levels that each symbol stands for, shape (symbols, 8 // index_bits)."""
    levels = tables.codebook.levels
    if tables.index_bits == 8:
        return levels[:, None]
    symbols = np.arange(256, dtype=np.int64)[:, None]
    shifts = np.arange(0, 8, tables.index_bits, dtype=np.int64)
    indices = (symbols >> shifts) & ((1 << tables.index_bits) - 1)
    # Symbols beyond the codebook have no frequency; any level fills their place.
    expanded: NDArray[np.generic] = levels[np.minimum(indices, levels.size - 1)]
    return expanded


class _SparseDecoder:
    """A mask of non-zero elements under density classes, and their level indices."""

    def __init__(self, record: TensorRecord, read_part: ReadPart) -> None:
        self._record = record
        self._read_part = read_part
        self._tables: SparseTables = read_sparse_tables(read_part(record, 0), record)
        tables = self._tables
        row_count = -(-record.element_count // tables.row_length)
        self._row_classes = _decode_classes(record, tables.row_stream, row_count)
        column_classes = _decode_classes(record, tables.column_stream, tables.row_length)
        self._column_order = column_order(column_classes)
        self._byte_classes = byte_classes(column_classes)
        self._row_bytes = self._byte_classes.size
        self._mask_rans = rans.build_tables(tables.mask_frequencies, tables.mask_freq_log2)
        self._value_rans = rans.build_tables(
            tables.value_frequencies[None, :], tables.value_freq_log2
        )
        self.chunk_count = len(record.parts) - 1

    def decode_chunk(self, chunk: int, elements: NDArray[np.generic]) -> None:
        """Decode mask and indices of one chunk and scatter its levels into zeros."""
        from spq._kernels import scatter_levels

        tables, part_index = self._tables, 1 + chunk
        first_row = chunk * tables.rows_per_chunk
        row_classes = self._row_classes[first_row : first_row + tables.rows_per_chunk]
        stored = self._read_part(self._record, part_index)
        offset = self._record.parts[part_index].offset
        cursor = Cursor(stored, self._record.name, offset, Reason.BAD_STREAM)
        mask_stream = cursor.take(cursor.varint(cursor.remaining_bytes))
        value_stream = cursor.take(cursor.remaining_bytes)
        status, mask = rans.decode(
            mask_stream,
            self._mask_rans,
            mask_contexts(row_classes, self._byte_classes, tables.column_class_count),
            row_classes.size * self._row_bytes,
        )
        if not status:
            ones = int(np.bitwise_count(mask).sum(dtype=np.int64))
            status, indices = rans.decode(value_stream, self._value_rans, None, ones)
        if not status:
            first = first_row * tables.row_length
            status = scatter_levels(
                mask,
                tables.row_length,
                self._column_order,
                indices,
                tables.codebook.levels,
                elements[first : first + row_classes.size * tables.row_length],
            )
        if status:
            raise bad_stream(self._record, part_index, rans.DECODE_FAULTS[status])


def column_order(column_classes: NDArray[np.uint8]) -> NDArray[np.uint32] | None:
    """Return columns in ascending order of class, ties in place, or None for the identity."""
    if (column_classes[1:] >= column_classes[:-1]).all():
        return None
    return np.argsort(column_classes, kind="stable").astype(np.uint32)


def byte_classes(column_classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the class of the first column of each mask byte of a row."""
    return np.sort(column_classes, kind="stable")[::8].copy()


def mask_contexts(
    row_classes: NDArray[np.uint8], byte_classes: NDArray[np.uint8], column_class_count: int
) -> NDArray[np.uint8] | None:
    """Return the context of each mask byte, row by row; None when there is only context 0."""
    if not row_classes.any() and not byte_classes.any():
        return None
    scaled = row_classes * np.uint8(column_class_count)
    return (scaled[:, None] + byte_classes[None, :]).ravel()


def _decode_classes(
    record: TensorRecord, coded: ClassStream | None, count: int
) -> NDArray[np.uint8]:
    """Return the density class of each row or of each column."""
    if coded is None:
        return np.zeros(count, dtype=np.uint8)
    coder = rans.build_tables(coded.frequencies[None, :], coded.freq_log2)
    status, classes = rans.decode(coded.stream, coder, None, count)
    if status:
        raise bad_stream(record, 0, rans.DECODE_FAULTS[status])
    return classes


_DECODERS: Mapping[Encoding, type[_RawDecoder] | type[_DenseDecoder] | type[_SparseDecoder]] = {
    Encoding.RAW: _RawDecoder,
    Encoding.DENSE: _DenseDecoder,
    Encoding.SPARSE: _SparseDecoder,
}
