"""Programs as frames of zstd, plain or with the dictionary of the format (spec 4.2)."""

from functools import cache
from importlib.resources import files

import zstandard

DICTIONARY_FILE = "program_dictionary.bin"
_LEVEL = 19
_BITE_BYTES = 256
# Magic, and a descriptor that says: one segment, eight bytes of content size, nothing else.
_HEAD = zstandard.FRAME_HEADER + b"\xe0"
_SINGLE_SEGMENT = 0x20

ZstdError = zstandard.ZstdError


@cache
def dictionary() -> zstandard.ZstdCompressionDict:
    """Return the dictionary of the format; its SHA-256 stands in the registry."""
    content = files("spqformat").joinpath(DICTIONARY_FILE).read_bytes()
    return zstandard.ZstdCompressionDict(content, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def frame_of(program: bytes) -> bytes:
    """Return a program as a frame without a dictionary."""
    return zstandard.ZstdCompressor(level=_LEVEL).compress(program)


def blocks_of(program: bytes) -> bytes | None:
    """Return the blocks of a program's frame with the dictionary.

    None for a program so long that its frame is not in one segment.
    """
    compressor = zstandard.ZstdCompressor(
        level=_LEVEL,
        dict_data=dictionary(),
        write_checksum=False,
        write_content_size=True,
        write_dict_id=False,
    )
    frame = compressor.compress(program)
    if not frame[len(_HEAD) - 1] & _SINGLE_SEGMENT:
        return None
    return frame[zstandard.frame_header_size(frame) :]


def frame_of_blocks(blocks: bytes, decoded_bytes: int) -> bytes:
    """Return the frame that blocks are of: its header follows from the length of the program."""
    return _HEAD + decoded_bytes.to_bytes(8, "little") + blocks


def unpack(frame: bytes, decoded_bytes: int, *, with_dictionary: bool) -> bytes:
    """Decompress a frame that is not trusted.

    Parameters
    ----------
    frame : bytes
        What has to be exactly one frame.
    decoded_bytes : int
        What it has to give.
    with_dictionary : bool
        Whether the dictionary of the format stands before it.

    Returns
    -------
    bytes
        The program.

    Raises
    ------
    ZstdError
        Anything is not as it has to be; little more than `decoded_bytes` were produced.
    """
    # The frame's own content size wins over any limit that a one-shot call is given, so it is
    # compared first; small bites then bound what a lying frame can produce.
    # A skippable frame has none, but passes for one of no bytes.
    if not frame.startswith(zstandard.FRAME_HEADER):
        raise ZstdError("does not begin as a frame")
    if zstandard.frame_content_size(frame) != decoded_bytes:
        raise ZstdError("declares another length than its record")
    known = dictionary() if with_dictionary else None
    # No window takes more memory than the content, whose length has been compared.
    unpacker = zstandard.ZstdDecompressor(
        dict_data=known, max_window_size=1 << zstandard.WINDOWLOG_MAX
    ).decompressobj()
    decoded = bytearray()
    for start in range(0, len(frame), _BITE_BYTES):
        if unpacker.eof or len(decoded) > decoded_bytes:
            raise ZstdError("goes on after its end")
        decoded += unpacker.decompress(frame[start : start + _BITE_BYTES])
    if not unpacker.eof or unpacker.unused_data or len(decoded) != decoded_bytes:
        raise ZstdError("is not one complete zstd frame")
    return bytes(decoded)
