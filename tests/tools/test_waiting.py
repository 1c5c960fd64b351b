"""A search does not hold the processors that others want."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
from spqtools.cli import main
for words in (["inspect", "nothing.spq"], ["pack", sys.executable]):
    before = os.environ.get("GOMP_SPINCOUNT")
    assert "torch" not in sys.modules
    main(words)
print(before, os.environ.get("GOMP_SPINCOUNT"))
"""


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({}, "None 1000"),
        ({"GOMP_SPINCOUNT": "5"}, "5 5"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None None"),
    ],
)
def test_packing_says_how_threads_wait(given: dict[str, str], seen: str) -> None:
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    env = {name: value for name, value in os.environ.items() if name not in names}
    child = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=env | given, capture_output=True, text=True, check=True
    )
    assert child.stdout.splitlines()[-1] == seen
