"""Writes a file whole or not at all."""

import errno
import os
import secrets
from collections.abc import Iterable
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], pieces: Iterable[bytes]) -> int:
    """Write `pieces` to `path` so that a reader sees the old file or the whole new one.

    The bytes go to a new file in the same folder, reach the disk, and take the name in one step;
    whatever interrupts that leaves the old file untouched and no other file behind.

    Parameters
    ----------
    path : path-like
        File to create or replace; an existing file keeps its permission bits.
    pieces : iterable of bytes
        Contents from front to back.

    Returns
    -------
    int
        Bytes written.

    Raises
    ------
    OSError
        Nothing was changed.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a file")
    if target.exists() and not target.is_file():
        # Taking the name of a device or a pipe would destroy it.
        raise OSError(errno.EINVAL, f"{path} is not a regular file")
    # Fifty characters of four bytes each and the rest stay below the usual 255 bytes.
    partial = target.with_name(f".{target.name[:50]}.{secrets.token_hex(8)}.partial")
    written = 0
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        # The name of the partial file would tell nobody anything.
        raise type(error)(error.errno, error.strerror, os.fspath(path)) from error
    try:
        with os.fdopen(descriptor, "wb") as stream:
            for piece in pieces:
                written += stream.write(piece)
            stream.flush()
            if target.exists():
                os.fchmod(stream.fileno(), target.stat().st_mode & 0o7777)
            os.fsync(stream.fileno())
        folder = _open_folder(target.parent)
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if folder is not None:
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return written


def _open_folder(folder: Path) -> int | None:
    """Open a folder, so that its new entry can be made to reach the disk; not all can be read."""
    try:
        return os.open(folder, os.O_RDONLY)
    except OSError:
        return None
