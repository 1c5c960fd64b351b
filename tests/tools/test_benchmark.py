"""`spq bench` loads a file in every way that there is, and leaves nothing behind."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import spq
from spqformat import Reason, SpqError
from spqtools import benchmark
from spqtools.cli import main
from spqtools.ingest import Source
from spqtools.programs import trace, write_programs
from spqtools.progress import Progress

WEIGHTS = ["spq.load_state_dict", "torch.load", "safetensors"]
EVERYTHING = [*WEIGHTS, "spq.load", "spq.session", "InferenceSession"]


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    network = nn.Sequential(nn.Linear(6, 50), nn.ReLU(), nn.Linear(50, 3)).eval()
    traced = trace(Source({}, "", module=network), (torch.zeros(2, 6),))
    assert traced is not None
    state = network.state_dict()
    programs = write_programs(traced, state)
    path = tmp_path / "x.spq"
    spq.save({**state, **programs.constants}, path, programs=programs.stored)
    return path


@pytest.fixture
def rivals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the temporary files go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_every_way(packed: Path, rivals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(packed), "--runs", "1", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    found = {one["way"]: one for one in content["contenders"]}
    assert list(found) == EVERYTHING
    for one in found.values():
        assert one["file_bytes"] > 0
        assert all(value > 0 for name, value in one["figures"].items() if name != "peak_bytes")
        assert one["figures"].keys() >= {"import", "first_load", "load"}
        assert ("run" in one["figures"]) == (one["group"] != "weights")
    assert found["spq.load"]["file_bytes"] == packed.stat().st_size
    assert found["torch.load"]["file_bytes"] > 4 * (6 * 50 + 50 + 50 * 3 + 3)
    assert list(rivals.iterdir()) == []


def test_weights_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spq.save({"w": np.ones((20, 30), "f4")}, tmp_path / "x.spq")
    assert main(["bench", str(tmp_path / "x.spq"), "--runs", "1"]) == 0
    text = capsys.readouterr().out
    assert [line.split()[0] for line in text.splitlines()[2:]] == WEIGHTS
    assert "MiB" in text


def test_damage(packed: Path, rivals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed.write_bytes(packed.read_bytes()[:-1])
    assert main(["bench", str(packed)]) == 2
    error = capsys.readouterr().err
    assert "[truncated in" in error
    assert error.count("\n") == 1
    assert list(rivals.iterdir()) == []


def test_a_process_that_fails(packed: Path, rivals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(file: Path, output: Path) -> Path:
        output.write_bytes(b"")
        return output

    monkeypatch.setattr(benchmark, "_as_pickle", empty)
    with pytest.raises(SpqError, match=r"torch\.load does not load the file: EOFError") as caught:
        benchmark.run_benchmark(packed, 1, 1, Progress())
    assert caught.value.code is Reason.SELF_CHECK_FAILED
    assert list(rivals.iterdir()) == []


def test_nothing_to_compare_with(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "find_spec", lambda name: None)
    with pytest.raises(SpqError, match="pip install") as caught:
        benchmark.run_benchmark(packed, 1, 1, Progress())
    assert caught.value.code is Reason.MISSING_EXTRA


def test_medians() -> None:
    rounds = [{"load": 3.0, "run": 1.0}, {"load": 1.0, "run": 9.0}, {"load": 2.0, "run": 2.0}]
    assert benchmark.medians(rounds) == {"load": 2.0, "run": 2.0}


def test_the_table() -> None:
    figures = {"import": 0.5, "first_load": 0.2, "load": 0.01, "peak_bytes": 3 << 20}
    slower = {**figures, "load": 0.025}
    del slower["peak_bytes"]
    text = benchmark.benchmark_text(
        [
            benchmark.Contender("weights", "spq.load_state_dict", 1234, figures),
            benchmark.Contender("weights", "torch.load", 56789, slower),
        ]
    )
    heads, _, own, other = text.splitlines()
    assert heads.split() == [
        *("weights", "file", "bytes", "import", "first", "load", "load", "x", "peak", "memory")
    ]
    assert own.split() == [
        *("spq.load_state_dict", "1,234", "500.0", "ms", "200.0", "ms", "10.0", "ms", "1.00"),
        *("3.0", "MiB"),
    ]
    assert other.split()[:2] + other.split()[-1:] == ["torch.load", "56,789", "2.50"]
