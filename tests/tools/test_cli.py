"""The command refuses with one sentence and exit code 2, and shows what a file holds."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import spq
from spqformat import __version__
from spqtools.cli import main


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A small valid file with a hostile tensor name."""
    random = np.random.Generator(np.random.PCG64(1))
    weight = random.integers(-3, 4, (40, 50)).astype("f4") * (random.random((40, 50)) < 0.2)
    tied = random.normal(size=7).astype("f4")
    tensors = {"dense.weight": weight.astype("f4"), "e\x1b[2J": tied, "tied": tied}
    path = tmp_path / "small.spq"
    spq.save(tensors, path, metadata={"note": "a\nb"})
    return path


def refusal(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """Run a command that must be refused; return its sentence."""
    assert main([str(word) for word in words]) == 2
    output, error = capsys.readouterr()
    assert output == ""
    assert error.startswith("spq: ")
    assert error.count("\n") == 1
    return error


def test_no_words_print_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "spq demo" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"spq {__version__}\n"


@pytest.mark.parametrize(
    "name", ["pack", "inspect", "verify", "unpack", "export", "bench", "compare", "demo", "warmup"]
)
def test_each_command_has_help_with_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--help"]) == 0
    assert f"  spq {name}" in capsys.readouterr().out.split("Example")[1]


def test_inspect(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(packed)]) == 0
    text = capsys.readouterr().out
    assert r"e\x1b[2J" in text
    assert r"a\nb" in text
    assert "dense.weight" in text
    assert all(character.isprintable() for character in text.replace("\n", ""))


def test_inspect_json(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(packed), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    with spq.open(packed) as archive:
        weight = archive.get_tensor("dense.weight")
        stored = archive.info("dense.weight").stored_bytes
    assert content["file_bytes"] == packed.stat().st_size
    assert content["weights"] == 2007
    assert content["aliases"] == {"tied": "e\x1b[2J"}
    assert content["metadata"] == {"note": "a\nb"}
    row = content["tensors"][0]
    assert (row["name"], row["shape"]) == ("dense.weight", [40, 50])
    assert row["zeros"] == np.count_nonzero(weight == 0)
    assert row["levels"] == np.unique(weight[weight != 0]).size
    assert row["stored_bytes"] == stored


def test_verify(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(packed)]) == 0
    assert "sound, 3 tensors" in capsys.readouterr().out


def test_warmup(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["warmup"]) == 0
    assert "compiled" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_damaged_files(packed: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    whole = packed.read_bytes()
    middle = len(whole) // 2
    for damaged in (
        b"",
        whole[:30],
        whole[:-1],
        whole + b"\0",
        b"PK\x03\x04" + whole,
        whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :],
    ):
        packed.write_bytes(damaged)
        refusal(capsys, command, packed)


@pytest.mark.parametrize("command", ["unpack", "export"])
def test_damaged_file_leaves_no_output(
    packed: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    packed.write_bytes(packed.read_bytes()[:-1])
    output = packed.with_name("out")
    refusal(capsys, command, packed, "-o", output)
    assert not output.exists()


def test_unpack_gives_every_tensor_back(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import safetensors.numpy

    output = packed.with_name("out.safetensors")
    assert main(["unpack", str(packed), "-o", str(output)]) == 0
    assert f"{output.stat().st_size:,} bytes written" in capsys.readouterr().out
    state = safetensors.numpy.load_file(output)
    with spq.open(packed) as archive:
        assert sorted(state) == sorted(archive.keys())
        for name, value in state.items():
            assert value.tobytes() == archive.get_tensor(name).tobytes()
        with safetensors.safe_open(output, "numpy") as unpacked:
            assert unpacked.metadata() == {**archive.metadata, "format": "pt"}


@pytest.mark.parametrize("command", ["inspect", "verify", "unpack", "export"])
def test_most_bytes_that_may_be_decoded(
    packed: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    to = ("-o", packed.with_name("out")) if command in ("unpack", "export") else ()
    assert "the limit is 100" in refusal(capsys, command, packed, *to, "--max-decoded", "100")
    if command != "export":
        words = (command, packed, *to, "--max-decoded", "1MB")
        assert main([str(word) for word in words]) == 0


def test_export_without_a_program(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = packed.with_name("out.onnx")
    assert "no_program" in refusal(capsys, "export", packed, "-o", output)
    assert not output.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["verify"],
        ["verify", "missing.spq"],
        ["verify", "."],
        ["nonsense"],
        ["inspect", "missing.spq", "--frobnicate"],
        ["unpack", "missing.spq"],
    ],
)
def test_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    refusal(capsys, *words)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--sparsity", "1"], "'--sparsity': 1 is not at least 0 and below 1"),
        (["--sparsity", "-0.1"], "'--sparsity'"),
        (["--sparsity", "nan"], "'--sparsity'"),
        (["--sparsity", "most"], "'most' is not a number"),
        (["--target-ratio", "1"], "'--target-ratio'"),
        (["--target-ratio", "inf"], "'--target-ratio'"),
        (["--target-size", "0"], "'--target-size'"),
        (["--target-size", "12 bananas"], "'--target-size'"),
        (["--target-size", "-5kB"], "'--target-size'"),
        (["--max-divergence", "0"], "'--max-divergence'"),
        (["--max-drop", "100"], "'--max-drop'"),
        (["--max-drop", "0.5"], "add --calib"),
        (["--max-divergence", "0.5"], "add --calib"),
        (["--time-limit", "10"], "'10' is not a duration"),
        (["--time-limit", "0s"], "'--time-limit'"),
        (["--frontier", "f.json"], "--frontier is measured on calibration inputs; add --calib"),
        (["--bits", "9"], "'--bits'"),
        (["--bits", "4.5"], "'--bits'"),
        (["--effort", "heroic"], "'--effort'"),
        (["--seed", "-1"], "'--seed'"),
        (["--calib", "missing.npz"], "'--calib'"),
        (["--sparsity", "0.5", "--target-ratio", "9"], "--sparsity and --target-ratio"),
        (["--target-size", "9kB", "--max-drop", "1"], "--target-size and --max-drop"),
    ],
)
def test_pack_options(
    options: list[str], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"never read")
    assert part in refusal(capsys, "pack", model, *options)
    assert list(tmp_path.iterdir()) == [model]


def test_closed_standard_output_is_no_crash(packed: Path) -> None:
    script = f"import sys, spqtools.cli as c; sys.exit(c.main(['inspect', {str(packed)!r}]))"
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    child.stdout.close()
    assert child.stderr is not None
    with child.stderr:
        assert child.stderr.read() == ""
    assert child.wait() == 2


def test_no_memory_is_no_crash(
    packed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def allocate(*_: object) -> None:
        torch.empty(1 << 60)

    monkeypatch.setattr("spqtools.inspection.inspect_file", allocate)
    assert main(["inspect", str(packed)]) == 2
    assert capsys.readouterr().err == "spq: there is not enough memory for this\n"
