"""Compiled code is kept where nobody else can put any, or not at all."""

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from spq import _jit
from spqformat import Reason, SpqError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    chosen = tmp_path / "cache"
    monkeypatch.setenv("SPQ_CACHE_DIR", str(chosen))
    return chosen


def test_new_folder_is_private(folder: Path) -> None:
    assert _jit.cache_folder() == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert _jit.cache_folder() == folder


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702, 0o1777])
def test_folder_that_others_may_write_to(folder: Path, mode: int) -> None:
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(SpqError, match="SPQ_CACHE_DIR") as caught:
        _jit.cache_folder()
    assert caught.value.code is Reason.UNSAFE_CACHE


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o750])
def test_folder_that_others_may_only_read(folder: Path, mode: int) -> None:
    folder.mkdir()
    folder.chmod(mode)
    assert _jit.cache_folder() == folder


def test_folder_of_somebody_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(mode=0o700)
    owner = folder.stat().st_uid
    if owner == 0:  # then it is root's, whom everybody trusts
        os.chown(folder, 12345, -1)
    else:
        monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    with pytest.raises(SpqError) as caught:
        _jit.cache_folder()
    assert caught.value.code is Reason.UNSAFE_CACHE


def test_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPQ_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert _jit.cache_folder() == tmp_path / "caches" / "spq"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _jit.cache_folder() == tmp_path / ".cache" / "spq"


SCRIPT = """
import io
import numpy, spq
stream = io.BytesIO()
try:
    spq.save({"w": (numpy.arange(300) % 3).astype("u1")}, stream)
    with spq.open(stream.getvalue()) as archive:
        print(archive.info("w").encoding, archive.get_tensor("w").sum())
except spq.SpqError as error:
    print(error.code)
"""


def child(script: str, **variables: str) -> str:
    outcome = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout.strip()


def test_unsafe_folder_stops_the_codec(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    assert child(SCRIPT, SPQ_CACHE_DIR=str(folder)) == "unsafe_cache"
    assert list(folder.iterdir()) == []


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    assert child(SCRIPT, SPQ_CACHE_DIR=str(blocked / "cache")) == "dense 300"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("SPQ_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert _jit._private_cache() is None
    with pytest.raises(FileNotFoundError, match="set SPQ_CACHE_DIR"):
        _jit.cache_folder()


def test_folder_that_takes_no_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that is run read-only after its cache has been filled."""

    def refuse(**_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    assert _jit._private_cache() is not None
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert _jit._private_cache() is None


def test_functions_of_others_are_cached_where_they_were(tmp_path: Path) -> None:
    script = (
        "import numba.core.config\n"
        "import spq._kernels\n"
        "print(numba.core.config.CACHE_DIR or 'unset')\n"
    )
    assert child(script, SPQ_CACHE_DIR=str(tmp_path / "ours"), NUMBA_CACHE_DIR="") == "unset"
    theirs = str(tmp_path / "theirs")
    assert child(script, SPQ_CACHE_DIR=str(tmp_path / "ours"), NUMBA_CACHE_DIR=theirs) == theirs


def test_plain_python_decodes_the_same(tmp_path: Path) -> None:
    assert child(SCRIPT, NUMBA_DISABLE_JIT="1", SPQ_CACHE_DIR=str(tmp_path)) == "dense 300"
