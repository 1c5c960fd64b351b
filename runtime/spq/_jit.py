"""The one typed door to Numba: how kernels are compiled, and where compiled code is kept."""

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from spqformat import Reason, SpqError

P = ParamSpec("P")
R = TypeVar("R")

_CACHE_VARIABLE = "SPQ_CACHE_DIR"


def cache_folder() -> Path:
    """Return the folder that holds compiled kernels; created for its owner alone.

    Loading compiled code runs it, so a folder that others may write to is refused.

    Raises
    ------
    SpqError
        `unsafe_cache` when the folder belongs to somebody else or others may write to it.
    OSError
        It cannot be created.
    """
    chosen = os.environ.get(_CACHE_VARIABLE)
    if chosen:
        folder = Path(chosen)
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache") / "spq"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if hasattr(os, "getuid") and (
        status.st_uid not in (os.getuid(), 0) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    ):
        raise SpqError(
            Reason.UNSAFE_CACHE,
            f"others may write to the kernel cache {folder}; "
            f"make it private or set {_CACHE_VARIABLE}",
        )
    return folder


def _home() -> Path:
    """Return the user's home folder."""
    try:
        return Path.home()
    except RuntimeError as error:
        raise FileNotFoundError(
            errno.ENOENT, f"there is no home folder for the kernel cache; set {_CACHE_VARIABLE}"
        ) from error


def _source_digest() -> str:
    """Return a name for the kernels as they are written.

    A kernel's cached code contains the kernels that it calls, but Numba compiles it again only when
    its own file changes.
    """
    here = Path(__file__).parent
    sources = sorted([*here.glob("_kernels/*.py"), here / "_bits.py", Path(__file__)])
    return hashlib.sha256(b"".join(map(Path.read_bytes, sources))).hexdigest()[:16]


def _private_cache() -> Path | None:
    """Return the folder for these kernels; None where there is none, or nobody may write to it.

    Numba does not read compiled code from a folder that it cannot write to.
    """
    try:
        folder = cache_folder() / _source_digest()
        folder.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        return None
    return folder


_CACHE = _private_cache()


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a kernel: no Python objects, no GIL, no fast-math, cached when that is safe."""
    import numba
    import numba.core.config

    # Numba makes its settings while it is imported; type checkers do not see them. This one is for
    # the whole process, whose own functions are to be cached where they were.
    settings: Any = numba.core.config
    before = settings.CACHE_DIR
    settings.CACHE_DIR = before if _CACHE is None else str(_CACHE)
    try:
        compiled: Callable[P, R] = numba.njit(
            nogil=True, cache=_CACHE is not None, error_model="numpy"
        )(function)
    finally:
        settings.CACHE_DIR = before
    return compiled
