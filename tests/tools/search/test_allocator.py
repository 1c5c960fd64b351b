"""Freed memory stays with the process, where the C library can be told so."""

import ctypes
import subprocess
import sys

import pytest

from spqtools.search.allocator import keep_freed_memory

# Minor page faults of a process that takes and frees the same 64 MiB twenty times, once it is warm.
_FAULTS = """
import resource, sys
import torch
if sys.argv[1] == "kept":
    from spqtools.search.allocator import keep_freed_memory
    keep_freed_memory()
torch.set_num_threads(1)
for _ in range(10):
    torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    words = [sys.executable, "-c", _FAULTS, how]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's option")
def test_memory_is_taken_from_the_system_once() -> None:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        pytest.skip("not glibc")
    assert 10 * faults("kept") < faults("usual")


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", None)
    keep_freed_memory()
