"""One codec in a process of its own, and the parent's hand on it.

    python -m tests.bench.codec_child CODEC SET_FILE

The child encodes the set, checks what it decodes, and writes a JSON line: ``stored_bytes``,
``encode_seconds``. Then it answers each line of two JSON numbers, threads and a time budget in
seconds, with ``decode_seconds``, the best of several repetitions after a warm one.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from tests.bench import tensor_sets
from tests.bench.codecs import CODECS, Codec, is_lossless
from tests.bench.tensor_sets import TensorSet

_LEAST_REPETITIONS = 3
_ENCODE_BUDGET = 1.0


class Child:
    """The parent's side; a context manager that ends the process.

    Parameters
    ----------
    codec : str
        Name in `CODECS`.
    set_file : Path
        What `tensor_sets.write` has written.
    """

    def __init__(self, codec: str, set_file: Path) -> None:
        self._codec = codec
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, codec, str(set_file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        answer = self._answer()
        self.stored_bytes = int(answer["stored_bytes"])
        self.encode_seconds = float(answer["encode_seconds"])

    def decode_seconds(self, threads: int, budget: float) -> float:
        """Measure now; every other child is idle meanwhile."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([threads, budget]) + "\n")
        self._process.stdin.flush()
        return float(self._answer()["decode_seconds"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the child of {self._codec!r} ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _serve(codec_name: str, tensors: TensorSet) -> None:
    """Encode, check, and measure on request until the parent closes."""
    codec = CODECS[codec_name]()
    smallest = min(tensors, key=lambda name: tensors[name].size)
    codec.encode({smallest: tensors[smallest]})  # compiles and imports
    encode_seconds, stored_bytes = _best(lambda: codec.encode(tensors), 1, _ENCODE_BUDGET)
    if is_lossless(codec_name):
        _check(codec, tensors)
    _tell(stored_bytes=stored_bytes, encode_seconds=encode_seconds)
    for line in sys.stdin:
        threads, budget = json.loads(line)
        codec.decode(threads)
        # The size only: arrays that are still held would deny their memory to the next repetition.
        seconds, _ = _best(lambda: len(codec.decode(threads)), _LEAST_REPETITIONS, budget)  # noqa: B023
        _tell(decode_seconds=seconds)


def _best(action: Callable[[], int], least: int, budget: float) -> tuple[float, int]:
    """Repeat within a budget of seconds, but `least` times at least; return the shortest time."""
    best, spent, repetitions, result = float("inf"), 0.0, 0, 0
    while repetitions < least or spent < budget:
        started = time.perf_counter()
        result = action()
        seconds = time.perf_counter() - started
        best, spent, repetitions = min(best, seconds), spent + seconds, repetitions + 1
    return best, result


def _check(codec: Codec, tensors: TensorSet) -> None:
    """Compare what is decoded bit for bit."""
    for threads in (1, 2):
        decoded = codec.decode(threads)
        for name, tensor in tensors.items():
            expected, got = tensor.elements(), decoded[name]
            if not np.array_equal(expected.view(np.uint32), got.view(np.uint32)):
                raise RuntimeError(f"{name} did not survive")


def _tell(**values: float) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("codec", choices=CODECS)
    parser.add_argument("set_file", type=Path)
    arguments = parser.parse_args()
    _serve(arguments.codec, tensor_sets.read(arguments.set_file))
