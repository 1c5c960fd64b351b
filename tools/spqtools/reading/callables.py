"""Finds what the caller names as MODULE:CALLABLE or FILE.py:CALLABLE."""

import errno
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spqformat import Reason, SpqError


def call_named(spec: str, option: str) -> Any:
    """Import a callable and return what it returns.

    Parameters and errors are those of `find_named`; one that fails is a `bad_argument`.
    """
    named = find_named(spec, option)
    try:
        return named()
    except OSError:
        raise
    except (Exception, SystemExit) as error:  # the caller's own code may raise anything
        raise failed(spec, option, error) from error


def find_named(spec: str, option: str) -> Callable[..., Any]:
    """Import a callable.

    Parameters
    ----------
    spec : str
        ``MODULE:CALLABLE``, installed or in the working folder, or ``FILE.py:CALLABLE``.
    option : str
        Option of the command line that named it, for messages.

    Raises
    ------
    SpqError
        `bad_argument` when it is no such spec or its module fails.
    OSError
        The file cannot be read.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise SpqError(
            Reason.BAD_ARGUMENT,
            f"{option} {spec!r} is not MODULE:CALLABLE or FILE.py:CALLABLE",
        )
    try:
        module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
        named: Callable[..., Any] | None = getattr(module, name, None)
    except OSError:
        raise
    except (Exception, SystemExit) as error:  # the caller's own code may raise anything
        raise failed(spec, option, error) from error
    if named is None:
        raise SpqError(Reason.BAD_ARGUMENT, f"{option} {spec!r}: {place} has no {name!r}")
    return named


def failed(spec: str, option: str, error: BaseException) -> SpqError:
    """Return the refusal of a callable that has raised something."""
    return SpqError(
        Reason.BAD_ARGUMENT,
        f"{option} {spec!r} fails with {type(error).__name__}: {str(error)[:160]}",
    )


def _import_file(path: Path) -> Any:
    """Import a Python file under a name of its own."""
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    name = f"spq_named_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


def _import_module(name: str) -> Any:
    """Import a module that is installed or lies in the working folder."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)
