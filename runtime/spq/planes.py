"""Tensors of many distinct values as planes of bytes, encoder and decoder (spec 6.5).

Trained floating-point weights share few signs and exponents while their mantissas look random: the
plane of exponents is coded, the planes of mantissas are stored.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spq import rans
from spq.chunks import CHUNK_ELEMENTS
from spq.floats import Convert, as_is
from spq.frequencies import cheapest_table
from spq.scratch import Scratch
from spqformat import Reason
from spqformat.coded import bad_stream
from spqformat.cursor import Cursor, varint
from spqformat.frequency_tables import BYTE_ALPHABET
from spqformat.ids import DType, Encoding
from spqformat.model import TensorRecord
from spqformat.plane_tables import (
    read_planes_tables,
    sign_last,
    write_coded_plane,
    write_planes_tables,
    write_stored_plane,
)
from spqformat.writer import EncodedTensor

# A plane that loses less than this share of its bytes is not worth the time of its decoding.
_MIN_GAIN = 1 / 64
# Of a coded plane, beside its symbols and its frequencies: mode, freq_log2, kind, and of a stream
# the length and two bytes of its state.
_LEAST_OVERHEAD_BYTES = 6


# --- decoder ---------------------------------------------------------------------------------


class PlanesDecoder:
    """Elements in planes of bytes.

    Parameters
    ----------
    record : TensorRecord
        The tensor.
    read_part : callable
        Returns the checked bytes of a tensor's part.
    convert : callable
        Makes the wanted element type of the stored one.

    Raises
    ------
    SpqError
        `bad_tables`, and what `read_part` raises.
    """

    def __init__(
        self,
        record: TensorRecord,
        read_part: Callable[[TensorRecord, int], bytes],
        convert: Convert,
    ) -> None:
        self._convert = convert
        self._record = record
        self._read_part = read_part
        tables = read_planes_tables(read_part(record, 0), record, rans.read_tables)
        self._chunk_elements = tables.chunk_elements
        self._coders = [
            None
            if plane is None
            else rans.build_tables(plane.frequencies[None, :], plane.freq_log2)
            for plane in tables.planes
        ]
        self._sign_last = sign_last(record.dtype)
        self.chunk_count = len(record.parts) - 1

    def decode_chunk(self, chunk: int, elements: NDArray[np.generic], scratch: Scratch) -> None:
        """Decode the planes of one chunk and join them; refuses with `bad_stream`."""
        from spq._kernels import join_planes

        first = chunk * self._chunk_elements
        target = elements[first : first + self._chunk_elements]
        part_index = 1 + chunk
        stored = self._read_part(self._record, part_index)
        offset = self._record.parts[part_index].offset
        cursor = Cursor(stored, self._record.name, offset, Reason.BAD_STREAM)
        pieces = [
            cursor.take(target.size if coder is None else cursor.varint(cursor.remaining_bytes))
            for coder in self._coders
        ]
        cursor.finish()
        joined = scratch.array("planes", len(pieces) * target.size, np.uint8)
        planes = joined.reshape(len(pieces), target.size)
        for plane, coder, piece in zip(planes, self._coders, pieces, strict=True):
            if coder is None:
                plane[:] = np.frombuffer(piece, dtype=np.uint8)
                continue
            status, plane[:] = rans.decode(piece, coder, rans.NO_CONTEXTS, target.size)
            if status:
                raise bad_stream(self._record, part_index, rans.DECODE_FAULTS[status])
        if self._record.dtype is DType.BOOL and (planes > 1).any():
            raise bad_stream(self._record, part_index, "a boolean is neither 0 nor 1")
        if self._convert is as_is:
            join_planes(planes, self._sign_last, target)
            return
        patterns = np.empty(target.size, dtype=f"u{self._record.dtype.item_bytes}")
        join_planes(planes, self._sign_last, patterns)
        target[:] = self._convert(patterns)


# --- encoder ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _CodedPlane:
    """A plane under its own table."""

    table: bytes
    streams: list[bytes]  # with their lengths, one for each chunk


def encode_planes(
    bits: NDArray[np.generic], dtype: DType, shape: tuple[int, ...], crc: int
) -> EncodedTensor | None:
    """Encode a tensor as planes of bytes.

    Parameters
    ----------
    bits : ndarray of unsigned integers, shape (element_count,)
        Bit patterns of the elements, at least one.
    dtype : DType
        Element type.
    shape : tuple of int
        Dimensions.
    crc : int
        CRC-32 of the elements.

    Returns
    -------
    EncodedTensor or None
        None when no plane is worth coding.
    """
    planes = split_planes(bits, sign_last(dtype))
    coded = [_code_plane(plane) for plane in planes]
    if not any(coded):
        return None
    tables = (write_stored_plane() if plane is None else plane.table for plane in coded)
    parts = [write_planes_tables(CHUNK_ELEMENTS, tables)]
    for chunk, first in enumerate(range(0, bits.size, CHUNK_ELEMENTS)):
        last = first + CHUNK_ELEMENTS
        parts.append(
            b"".join(
                plane[first:last].tobytes() if code is None else code.streams[chunk]
                for plane, code in zip(planes, coded, strict=True)
            )
        )
    return EncodedTensor(dtype, Encoding.PLANES, shape, crc, parts)


def split_planes(bits: NDArray[np.generic], rotate: bool) -> NDArray[np.uint8]:
    """Return byte ``p`` of each element in row ``p``, shape (item_bytes, element_count).

    Parameters
    ----------
    bits : ndarray of unsigned integers, shape (element_count,)
        Bit patterns.
    rotate : bool
        Whether patterns are rotated left by one bit first.
    """
    width = bits.dtype.itemsize
    planes = np.empty((width, bits.size), dtype=np.uint8)
    one, top = bits.dtype.type(1), bits.dtype.type(8 * width - 1)
    # In pieces, so that the rotated elements stay in the cache.
    for first in range(0, bits.size, CHUNK_ELEMENTS):
        piece = bits[first : first + CHUNK_ELEMENTS]
        if rotate:
            # NumPy's stubs shift no generic scalars.
            piece = (piece << one) | (piece >> top)  # type: ignore[operator]
        little = piece.astype(f"<u{width}", copy=False).view(np.uint8)
        planes[:, first : first + piece.size] = little.reshape(piece.size, width).T
    return planes


def _code_plane(plane: NDArray[np.uint8]) -> _CodedPlane | None:
    """Code a plane under the table of the fewest bits; None when that gains too little."""
    chunks = [
        plane[first : first + CHUNK_ELEMENTS] for first in range(0, plane.size, CHUNK_ELEMENTS)
    ]
    # Chunk by chunk, as counting takes eight bytes for each symbol.
    counts = np.zeros(BYTE_ALPHABET, dtype=np.int64)
    for chunk in chunks:
        counts += np.bincount(chunk, minlength=BYTE_ALPHABET)
    allowed_bytes = plane.size * (1 - _MIN_GAIN)
    occurring = counts[counts > 0]
    entropy_bits = float((occurring * np.log2(plane.size / occurring)).sum())
    # What no table can beat; spares most planes of mantissas the search for one.
    if entropy_bits / 8 + occurring.size + _LEAST_OVERHEAD_BYTES > allowed_bytes:
        return None
    freq_log2, table = cheapest_table(counts, complete=False)
    coder = rans.build_tables(table.frequencies[None, :], freq_log2)
    written = write_coded_plane(freq_log2, table.written)
    streams = []
    for chunk in chunks:
        stream = rans.encode(chunk, coder, rans.NO_CONTEXTS)
        streams.append(varint(len(stream)) + stream)
    if len(written) + sum(map(len, streams)) > allowed_bytes:
        return None
    return _CodedPlane(written, streams)
