"""What all coded tensors have in common: tables in the first part, chunks in the others."""

from spqformat.cursor import Cursor
from spqformat.errors import Reason, SpqError
from spqformat.ids import MAX_CHUNK_ELEMENTS
from spqformat.model import TensorRecord


def tables_cursor(raw: bytes, record: TensorRecord) -> Cursor:
    """Return a cursor over a tensor's tables; it refuses with `bad_tables`."""
    return Cursor(raw, record.name, record.parts[0].offset, Reason.BAD_TABLES)


def read_chunk_elements(cursor: Cursor) -> int:
    """Read the number of elements of each chunk but the last."""
    chunk_elements = cursor.varint(MAX_CHUNK_ELEMENTS)
    if chunk_elements == 0 or chunk_elements % 8:
        raise cursor.refuse("chunk_elements is not a positive multiple of 8")
    return chunk_elements


def check_chunk_count(record: TensorRecord, expected: int, cursor: Cursor) -> None:
    """Compare the number of chunks with the directory."""
    if len(record.parts) - 1 != expected:
        raise cursor.refuse(
            f"the tables ask for {expected} chunks, the directory has {len(record.parts) - 1}"
        )


def bad_stream(record: TensorRecord, part_index: int, why: str) -> SpqError:
    """Return the error for coded bytes that break a rule of spec 7."""
    return SpqError(
        Reason.BAD_STREAM,
        f"coded data are not valid: {why}; fetch the file again",
        offset=record.parts[part_index].offset,
        section=record.name,
    )
