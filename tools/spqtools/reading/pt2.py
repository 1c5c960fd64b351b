"""Reads a .pt2 of torch.export without running what it contains.

PyTorch's own reader unpickles without restriction when the restricted way fails, evaluates shape
expressions as Python, writes names into Python source, imports what nested outputs name, resolves
any operator, and compiles guard code. So the archive is inspected first and refused unless it holds
nothing but ATen calls, plain shape expressions and plain names. What was inspected is copied to an
archive of our own, because PyTorch's zip reader and Python's can see different entries in one file.
That is read with pickles restricted, and its guards are dropped.
"""

import errno
import io
import json
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from spqformat import Reason, SpqError
from spqtools.silence import silence

_MAX_DOCUMENT_BYTES = 256 << 20
_ENTRY = re.compile(
    r"[^/]+/(models/[^/]+\.json|data/weights/[^/]+|data/constants/(tensor_[^/]+|[^/]+\.json)"
    r"|data/sample_inputs/[^/]+\.pt|archive_format|archive_version|byteorder|version|\.data/.+)"
)
# Of ATen, from_file and save reach the file system; of _operator, only arithmetic is harmless.
_OPERATOR = re.compile(
    r"torch\.ops\.aten\.(?!(from_file|save)(\.|$))\w+(\.\w+)?|torch\.sym_\w+|math\.trunc"
    r"|_operator\.(eq|ne|le|ge|lt|gt|neg|pos|mul|add|sub|floordiv|mod|pow|truediv|and_|or_"
    r"|lshift|rshift|getitem)",
    re.ASCII,
)
# Symbols such as s0, numbers, and the functions that torch writes; no attribute, no other string.
_SYMBOL = re.compile(r"Symbol\('(zuf|[su])\d+'(, (positive|nonnegative|integer)=True)*\)", re.ASCII)
_EXPRESSION = re.compile(r"[\w\s+*/%(),<>=&|~-]*", re.ASCII)
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_KNOWN_IDENTIFIER = re.compile(
    r"(zuf|[su])\d+|Integer|Rational|Add|Mul|Pow|Max|Min|FloorDiv|Mod|PythonMod|CeilDiv|IntTrueDiv|Eq|Ne|int_oo|oo|True|False",
    re.ASCII,
)

# Arithmetic on numbers is carried out while it is read: no towers of powers.
_MAX_POWERS = 3
_LONG_NUMBER = re.compile(r"\b\d{3,}", re.ASCII)
# Names of inputs and tensors become Python source.
_NAME = re.compile(r"[\w.]*", re.ASCII)
# Strings that nothing but people and repr() see; guards_code is dropped.
_PROSE = frozenset(
    {
        *("as_string", "as_strings", "custom", "from_node", "guards_code", "nn_module_stack"),
        *("source_fn_stack", "stack_trace", "torch_fn", "torch_version"),
    }
)
_STRUCTURES = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")


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
    inspected = _inspect(path)
    try:
        with _restricted_pickles(), silence():
            program = torch.export.load(inspected)
    except Exception as error:  # the reader raises whatever its parts raise on damaged input
        raise _bad(path) from error
    program._guards_code = []
    return program


def _inspect(path: Path) -> io.BytesIO:
    """Copy an archive, and refuse one that holds more than a plain traced network."""
    copy = io.BytesIO()
    try:
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as inspected:
            entries = archive.infolist()
            _check_sizes(entries, path.stat().st_size)
            for entry in entries:
                if not _ENTRY.fullmatch(entry.filename):
                    raise _unsafe(f"it holds {entry.filename[:80]!r}")
                content = archive.read(entry)
                if entry.filename.endswith(".json"):
                    _check_document(json.loads(content))
                inspected.writestr(entry.filename, content)
    except SpqError:
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:  # zipfile goes where a damaged directory sends it
            raise
        raise _bad(path) from error
    except Exception as error:  # zipfile raises whatever its parts raise on damaged input
        raise _bad(path) from error
    copy.seek(0)
    return copy


def _check_sizes(entries: Sequence[zipfile.ZipInfo], file_bytes: int) -> None:
    """Refuse entries that would take more memory than the file, or that hide one another."""
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise _unsafe("its entries are compressed")
    if sum(entry.file_size for entry in entries) > file_bytes:
        raise _unsafe("its entries overlap")
    if len({entry.filename.lower() for entry in entries}) < len(entries):
        raise _unsafe("it holds two entries of one name")
    documents = (entry for entry in entries if entry.filename.endswith(".json"))
    if any(entry.file_size > _MAX_DOCUMENT_BYTES for entry in documents):
        raise _unsafe("its graph is too large")


def _check_document(document: Any) -> None:
    """Refuse a document any string of which is not known to be harmless."""
    pending: list[tuple[str, Any]] = [("", document)]
    while pending:
        key, value = pending.pop()
        if isinstance(value, dict):
            for name in value:
                if key == "range_constraints":
                    _check_expression(name)
                else:
                    _check_name(name)
            if {"target", "expr_str"} & value.keys() and not all(
                isinstance(value[name], str) for name in ("target", "expr_str") if name in value
            ):
                raise _unsafe("a call or an expression is not a string")
            pending.extend(value.items())
        elif isinstance(value, list):
            pending.extend((key, item) for item in value)
        elif isinstance(value, str):
            _check_string(key, value)


def _check_string(key: str, value: str) -> None:
    """Refuse an operator, expression, structure or name that is not known to be harmless."""
    if key == "target":
        if not _OPERATOR.fullmatch(value):
            raise _unsafe(f"it calls {value[:80]!r}")
    elif key == "expr_str":
        _check_expression(value)
    elif key in ("in_spec", "out_spec"):
        _check_structure(json.loads(value))
    elif key not in _PROSE:
        _check_name(value)


def _check_expression(value: str) -> None:
    """Refuse an expression other than of symbols, numbers and known functions."""
    plain = _SYMBOL.sub("s0", value)
    names = _IDENTIFIER.findall(plain)
    powers = plain.count("**") + plain.count("Pow") + plain.count("<<")
    if (
        not _EXPRESSION.fullmatch(plain)
        or not all(map(_KNOWN_IDENTIFIER.fullmatch, names))
        or powers > _MAX_POWERS
        or (powers and _LONG_NUMBER.search(plain))
    ):
        raise _unsafe(f"it has the expression {value[:80]!r}")


def _check_structure(document: Any) -> None:
    """Refuse nested inputs and outputs other than lists, tuples and dicts of plain names."""
    _, root = document
    pending = [root]
    while pending:
        node = pending.pop()
        if node["type"] not in _STRUCTURES:
            raise _unsafe(f"its inputs or outputs are nested in {str(node['type'])[:80]!r}")
        keys = None if node["context"] is None else json.loads(node["context"])
        for key in keys or ():
            if not isinstance(key, str):
                raise _unsafe("its inputs or outputs have keys that are no strings")
            _check_name(key)
        pending.extend(node["children_spec"])


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise _unsafe(f"it has the name {name[:80]!r}")


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
