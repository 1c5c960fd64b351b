"""Every source gives the same bytes: path, memory, and files that read a byte at a time."""

import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pytest

import spq
from spq.source import is_url, open_source
from spqformat import Reason, SpqError

CONTENT = bytes(range(100))


class ShortReads(io.BytesIO):
    """A file that gives one byte at a time."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(1 if size is None or size else 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


SOURCES: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "text": str,
    "file": lambda path: path.open("rb"),
    "unbuffered": lambda path: path.open("rb", buffering=0),
    "bytes": Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "matrix": lambda path: np.fromfile(path, dtype="<u4").reshape(5, 5).data,
    "columns": lambda path: np.fromfile(path, dtype="u1").reshape(5, 20).T.copy().T.data,
    "every second": lambda path: np.fromfile(path, dtype="u1").repeat(2)[::2].data,
    "records": lambda path: np.fromfile(path, dtype=[("a", "<u2"), ("b", "u1", 3)]).data,
    "stream": lambda path: io.BytesIO(path.read_bytes()),
    "short reads": lambda path: ShortReads(path.read_bytes()),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_reads(path: Path, kind: str) -> None:
    file = SOURCES[kind](path)
    source = open_source(file)
    assert source.total_bytes == 100
    assert source.read(0, 100) == CONTENT
    assert source.read(40, 20) == CONTENT[40:60]
    assert source.read(90, 20) == CONTENT[90:]
    assert source.read(100, 5) == source.read(7, 0) == b""
    assert type(source.read(3, 4)) is bytes
    source.close()
    if hasattr(file, "read"):
        assert not file.closed
        file.close()


@pytest.mark.parametrize("file", [None, 7, 1.5, ["a"], object()])
def test_other_types(file: Any) -> None:
    with pytest.raises(SpqError, match="is no file; pass a path") as caught:
        spq.open(file)
    assert caught.value.code is Reason.BAD_ARGUMENT


def test_text_files(path: Path) -> None:
    with path.open(encoding="latin-1") as file, pytest.raises(SpqError, match="binary file"):
        spq.open(file)  # type: ignore[arg-type]


def test_sources_that_are_closed() -> None:
    stream, view = io.BytesIO(CONTENT), memoryview(CONTENT)
    stream.close()
    view.release()
    for file in (stream, view):
        with pytest.raises(SpqError) as caught:
            spq.open(file)
        assert caught.value.code is Reason.BAD_ARGUMENT


@pytest.mark.parametrize("kind", ["path", "bytes", "stream", "stream closed by its owner"])
def test_use_after_close(packed: bytes, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file.spq"
    path.write_bytes(packed)
    stream = io.BytesIO(packed)
    file = {"path": path, "bytes": packed}.get(kind, stream)
    archive = spq.open(cast("BinaryIO", file))
    (stream if kind.endswith("owner") else archive).close()
    for use in (archive.tensors, archive.verify, lambda: archive.get_tensor("a")):
        with pytest.raises(SpqError) as caught:
            use()
        assert caught.value.code is Reason.BAD_ARGUMENT
    with pytest.raises(SpqError), archive:
        archive.program("onnx")
    assert archive.keys() == list("abcdef")
    archive.close()
    archive.close()


def test_missing_files(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path, tmp_path / "missing" / "file"):
        with pytest.raises(OSError, match=r"No such file|directory"):
            spq.open(path)


@pytest.fixture
def packed() -> bytes:
    stream = io.BytesIO()
    tensors = {name: np.arange(3000, dtype="f4").reshape(50, 60) % 5 for name in "abcdef"}
    spq.save(tensors, stream, programs={"onnx": b"graph"})
    return stream.getvalue()


def test_tensors_from_short_reads(packed: bytes) -> None:
    with spq.open(packed) as whole, spq.open(ShortReads(packed)) as short:
        assert short.keys() == whole.keys()
        for name in whole.keys():  # noqa: SIM118 - an archive is no mapping
            assert short.get_tensor(name).tobytes() == whole.get_tensor(name).tobytes()


def test_file_object_stays_where_the_caller_can_use_it(packed: bytes) -> None:
    stream = io.BytesIO(packed)
    with spq.open(stream) as archive:
        archive.tensors()
    assert not stream.closed
    stream.seek(0)
    assert stream.read() == packed


def test_memory_is_released(packed: bytes) -> None:
    buffer = bytearray(packed)
    with spq.open(buffer) as archive:
        archive.verify()
        with pytest.raises(BufferError):
            buffer.append(0)
    buffer.append(0)
    with pytest.raises(SpqError):
        spq.open(buffer)
    buffer.append(0)


def test_constants_read_nothing_and_are_refused_after_close_too() -> None:
    stream = io.BytesIO()
    values = {f"norm{number}": np.full((4, 5), number, "f4") for number in range(9)}
    spq.save(values, stream)
    archive = spq.open(stream.getvalue())
    assert {archive.info(name).stored_bytes for name in values} == {0}
    for threads in (1, 3):
        found = archive.tensors(threads=threads)
        assert all(np.array_equal(found[name], values[name]) for name in values)
    archive.close()
    for use in (archive.tensors, archive.verify, lambda: archive.get_tensor("norm1")):
        with pytest.raises(SpqError) as caught:
            use()
        assert caught.value.code is Reason.BAD_ARGUMENT


def test_a_directory_that_memory_cannot_hold(
    packed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_container(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("spq.archive.read_container", read_container)
    with pytest.raises(SpqError) as caught:
        spq.open(packed)
    assert caught.value.code is Reason.LIMIT_EXCEEDED


def test_refused_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"something else")
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("counts open files in /proc")
    before = len(os.listdir(folder))
    for _ in range(3):
        with pytest.raises(SpqError):
            spq.open(path)
    assert len(os.listdir(folder)) == before


@pytest.mark.parametrize("kind", ["path", "bytes", "stream"])
def test_many_threads_share_an_archive(packed: bytes, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file.spq"
    path.write_bytes(packed)
    file = {"path": path, "bytes": packed, "stream": io.BytesIO(packed)}[kind]
    expected = (np.arange(3000, dtype="f4").reshape(50, 60) % 5).tobytes()
    found: set[bytes] = set()
    with spq.open(cast("BinaryIO", file)) as archive:

        def work() -> None:
            found.update(archive.get_tensor(name).tobytes() for name in archive.keys() * 5)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {expected}


def test_file_replaced_while_open(packed: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.spq"
    path.write_bytes(packed)
    with spq.open(path) as archive:
        spq.save({"other": np.zeros(9)}, path)
        archive.verify()
        assert archive.keys() == list("abcdef")
    with spq.open(path) as archive:
        assert archive.keys() == ["other"]


def test_file_cut_while_open(packed: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.spq"
    path.write_bytes(packed)
    with spq.open(path) as archive:
        os.truncate(path, len(packed) - 1)
        with pytest.raises(SpqError) as caught:
            archive.tensors()
    assert caught.value.code is Reason.TRUNCATED


def test_maps(path: Path) -> None:
    source = open_source(path, mapped=True)
    assert source.total_bytes == 100
    assert source.read(40, 20) == CONTENT[40:60]
    assert type(source.read(3, 4)) is bytes
    source.close()
    with pytest.raises(ValueError, match="released"):
        source.read(0, 1)


def test_maps_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(SpqError) as caught:
        spq.open(tmp_path / "empty", mmap=True)
    assert caught.value.code is Reason.BAD_MAGIC


def test_a_mapped_file_decodes(tmp_path: Path) -> None:
    array = np.arange(5000).reshape(50, 100)
    spq.save({"a": array}, tmp_path / "x.spq")
    with spq.open(tmp_path / "x.spq", mmap=True) as archive:
        assert archive.get_tensor("a").tobytes() == array.tobytes()
    with pytest.raises(SpqError, match="closed"):
        archive.get_tensor("a")


def test_progress_of_a_file(tmp_path: Path) -> None:
    spq.save({"a": np.arange(5000)}, tmp_path / "x.spq")
    heard: list[tuple[int, int]] = []
    with spq.open(tmp_path / "x.spq", progress=lambda *amounts: heard.append(amounts)) as archive:
        archive.get_tensor("a")
    assert heard[-1] == ((tmp_path / "x.spq").stat().st_size,) * 2


@pytest.mark.parametrize("path", ["a\0b", "\ud800"])
def test_what_is_no_path(path: str) -> None:
    with pytest.raises(SpqError, match="is no path") as caught:
        spq.open(path)
    assert caught.value.code is Reason.BAD_ARGUMENT


def test_urls_are_no_paths() -> None:
    assert [is_url(url) for url in ("https://example.org/a", "S3://bucket/a")] == [True, True]
    assert [is_url(path) for path in ("folder/a", "C:/a", "/a://b")] == [False] * 3
