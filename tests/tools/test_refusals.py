"""What `spq` refuses: one sentence, exit code 2, and nothing on the disk has changed."""

import json
import os
import pickle  # noqa: TID251 - to write what must be refused
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

import spq
from spqformat.ids import HEADER_BYTES
from spqtools.cli import main

if TYPE_CHECKING:
    from tests.conftest import TrainedNetwork

Refused = Callable[..., str]


def listing(folder: Path) -> dict[str, bytes | None]:
    """Return all files under a folder with their contents."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must be refused, and return the sentence; `notes` may come before it."""

    def run(*words: str | Path, notes: int = 0) -> str:
        before = listing(tmp_path)
        assert main([str(word) for word in words]) == 2
        output, error = capsys.readouterr()
        assert output == ""
        # What long stages say on the way is indented.
        lines = [line for line in error.splitlines(keepends=True) if not line.startswith("  ")]
        assert len(lines) == notes + 1, error
        assert all(line.endswith("\n") for line in lines)
        assert lines[-1].startswith("spq: ")
        assert listing(tmp_path) == before
        return lines[-1]

    return run


@pytest.fixture
def pack(trained_network: "TrainedNetwork", tmp_path: Path, refused: Refused) -> Refused:
    """Pack the trained network with other options, which must be refused."""

    def run(*options: str | Path, notes: int = 0, **changed: str | Path) -> str:
        given: dict[str, str | Path] = {
            "model": trained_network.model,
            "arch": trained_network.arch,
            "calib": trained_network.calibration,
            "output": tmp_path / "out.spq",
            "effort": "fast",
            **changed,
        }
        model = given.pop("model")
        if "arch" not in changed and Path(model).suffix in {".pt2", ".onnx"}:
            del given["arch"]  # these bring their own network
        named = [word for name, value in given.items() for word in (f"--{name}", value)]
        return refused("pack", model, *named, *options, notes=notes)

    return run


class Touch:
    """Unpickles by creating a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


# Models


def test_missing_model(pack: Refused, tmp_path: Path) -> None:
    assert "does not exist" in pack(model=tmp_path / "missing.pt")


def test_empty_model(pack: Refused, tmp_path: Path) -> None:
    (tmp_path / "model.pt").touch()
    assert "is empty; save or fetch it again [bad_model]" in pack(model=tmp_path / "model.pt")


def test_whole_module(pack: Refused, tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(16, 4)), tmp_path / "model.pt")
    assert "[unsafe_model]" in pack(model=tmp_path / "model.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_hostile_pickle(
    pack: Refused, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, zipped: bool
) -> None:
    canary = tmp_path_factory.mktemp("elsewhere") / "canary"
    content = {"weight": torch.ones(2, 2), "evil": Touch(canary)}
    torch.save(content, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    assert "[unsafe_model]" in pack(model=tmp_path / "model.pt")
    assert not canary.exists()


@pytest.mark.parametrize("name", ["model.pt", "model.pt2", "model.safetensors", "model.onnx"])
def test_what_is_no_model(pack: Refused, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\3\4 or what?")
    assert "_model]" in pack(model=tmp_path / name)


@pytest.mark.parametrize("name", ["model.pt2", "model.onnx"])
def test_network_that_brings_its_own_architecture(
    pack: Refused, trained_network: "TrainedNetwork", tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"never read")
    assert "leave out --arch" in pack(model=tmp_path / name, arch=trained_network.arch)


def test_exported_network_that_is_damaged_inside(pack: Refused, tmp_path: Path) -> None:
    exported = torch.export.export(nn.Linear(16, 4), (torch.ones(2, 16),))
    torch.export.save(exported, tmp_path / "whole.pt2")
    with zipfile.ZipFile(tmp_path / "whole.pt2") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "model.pt2", "w") as archive:
        for name, content in entries.items():
            cut = name.endswith("weight_0")
            archive.writestr(name, content[:-1] if cut else content)
    assert "[bad_model]" in pack(model=tmp_path / "model.pt2")


def test_tensors_that_cannot_be_packed(refused: Refused, tmp_path: Path) -> None:
    torch.save({"a": torch.eye(3).to_sparse()}, tmp_path / "model.pt")
    assert "[unsupported_model]" in refused("pack", tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("builder", "reason"),
    [("build_wider", "model_mismatch"), ("missing", "bad_argument"), ("nn", "bad_argument")],
)
def test_arch_that_does_not_fit(
    pack: Refused, trained_network: "TrainedNetwork", builder: str, reason: str
) -> None:
    arch = f"{trained_network.folder / 'net.py'}:{builder}"
    assert f"[{reason}]" in pack(arch=arch)


def test_network_without_layers(pack: Refused, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\nbuild = lambda: nn.BatchNorm1d(16)\n")
    torch.save(nn.BatchNorm1d(16).state_dict(), tmp_path / "model.pt")
    sentence = pack(model=tmp_path / "model.pt", arch=f"{tmp_path / 'net.py'}:build")
    assert "[unsupported_model]" in sentence


def test_network_that_cannot_be_traced(
    pack: Refused, trained_network: "TrainedNetwork", tmp_path: Path
) -> None:
    (tmp_path / "net.py").write_text(
        f"import runpy\nfrom torch import nn\n"
        f"class Net(nn.Sequential):\n"
        f"    def forward(self, x):\n"
        f"        y = super().forward(x)\n"
        f"        return y if y.sum() > 0 else -y\n"
        f"def build():\n"
        f"    return Net(*runpy.run_path({str(trained_network.folder / 'net.py')!r})['build']())\n"
    )
    assert "[unsupported_model]" in pack(arch=f"{tmp_path / 'net.py'}:build")


# Calibration

POINTS = np.ones((32, 16), dtype="f4")


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": np.ones((32, 15), dtype="f4")},
        {"x": np.ones((32, 4, 4), dtype="f4")},
        {"x": POINTS.astype("i8")},
        {"x": POINTS, "z": POINTS},
        {"x": POINTS.astype("c8")},
        {"x": POINTS.astype("U")},
        {"x": np.where(np.eye(32, 16), np.nan, POINTS)},
        {"x": np.where(np.eye(32, 16), np.inf, POINTS)},
        {"x": POINTS[:0]},
        {"x": np.float32(3)},
        {"y": np.zeros(32, dtype=int)},
        {"x": POINTS, "y": np.zeros(31, dtype=int)},
        {"x": POINTS, "y": np.zeros(32)},
        {"x": np.array([[Touch(Path("canary"))]], dtype=object)},
    ],
    ids=[
        *("width", "rank", "integers", "two inputs", "complex", "strings", "nan", "inf"),
        *("empty", "scalar", "labels alone", "label count", "label type", "objects"),
    ],
)
def test_bad_calibration(
    pack: Refused, tmp_path: Path, arrays: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "c.npz", **arrays)
    sentence = pack("--sparsity", "0.5", calib=tmp_path / "c.npz")
    assert "[bad_calibration]" in sentence or "[unsupported_model]" in sentence


def test_pickle_as_calibration(pack: Refused, tmp_path: Path) -> None:
    (tmp_path / "c.npz").write_bytes(pickle.dumps(Touch(tmp_path / "canary")))
    assert "[bad_calibration]" in pack(calib=tmp_path / "c.npz")


def test_damaged_calibration(
    pack: Refused, trained_network: "TrainedNetwork", tmp_path: Path
) -> None:
    whole = trained_network.calibration.read_bytes()
    (tmp_path / "c.npz").write_bytes(whole[: len(whole) // 2])
    assert "[bad_calibration]" in pack(calib=tmp_path / "c.npz")


def test_max_drop_without_labels(pack: Refused, tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", x=POINTS)
    sentence = pack("--max-drop", "1", calib=tmp_path / "c.npz")
    assert "labels" in sentence
    assert "[bad_calibration]" in sentence


# Goals


@pytest.mark.parametrize("value", ["1", "1.5", "-0.1", "nan", "inf", "all"])
def test_sparsity_outside_its_range(pack: Refused, value: str) -> None:
    assert "'--sparsity'" in pack("--sparsity", value)


def test_size_out_of_reach(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\nbuild = lambda: nn.Linear(8, 2)\n")
    torch.save(nn.Linear(8, 2).state_dict(), tmp_path / "model.pt")
    np.savez(tmp_path / "c.npz", x=np.eye(8, dtype="f4"))
    sentence = refused(
        *("pack", tmp_path / "model.pt", "--arch", f"{tmp_path / 'net.py'}:build"),
        *("--calib", tmp_path / "c.npz", "--effort", "fast", "--target-size", "100"),
        notes=1,
    )
    assert "[goal_not_reached]" in sentence


def test_size_out_of_reach_without_data(
    refused: Refused, trained_network: "TrainedNetwork", tmp_path: Path
) -> None:
    output = tmp_path / "out.spq"
    words = ("pack", trained_network.model, "--target-size", "100", "-o", output)
    assert "[goal_not_reached]" in refused(*words, notes=2)


# Checkpoints


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tmp_path / "out.spq.ckpt"


def test_resume_from_nothing(pack: Refused) -> None:
    sentence = pack("--resume", "--sparsity", "0.5")
    assert "there is no checkpoint" in sentence
    assert "[bad_checkpoint]" in sentence


def test_resume_from_another_search(pack: Refused, checkpoint: Path) -> None:
    spq.save({"a": np.ones(3)}, checkpoint, metadata={"digest": "0" * 64, "search": "{}"})
    assert "[bad_checkpoint]" in pack("--resume", "--sparsity", "0.5")


def test_resume_from_an_ordinary_file(pack: Refused, checkpoint: Path) -> None:
    spq.save({"a": np.ones(3)}, checkpoint)
    assert "[bad_checkpoint]" in pack("--resume", "--sparsity", "0.5")


@pytest.mark.parametrize("content", [b"", b"text", bytes(100)])
def test_resume_from_damage(pack: Refused, checkpoint: Path, content: bytes) -> None:
    checkpoint.write_bytes(content)
    pack("--resume", "--sparsity", "0.5")


# Packed files


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    random = np.random.default_rng(1)
    weight = random.integers(-3, 4, (40, 50)).astype("f4") * (random.random((40, 50)) < 0.2)
    spq.save(
        {"weight": weight.astype("f4"), "bias": random.normal(size=50)}, tmp_path / "small.spq"
    )
    return tmp_path / "small.spq"


def words_for(command: str, file: Path) -> list[str | Path]:
    outputs = {"unpack": "out.safetensors", "export": "out.onnx"}
    words: list[str | Path] = [command, file]
    if command in outputs:
        words += ["-o", file.with_name(outputs[command])]
    return words


@pytest.mark.parametrize("command", ["verify", "inspect", "unpack", "export"])
def test_truncated_file(refused: Refused, packed: Path, command: str) -> None:
    whole = packed.read_bytes()
    for length in (0, 7, HEADER_BYTES - 1, HEADER_BYTES, len(whole) // 2, len(whole) - 1):
        packed.write_bytes(whole[:length])
        assert "[truncated" in (sentence := refused(*words_for(command, packed))) or length == 0
        assert "[" in sentence


@pytest.mark.parametrize("command", ["verify", "inspect", "unpack"])
def test_flipped_bits(refused: Refused, packed: Path, command: str) -> None:
    whole = packed.read_bytes()
    for place in range(0, len(whole), 61):
        packed.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        refused(*words_for(command, packed))


@pytest.mark.parametrize("command", ["verify", "inspect", "unpack", "export"])
def test_a_file_that_declares_a_tebibyte(refused: Refused, packed: Path, command: str) -> None:
    whole = bytearray(packed.read_bytes())
    whole[40:48] = (1 << 40).to_bytes(8, "little")
    packed.write_bytes(whole)
    sentence = refused(*words_for(command, packed))
    assert str(1 << 40) in sentence
    assert "[limit_exceeded" in sentence


def test_a_sound_file_passes(packed: Path) -> None:
    assert main(["verify", str(packed)]) == 0


def test_export_without_a_program(refused: Refused, packed: Path) -> None:
    assert "[no_program" in refused(*words_for("export", packed))


# Outputs


@pytest.mark.parametrize("place", ["missing/out.spq", "small.spq/out.spq", "."])
def test_unwritable_output_of_pack(pack: Refused, packed: Path, place: str) -> None:
    """A folder that is missing, a path below a file, and a folder."""
    pack("--sparsity", "0.5", output=packed.parent / place)


@pytest.mark.parametrize("place", ["missing/out", "small.spq/out", "."])
def test_unwritable_output_of_unpack(refused: Refused, packed: Path, place: str) -> None:
    refused("unpack", packed, "-o", packed.parent / place)


def test_output_in_a_place_that_takes_no_files(pack: Refused) -> None:
    pack("--sparsity", "0.5", output="/proc/spq/out.spq")
    pack("--sparsity", "0.5", output="/proc/out.spq")


FULL_DISK = """
import resource, signal, sys
from spqtools.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import numba, torch, onnx, onnxruntime, spq  # noqa
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
sys.exit(main({words!r}))
"""


def on_a_full_disk(words: list[str | Path], limit: int, folder: Path) -> str:
    """Run the command where no file may grow beyond a limit; return its standard error."""
    script = FULL_DISK.format(limit=limit, words=[str(word) for word in words])
    child = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False
    )
    assert child.returncode == 2, child.stderr
    assert child.stdout == ""
    return child.stderr


@pytest.mark.parametrize("command", ["unpack", "pack"])
def test_full_disk(
    trained_network: "TrainedNetwork", packed: Path, command: str, tmp_path: Path
) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    output = tmp_path / "old"
    output.write_bytes(b"what was there before")
    before = listing(tmp_path)
    words: list[str | Path] = ["unpack", packed, "-o", output]
    if command == "pack":
        words = ["pack", trained_network.model, "-o", output]
    error = on_a_full_disk(words, 512, tmp_path)
    assert error.splitlines()[-1].startswith("spq: ")
    assert "File too large" in error
    assert "Traceback" not in error
    assert listing(tmp_path) == before


def test_full_disk_after_a_search(trained_network: "TrainedNetwork", tmp_path: Path) -> None:
    output = tmp_path / "old"
    output.write_bytes(b"what was there before")
    words: list[str | Path] = [
        *("pack", trained_network.model, "--arch", trained_network.arch, "-o", output),
        *("--calib", trained_network.calibration, "--sparsity", "0.5", "--effort", "fast"),
    ]
    error = on_a_full_disk(words, 512, tmp_path)
    assert error.splitlines()[-1].startswith("spq: ")
    assert "File too large" in error
    assert "Traceback" not in error
    assert {name: value for name, value in listing(tmp_path).items() if ".ckpt" not in name} == {
        "old": b"what was there before"
    }


def test_the_same_words_pass_on_a_disk_that_is_not_full(
    trained_network: "TrainedNetwork", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.spq"
    assert main(["pack", str(trained_network.model), "-o", str(output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes_after"] == output.stat().st_size
