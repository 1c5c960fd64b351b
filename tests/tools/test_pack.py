"""`spq pack` end to end on a small trained network, and everything that it has to refuse."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import spq
from spqtools.cli import main
from spqtools.progress import Progress, Tick

if TYPE_CHECKING:
    from tests.conftest import TrainedNetwork

OPTIONS = ["--sparsity", "0.7", "--effort", "fast", "--seed", "3"]


def words(network: "TrainedNetwork", output: Path, *options: str) -> list[str]:
    """Spell a packing of the network."""
    return [
        *("pack", str(network.model), "--arch", network.arch, "--calib", str(network.calibration)),
        *("-o", str(output), *OPTIONS, *options),
    ]


@pytest.fixture(scope="module")
def packed(
    trained_network: "TrainedNetwork", tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The packed network and the JSON report of its packing."""
    output = tmp_path_factory.mktemp("packed") / "small.spq"
    child = subprocess.run(
        [sys.executable, "-m", "spqtools", *words(trained_network, output, "--json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return output, child.stdout


def refusal(capsys: pytest.CaptureFixture[str], arguments: list[str], output: Path) -> str:
    """Run a packing that must be refused; return its sentence."""
    before = sorted(output.parent.iterdir())
    assert main(arguments) == 2
    text, error = capsys.readouterr()
    assert text == ""
    sentence = error.splitlines()[-1]
    assert sentence.startswith("spq: ")
    assert "Traceback" not in error
    assert sorted(output.parent.iterdir()) == before
    return sentence


def test_report_agrees_with_the_file(
    packed: tuple[Path, str], trained_network: "TrainedNetwork"
) -> None:
    import torch

    path, report = packed
    content = json.loads(report)
    assert content["bytes_after"] == path.stat().st_size
    assert content["bytes_before"] == 4 * 1436
    assert content["ratio"] == content["bytes_before"] / content["bytes_after"]
    state = spq.load_state_dict(path)
    zeros = sum(int((value == 0).sum()) for value in state.values())
    assert content["sparsity"] == zeros / 1436
    weights = torch.cat([state[f"{index}.weight"].flatten() for index in (0, 2, 4)])
    assert float((weights == 0).float().mean()) == pytest.approx(0.7, abs=0.01)
    assert content["divergence"] >= 0
    assert content["accuracy"]["before"] > 90
    assert content["accuracy"]["after"] > 80
    assert list(path.parent.iterdir()) == [path]


def test_metadata_names_the_provenance(
    packed: tuple[Path, str], trained_network: "TrainedNetwork"
) -> None:
    path, report = packed
    with spq.open(path) as archive:
        metadata = archive.metadata
    digest = hashlib.sha256(trained_network.model.read_bytes()).hexdigest()
    assert metadata["spq.teacher"] == digest[:32]
    assert metadata["spq.tool"] == f"spq {spq.__version__}"
    assert json.loads(metadata["spq.options"]) == {"sparsity": 0.7, "effort": "fast", "seed": 3}
    number, unit = metadata["spq.divergence"].split(" ")
    assert float(number) == pytest.approx(json.loads(report)["divergence"], rel=1e-3)
    assert unit == "nats"
    assert str(trained_network.folder) not in "".join(metadata.values())


def test_both_runtimes_agree(packed: tuple[Path, str], trained_network: "TrainedNetwork") -> None:
    import torch

    path, _ = packed
    points = np.random.default_rng(1).normal(size=(9, 16)).astype("f4")
    with torch.inference_mode():
        outputs = spq.load(path)(torch.from_numpy(points)).numpy()
    session = spq.session(path)
    (other,) = session.run(None, {session.get_inputs()[0].name: points})
    np.testing.assert_allclose(outputs, other, rtol=1e-5, atol=1e-5)


def test_fast_load(
    packed: tuple[Path, str], trained_network: "TrainedNetwork", tmp_path: Path
) -> None:
    """The same tensors, under static tables."""
    output = tmp_path / "fast.spq"
    assert main(words(trained_network, output, "--fast-load")) == 0
    small, fast = packed[0].read_bytes(), output.read_bytes()
    assert len(small) < len(fast)
    with spq.open(small) as one, spq.open(fast) as other:
        names = one.keys()
        encodings = [{archive.info(name).encoding for name in names} for archive in (one, other)]
        for name in names:
            assert one.get_tensor(name).tobytes() == other.get_tensor(name).tobytes()
        assert json.loads(other.metadata["spq.options"])["fast_load"]
    assert "mixed" in encodings[0]
    assert "mixed" not in encodings[1]


@pytest.mark.parametrize(("hash_seed", "threads"), [("1", "1"), ("2", "2")])
def test_same_bytes_again(
    packed: tuple[Path, str],
    trained_network: "TrainedNetwork",
    tmp_path: Path,
    hash_seed: str,
    threads: str,
) -> None:
    output = tmp_path / "again.spq"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": threads}
    subprocess.run(
        [sys.executable, "-m", "spqtools", *words(trained_network, output)],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
    )
    assert output.read_bytes() == packed[0].read_bytes()


class Interrupting(Progress):
    """Presses Ctrl-C after some steps of the evolution."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    @contextmanager
    def stage(self, name: str, total: int | None = None, done: int = 0) -> Iterator[Tick]:
        def tick(steps: int = 1, /, total: int | None = None, *, behind: bool = False) -> None:
            self.left -= steps if name == "evolve" else 0
            if self.left < 0:
                raise KeyboardInterrupt

        yield tick


def test_interrupted_and_resumed(
    trained_network: "TrainedNetwork",
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "net.spq"
    arguments = words(trained_network, output, "--sparsity", "0.9")
    assert main(arguments) == 0
    uninterrupted = output.read_bytes()
    output.unlink()
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr("spqtools.cli.ConsoleProgress", lambda: Interrupting(1))
        assert main(arguments) == 130
    assert "--resume" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["net.spq.ckpt"]
    assert main([*arguments, "--resume"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["net.spq"]
    assert output.read_bytes() == uninterrupted
