"""Reads a .pt2 of torch.export without running what it contains.

PyTorch's own reader unpickles without restriction when the restricted way fails, evaluates shape
expressions as Python, resolves any operator, and compiles guard code. So the archive is inspected
first and refused unless it holds nothing but ATen calls and plain shape expressions; then it is
read with pickles restricted, and its guards are dropped.
"""

import json
import os
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from spqformat import Reason, SpqError

_MAX_DOCUMENT_BYTES = 256 << 20
_ENTRY = re.compile(
    r"[^/]+/(models/[^/]+\.json|data/weights/[^/]+|data/constants/(tensor_[^/]+|[^/]+\.json)"
    r"|data/sample_inputs/[^/]+\.pt|archive_format|archive_version|byteorder|version|\.data/.+)"
)
_OPERATOR = re.compile(r"(torch\.ops\.aten\.\w+(\.\w+)?|_operator\.\w+|torch\.sym_\w+)", re.ASCII)
# Symbols such as s0, numbers, and the functions that torch writes; no attribute, no other string.
_SYMBOL = re.compile(r"Symbol\('(zuf|[su])\d+'(, (positive|nonnegative|integer)=True)*\)", re.ASCII)
_EXPRESSION = re.compile(r"[\w\s+*/%(),<>=&|~-]*", re.ASCII)
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_KNOWN_IDENTIFIER = re.compile(
    r"(zuf|[su])\d+|Integer|Rational|Add|Mul|Pow|Max|Min|FloorDiv|Mod|PythonMod|CeilDiv|IntTrueDiv|Eq|Ne|int_oo|oo|True|False",
    re.ASCII,
)


def read_pt2(path: Path) -> ExportedProgram:
    """Read a .pt2.

    Parameters
    ----------
    path : Path
        File of torch.export.save.

    Returns
    -------
    ExportedProgram
        The traced network.

    Raises
    ------
    SpqError
        `unsafe_model` for anything that could run code, `bad_model` for a damaged file.
    OSError
        The file cannot be read.
    """
    _inspect(path)
    try:
        with _restricted_pickles(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
    except Exception as error:  # the reader raises whatever its parts raise on damaged input
        raise _bad(path) from error
    program._guards_code = []
    return program


def _inspect(path: Path) -> None:
    """Refuse an archive that holds more than a plain traced network."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            for entry in entries:
                if not _ENTRY.fullmatch(entry.filename):
                    raise _unsafe(f"it holds {entry.filename[:80]!r}")
            documents = [entry for entry in entries if entry.filename.endswith(".json")]
            for entry in documents:
                if entry.file_size > _MAX_DOCUMENT_BYTES:
                    raise _unsafe("its graph is too large")
                for key, value in _strings(json.loads(archive.read(entry))):
                    _check_string(key, value)
    except (zipfile.BadZipFile, ValueError, KeyError, RecursionError, RuntimeError) as error:
        if isinstance(error, SpqError):
            raise
        raise _bad(path) from error


def _check_string(key: str, value: str) -> None:
    """Refuse an operator or expression that is not known to be harmless."""
    if key == "target" and not _OPERATOR.fullmatch(value):
        raise _unsafe(f"it calls {value[:80]!r}")
    if key == "expr_str":
        plain = _SYMBOL.sub("s0", value)
        names = _IDENTIFIER.findall(plain)
        if not _EXPRESSION.fullmatch(plain) or not all(map(_KNOWN_IDENTIFIER.fullmatch, names)):
            raise _unsafe(f"it has the expression {value[:80]!r}")


def _strings(document: Any) -> Iterator[tuple[str, str]]:
    """Yield the strings of a document with their keys; calls' targets and shape expressions."""
    pending: list[tuple[str, Any]] = [("", document)]
    while pending:
        key, value = pending.pop()
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, list):
            pending.extend((key, item) for item in value)
        elif isinstance(value, dict):
            is_signature = "arg" in value and "target" in value
            pending.extend(
                (name if not (is_signature and name == "target") else "", item)
                for name, item in value.items()
            )


@contextmanager
def _restricted_pickles() -> Iterator[None]:
    """Make every torch.load inside refuse pickles with code, also where it is asked not to."""
    variable = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(variable)
    os.environ[variable] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


def _unsafe(why: str) -> SpqError:
    return SpqError(
        Reason.UNSAFE_MODEL,
        f"the .pt2 is refused because {why}; export the network again, or give its state dict",
    )


def _bad(path: Path) -> SpqError:
    return SpqError(Reason.BAD_MODEL, f"{path} is damaged or not a torch.export file")
