"""Where the bytes of a file come from: memory, a path, an open binary file, or a URL."""

import mmap
import os
import re
import threading
from pathlib import Path
from typing import BinaryIO, Protocol

from spqformat import Reason, SpqError

PathLike = str | os.PathLike[str]
FileLike = PathLike | bytes | bytearray | memoryview | BinaryIO
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


class Source(Protocol):
    """Random access to the bytes of a file; safe to use from several threads."""

    total_bytes: int
    # Reading ahead at least so many bytes at once is worth it; 0 where single reads are cheap.
    block_bytes: int

    def read(self, offset: int, count: int) -> bytes:
        """Return the bytes from `offset` on: fewer than `count` only at the end."""
        ...

    def close(self) -> None:
        """Release what the source holds."""
        ...


class MemorySource:
    """A file that already is in memory."""

    block_bytes = 0

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        try:
            self._data = view.cast("B")
        except (TypeError, ValueError):  # strides, or elements that only a copy makes bytes of
            self._data = memoryview(view.tobytes())
        self.total_bytes = self._data.nbytes

    def read(self, offset: int, count: int) -> bytes:
        """Return a copy of the bytes from `offset` on."""
        return bytes(self._data[offset : offset + count])

    def close(self) -> None:
        """Release the buffer."""
        self._data.release()


class PathSource:
    """A file on disk, read by position, so that a file replaced meanwhile is not mixed in."""

    block_bytes = 0

    def __init__(self, path: PathLike) -> None:
        self._file = Path(path).open("rb", buffering=0)  # noqa: SIM115 - closed by close()
        self.total_bytes = os.fstat(self._file.fileno()).st_size

    def read(self, offset: int, count: int) -> bytes:
        """Return the bytes from `offset` on."""
        pieces = []
        while count > 0 and (piece := os.pread(self._file.fileno(), count, offset)):
            pieces.append(piece)
            offset += len(piece)
            count -= len(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class MappedSource(MemorySource):
    """A file on disk through a memory map; who shortens it meanwhile kills the process."""

    def __init__(self, path: PathLike) -> None:
        with Path(path).open("rb", buffering=0) as file:
            # An empty file cannot be mapped.
            is_empty = os.fstat(file.fileno()).st_size == 0
            self._map = None if is_empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        super().__init__(memoryview(self._map or b""))

    def close(self) -> None:
        """Undo the map."""
        super().close()
        if self._map is not None:
            self._map.close()


class StreamSource:
    """A seekable binary file object of the caller's, which stays open."""

    block_bytes = 0

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self.total_bytes = stream.seek(0, os.SEEK_END)

    def read(self, offset: int, count: int) -> bytes:
        """Return the bytes from `offset` on."""
        with self._lock:
            self._stream.seek(offset)
            pieces = []
            while count > 0 and (piece := self._stream.read(count)):
                pieces.append(piece)
                count -= len(piece)
            return b"".join(pieces)

    def close(self) -> None:
        """Leave the caller's file alone."""


def open_source(file: FileLike, *, mapped: bool = False) -> Source:
    """Return the source for a path, a URL, bytes, or a seekable binary file object.

    Parameters
    ----------
    file : path-like, URL, bytes-like or seekable binary file object
        The file.
    mapped : bool
        Whether a file on disk is mapped into memory; nothing else can be.

    Raises
    ------
    SpqError
        `missing_extra` for a URL without fsspec, `bad_argument` for one that fsspec does not know,
        for a map of what is no file on disk, and for what is none of these.
    OSError
        The file cannot be opened.
    """
    if mapped:
        if isinstance(file, str | os.PathLike) and not is_url(file):
            return MappedSource(file)
        raise SpqError(Reason.BAD_ARGUMENT, "only a file on disk can be mapped; leave out mmap")
    if isinstance(file, str) and is_url(file):
        from spq.remote import RemoteSource

        return RemoteSource(file)
    if isinstance(file, str | os.PathLike):
        return PathSource(file)
    if isinstance(file, bytes | bytearray | memoryview):
        return MemorySource(file)
    if hasattr(file, "read") and hasattr(file, "seek") and not hasattr(file, "encoding"):
        return StreamSource(file)
    raise SpqError(
        Reason.BAD_ARGUMENT,
        f"a {type(file).__name__} is no file; pass a path, a URL, bytes or an open binary file",
    )


def is_url(file: PathLike) -> bool:
    """Tell a URL from a path."""
    return isinstance(file, str) and _URL.match(file) is not None
