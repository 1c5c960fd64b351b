"""A file is replaced whole or not at all, and nothing else is left in its folder."""

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spqformat.atomic import write_atomically

OLD = b"old contents"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "model.spq"
    path.write_bytes(OLD)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def broken(error: BaseException) -> Iterator[bytes]:
    yield b"new" * 100_000
    raise error


def test_new_file(tmp_path: Path) -> None:
    path = tmp_path / "model.spq"
    assert write_atomically(path, [b"ab", b"", b"cde"]) == 5
    assert path.read_bytes() == b"abcde"
    assert names(tmp_path) == ["model.spq"]


def test_replaced_file(target: Path) -> None:
    assert write_atomically(str(target), iter([b"new"])) == 3
    assert target.read_bytes() == b"new"
    assert names(target.parent) == ["model.spq"]


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), MemoryError(), SystemExit()])
def test_interrupted(target: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        write_atomically(target, broken(error))
    assert target.read_bytes() == OLD
    assert names(target.parent) == ["model.spq"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_disk_refuses(target: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="no"):
        write_atomically(target, [b"new"])
    assert target.read_bytes() == OLD
    assert names(target.parent) == ["model.spq"]


def test_reaches_the_disk_before_it_takes_the_name(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    for step in ("fsync", "replace"):
        real = getattr(os, step)

        def spy(*arguments: object, step: str = step, real: object = real) -> None:
            if step == "fsync":
                (descriptor,) = arguments
                assert isinstance(descriptor, int)
                is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
                steps.append("fsync folder" if is_folder else "fsync file")
            else:
                steps.append(step)
            assert callable(real)
            real(*arguments)

        monkeypatch.setattr(os, step, spy)
    write_atomically(target, [b"new"])
    assert steps == ["fsync file", "replace", "fsync folder"]


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664, 0o755])
def test_permissions_are_kept(target: Path, mode: int) -> None:
    target.chmod(mode)
    write_atomically(target, [b"new"])
    assert stat.S_IMODE(target.stat().st_mode) == mode


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o000, 0o666)])
def test_permissions_of_new_files(tmp_path: Path, mask: int, mode: int) -> None:
    script = (
        f"import os; os.umask({mask}); "
        "from spqformat.atomic import write_atomically; write_atomically('new', [b'a'])"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == mode


def test_disk_full(target: Path) -> None:
    script = """
import resource, signal, sys
from spqformat.atomic import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
try:
    write_atomically(sys.argv[1], [bytes(1 << 12)] * 64)
except OSError as error:
    print(error.errno)
"""
    child = subprocess.run(
        [sys.executable, "-c", script, str(target)], capture_output=True, text=True, check=True
    )
    assert child.stdout.strip() == str(errno.EFBIG)
    assert target.read_bytes() == OLD
    assert names(target.parent) == ["model.spq"]


def test_symbolic_link_stays_and_its_target_changes(target: Path) -> None:
    folder = target.parent / "elsewhere"
    folder.mkdir()
    link = folder / "link.spq"
    link.symlink_to(Path("..") / target.name)
    write_atomically(link, [b"new"])
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert names(folder) == ["link.spq"]


def test_dangling_link_creates_its_target(tmp_path: Path) -> None:
    link = tmp_path / "link.spq"
    link.symlink_to(tmp_path / "new.spq")
    write_atomically(link, [b"new"])
    assert link.is_symlink()
    assert (tmp_path / "new.spq").read_bytes() == b"new"


def test_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path, [b"new"])
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "missing" / "model.spq", [b"new"])
    assert names(tmp_path) == []


def test_pipes_and_devices_are_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="not a regular file"):
        write_atomically(pipe, [b"new"])
    assert pipe.is_fifo()
    assert names(tmp_path) == ["pipe"]


@pytest.mark.parametrize("name", ["n" * 255, "ä" * 127, "\U0001f600" * 63, "-", " "])
def test_every_file_name_that_the_folder_takes(tmp_path: Path, name: str) -> None:
    write_atomically(tmp_path / name, [b"new"])
    assert names(tmp_path) == [name]


def test_open_file_keeps_the_old_contents(target: Path) -> None:
    with target.open("rb") as reader:
        write_atomically(target, [b"new"])
        assert reader.read() == OLD


def test_many_writers_never_mix(target: Path) -> None:
    contents = [bytes([number]) * 50_000 for number in range(8)]
    allowed = {OLD, *contents}
    seen: list[bytes] = []
    stop = threading.Event()

    def write(content: bytes) -> None:
        for _ in range(5):
            write_atomically(target, [content[:17], content[17:]])

    def watch() -> None:
        while not stop.is_set():
            seen.append(target.read_bytes())

    watcher = threading.Thread(target=watch)
    writers = [threading.Thread(target=write, args=[content]) for content in contents]
    watcher.start()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    stop.set()
    watcher.join()
    assert seen
    assert set(seen) <= allowed
    assert target.read_bytes() in contents
    assert names(target.parent) == ["model.spq"]


def test_signal_between_two_pieces(target: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"new"
        signal.raise_signal(signal.SIGINT)
        yield b"never"

    with pytest.raises(KeyboardInterrupt):
        write_atomically(target, pieces())
    assert target.read_bytes() == OLD
    assert names(target.parent) == ["model.spq"]


def test_a_missing_folder_is_told_by_the_name_that_was_given(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "model.spq"
    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(path, [b"1"])
    assert caught.value.filename == str(path)


def test_folder_that_cannot_be_read(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be written to all the same, and what was written is not an error."""
    real = os.open

    def refuse(path: Any, flags: int, *mode: int) -> int:
        if Path(path) == target.parent:
            raise PermissionError(errno.EACCES, "no")
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", refuse)
    assert write_atomically(target, [b"new"]) == 3
    assert target.read_bytes() == b"new"
