"""The codec beside its rivals, ideal code lengths and plain memory, on pruned and coded weights.

    python -m tests.bench.codec --data FOLDER [--sets resnet56 ...] [--sparsities 0.9 ...] [--quick]

FOLDER holds ``resnet-cifar10`` and ``tiny-yolov3``; the set ``lenets`` takes what
`tests.bench.accuracy` has packed. Each codec runs in one process of its own. In every round each
rival is measured right after SPQ, so that both see the same machine: speeds are the best of all
rounds, ratios of speeds the medians over rounds of one pair. SPQ's time includes opening the file
and its checksums; the rivals have none and are given the indices when they encode. Megabytes and
gigabytes are decimal and count float32.
"""

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.bench import code_lengths, tensor_sets
from tests.bench.codec_child import Child
from tests.bench.codecs import CODECS, SPQ, missing
from tests.bench.tensor_sets import TensorSet

IDEALS: Mapping[str, Callable[[TensorSet], int]] = {
    "ideal static order 0": code_lengths.static_order_0,
    "ideal adaptive order 1, per tensor": code_lengths.adaptive_order_1,
    "ideal adaptive order 1, one for all": code_lengths.adaptive_order_1_shared,
}
THREADS = (1, 2)
_HEADS = (
    "codec | bytes | bits/weight | / ideal order 1 | encode MB/s | decode GB/s: 1 thread "
    "| 2 threads | spq is faster: 1 thread | 2 threads"
)


@dataclass(frozen=True)
class Effort:
    """How often and how long decoding is measured."""

    rounds: int
    budget: float  # seconds of a codec's repetitions at one number of threads, per round


_FULL, _QUICK = Effort(9, 0.3), Effort(3, 0.1)


@dataclass
class Decoding:
    """What was measured of one codec at one number of threads."""

    best_seconds: float = float("inf")
    ratios: list[float] = field(default_factory=list)  # of seconds to SPQ's, one each round


def main() -> None:
    """Print a table for each set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--sets", nargs="*", choices=tensor_sets.SETS, default=list(tensor_sets.SETS)
    )
    parser.add_argument("--sparsities", nargs="*", type=float, default=tensor_sets.SPARSITIES)
    parser.add_argument("--quick", action="store_true", help="less synthetic data, fewer rounds")
    arguments = parser.parse_args()
    for title, tensors in tensor_sets.build(
        arguments.sets, arguments.sparsities, arguments.data, arguments.quick
    ):
        _compare(title, tensors, _QUICK if arguments.quick else _FULL)


def _compare(title: str, tensors: TensorSet, effort: Effort) -> None:
    """Measure all codecs on one set and print its table."""
    elements = sum(tensor.size for tensor in tensors.values())
    print(
        f"### {title}\n\n{len(tensors)} tensors, {elements:,} weights; every size but the fills' "
        f"counts {code_lengths.codebooks(tensors):,} bytes of float32 levels or raw elements.\n"
    )
    for codec in CODECS:
        if reason := missing(codec):
            print(f"Without {codec}: {reason}.\n")
    print(f"| {_HEADS} |\n|{' --- |' * len(_HEADS.split(' | '))}")
    yardstick = code_lengths.adaptive_order_1(tensors)
    with ExitStack() as stack:
        children = _start(tensors, stack)
        decodings = _measure(children, effort)
        for codec, child in children.items():
            sizes = _sizes(child.stored_bytes, elements, yardstick)
            encode = f"{elements * 4e-6 / child.encode_seconds:,.0f}" if child.stored_bytes else ""
            speeds = [
                f"{elements * 4e-9 / decodings[codec, threads].best_seconds:.2f}"
                for threads in THREADS
            ]
            ratios = [_ratio(decodings[codec, threads]) for threads in THREADS]
            _print_row(codec, *sizes, encode, *speeds, *ratios)
    for ideal, length in IDEALS.items():
        _print_row(ideal, *_sizes(length(tensors), elements, yardstick), *[""] * 5)
    print(flush=True)


def _start(tensors: TensorSet, stack: ExitStack) -> dict[str, Child]:
    """Start one process per codec, one after the other; each has encoded when the next starts."""
    with tempfile.TemporaryDirectory() as folder:
        set_file = Path(folder) / "set.npz"
        tensor_sets.write(tensors, set_file)
        return {
            codec: stack.enter_context(Child(codec, set_file))
            for codec in CODECS
            if not missing(codec)
        }


def _measure(children: Mapping[str, Child], effort: Effort) -> dict[tuple[str, int], Decoding]:
    """Let SPQ and each rival decode in turn."""
    decodings: dict[tuple[str, int], Decoding] = defaultdict(Decoding)

    def measured(codec: str, threads: int) -> float:
        seconds = children[codec].decode_seconds(threads, effort.budget)
        decoding = decodings[codec, threads]
        decoding.best_seconds = min(decoding.best_seconds, seconds)
        return seconds

    for _ in range(effort.rounds):
        for rival in children:
            if rival == SPQ:
                continue
            for threads in THREADS:
                ours = measured(SPQ, threads)
                decodings[rival, threads].ratios.append(measured(rival, threads) / ours)
    return decodings


def _sizes(stored_bytes: int, elements: int, yardstick: int) -> list[str]:
    """Return the cells of a size; empty for what stores nothing."""
    if not stored_bytes:
        return [""] * 3
    return [
        f"{stored_bytes:,}",
        f"{stored_bytes * 8 / elements:.4f}",
        f"{stored_bytes / yardstick:.4f}",
    ]


def _ratio(decoding: Decoding) -> str:
    return f"{median(decoding.ratios):.2f}x" if decoding.ratios else ""


def _print_row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
