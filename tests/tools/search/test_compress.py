"""One knob: goals are hit within 2 %, whatever interrupts the search, and time ends it politely."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import main_thread
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import spq
from spqtools.cli import main
from spqtools.evolve.student import Layer
from spqtools.levels import quantise
from spqtools.levels.quantise import quantise_layer
from spqtools.progress import Progress, Tick
from spqtools.reading.calibration import read_calibration
from spqtools.search.checkpoint import Checkpoint, write_checkpoint
from spqtools.search.compress import _Search
from spqtools.search.deadline import Deadline, TimeUp
from spqtools.search.goal import Trial
from spqtools.search.landing import Rung


@dataclass(frozen=True)
class Network:
    """Files of a network of 4,490 parameters whose outputs depend on all of its inputs."""

    model: Path
    calibration: Path

    def words(self, output: Path, *options: str) -> list[str]:
        """Spell a packing."""
        return [
            *("pack", str(self.model), "--calib", str(self.calibration), "-o", str(output)),
            *("--effort", "fast", *options),
        ]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    folder = tmp_path_factory.mktemp("network")
    files = Network(folder / "model.pt2", folder / "calibration.npz")
    random = np.random.Generator(np.random.PCG64(5))
    inputs = random.normal(size=(256, 40)).astype("f4")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        module = nn.Sequential(nn.Linear(40, 88), nn.ReLU(), nn.Linear(88, 10)).eval()
    for parameter in module.parameters():
        parameter.data *= 2
    with torch.no_grad():
        answers = module(torch.from_numpy(inputs)).argmax(1).numpy()
    np.savez(files.calibration, x=inputs, y=answers)
    batch = {0: torch.export.Dim("batch")}
    exported = torch.export.export(module, (torch.from_numpy(inputs[:2]),), dynamic_shapes=(batch,))
    torch.export.save(exported, files.model)
    return files


def explore(network: Network, folder: Path, *options: str) -> Path:
    """Pack at 14x and keep the frontier in the folder."""
    frontier = ("--frontier", str(folder / "points.json"))
    words = network.words(folder / "net.spq", "--target-ratio", "14", *frontier, *options)
    assert main(words) == 0
    return folder


@pytest.fixture(scope="module")
def explored(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a packing at 14x and its frontier."""
    return explore(network, tmp_path_factory.mktemp("explored"))


def report(capsys: pytest.CaptureFixture[str], words: list[str]) -> dict[str, Any]:
    """Run a packing that is accepted; return its report."""
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    return content


def spread(saved: Sequence[bytes]) -> Sequence[bytes]:
    """Return about six of many checkpoints, the last among them."""
    return saved[:: -max(len(saved) // 6, 1)]


def always_saving(patch: pytest.MonkeyPatch, write: Callable[..., None]) -> None:
    """Let a search leave its state at every step, by a function that may leave out some."""
    patch.setattr("spqtools.search.compress._SAVING_SECONDS", -1.0)
    patch.setattr("spqtools.search.compress._SAVING_RATIO", 0.0)
    patch.setattr("spqtools.search.compress.write_checkpoint", write)


def points(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "points.json").read_bytes())
    return content


class Interrupting(Progress):
    """Presses Ctrl-C after some steps of a stage."""

    def __init__(self, stage: str, steps: int) -> None:
        self._stage, self._left = stage, steps

    @contextmanager
    def stage(self, name: str, total: int | None = None, done: int = 0) -> Iterator[Tick]:
        def tick(steps: int = 1, /, total: int | None = None, *, behind: bool = False) -> None:
            if name == self._stage:
                self._left -= steps
                if self._left < 0:
                    raise KeyboardInterrupt

        yield tick


# Goals


@pytest.mark.parametrize("goal", [("--target-ratio", "12"), ("--target-size", "1100")])
def test_sizes_are_hit(
    network: Network, goal: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = 1100 if goal[0] == "--target-size" else 4 * 4498 / 12
    found = report(capsys, network.words(tmp_path / "net.spq", *goal))
    assert 0.98 * target <= (tmp_path / "net.spq").stat().st_size <= target
    assert found["missed"] is None
    assert found["notes"] == []


@pytest.mark.parametrize(("goal", "limit"), [("--max-divergence", 0.1), ("--max-drop", 35.0)])
def test_files_of_a_quality_are_as_small_as_it_allows(
    network: Network,
    goal: str,
    limit: float,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Static tables, with which this bound was found.
    options = (goal, str(limit), "--fast-load")
    found = report(capsys, network.words(tmp_path / "net.spq", *options))
    explored = explore(network, tmp_path, "--fast-load")
    if goal == "--max-divergence":
        loss, known = found["divergence"], "divergence"
    else:
        loss, known = found["accuracy"]["before"] - found["accuracy"]["after"], "drop"
    assert loss <= limit + 1e-9
    good = [row["bytes"] for row in points(explored)["points"] if row[known] <= limit]
    assert found["bytes_after"] <= 1.1 * min(good)


def test_a_quality_out_of_reach(
    network: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = network.words(tmp_path / "net.spq", "--max-divergence", "1e-9")
    assert main(words) == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert "where 1e-09 is allowed" in sentence
    assert "[goal_not_reached]" in sentence
    assert list(tmp_path.iterdir()) == []


def test_sizes_are_hit_without_data(
    network: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pack", str(network.model), "-o", str(tmp_path / "net.spq"), "--target-size", "2kB"]
    assert 0.98 * 2000 <= report(capsys, words)["bytes_after"] <= 2000


# The frontier


def test_every_point_is_a_sound_file(explored: Path) -> None:
    content = points(explored)
    assert len(content["points"]) >= 8
    for row in content["points"]:
        file = explored / row["file"]
        assert row["bytes"] == file.stat().st_size
        state = spq.load_state_dict(file)
        assert row["zeros"] == sum(int((value == 0).sum()) for value in state.values())
        assert spq.load(file)(torch.zeros(2, 40)).shape == (2, 10)
    assert {path.name for path in (explored / "points").iterdir()} == {
        Path(row["file"]).name for row in content["points"]
    }


def test_the_frontier_is_monotone_and_knows_the_output(explored: Path) -> None:
    content = points(explored)
    frontier = [row for row in content["points"] if not row["dominated"]]
    ratios, divergences = ([row[key] for row in frontier] for key in ("ratio", "divergence"))
    assert ratios == sorted(ratios)
    assert divergences == sorted(divergences)
    # It goes on beyond the goal.
    assert ratios[0] <= 14 / 0.98 < 1.2 * 14 < ratios[-1]
    chosen = (explored / content["chosen"]).read_bytes()
    assert chosen == (explored / "net.spq").read_bytes()
    assert (explored / "points.png").read_bytes().startswith(b"\x89PNG")


def test_looking_at_the_frontier_changes_no_byte(
    network: Network, explored: Path, tmp_path: Path
) -> None:
    assert main(network.words(tmp_path / "net.spq", "--target-ratio", "14")) == 0
    assert (tmp_path / "net.spq").read_bytes() == (explored / "net.spq").read_bytes()


def test_a_frontier_needs_a_network_that_runs(
    network: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"weight": torch.ones(40, 10)}, tmp_path / "model.pt")
    words = ["pack", str(tmp_path / "model.pt"), "--calib", str(network.calibration)]
    assert main([*words, "--frontier", str(tmp_path / "points.json")]) == 2
    assert "and --arch for a state dict" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


# Interruptions


@pytest.mark.parametrize(
    ("stage", "steps", "left"),
    [
        # After the gradients that the first cycle begins with, its first layer, and the second's.
        ("evolve", 0, ["net.spq.ckpt"]),
        ("evolve", 10, ["net.spq.ckpt"]),
        ("evolve", 100, ["net.spq.ckpt", "points", "points.json"]),
        ("place levels", 1, ["net.spq.ckpt", "points", "points.json"]),
        ("place levels", 150, ["net.spq.ckpt", "points", "points.json"]),
    ],
)
def test_resumed_searches_end_the_same(
    network: Network,
    explored: Path,
    stage: str,
    steps: int,
    left: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frontier = ("--frontier", str(tmp_path / "points.json"))
    words = network.words(tmp_path / "net.spq", "--target-ratio", "14", *frontier)
    with monkeypatch.context() as patch:
        patch.setattr("spqtools.cli.ConsoleProgress", lambda: Interrupting(stage, steps))
        assert main(words) == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == left
    assert "points.json" not in left or points(tmp_path)["chosen"] is None
    assert main([*words, "--resume"]) == 0
    files = sorted(path.relative_to(explored) for path in explored.rglob("*") if path.is_file())
    assert files == sorted(
        path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()
    )
    for file in files:
        assert (tmp_path / file).read_bytes() == (explored / file).read_bytes(), file


@pytest.mark.parametrize("goal", [("--target-ratio", "14"), ("--sparsity", "0.8")])
def test_layers_on_levels_are_not_placed_again(
    network: Network, goal: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed: list[str] = []

    def quantise(layer: Layer, *arguments: Any, **options: Any) -> Any:
        placed.append(layer.weight)
        return quantise_layer(layer, *arguments, **options)

    monkeypatch.setattr("spqtools.levels.placing.quantise_layer", quantise)
    assert main(network.words(tmp_path / "whole.spq", *goal)) == 0
    at_once, placed[:] = list(placed), []
    words = network.words(tmp_path / "net.spq", *goal)
    with monkeypatch.context() as patch:
        patch.setattr("spqtools.cli.ConsoleProgress", lambda: Interrupting("place levels", 20))
        assert main(words) == 130
    assert 0 < len(placed) < len(at_once)
    assert main([*words, "--resume"]) == 0
    assert placed == at_once
    assert (tmp_path / "net.spq").read_bytes() == (tmp_path / "whole.spq").read_bytes()


@pytest.mark.parametrize("number", [3, 60])
def test_ctrl_c_while_alternatives_are_carried_out(
    network: Network,
    explored: Path,
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On whatever thread they are, the search leaves what they have reached."""
    assign, steps = quantise._Attempt.assign, count()

    def press(attempt: quantise._Attempt, *arguments: Any) -> Any:
        if next(steps) == number:
            signal.pthread_kill(main_thread().ident or 0, signal.SIGINT)
        return assign(attempt, *arguments)

    words = network.words(tmp_path / "net.spq", "--target-ratio", "14")
    with monkeypatch.context() as patch:
        patch.setattr(quantise._Attempt, "assign", press)
        assert main(words) == 130
    assert any(key.startswith("rounds/") for key in spq.load_state_dict(tmp_path / "net.spq.ckpt"))
    assert main([*words, "--resume"]) == 0
    assert (tmp_path / "net.spq").read_bytes() == (explored / "net.spq").read_bytes()


def test_every_checkpoint_leads_to_the_same_file(
    network: Network, explored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[bytes] = []
    steps = count()

    def write(path: Path, *rest: Any) -> None:
        if next(steps) % 7 == 0:
            write_checkpoint(path, *rest)
            saved.append(path.read_bytes())

    words = network.words(tmp_path / "net.spq", "--target-ratio", "14")
    with monkeypatch.context() as patch:
        always_saving(patch, write)
        assert main(words) == 0
    assert len(saved) > 20
    for state in spread(saved):
        (tmp_path / "net.spq.ckpt").write_bytes(state)
        assert main([*words, "--resume"]) == 0
        assert (tmp_path / "net.spq").read_bytes() == (explored / "net.spq").read_bytes()


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """A network whose outputs have places."""
    folder = tmp_path_factory.mktemp("maps")
    files = Network(folder / "model.pt2", folder / "calibration.npz")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        inputs = torch.randn(40, 2, 6, 6)
        module = nn.Sequential(
            nn.Conv2d(2, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, groups=8),
            nn.Conv2d(8, 3, 1),
        ).eval()
    np.savez(files.calibration, x=inputs.numpy())
    batch = {0: torch.export.Dim("batch")}
    exported = torch.export.export(module, (inputs[:2],), dynamic_shapes=(batch,))
    torch.export.save(exported, files.model)
    return files


def test_students_that_are_probably_larger_are_larger(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are encoded only where somebody wants to see every point."""
    trials: list[Trial] = []
    shares: dict[float, float] = {}
    judge = _Search._judge

    def see(search: _Search, rung: Rung, density: float) -> Trial:
        trials.append(judge(search, rung, density))
        if rung.found is not None:
            shares[density] = rung.found.point.file_bytes / (4 * 4498 / 26)
        return trials[-1]

    monkeypatch.setattr(_Search, "_judge", see)
    words = network.words(tmp_path / "net.spq", "--target-ratio", "26")
    # Under mixed predictions none of so few students is foreseen to be larger.
    words += ["--fast-load", "--effort", "default", "--frontier", str(tmp_path / "points.json")]
    assert main(words) == 0
    assert len(shares) == len(trials)
    left_out = [trial for trial in trials if trial.share is None]
    assert left_out
    assert all(shares[trial.density] > 1.0 for trial in left_out)


def test_a_training_of_a_student_that_the_search_has_left_behind(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time ends the search, training follows, and with more time both go on."""
    monkeypatch.setattr("spqtools.training.course._LEAST_STEPS", 60)
    monkeypatch.setattr("spqtools.training.course._PRODUCTS", 1)
    output, data = tmp_path / "net.spq", ("--recover", str(network.calibration))
    words = network.words(output, "--sparsity", "0.9", *data)
    assert main(words) == 0
    whole = output.read_bytes()
    cycles = 0

    def check(deadline: Deadline, *kinds: str) -> None:
        nonlocal cycles
        cycles += kinds == ("cycle", "quantise")
        if cycles > 1:
            raise TimeUp

    with monkeypatch.context() as patch:
        patch.setattr(Deadline, "check", check)
        assert main([*words, "--time-limit", "10min"]) == 0
    assert output.read_bytes() != whole
    left = spq.load_state_dict(tmp_path / "net.spq.ckpt")
    assert float(left["training/plan/share"]) == 1.0
    assert main([*words, "--resume"]) == 0
    assert output.read_bytes() == whole


def test_every_step_of_a_whole_search_leads_to_the_same_file(
    maps: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several batches, shifts between layers, and places that count by what errors cost there."""
    monkeypatch.setattr("spqtools.evolve.search._BATCH_ELEMENTS", 8 * 36 * 8)
    output, saved = tmp_path / "net.spq", []
    halves, shifts, raced, rounds = 0, 0, 0, 0

    def write(path: Path, checkpoint: Checkpoint, *rest: Any) -> None:
        nonlocal halves, shifts, raced, rounds
        write_checkpoint(path, checkpoint, *rest)
        saved.append(path.read_bytes())
        halves += any(0 < sums.done < 4 for sums in checkpoint.sums.values())
        begun = checkpoint.begun
        shifts += begun is not None and bool(begun.fits) and not begun.goals
        raced += begun is not None and bool(begun.fits and begun.goals)
        rounds += any(checkpoint.placings.rounds.values())

    words = [*maps.words(output, "--sparsity", "0.5", "--bits", "3"), "--effort", "default"]
    with monkeypatch.context() as patch:
        always_saving(patch, write)
        assert main(words) == 0
    assert halves > 5
    assert shifts > 2
    assert raced > 10
    assert rounds > 10
    whole = output.read_bytes()
    for state in spread(saved):
        (tmp_path / "net.spq.ckpt").write_bytes(state)
        assert main([*words, "--resume"]) == 0
        assert output.read_bytes() == whole


@pytest.mark.parametrize("goal", [("--target-ratio", "20"), ("--sparsity", "0.8")])
def test_a_killed_training_ends_the_same(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goal: tuple[str, str]
) -> None:
    """Whether it trains down to a size, or levels are placed after it; also when killed twice."""
    monkeypatch.setattr("spqtools.training.course._LEAST_STEPS", 60)
    monkeypatch.setattr("spqtools.training.course._PRODUCTS", 1)
    output, saved = tmp_path / "net.spq", []
    words = network.words(output, *goal, "--recover", str(network.calibration))

    def write(path: Path, checkpoint: Checkpoint, *rest: Any) -> None:
        if checkpoint.training is not None:
            write_checkpoint(path, checkpoint, *rest)
            saved.append(path.read_bytes())

    with monkeypatch.context() as patch:
        always_saving(patch, write)
        assert main(words) == 0
    assert len(saved) >= 60
    whole, codes = output.read_bytes(), []
    for state in spread(saved):
        (tmp_path / "net.spq.ckpt").write_bytes(state)
        with monkeypatch.context() as patch:
            patch.setattr("spqtools.cli.ConsoleProgress", lambda: Interrupting("recover", 3))
            codes.append(main([*words, "--resume"]))
        if codes[-1] == 130:
            assert main([*words, "--resume"]) == 0
        assert output.read_bytes() == whole
    # One that has come near the end is through before it is killed again.
    assert codes.count(130) >= 3
    assert set(codes) <= {0, 130}


def test_killed_searches_end_the_same(network: Network, explored: Path, tmp_path: Path) -> None:
    output, checkpoint = tmp_path / "net.spq", tmp_path / "net.spq.ckpt"
    words = network.words(output, "--target-ratio", "14")
    with subprocess.Popen([sys.executable, "-m", "spqtools", *words]) as child:
        while not checkpoint.exists():
            assert child.poll() is None
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
    assert main([*words, "--resume"]) == 0
    assert output.read_bytes() == (explored / "net.spq").read_bytes()


# Time


def test_a_second_is_enough_for_a_sound_file(
    network: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "net.spq"
    words = network.words(output, "--target-ratio", "14", "--time-limit", "0.001s")
    found = report(capsys, words)
    assert main(["verify", str(output)]) == 0
    assert found["missed"] == f"{output.stat().st_size:,} bytes where 1,285 are allowed"
    assert "allow more" in found["notes"][0]
    assert list(tmp_path.iterdir()) == [output]


def test_a_sparsity_that_time_does_not_reach(
    network: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = network.words(tmp_path / "net.spq", "--sparsity", "0.9", "--time-limit", "0.001s")
    assert report(capsys, words)["missed"] == "0.0% zeros where 90.0% are asked"


def test_a_checkpoint_that_nobody_goes_on_from_is_kept(
    network: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.spq.ckpt").write_bytes(b"hours of work")
    assert main(network.words(tmp_path / "net.spq", "--sparsity", "0.5")) == 0
    assert (tmp_path / "net.spq.ckpt.old").read_bytes() == b"hours of work"
    assert "kept as net.spq.ckpt.old" in capsys.readouterr().err


def test_other_labels_are_another_search(
    network: Network,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = Network(network.model, tmp_path / "calibration.npz")
    known = read_calibration(network.calibration)
    assert known.labels is not None
    for flip in (0, 1):
        labels = (known.labels.numpy() + flip) % 10
        np.savez(files.calibration, x=known.inputs[0].numpy(), y=labels)
        words = files.words(tmp_path / "net.spq", "--max-drop", "30", *["--resume"] * flip)
        with monkeypatch.context() as patch:
            patch.setattr("spqtools.cli.ConsoleProgress", lambda: Interrupting("evolve", 100))
            assert main(words) == (2 if flip else 130)
    assert "belongs to another search" in capsys.readouterr().err


@pytest.mark.parametrize("looks", [12, 20])
def test_a_search_that_time_has_ended_goes_on(
    network: Network,
    explored: Path,
    looks: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Time is over after so many looks at the clock; what is found by then is a sound file."""
    output = tmp_path / "net.spq"
    words = network.words(output, "--target-ratio", "14")
    with monkeypatch.context() as patch:
        clock = iter([0.0] * looks)
        patch.setattr("spqtools.pack.Deadline", lambda _: Deadline(1.0, lambda: next(clock, 9.0)))
        found = report(capsys, words)
    assert "--resume" in found["notes"][0]
    assert main(["verify", str(output)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"net.spq", "net.spq.ckpt"}
    assert main([*words, "--resume"]) == 0
    assert output.read_bytes() == (explored / "net.spq").read_bytes()
    assert list(tmp_path.iterdir()) == [output]


def test_time_enough_changes_no_byte(network: Network, explored: Path, tmp_path: Path) -> None:
    words = network.words(tmp_path / "net.spq", "--target-ratio", "14", "--time-limit", "2h")
    assert main(words) == 0
    assert (tmp_path / "net.spq").read_bytes() == (explored / "net.spq").read_bytes()
