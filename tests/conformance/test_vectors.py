"""Every reader finds in the vectors what their manifests say, and damage to them."""

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

import spq
from tests.conformance.test_reference_decoder import dumps, reference, reference_outcome
from tests.conformance.vector_outcomes import VECTORS, outcome

VALID: dict[str, Any] = json.loads((VECTORS / "valid.json").read_text(encoding="utf-8"))
INVALID: dict[str, Any] = json.loads((VECTORS / "invalid.json").read_text(encoding="utf-8"))
RUNNER = Path(__file__).with_name("vector_outcomes.py")
FLIPPED_BYTES_OF_REFERENCE = 300
ALL_BYTES = 300_000
PROCESS_SECONDS = 200


def read(kind: str, name: str) -> bytes:
    return (VECTORS / kind / f"{name}.spq").read_bytes()


def expected(name: str) -> dict[str, Any]:
    return {key: value for key, value in VALID[name].items() if key != "purpose"}


def test_vectors_are_what_the_generator_makes() -> None:
    command = [sys.executable, "-W", "error", str(VECTORS / "generate.py"), "--check"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert {path.stem for path in VECTORS.glob("valid/*.spq")} == VALID.keys()
    assert {path.stem for path in VECTORS.glob("invalid/*.spq")} == INVALID.keys()
    assert sum(path.stat().st_size for path in VECTORS.glob("*valid/*.spq")) < ALL_BYTES


@pytest.mark.parametrize("name", VALID)
def test_valid(name: str) -> None:
    data = read("valid", name)
    assert outcome(data, 1) == expected(name)
    found = reference_outcome(data)
    assert found["verified"] == "ok"
    assert found["metadata"] == VALID[name]["metadata"]
    tied = {key: value["tied"] for key, value in VALID[name]["tensors"].items() if "tied" in value}
    assert found["aliases"] == tied
    decoded = reference.decode_file(data)
    assert decoded.tensors.keys() | tied.keys() == VALID[name]["tensors"].keys()
    assert decoded.programs.keys() == VALID[name]["programs"].keys()
    for kind, program in decoded.programs.items():
        if program.codec == "stored":
            assert zlib.crc32(program.stored) == VALID[name]["programs"][kind]
    for key, tensor in VALID[name]["tensors"].items():
        if "tied" not in tensor:
            elements = found[f"tensor {key}"]
            assert isinstance(elements, bytes)
            assert zlib.crc32(elements) == tensor["crc32"]
            width = len(tensor["first"][0]) // 2 if elements else 1
            first = [elements[at : at + width][::-1].hex() for at in range(0, 4 * width, width)]
            assert [pattern for pattern in first if pattern] == tensor["first"]
            info: Any = found[f"info {key}"]
            assert (info[0], list(info[2])) == (tensor["dtype"], tensor["shape"])


@pytest.mark.parametrize("name", INVALID)
def test_invalid(name: str) -> None:
    data = read("invalid", name)
    assert outcome(data, 1) == INVALID[name]["reason"]
    found = reference_outcome(data)
    # The reference decoder does not look into frames.
    reason = "ok" if name.startswith("program_frame") else INVALID[name]["reason"]
    assert found.get("refused", found.get("verified")) == reason


ALONE = [name for name in INVALID if name.startswith("alone_")]


@pytest.mark.parametrize("name", ALONE)
def test_nothing_else_is_wrong(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader without the broken rule accepts the file, so the vector tests that rule alone."""
    require = reference.Cursor.require
    skipped: set[str] = set()

    def forgetful(cursor: Any, condition: bool, rule: str) -> None:
        if not condition and skipped <= {rule}:
            skipped.add(rule)
        else:
            require(cursor, condition, rule)

    monkeypatch.setattr(reference.Cursor, "require", forgetful)
    reference.decode_file(read("invalid", name))
    assert len(skipped) == 1


def test_every_reason_about_the_file_has_a_vector() -> None:
    text = (VECTORS.parent / "SPQ-1.md").read_text(encoding="utf-8")
    section = text[text.index("### 10.1") : text.index("### 10.2")]
    reasons = {line.split("`")[1] for line in section.splitlines() if line.startswith("| `")}
    assert {file["reason"] for file in INVALID.values()} == reasons


def test_examples_of_the_text_are_vectors() -> None:
    assert {f"example_{number.replace('.', '_')}": data for number, data in dumps().items()} == {
        name: read("valid", name) for name in VALID if name.startswith("example_")
    }


def refused(data: bytes) -> bool:
    try:
        with spq.open(data) as archive:
            archive.verify()
    except spq.SpqError:
        return True
    return False


def refused_by_reference(data: bytes) -> bool:
    try:
        reference.decode_file(data)
    except reference.Refusal:
        return True
    return False


@pytest.mark.parametrize("name", VALID)
def test_all_damage_is_found(name: str) -> None:
    data = read("valid", name)
    readers = [refused]
    readers += [refused_by_reference] if len(data) <= FLIPPED_BYTES_OF_REFERENCE else []
    for reader in readers:
        assert not reader(data)
        for length in range(len(data)):
            assert reader(data[:length])
        for place in range(len(data)):
            for bit in range(8):
                damaged = bytearray(data)
                damaged[place] ^= 1 << bit
                assert reader(bytes(damaged)), (place, bit)


@pytest.mark.parametrize(
    "setting",
    [{}, {"NUMBA_DISABLE_JIT": "1"}, {"NUMBA_BOUNDSCHECK": "1"}, {"NUMBA_CPU_NAME": "generic"}],
    ids=["plain", "interpreted", "bounds checked", "generic processor"],
)
def test_however_kernels_are_run(setting: dict[str, str], tmp_path: Path) -> None:
    own_cache = {"SPQ_CACHE_DIR": str(tmp_path / "cache")} if setting else {}
    run = subprocess.run(
        [sys.executable, "-W", "error", str(RUNNER)],
        env={**os.environ, **own_cache, **setting},
        capture_output=True,
        text=True,
        check=False,
        timeout=PROCESS_SECONDS,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    wanted = {f"valid/{name}": expected(name) for name in VALID}
    wanted |= {f"invalid/{name}": file["reason"] for name, file in INVALID.items()}
    assert found == wanted
