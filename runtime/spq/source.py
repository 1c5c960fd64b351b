"""Where the bytes of a file come from: memory, a path, or an open binary file."""

import os
import threading
from pathlib import Path
from typing import BinaryIO, Protocol

PathLike = str | os.PathLike[str]
FileLike = PathLike | bytes | bytearray | memoryview | BinaryIO


class Source(Protocol):
    """Random access to the bytes of a file; safe to use from several threads."""

    total_bytes: int

    def read(self, offset: int, count: int) -> bytes:
        """Return the bytes from `offset` on: fewer than `count` only at the end."""
        ...

    def close(self) -> None:
        """Release what the source holds."""
        ...


class MemorySource:
    """A file that already is in memory."""

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


class StreamSource:
    """A seekable binary file object of the caller's, which stays open."""

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


def open_source(file: FileLike) -> Source:
    """Return the source for a path, bytes, or a seekable binary file object.

    Raises
    ------
    OSError
        The path cannot be opened.
    TypeError
        `file` is none of these.
    """
    if isinstance(file, str | os.PathLike):
        return PathSource(file)
    if isinstance(file, bytes | bytearray | memoryview):
        return MemorySource(file)
    if hasattr(file, "read") and hasattr(file, "seek") and not hasattr(file, "encoding"):
        return StreamSource(file)
    raise TypeError(f"expected a path, bytes or a binary file, not {type(file).__name__}")
