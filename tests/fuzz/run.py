"""Feeds targets with mutants: `python -m tests.fuzz.run --target all --inputs 10000 --seed 1`."""

import argparse
import datetime
import itertools
import re
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.targets import TARGETS, Target

FOLDER = Path(__file__).parent
REGRESSIONS = FOLDER / "regressions"
LEDGER = FOLDER / "LEDGER.md"
_MINIMISING_TRIES = 1000
_MOST_KEPT = 5


def main(arguments: list[str] | None = None) -> int:
    """Run the targets; return 0, or 1 when a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="all", choices=["all", *TARGETS])
    parser.add_argument("--inputs", type=int, help="of each target; default: as for each change")
    parser.add_argument("--seconds", type=float, help="stop each target after this time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ledger", action="store_true", help="add a line to LEDGER.md")
    options = parser.parse_args(arguments)
    findings = 0
    for name in TARGETS if options.target == "all" else [options.target]:
        target = TARGETS[name]
        count = target.per_change if options.inputs is None else options.inputs
        done, found, seconds = run(name, target, count, options.seed, options.seconds)
        rate = done / seconds
        print(f"{name}: {done} inputs, {rate:.0f} a second, findings: {found}", flush=True)
        findings += found
        if options.ledger:
            _note(name, done, options.seed, found)
    return 1 if findings else 0


def run(
    name: str, target: Target, count: int, seed: int, most_seconds: float | None = None
) -> tuple[int, int, float]:
    """Feed one target; return the numbers of inputs and of findings, and the time in seconds."""
    # A crash of the process leaves its input here.
    current = Path(tempfile.gettempdir()) / f"spq-fuzz-current-{name}"
    kinds: set[str] = set()
    start = time.perf_counter()
    done = found = 0
    with current.open("wb", buffering=0) as stream:
        for data in itertools.islice(target.inputs(seed), count):
            stream.seek(0)
            stream.write(data)
            stream.truncate()
            fault = fault_of(target.one_input, data)
            done += 1
            if fault is not None:
                found += 1
                if fault not in kinds and len(kinds) < _MOST_KEPT:
                    kinds.add(fault)
                    _keep(name, target.one_input, data, fault)
            if most_seconds is not None and time.perf_counter() - start > most_seconds:
                break
    current.unlink()
    return done, found, time.perf_counter() - start


def fault_of(one_input: Callable[[bytes], None], data: bytes) -> str | None:
    """Return where and how an input breaks its promise, or None; equal for equal faults."""
    try:
        one_input(data)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        # Numbers and checksums differ from input to input.
        message = re.sub(r"[0-9a-f]{6,}|\d+", "#", str(error))[:200]
        return f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {message}"
    return None


def minimised(one_input: Callable[[bytes], None], data: bytes, fault: str) -> bytes:
    """Return a shorter input with the same fault, where cutting or zeroing pieces leaves it."""
    size, tries = len(data) // 2, 0
    while size and tries < _MINIMISING_TRIES:
        start = 0
        while start < len(data) and tries < _MINIMISING_TRIES:
            tries += 1
            cut = data[:start] + data[start + size :]
            zeroed = data[:start] + bytes(min(size, len(data) - start)) + data[start + size :]
            if fault_of(one_input, cut) == fault:
                data = cut
                continue
            if zeroed != data and fault_of(one_input, zeroed) == fault:
                data = zeroed
            start += size
        size //= 2
    return data


def _keep(name: str, one_input: Callable[[bytes], None], data: bytes, fault: str) -> None:
    """Put an offending input into the folder of regressions, and say why."""
    try:
        one_input(data)
    except Exception:
        traceback.print_exc()
    data = minimised(one_input, data, fault)
    path = REGRESSIONS / f"{name}-{zlib.crc32(data):08x}"
    path.write_bytes(data)
    print(f"{name}: {fault}; kept as {path}", file=sys.stderr, flush=True)


def _note(name: str, done: int, seed: int, found: int) -> None:
    """Add a line to the ledger."""
    git = ["git", "-C", str(FOLDER), "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "-"
    today = datetime.datetime.now(datetime.UTC).date()
    with LEDGER.open("a", encoding="utf-8") as ledger:
        ledger.write(f"| {today} | {commit} | {name} | {done} | {seed} | {found} |\n")


if __name__ == "__main__":
    sys.exit(main())
