"""The tables of a tensor stored as byte planes, parsed and written (spec 6.5)."""

from collections.abc import Iterable
from dataclasses import dataclass

from spqformat.coded import check_chunk_count, read_chunk_elements, tables_cursor
from spqformat.cursor import Cursor, varint
from spqformat.frequency_tables import (
    BYTE_ALPHABET,
    Frequencies,
    ReadTables,
    read_freq_log2,
    read_tables,
)
from spqformat.ids import DType, PlaneMode
from spqformat.model import TensorRecord

_ROTATED = frozenset({DType.F64, DType.F32, DType.F16, DType.BF16})


@dataclass(frozen=True)
class PlaneTable:
    """The table of a coded plane.

    Parameters
    ----------
    freq_log2 : int
        Logarithm of the frequencies' total.
    frequencies : ndarray of uint32, shape (256,)
        Frequencies of the plane's bytes.
    """

    freq_log2: int
    frequencies: Frequencies


@dataclass(frozen=True)
class PlanesTables:
    """Tables of a tensor whose elements are split into planes of bytes.

    Parameters
    ----------
    chunk_elements : int
        Elements of each chunk but the last.
    planes : tuple of PlaneTable or None
        One for each byte of an element, the lowest first; None for a stored plane.
    """

    chunk_elements: int
    planes: tuple[PlaneTable | None, ...]


def sign_last(dtype: DType) -> bool:
    """Return whether elements are rotated, so that the sign is bit 0 and the exponent on top."""
    return dtype in _ROTATED


def read_planes_tables(
    raw: bytes, record: TensorRecord, reader: ReadTables = read_tables
) -> PlanesTables:
    """Read and validate the tables of a tensor in planes; refuses with `bad_tables`."""
    cursor = tables_cursor(raw, record)
    chunk_elements = read_chunk_elements(cursor)
    planes = tuple(_read_plane(cursor, reader) for _ in range(record.dtype.item_bytes))
    cursor.finish()
    check_chunk_count(record, -(-record.element_count // chunk_elements), cursor)
    return PlanesTables(chunk_elements, planes)


def write_planes_tables(chunk_elements: int, planes: Iterable[bytes]) -> bytes:
    """Write the tables of a tensor from those of its planes, the lowest first."""
    return varint(chunk_elements) + b"".join(planes)


def write_stored_plane() -> bytes:
    """Write that a plane's bytes are stored as they are."""
    return bytes([PlaneMode.STORED])


def write_coded_plane(freq_log2: int, table: bytes) -> bytes:
    """Write that a plane's bytes are coded, and the table they are coded under."""
    return bytes([PlaneMode.CODED, freq_log2]) + table


def _read_plane(cursor: Cursor, reader: ReadTables) -> PlaneTable | None:
    """Read how one plane is stored."""
    mode_id = cursor.u8()
    if mode_id not in frozenset(PlaneMode):
        raise cursor.refuse(f"plane mode {mode_id} is unknown")
    if mode_id == PlaneMode.STORED:
        return None
    freq_log2 = read_freq_log2(cursor)
    return PlaneTable(freq_log2, reader(cursor, 1, BYTE_ALPHABET, freq_log2)[0])
