"""Without an optional dependency, the sentence says what to install, and the rest works."""

import subprocess
import sys

import pytest

from spq._extras import extra
from spqformat import Reason, SpqError

SCRIPT = """
import io, sys
import numpy
sys.modules[{missing!r}] = None
import spq
stream = io.BytesIO()
spq.save({{"w": numpy.arange(300, dtype="f4") % 3}}, stream, programs={{"onnx": b"", "torch": b""}})
with spq.open(stream.getvalue()) as archive:
    assert archive.get_tensor("w").sum() == 300
try:
    {statement}
except spq.SpqError as error:
    print(error)
"""


def outcome(missing: str, statement: str) -> str:
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT.format(missing=missing, statement=statement)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return child.stdout.strip()


@pytest.mark.parametrize(
    ("missing", "statement", "name"),
    [
        ("torch", "spq.load(stream.getvalue())", "torch"),
        ("torch", "spq.load_state_dict(stream.getvalue())", "torch"),
        ("onnx", "spq.load_onnx(stream.getvalue())", "onnx"),
        ("onnx", "spq.session(stream.getvalue())", "onnx"),
        ("onnxruntime", "spq.session(stream.getvalue())", "onnx"),
    ],
)
def test_missing(missing: str, statement: str, name: str) -> None:
    assert outcome(missing, statement) == (
        f"{missing} is not installed; run: pip install 'spqformat[{name}]' [missing_extra]"
    )


def test_onnx_needs_no_torch() -> None:
    statement = "spq.load_onnx(stream.getvalue()); print('loaded')"
    assert outcome("torch", statement) == "loaded"


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), extra("torch"):
        raise ZeroDivisionError


def test_error_of_the_import_is_kept() -> None:
    with pytest.raises(SpqError) as caught, extra("torch"):
        import nonsense_that_nobody_installs  # type: ignore[import-not-found]  # noqa: F401
    assert caught.value.code is Reason.MISSING_EXTRA
    assert isinstance(caught.value.__cause__, ImportError)
    assert "nonsense_that_nobody_installs" in caught.value.message
