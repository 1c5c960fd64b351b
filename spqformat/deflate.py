"""The directory as a stream of DEFLATE (spec 5.5)."""

import zlib

from spqformat.cursor import Cursor, varint
from spqformat.errors import Reason, SpqError
from spqformat.ids import MAX_DIRECTORY_RATIO
from spqformat.limits import Limits

_LEVEL = 9
_MEMORY_LEVEL = 9
_RAW = -15  # no zlib header, the largest window
_MAX_UNPACKED_BYTES = (1 << 32) - 1


def deflated(directory: bytes) -> bytes | None:
    """Return the section that holds a directory deflated.

    None where that is no shorter, or so much shorter that readers refuse it.
    """
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _RAW, _MEMORY_LEVEL)
    section = varint(len(directory)) + packer.compress(directory) + packer.flush()
    is_allowed = len(section) < len(directory) <= MAX_DIRECTORY_RATIO * len(section)
    return section if is_allowed else None


def inflated(section: bytes, offset: int, limits: Limits) -> bytes:
    """Return the directory that a section holds deflated.

    Parameters
    ----------
    section : bytes
        The directory section; its checksum has been compared.
    offset : int
        Where it begins, in bytes of the file.
    limits : Limits
        What the reader is willing to spend.

    Returns
    -------
    bytes
        The records.

    Raises
    ------
    SpqError
        `bad_directory`, or `limit_exceeded` before anything is unpacked; no more than one byte
        above what the section announces is produced.
    """
    cursor = Cursor(section, "directory", offset, Reason.BAD_DIRECTORY)
    unpacked_bytes = cursor.varint(_MAX_UNPACKED_BYTES)
    if unpacked_bytes > limits.max_directory_bytes:
        raise SpqError(
            Reason.LIMIT_EXCEEDED,
            f"the file declares {unpacked_bytes} bytes of directory, "
            f"the limit is {limits.max_directory_bytes}; raise Limits if you trust it",
            section="directory",
        )
    if unpacked_bytes <= len(section):
        raise cursor.refuse("a deflated directory is not shorter than the plain one")
    if unpacked_bytes > MAX_DIRECTORY_RATIO * len(section):
        raise cursor.refuse(
            f"{unpacked_bytes} bytes of directory are deflated to {len(section)}, "
            f"less than one in {MAX_DIRECTORY_RATIO}"
        )
    unpacker = zlib.decompressobj(_RAW)
    try:
        directory = unpacker.decompress(cursor.rest(), unpacked_bytes + 1)
    except zlib.error as error:
        raise cursor.refuse(f"the directory is not a valid stream of DEFLATE: {error}") from error
    if not unpacker.eof or unpacker.unused_data or len(directory) != unpacked_bytes:
        raise cursor.refuse("the directory is not one stream of DEFLATE of the announced length")
    return directory
