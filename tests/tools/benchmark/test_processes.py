"""`spq bench` loads a file in every way that there is, and leaves nothing behind."""

import io
import json
import mmap
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import spq
from spqformat import Reason, SpqError
from spqtools.benchmark import child as benchmark_child
from spqtools.benchmark import processes as benchmark
from spqtools.benchmark.child import Measurement, NotRunError
from spqtools.benchmark.processes import Benchmark, Contender
from spqtools.cli import main
from spqtools.progress import Progress
from spqtools.reading.ingest import Source
from spqtools.reading.programs import trace, write_programs
from spqtools.unpack import write_onnx, write_safetensors

WEIGHTS = ["spq.load_state_dict", "torch.load", "safetensors"]
SESSIONS = ["spq.session", "InferenceSession"]
EVERYTHING = [*WEIGHTS, "spq.load", *SESSIONS]
TIMES = {"start", "first_load", "load"}
MEBIBYTE = 1 << 20


def pack(path: Path, *kinds: str) -> Path:
    """Write a small network with the programs named."""
    network = nn.Sequential(nn.Linear(6, 50), nn.ReLU(), nn.Linear(50, 3)).eval()
    traced = trace(Source({}, "", module=network), (torch.zeros(2, 6),))
    assert traced is not None
    state = network.state_dict()
    programs = write_programs(traced, state)
    stored = {kind: programs.stored[kind] for kind in kinds}
    spq.save({**state, **programs.constants}, path, programs=stored)
    return path


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(tmp_path_factory.mktemp("both") / "x.spq", "torch", "onnx")


@pytest.fixture(scope="module")
def measured(both: Path) -> Benchmark:
    return benchmark.run_benchmark(both, 1, 1, Progress())


@pytest.fixture
def rivals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the temporary files go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Measure nothing; collect the ways in the order in which they would be."""
    ways: list[str] = []

    def count(way: str, path: Path, threads: int) -> Measurement:
        assert path.is_file()
        ways.append(way)
        return Measurement(dict.fromkeys(TIMES, float(len(ways))), None)

    monkeypatch.setattr(benchmark, "_measured", count)
    return ways


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Pretend that packages are not installed."""
    found = object()
    monkeypatch.setattr(
        benchmark, "find_spec", lambda package: None if package in packages else found
    )


def test_every_way(measured: Benchmark) -> None:
    assert [one.way for one in measured.contenders] == EVERYTHING
    assert measured.notes == ()
    for one in measured.contenders:
        assert one.smallest == one.figures
        runs = set() if one.group == "weights" else {"first_run", "run"}
        assert one.figures.keys() - {"peak_bytes"} == TIMES | runs
        peak = one.figures.get("peak_bytes", 0)
        assert type(peak) is int
        assert 0 <= peak < 1 << 30
        assert all(0 < one.figures[name] < 300 for name in TIMES | runs)
        assert one.figures["first_load"] > one.figures["start"]


def test_sizes_are_those_of_the_files(measured: Benchmark, both: Path, tmp_path: Path) -> None:
    sizes = {one.way: one.file_bytes for one in measured.contenders}
    pickled = io.BytesIO()
    torch.save(spq.load_state_dict(both), pickled)
    dense, graph = tmp_path / "x.safetensors", tmp_path / "x.onnx"
    write_safetensors(both, dense)
    write_onnx(both, graph)
    assert sizes == {
        **dict.fromkeys(("spq.load_state_dict", "spq.load", "spq.session"), both.stat().st_size),
        "torch.load": len(pickled.getvalue()),
        "safetensors": dense.stat().st_size,
        "InferenceSession": graph.stat().st_size,
    }


def test_json(
    measured: Benchmark,
    both: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(benchmark, "run_benchmark", lambda *_: measured)
    assert main(["bench", str(both), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["format"] == 1
    assert content["notes"] == []
    assert [Contender(**one) for one in content["contenders"]] == list(measured.contenders)


def test_text(
    measured: Benchmark,
    both: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(benchmark, "run_benchmark", lambda *_: measured)
    assert main(["bench", str(both)]) == 0
    blocks = capsys.readouterr().out.strip().split("\n\n")
    rows = [[line.split()[0] for line in block.splitlines()[2:]] for block in blocks]
    assert rows == [WEIGHTS, ["spq.load"], SESSIONS, ["spq.load", *SESSIONS]]


def test_weights_alone(
    tmp_path: Path, rivals: Path, fake: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    spq.save({"w": np.ones((20, 30), "f4")}, tmp_path / "x.spq")
    assert main(["bench", str(tmp_path / "x.spq"), "--runs", "1"]) == 0
    assert fake == 2 * WEIGHTS
    text = capsys.readouterr().out
    assert [line.split()[0] for line in text.splitlines()[2:]] == WEIGHTS
    assert list(rivals.iterdir()) == []


def test_turns(both: Path, fake: list[str]) -> None:
    found = benchmark.run_benchmark(both, 3, 1, Progress())
    assert fake == 4 * EVERYTHING
    # The first round, of the counts 1 to 6, is not among them.
    assert [one.figures["load"] for one in found.contenders] == [13, 14, 15, 16, 17, 18]
    assert [one.smallest["load"] for one in found.contenders] == [7, 8, 9, 10, 11, 12]


@pytest.mark.parametrize(
    ("package", "ways", "note"),
    [
        ("torch", SESSIONS, "without loading in PyTorch: torch is not installed"),
        (
            "onnxruntime",
            EVERYTHING[:4],
            "without loading in ONNX Runtime: onnxruntime is not installed",
        ),
    ],
)
def test_one_runtime_alone(
    package: str,
    ways: list[str],
    note: str,
    both: Path,
    fake: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without(monkeypatch, package)
    found = benchmark.run_benchmark(both, 1, 1, Progress())
    assert [one.way for one in found.contenders] == ways
    assert found.notes == (note,)
    assert benchmark.benchmark_text(found).endswith(f"\n\n{note}")


def test_nothing_to_compare_with(both: Path, rivals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "torch", "onnxruntime")
    with pytest.raises(SpqError, match="pip install") as caught:
        benchmark.run_benchmark(both, 1, 1, Progress())
    assert caught.value.code is Reason.MISSING_EXTRA
    assert list(rivals.iterdir()) == []


def test_damage(both: Path, rivals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = rivals.with_name("damaged.spq")
    damaged.write_bytes(both.read_bytes()[:-1])
    assert main(["bench", str(damaged)]) == 2
    error = capsys.readouterr().err
    assert "[truncated in" in error
    assert error.count("\n") == 1
    assert list(rivals.iterdir()) == []


def test_a_process_that_fails(both: Path, rivals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(file: Path, output: Path) -> Path:
        output.write_bytes(b"")
        return output

    monkeypatch.setattr(benchmark, "_as_pickle", empty)
    with pytest.raises(SpqError, match=r"torch\.load does not load the file: EOFError") as caught:
        benchmark.run_benchmark(both, 1, 1, Progress())
    assert caught.value.code is Reason.SELF_CHECK_FAILED
    assert list(rivals.iterdir()) == []


def test_a_process_that_is_ended(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.CompletedProcess[str]([], -9, "", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: ended)
    with pytest.raises(SpqError, match="it ended with -9"):
        benchmark.run_benchmark(both, 1, 1, Progress())


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (OSError(28, "the disk is full"), 2)]
)
def test_nothing_remains(
    error: BaseException,
    code: int,
    both: Path,
    rivals: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    written: list[Path] = []

    def end(way: str, path: Path, threads: int) -> Measurement:
        written.extend(rivals.glob("*/*"))
        raise error

    monkeypatch.setattr(benchmark, "_measured", end)
    assert main(["bench", str(both)]) == code
    assert capsys.readouterr().err.strip().count("\n") == 0
    assert len(written) == 3
    assert list(rivals.iterdir()) == []


def test_modules_beside_the_user_are_not_imported(
    both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('a stranger')", "ascii")
    monkeypatch.chdir(tmp_path)
    assert benchmark._measured("spq.session", both, 1).note is None


def test_summary() -> None:
    rounds = [
        Measurement({"load": 3.0, "peak_bytes": 5, "run": 1.0}, None),
        Measurement({"load": 1.0, "peak_bytes": 8}, "not run"),
    ]
    middle = benchmark.summary(rounds, median)
    assert middle == {"load": 2.0, "peak_bytes": 6}
    assert type(middle["peak_bytes"]) is int
    assert benchmark.summary(rounds, min) == {"load": 1.0, "peak_bytes": 5}


def test_the_tables() -> None:
    figures = {"start": 0.5, "first_load": 0.7, "load": 0.01, "peak_bytes": 3 * MEBIBYTE}
    slower = {"start": 0.4, "first_load": 0.5, "load": 0.025}
    runs, slower_runs = {"first_run": 0.02, "run": 0.004}, {"first_run": 0.01, "run": 0.006}
    smallest = {"load": 0.02, "run": 0.005}
    group = "ONNX Runtime session"
    found = Benchmark(
        (
            Contender("weights", "spq.load_state_dict", 1000, figures, {"load": 0.009}),
            Contender("weights", "torch.load", 56780, slower, {"load": 0.02}),
            Contender(group, "spq.session", 1000, figures | runs, {"load": 0.009, "run": 0.003}),
            Contender(group, "InferenceSession", 4000, slower | slower_runs, smallest),
        ),
        ("spq.load: not run\x1b",),
    )
    assert benchmark.benchmark_text(found).splitlines() == [
        "weights              file bytes      x     start  first load     load     x  smallest"
        "  peak memory",
        "-------------------  ----------  -----  --------  ----------  -------  ----  --------"
        "  -----------",
        "spq.load_state_dict       1,000   1.00  500.0 ms    700.0 ms  10.0 ms  1.00    9.0 ms"
        "      3.0 MiB",
        "torch.load               56,780  56.78  400.0 ms    500.0 ms  25.0 ms  2.50   20.0 ms",
        "",
        "ONNX Runtime session  file bytes     x     start  first load     load     x  smallest"
        "  peak memory",
        "--------------------  ----------  ----  --------  ----------  -------  ----  --------"
        "  -----------",
        "spq.session                1,000  1.00  500.0 ms    700.0 ms  10.0 ms  1.00    9.0 ms"
        "      3.0 MiB",
        "InferenceSession           4,000  4.00  400.0 ms    500.0 ms  25.0 ms  2.50   20.0 ms",
        "",
        "running on zeros  first run     run     x  smallest",
        "----------------  ---------  ------  ----  --------",
        "spq.session         20.0 ms  4.0 ms  1.00    3.0 ms",
        "InferenceSession    10.0 ms  6.0 ms  1.50    5.0 ms",
        "",
        "spq.load: not run\\x1b",
    ]


def test_a_network_that_refuses_zeros() -> None:
    def run() -> None:
        raise ValueError("no zeros\nplease")

    found = benchmark_child.measure(lambda: (lambda: None, lambda loaded: run))
    assert found.note == "not run, as it refuses zeros: no zeros"
    assert found.figures.keys() - {"peak_bytes"} == TIMES


def test_runs_count_without_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_child, "_RUN_SECONDS", 0.0)
    calls: list[int] = []
    found = benchmark_child.measure(lambda: (lambda: None, lambda loaded: lambda: calls.append(1)))
    assert len(calls) == 6
    assert found.note is None
    assert {"first_run", "run"} <= found.figures.keys()


def test_unknown_inputs(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.spq", "torch")
    found = benchmark_child.measure(
        lambda: benchmark_child.WAYS["spq.load"](str(path), torch.get_num_threads())
    )
    assert found.note is not None
    assert found.note.startswith("not run: only an ONNX program says what its inputs are, and the")
    assert "run" not in found.figures


def test_zeros() -> None:
    def described(kind: str) -> SimpleNamespace:
        return SimpleNamespace(name="a", type=kind, shape=["batch", None, 7])

    zeros = benchmark_child._zeros([described("tensor(int64)")])
    assert zeros["a"].shape == (1, 1, 7)
    assert zeros["a"].dtype == np.int64
    assert not zeros["a"].any()
    with pytest.raises(NotRunError, match=r"tensor\(string\)"):
        benchmark_child._zeros([described("tensor(string)")])


def grown(use: Callable[[], object]) -> int:
    """Return by how many bytes the memory grows while something is used."""
    peak_bytes = benchmark_child._watch_memory()
    assert peak_bytes is not None
    use()
    return peak_bytes()


def touch(size: int) -> None:
    """Use so much memory that the system gives and takes back, whatever the allocator keeps."""
    with mmap.mmap(-1, size) as pages:
        pages[::4096] = bytes(size // 4096)


def test_peak_memory() -> None:
    if not benchmark_child._RESET.exists():
        pytest.skip("this system does not forget a peak")
    grown(lambda: touch(96 * MEBIBYTE))
    assert grown(lambda: None) < 8 * MEBIBYTE
    # It is freed at once, and still counts.
    assert 60 * MEBIBYTE < grown(lambda: touch(64 * MEBIBYTE)) < 80 * MEBIBYTE


def test_peak_memory_of_systems_that_do_not_forget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark_child, "_RESET", tmp_path / "none" / "clear_refs")
    monkeypatch.setattr(sys, "platform", "linux")
    peaks = [SimpleNamespace(ru_maxrss=350), SimpleNamespace(ru_maxrss=100)]
    monkeypatch.setattr(resource, "getrusage", lambda who: peaks.pop())
    assert grown(lambda: None) == 250 * 1024
