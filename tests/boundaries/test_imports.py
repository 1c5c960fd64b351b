"""The arrows between packages point down, and each rule that says so can break."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"spqformat": ".", "spq": "runtime", "spqtools": "tools"}


def run(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False
    )


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts on the packages under `root` and on no installed copy of them."""
    paths = [str(root / folder) for folder in PACKAGES.values()]
    script = (
        f"import sys; sys.path[:0] = {paths!r}; "
        "from importlinter.cli import lint_imports; "
        "sys.exit(lint_imports(no_cache=True))"
    )
    return run("-P", "-c", script, folder=root)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package, folder in PACKAGES.items():
        shutil.copytree(
            ROOT / folder / package,
            tmp_path / folder / package,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    return tmp_path


def test_contracts_are_kept() -> None:
    outcome = lint_imports(ROOT)
    assert outcome.returncode == 0, outcome.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("runtime/spq/archive.py", "def f(): import spqtools", "arrows point down"),
        ("spqformat/reader.py", "import spq", "arrows point down"),
        ("spqformat/reader.py", "import click", "the format knows no framework and no JIT"),
        ("spqformat/cursor.py", "import numba", "the format knows no framework and no JIT"),
        ("runtime/spq/archive.py", "import torch", "torch and onnx only in their adapters"),
        ("runtime/spq/save.py", "def f(): import onnx", "torch and onnx only in their adapters"),
        ("tools/spqtools/cli.py", "import torch", "torch and onnx only in their adapters"),
    ],
)
def test_forbidden_import_breaks_its_contract(
    copy: Path, module: str, line: str, contract: str
) -> None:
    path = copy / module
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")
    outcome = lint_imports(copy)
    assert outcome.returncode == 1
    assert f"{contract} BROKEN" in outcome.stdout


@pytest.mark.parametrize(
    "statement",
    [
        "import spq",
        "import spq; spq.open",
        "import spqtools.cli",
        "import spqformat",
    ],
)
def test_import_brings_no_framework(statement: str, tmp_path: Path) -> None:
    heavy = {"torch", "onnx", "onnxruntime", "numba", "sklearn"}
    script = f"{statement}\nimport sys\nprint(*({heavy!r} & set(sys.modules)))"
    outcome = run("-c", script, folder=tmp_path)
    assert (outcome.returncode, outcome.stdout.strip()) == (0, ""), outcome.stderr


def test_onnx_side_brings_no_torch(tmp_path: Path) -> None:
    script = "import spq; spq.session; import sys; print('torch' in sys.modules)"
    outcome = run("-c", script, folder=tmp_path)
    assert outcome.stdout.strip() == "False", outcome.stderr


def test_import_check_sees_a_framework(tmp_path: Path) -> None:
    outcome = run("-c", "import numba, sys; print('numba' in sys.modules)", folder=tmp_path)
    assert outcome.stdout.strip() == "True"
