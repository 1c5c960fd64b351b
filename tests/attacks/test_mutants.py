"""Random changes with repaired checksums: only `SpqError` leaves, and plain Python agrees."""

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import spq
from spqformat import Limits, SpqError
from tests.fuzz.mutate import Mutator, u32

LIMITS = Limits(max_decoded_bytes=1 << 22)


def outcome(data: bytes) -> str:
    """Use everything that a file offers; return what came of it."""
    try:
        with spq.open(data, LIMITS) as archive:
            tensors = archive.tensors()
            for name in archive.keys():  # noqa: SIM118 - an archive is no mapping
                info = archive.info(name)
                array = archive.get_tensor(name)
                assert array.shape == info.shape
                assert array.nbytes == info.decoded_bytes
            crc = 0
            for name in sorted(tensors):
                crc = zlib.crc32(tensors[name].tobytes(), crc)
            assert sum(array.nbytes for array in tensors.values()) == archive.decoded_bytes
            archive.verify()
    except SpqError as error:
        return f"{error.code}"
    return f"sound {crc:08x}"


@pytest.mark.parametrize("name", ["dense", "sparse", "kernels", "planes", "mixed", "programs"])
def test_only_spq_errors_leave(victims: dict[str, bytes], name: str) -> None:
    mutator = Mutator(victims[name], 10)
    seen: dict[str, int] = {}
    for _ in range(1500):
        code = outcome(mutator.mutant()).split()[0]
        seen[code] = seen.get(code, 0) + 1
    # The mutants get past the checksums to the rules behind them.
    assert seen["bad_directory"] > 100
    assert sum(seen.get(code, 0) for code in ("bad_tables", "bad_stream")) > 100
    assert seen["checksum_mismatch"] < 500


CHILD = """
import json, sys
sys.path.append({folder!r})
from tests.attacks import test_mutants as tests
data = open({corpus!r}, "rb").read()
outcomes = []
while data:
    size = int.from_bytes(data[:4], "little")
    outcomes.append(tests.outcome(data[4:4 + size]))
    data = data[4 + size:]
print(json.dumps(outcomes))
"""


def test_plain_python_agrees(victims: dict[str, bytes], tmp_path: Path) -> None:
    """An index out of bounds, which compiled code would not notice, is an error there."""
    mutants = [
        mutator.mutant()
        for mutator in (Mutator(data, 11) for data in victims.values())
        for _ in range(120)
    ]
    corpus = tmp_path / "mutants"
    corpus.write_bytes(b"".join(u32(len(data)) + data for data in mutants))
    script = CHILD.format(folder=str(Path(__file__).parents[2]), corpus=str(corpus))
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout) == [outcome(data) for data in mutants]
