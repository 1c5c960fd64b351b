"""Every example of the README runs, in the order in which it stands there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INSTALLS = {"make demo", "make test"}
# Each run takes a process for each of six ways.
FEWER_RUNS = ("--runs 2", "--runs 1")


def as_script(blocks: list[tuple[str, str]]) -> str:
    """Turn the blocks into one program for an empty folder."""
    lines = ["from spqtools.cli import main"]
    for language, text in blocks:
        assert language in {"python", "sh"}
        if language == "sh":
            commands = [
                line.replace(*FEWER_RUNS) for line in text.splitlines() if line not in INSTALLS
            ]
            assert all(line.startswith("spq ") for line in commands)
            lines += [f"assert main({shlex.split(line)[1:]!r}) == 0" for line in commands]
        elif name := re.match(r"# (\w+\.py)\n", text):
            lines.append(f"open({name[1]!r}, 'w').write({text!r})")
        else:
            lines.append(text)
    return "\n".join(lines)


def test_examples(tmp_path: Path) -> None:
    blocks = BLOCK.findall(README.read_text(encoding="utf-8"))
    assert len(blocks) >= 8
    script = tmp_path / "examples.py"
    script.write_text(as_script(blocks), encoding="utf-8")
    outcome = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stderr
    for name in ("model.spq", "model.onnx", "model.safetensors", "weights.spq"):
        assert (tmp_path / name).stat().st_size > 0
