"""No more threads than this process, or its container, may keep busy."""

import os
from pathlib import Path

import pytest

from spq import _processors


@pytest.mark.parametrize(
    ("quota", "most"),
    [
        ("150000 100000", 1),
        ("200000 100000", 2),
        ("50000 100000", 1),
        ("max 100000", 3),
        ("900000 100000", 3),
        ("nonsense", 3),
        ("1 0", 3),
        (None, 3),
    ],
)
def test_quotas(
    quota: str | None, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5}, raising=False)
    monkeypatch.setattr(_processors, "_QUOTA", tmp_path / "cpu.max")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    assert _processors.processor_count() == most


def test_systems_without_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(_processors, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert _processors.processor_count() == 1
