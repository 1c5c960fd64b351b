"""What predictions that learn save, and what they cost when a file is opened.

    python -m tests.bench.mixing FILES

Each packed file is written anew from its own tensors, metadata and programs, under static tables
(`--fast-load`) and with mixed predictions, and opened in turns with a dense checkpoint of the same
tensors; the least time of each is taken.
"""

import argparse
import io
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

import spq

_ROUNDS = 9


def main() -> None:
    """Print one row for each file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    print("| file | static | mixed | smaller by | torch.load | static | mixed | mixed, 1 thread |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for path in parser.parse_args().files:
        static, mixed = (_written(path, fast_load) for fast_load in (True, False))
        times = _in_turns(
            partial(_load_dense, _dense(path)),
            partial(spq.load_state_dict, static),
            partial(spq.load_state_dict, mixed),
            partial(spq.load_state_dict, mixed, threads=1),
        )
        saved = 1 - len(mixed) / len(static)
        cells = [f"{1e3 * seconds:.1f} ms" for seconds in times]
        row = [path.stem, f"{len(static):,}", f"{len(mixed):,}", f"{saved:.1%}", *cells]
        print(f"| {' | '.join(row)} |", flush=True)


def _written(path: Path, fast_load: bool) -> bytes:
    """Return the file as it would be, without mixed predictions or with them."""
    stream = io.BytesIO()
    with spq.open(path) as archive:
        programs = {kind: archive.program(kind) or b"" for kind in archive.program_kinds}
        tensors, metadata = archive.tensors(), dict(archive.metadata)
        spq.save(tensors, stream, metadata=metadata, programs=programs, fast_load=fast_load)
    return stream.getvalue()


def _dense(path: Path) -> bytes:
    """Return a checkpoint of the same tensors as PyTorch writes it."""
    stream = io.BytesIO()
    torch.save(dict(spq.load_state_dict(path)), stream)
    return stream.getvalue()


def _load_dense(checkpoint: bytes) -> object:
    return torch.load(io.BytesIO(checkpoint), weights_only=True)


def _in_turns(*loads: Callable[[], object]) -> list[float]:
    """Return the least seconds of each, after one that does not count."""
    least = [float("inf")] * len(loads)
    for round_number in range(1 + _ROUNDS):
        for number, load in enumerate(loads):
            start = time.perf_counter()
            load()
            seconds = time.perf_counter() - start
            if round_number:
                least[number] = min(least[number], seconds)
    return least


if __name__ == "__main__":
    main()
