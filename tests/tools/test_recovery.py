"""`spq pack --recover`: from unlabelled inputs of any kind to a smaller file, or one sentence."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import spq
from spqformat import Reason, SpqError
from spqtools.cli import main
from spqtools.pack import PackRequest, checkpoint_path, run_pack
from spqtools.progress import Progress, Tick
from spqtools.reading.unlabelled import read_unlabelled
from spqtools.search.goal import Options
from spqtools.training import course
from spqtools.training.recover import Recovered, recover

if TYPE_CHECKING:
    from tests.conftest import TrainedNetwork

EXAMPLES = (torch.zeros(3, 16),)


@pytest.fixture(autouse=True)
def short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    # A second thread has nothing to do in so small a network, but waits busily.
    monkeypatch.setattr("spqtools.search.compress._THREADS", 1)
    monkeypatch.setattr(course, "_LEAST_STEPS", 150)
    monkeypatch.setattr(course, "_PRODUCTS", 1)


@pytest.fixture
def words(trained_network: "TrainedNetwork", tmp_path: Path) -> list[str]:
    network = trained_network
    inputs = ("--arch", network.arch, "--calib", str(network.calibration))
    output = ("-o", str(tmp_path / "net.spq"))
    return ["pack", str(network.model), *inputs, *output, "--effort", "fast", "--json"]


def packed(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main(words) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def callable_file(folder: Path, body: str) -> str:
    """Write a callable `batches` and return its spec."""
    file = folder / "data.py"
    file.write_text(f"import numpy as np\n\ndef batches():\n{body}\n", encoding="utf-8")
    return f"{file}:batches"


# From end to end


def test_training_goes_down_to_the_size(
    trained_network: "TrainedNetwork",
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As if the student of the search were worse."""

    def without_rival(*arguments: Any, **named: Any) -> Recovered:
        return replace(recover(*arguments, **named), rival_divergence=inf)

    monkeypatch.setattr("spqtools.search.compress.recover", without_rival)
    goal = [*words, "--target-size", "700", "--no-program"]
    goal += ["--recover", str(trained_network.calibration)]
    report = packed(goal, capsys)
    first = (tmp_path / "net.spq").read_bytes()
    assert 0.9 * 700 <= len(first) <= 700
    assert report["divergence"] < 0.2
    assert report["notes"] == [
        "trained on 768 inputs without labels",
        "192 of 192 inputs that judge the result were learnt from, too",
    ]
    assert len(spq.load_state_dict(first)) == len(torch.load(trained_network.model))
    packed(goal, capsys)
    assert (tmp_path / "net.spq").read_bytes() == first


def test_training_that_is_no_gain_leaves_the_student_of_the_search(
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    trained_network: "TrainedNetwork",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    goal = [*words, "--target-size", "700", "--no-program"]
    before = packed(goal, capsys)
    monkeypatch.setattr("spqtools.training.recover._PEAK_RATE", 100.0)
    report = packed([*goal, "--recover", str(trained_network.calibration)], capsys)
    assert "training was no gain; the file is that of the search alone" in report["notes"]
    assert report["divergence"] < 2 * before["divergence"] < 0.2


def test_training_keeps_a_sparsity(
    trained_network: "TrainedNetwork",
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of the layers' weights; biases, of which finer ones have fewer zeros, are not among them."""

    def zeros(*more: str) -> dict[str, torch.Tensor]:
        packed([*words, "--sparsity", "0.8", *more], capsys)
        found = spq.load_state_dict(tmp_path / "net.spq")
        return {name: tensor == 0 for name, tensor in found.items() if tensor.dim() > 1}

    plain, trained = zeros(), zeros("--recover", str(trained_network.calibration))
    assert plain.keys() == trained.keys()
    assert all(torch.equal(trained[name], where) for name, where in plain.items())
    places = torch.cat([where.flatten() for where in plain.values()])
    assert float(places.double().mean()) == pytest.approx(0.8, abs=0.005)


def test_training_at_a_sparsity_that_is_no_gain_leaves_the_file_as_it_was(
    trained_network: "TrainedNetwork",
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    goal = [*words, "--sparsity", "0.8"]
    packed(goal, capsys)
    before = spq.load_state_dict(tmp_path / "net.spq")
    monkeypatch.setattr("spqtools.training.refine._RATE", 100.0)
    report = packed([*goal, "--recover", str(trained_network.calibration)], capsys)
    assert "training was no gain; the file is that of the search alone" in report["notes"]
    after = spq.load_state_dict(tmp_path / "net.spq")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_time_makes_the_training_shorter(
    trained_network: "TrainedNetwork", words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--recover", str(trained_network.calibration), "--recover-time", "0.01s"]
    report = packed([*words, "--target-ratio", "6", *data], capsys)
    assert any("time made the training shorter" in note for note in report["notes"])


def test_a_size_out_of_reach(
    trained_network: "TrainedNetwork", words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--recover", str(trained_network.calibration)]
    assert main([*words, "--target-size", "100", *data]) == 2
    assert "no file of 100 bytes was found" in capsys.readouterr().err


class Interrupted(Progress):
    """Presses Ctrl-C in the middle of the training."""

    @contextmanager
    def stage(self, name: str, total: int | None = None, done: int = 0) -> Iterator[Tick]:
        def tick(steps: int = 1, /, total: int | None = None, *, behind: bool = False) -> None:
            nonlocal done
            done += steps
            if name == "recover" and done > course.TICKS // 2:
                raise KeyboardInterrupt

        yield tick


def test_an_interrupted_training_ends_the_same(
    trained_network: "TrainedNetwork", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def request(name: str, *, resumes: bool) -> PackRequest:
        return PackRequest(
            trained_network.model,
            tmp_path / name,
            Options(target_size=600, effort="fast", recovers=True),
            arch=trained_network.arch,
            calibration=trained_network.calibration,
            recovery=str(trained_network.calibration),
            resumes=resumes,
        )

    with monkeypatch.context() as patch:
        patch.setattr("spqtools.search.compress._SAVING_SECONDS", -1.0)
        patch.setattr("spqtools.search.compress._SAVING_RATIO", 0.0)
        with pytest.raises(KeyboardInterrupt):
            run_pack(request("a.spq", resumes=False), Interrupted())
    assert not (tmp_path / "a.spq").exists()
    left = spq.load_state_dict(checkpoint_path(tmp_path / "a.spq"))
    assert 0.4 < float(left["training/plan/share"]) < 0.6
    run_pack(request("a.spq", resumes=True), Progress())
    run_pack(request("b.spq", resumes=False), Progress())
    assert (tmp_path / "a.spq").read_bytes() == (tmp_path / "b.spq").read_bytes()
    assert not checkpoint_path(tmp_path / "a.spq").exists()


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--recover", "x.npz"], "--recover trains down to a size or keeps a sparsity"),
        (["--recover", "x.npz", "--max-drop", "1"], "--recover trains down to a size"),
        (["--sparsity", "0.5", "--recover-time", "1min"], "--recover-time is for the training of"),
        (["--recover", "missing.npz", "--target-ratio", "6"], "missing.npz"),
        (["--recover", "nowhere:batches", "--target-ratio", "6"], "ModuleNotFoundError"),
        (["--recover-time", "soon", "--target-ratio", "6"], "'soon' is not a duration"),
    ],
)
def test_usage(
    words: list[str], options: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, *options]) == 2
    assert part in capsys.readouterr().err.splitlines()[-1]


def test_training_needs_calibration_inputs(
    trained_network: "TrainedNetwork", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pack", str(trained_network.model), "-o", str(tmp_path / "net.spq")]
    assert main([*words, "--target-ratio", "6", "--recover", "x.npz"]) == 2
    assert "add --calib" in capsys.readouterr().err


def test_options_and_data_go_together(trained_network: "TrainedNetwork", tmp_path: Path) -> None:
    options = Options(target_ratio=6, recovers=True)
    with pytest.raises(SpqError, match="go together"):
        run_pack(PackRequest(trained_network.model, tmp_path / "a", options), Progress())
    with pytest.raises(SpqError, match="give one of these"):
        Options(max_drop=1.0, recovers=True)


# Where inputs come from


@pytest.mark.parametrize(
    "body",
    [
        "    return [np.ones((4, 16), 'f4'), np.zeros((2, 16), 'f8')]",
        "    for size in (4, 2):\n        yield np.ones((size, 16), 'f4'), np.zeros(size, int)",
        "    import torch\n    return torch.utils.data.DataLoader(torch.ones(6, 16), batch_size=4)",
    ],
)
def test_callables(tmp_path: Path, body: str) -> None:
    (inputs,) = read_unlabelled(callable_file(tmp_path, body), EXAMPLES)
    assert inputs.shape == (6, 16)
    assert inputs.dtype is torch.float32


def test_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.ones((5, 16), "f4"), y=np.zeros(5, int))
    (inputs,) = read_unlabelled(str(tmp_path / "x.npz"), EXAMPLES)
    assert inputs.shape == (5, 16)


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("    return []", "yields no batches"),
        ("    return [np.ones((4, 15), 'f4')]", r"has shape \(15,\)"),
        (
            "    return [np.ones((4, 16), 'f4'), np.ones((4, 15), 'f4')]",
            "batch 1 has another shape",
        ),
        ("    return [np.ones((4, 16), 'i8')]", "type int64"),
        ("    return [np.ones((1, 16), 'f4')]", "fewer than two samples"),
        ("    return [np.full((4, 16), np.nan, 'f4')]", "not finite"),
        ("    return [1.0]", "single number"),
        ("    return ['four']", "holds a str"),
        ("    return [()]", "batch 0 has 0 inputs, the network 1"),
        ("    yield np.ones((4, 16), 'f4')\n    raise RuntimeError('disk gone')", "disk gone"),
    ],
)
def test_refused_callables(tmp_path: Path, body: str, part: str) -> None:
    with pytest.raises(SpqError, match=part) as caught:
        read_unlabelled(callable_file(tmp_path, body), EXAMPLES)
    assert caught.value.code in (Reason.BAD_CALIBRATION, Reason.BAD_ARGUMENT)


def test_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spqtools.reading.unlabelled.MOST_BYTES", 1000)
    endless = "    while True:\n        yield np.ones((4, 16), 'f4')"
    with pytest.raises(SpqError, match="yield fewer samples"):
        read_unlabelled(callable_file(tmp_path, endless), EXAMPLES)
