"""Files behind a URL: only what is needed is fetched, again where it failed, and checked."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import spq
from spq import remote
from spq.read_ahead import ReadAhead
from spqformat import Reason, SpqError
from spqformat.ids import HEADER_BYTES


class Server(ThreadingHTTPServer):
    """Serves one file by ranges, and remembers what it has sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = b""
        self.sent: list[tuple[int, int]] = []
        self.faults: list[str] = []
        self.heads: list[str] = []
        self.knows_ranges = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/model.spq"

    @property
    def sent_bytes(self) -> int:
        return sum(count for _, count in self.sent)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(send=False)

    def do_GET(self) -> None:
        self.answer(send=True)

    def answer(self, *, send: bool) -> None:
        content = self.server.content
        if self.path != "/model.spq":
            self.send_error(404)
            return
        start, end = 0, len(content)
        asked = self.headers.get("Range")
        if asked and self.server.knows_ranges:
            first, last = asked.removeprefix("bytes=").split("-")
            start, end = int(first), min(int(last) + 1, end)
        faults = self.server.faults if send else self.server.heads
        fault = faults.pop(0) if faults else ""
        if fault.isdigit():
            self.send_error(int(fault))
            return
        body = content[start:end]
        if fault == "short":
            body = body[: len(body) // 2]
        self.send_response(206 if asked and self.server.knows_ranges else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes" if self.server.knows_ranges else "none")
        if asked and self.server.knows_ranges:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.end_headers()
        if send:
            self.server.sent.append((start, len(body)))
            self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_FIRST_PAUSE_SECONDS", 0.0)


def arrays(count: int = 6) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(5)
    return {f"layer{n}": random.normal(size=(300, 100)).astype("f4") for n in range(count)}


def whole_file(tensors: dict[str, Any], **options: Any) -> bytes:
    import io

    stream = io.BytesIO()
    spq.save(tensors, stream, **options)
    return stream.getvalue()


def test_everything(server: Server) -> None:
    tensors = arrays()
    server.content = whole_file(tensors)
    found = spq.load_state_dict(server.url)
    assert {name: tensor.numpy().tobytes() for name, tensor in found.items()} == {
        name: array.tobytes() for name, array in tensors.items()
    }
    # Nothing was fetched twice.
    assert server.sent_bytes == len(server.content)
    assert len(server.sent) == 2


def test_one_tensor_of_a_large_file(server: Server) -> None:
    random = np.random.default_rng(6)
    beside = random.integers(0, 256, 96 << 20, dtype=np.uint8)
    program = random.bytes(300_000)
    server.content = whole_file({**arrays(40), "beside": beside}, programs={"onnx": program})
    assert len(server.content) > 100e6
    with spq.open(server.url) as archive:
        opening = server.sent_bytes
        assert opening <= 32 << 10
        wanted = archive.get_tensor("layer17")
        stored_bytes = archive.info("layer17").stored_bytes
    assert wanted.tobytes() == arrays(40)["layer17"].tobytes()
    assert server.sent_bytes - opening == stored_bytes
    directory_bytes = int.from_bytes(server.content[48:52], "little")
    assert server.sent_bytes <= HEADER_BYTES + directory_bytes + stored_bytes + (64 << 10)


def test_a_small_file_takes_one_request(server: Server) -> None:
    server.content = whole_file({"a": np.ones((30, 30), "f4")})
    with spq.open(server.url) as archive:
        archive.verify()
    assert server.sent == [(0, len(server.content))]


def test_large_tensors_are_fetched_in_pieces(server: Server) -> None:
    # Random bytes, so that they are stored as they are; 20 MiB in 8 MiB blocks of 0.5 MiB chunks.
    array = np.random.default_rng(8).integers(0, 256, 20 << 20, dtype=np.uint8)
    server.content = whole_file({"a": array})
    state = spq.load_state_dict(server.url)
    assert state["a"].numpy().tobytes() == array.tobytes()
    assert server.sent_bytes <= len(server.content) + (32 << 10)


def test_progress(server: Server) -> None:
    server.content = whole_file(arrays())
    heard: list[tuple[int, int]] = []
    with spq.open(server.url, progress=lambda *amounts: heard.append(amounts)) as archive:
        spq.load_state_dict(archive)
    assert all(later[0] > earlier[0] for earlier, later in pairwise(heard))
    assert {total for _, total in heard} == {len(server.content)}
    assert heard[-1][0] == server.sent_bytes


@pytest.mark.parametrize("fault", ["500", "503", "429", "short"])
def test_what_fails_is_tried_again(server: Server, fault: str) -> None:
    server.content = whole_file(arrays())
    server.faults = [fault, fault, fault]
    assert spq.load_state_dict(server.url)["layer3"].numpy().tobytes() == (
        arrays()["layer3"].tobytes()
    )
    assert server.faults == []


@pytest.mark.parametrize("fault", ["500", "short"])
def test_what_keeps_failing_is_an_error(server: Server, fault: str) -> None:
    server.content = whole_file(arrays())
    server.faults = [fault] * 9
    with pytest.raises(OSError, match=r"http://127\.0\.0\.1"):
        spq.open(server.url)
    assert len(server.faults) == 5


def test_the_first_request_is_tried_again(server: Server) -> None:
    server.content = whole_file(arrays())
    # Where the head is refused, the file itself is asked for.
    server.heads, server.faults = ["503"], ["503"]
    with spq.open(server.url) as archive:
        assert len(archive.keys()) == 6
    assert server.heads == server.faults == []


def test_servers_that_are_not_there() -> None:
    with pytest.raises(OSError, match=r"127\.0\.0\.1") as caught:
        spq.open("http://127.0.0.1:9/model.spq")
    assert not isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("url", ["reference://x", "dir://x"])
def test_what_file_systems_cannot_read(url: str) -> None:
    with pytest.raises(SpqError, match="cannot be read") as caught:
        spq.open(url)
    assert caught.value.code is Reason.BAD_ARGUMENT


def test_file_systems_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(SpqError, match="Install s3fs") as caught:
        spq.open("s3://bucket/x")
    assert caught.value.code is Reason.MISSING_EXTRA


def test_what_progress_raises_is_passed_on(server: Server) -> None:
    server.content = whole_file(arrays())

    def stop(*_: int) -> None:
        raise ValueError("enough")

    for file in (server.url, server.content):
        with pytest.raises(ValueError, match=r"^enough$"):
            spq.open(file, progress=stop)


def test_what_is_forbidden_is_not_tried_again(server: Server) -> None:
    server.content = whole_file(arrays())
    server.faults = ["403", "403"]
    with pytest.raises(OSError, match="403"):
        spq.open(server.url)
    assert len(server.faults) == 1


def test_what_is_not_there(server: Server) -> None:
    with pytest.raises(FileNotFoundError):
        spq.open(server.url.replace("model", "other"))


def test_servers_without_ranges(server: Server) -> None:
    server.content = whole_file(arrays())
    server.knows_ranges = False
    with pytest.raises(OSError, match="whole files instead of ranges"):
        spq.open(server.url)
    assert len(server.sent) == 1


def test_damage_is_found(server: Server) -> None:
    content = bytearray(whole_file(arrays()))
    content[-100] ^= 1
    server.content = bytes(content)
    with spq.open(server.url) as archive:
        archive.get_tensor("layer0")
        with pytest.raises(SpqError) as caught:
            archive.get_tensor("layer5")
    assert caught.value.code is Reason.CHECKSUM_MISMATCH


def test_unknown_kinds_of_urls() -> None:
    with pytest.raises(SpqError, match="cannot be read") as caught:
        spq.open("nothing-of-the-kind://somewhere/model.spq")
    assert caught.value.code is Reason.BAD_ARGUMENT


def test_only_files_are_mapped(server: Server) -> None:
    for file in (server.url, b"abc"):
        with pytest.raises(SpqError, match="only a file on disk") as caught:
            spq.open(file, mmap=True)
        assert caught.value.code is Reason.BAD_ARGUMENT


def test_blocks_of_neighbours() -> None:
    content = bytes(range(200))
    reads: list[tuple[int, int]] = []

    def read(offset: int, count: int) -> bytes:
        reads.append((offset, count))
        return content[offset : offset + count]

    ahead = ReadAhead(read, [(10, 5), (15, 5), (20, 0), (40, 10), (50, 1)])
    assert ahead.read(15, 5) == content[15:20]
    assert ahead.read(10, 5) == content[10:15]
    assert ahead.read(20, 0) == b""
    assert ahead.read(50, 1) == content[50:51]
    assert ahead.read(100, 3) == content[100:103]
    assert ahead.read(40, 30) == content[40:70]
    assert reads == [(10, 10), (40, 11), (100, 3), (40, 30)]


def test_ranges_by_themselves_are_not_kept() -> None:
    ahead = ReadAhead(lambda offset, count: bytes(count), [(10, 5), (40, 9 << 20), (10 << 20, 1)])
    assert len(ahead.read(40, 9 << 20)) == 9 << 20
    assert not ahead._blocks
    assert not ahead._kept
