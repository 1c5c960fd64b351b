"""Names of a stranger reach a terminal only with their control characters escaped."""

import json
from pathlib import Path

import numpy as np
import pytest

import spq
from spqformat import SpqError
from spqtools.cli import main

HOSTILE = [
    "\x1b[2J\x1b[1;1H",
    "\x1b]0;title\x07",
    "a\nb",
    "a\rb",
    "\x9b31m",
    "right\u202eleft",
    "\u2028",
    "\x7f",
    "../../etc/passwd",
    "C:\\windows",
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "hostile.spq"
    tensors = {name: np.arange(3, dtype="f4") for name in HOSTILE}
    spq.save(tensors, path, metadata={name: name for name in HOSTILE})
    return path


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_terminal(path: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, str(path)]) == 0
    output, error = capsys.readouterr()
    assert all(character.isprintable() for character in (output + error).replace("\n", ""))


def test_machines_get_the_names_as_they_are(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(path), "--json"]) == 0
    text = capsys.readouterr().out
    assert text.isascii()
    rows = json.loads(text)["tensors"]
    assert sorted(row["name"] for row in rows) == sorted(HOSTILE)


@pytest.mark.parametrize("name", HOSTILE)
def test_errors(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "hostile.spq"
    spq.save({name: np.arange(5000, dtype="i4") % 7}, path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with spq.open(path) as archive, pytest.raises(SpqError) as caught:
        archive.get_tensor(name)
    assert str(caught.value).isprintable()
    with spq.open(path) as archive, pytest.raises(SpqError) as caught:
        archive.get_tensor(name + "\x1b")
    assert str(caught.value).isprintable()
    assert main(["verify", str(path)]) == 2
    assert capsys.readouterr().err.replace("\n", "").isprintable()


def test_names_are_no_paths(path: Path) -> None:
    with spq.open(path) as archive:
        archive.tensors()
    assert [entry.name for entry in path.parent.iterdir()] == ["hostile.spq"]
