"""The quota of fuzzing that each change passes, and every input that once broke a promise."""

import contextlib
import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from spqformat.ids import Encoding
from tests.fuzz import corpus, mutate, run, targets

REGRESSIONS = sorted(run.REGRESSIONS.glob("F*"))
SEED = 1


@pytest.mark.parametrize("name", targets.TARGETS)
def test_quota(name: str) -> None:
    target = targets.TARGETS[name]
    for data in itertools.islice(target.inputs(SEED), target.per_change):
        try:
            target.one_input(data)
        except BaseException as error:
            error.add_note(f"input of {name}: {data.hex()}")
            raise


@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda path: path.name)
def test_regression(path: Path) -> None:
    targets.TARGETS[path.name[:2]].one_input(path.read_bytes())


# --- the fuzzer itself -----------------------------------------------------------------------


def test_corpus_has_everything() -> None:
    seen = set()
    for data in corpus.all_files().values():
        for record in mutate.read(data).tensors.values():
            seen |= {record.encoding, (record.encoding, len(record.parts) > 2)}
    coded = {Encoding.DENSE, Encoding.SPARSE, Encoding.PLANES}
    whole = {Encoding.CONSTANT, Encoding.MIXED}
    assert seen >= coded | {(encoding, True) for encoding in coded} | whole


def test_mixed_tensors_of_the_corpus() -> None:
    records = [
        record
        for name, data in corpus.files().items()
        for record in mutate.read(data).tensors.values()
        if name.startswith("mixed")
    ]
    assert {record.encoding for record in records} == {Encoding.MIXED}
    assert {len(record.shape) for record in records} == {2, 3, 4}
    assert len({record.dtype for record in records}) == 3


def test_generated_tensors_are_mixed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[Encoding] = set()
    original = corpus.saved

    def noted(tensors: dict[str, Any], **options: Any) -> bytes:
        data = original(tensors, **options)
        seen.update(record.encoding for record in mutate.read(data).tensors.values())
        return data

    monkeypatch.setattr(corpus, "saved", noted)
    for data in itertools.islice(targets.noise(SEED), 60):
        targets.round_trip(data)
    assert Encoding.MIXED in seen


def test_equal_seeds_give_equal_inputs() -> None:
    for target in targets.TARGETS.values():
        first, second = (list(itertools.islice(target.inputs(7), 40)) for _ in range(2))
        assert first == second


def test_mutants_get_past_the_checksums() -> None:
    reasons: dict[object, int] = {}
    for data in itertools.islice(targets.mutants(3), 1500):
        found = targets.outcome(data, targets.F1_LIMITS)
        reason = found.get("refused", found.get("verified"))
        reasons[reason] = reasons.get(reason, 0) + 1
    assert reasons["bad_directory"] > 100
    assert reasons["bad_tables"] + reasons["bad_stream"] > 150
    assert reasons["ok"] > 10


def test_guards_see_kernels_that_leave_their_buffers() -> None:
    data = corpus.files()["dense"]
    targets.guards(data)
    assert targets.calls_of_kernels["decode_symbols"] > 0
    targets.guards(corpus.files()["mixed"])
    assert targets.calls_of_kernels["code_signed_indices"] > 0

    def writes(numbers: NDArray[Any]) -> None:
        np.lib.stride_tricks.as_strided(numbers, (numbers.size + 1,))[-1] = 0

    writes.py_func = writes  # type: ignore[attr-defined]
    with pytest.raises(AssertionError, match="writes outside"):
        targets._guarded(writes, 0xAA)(np.ones(5))


def test_canary_is_left_by_an_unsafe_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    for name, data in targets.checkpoints().items():
        with contextlib.suppress(Exception):
            torch.load(io.BytesIO(data), weights_only=False)
        canary = tmp_path / targets.CANARY
        assert canary.exists() is not name.startswith("sound")
        canary.unlink(missing_ok=True)


def broken_from_3(data: bytes) -> None:
    if data.count(7) >= 3:
        raise OverflowError(f"{len(data)} bytes")


def test_findings_are_kept_and_made_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "REGRESSIONS", tmp_path)
    monkeypatch.setattr(run, "LEDGER", tmp_path / "LEDGER.md")
    data = bytes(range(60)) * 3
    target = targets.Target(broken_from_3, lambda _: itertools.repeat(data), 4)
    monkeypatch.setattr(run, "TARGETS", {"F0": target})
    assert run.main(["--inputs", "9", "--seed", "5", "--ledger"]) == 1
    assert "F0: 9 inputs" in capsys.readouterr().out
    (kept,) = tmp_path.glob("F0-*")
    assert kept.read_bytes() == bytes([7, 7, 7])
    assert run.LEDGER.read_text(encoding="utf-8").endswith("| F0 | 9 | 5 | 9 |\n")
    sound = targets.Target(lambda _: None, lambda _: itertools.repeat(data), 4)
    monkeypatch.setattr(run, "TARGETS", {"F0": sound})
    assert run.main([]) == 0
