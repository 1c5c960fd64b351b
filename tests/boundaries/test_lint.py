"""What the linter bans stays banned: code that could run a file's contents does not get in."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def ruff(source: str) -> str:
    """Lint source text as if it stood in the runtime."""
    outcome = subprocess.run(
        [
            *(sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise"),
            *("--stdin-filename", str(ROOT / "runtime/spq/stranger.py"), "-"),
        ],
        cwd=ROOT,
        input=f'"""Says hello."""\n\n{source}\n',
        capture_output=True,
        text=True,
        check=False,
    )
    return outcome.stdout


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("import pickle", "TID251"),
        ("from pickle import loads", "TID251"),
        ("import marshal", "TID251"),
        ("import shelve", "TID251"),
        ("import numpy as np\n\nTABLE = np.load", "TID251"),
        ("VALUE = eval('1')", "S307"),
        ("exec('1')", "S102"),
        ("from . import errors", "TID252"),
        ("print(1)", "T201"),
    ],
)
def test_banned(source: str, rule: str) -> None:
    assert f" {rule} " in ruff(source)


def test_ordinary_code_passes() -> None:
    assert ruff("import json\n\nVALUE = json.loads('1')").strip() == "All checks passed!"
