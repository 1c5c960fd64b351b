"""How fast a packed file loads and runs beside the same weights in other files."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import spq
from spq._extras import extra
from spqformat import Reason, SpqError
from spqtools.benchmark.child import Measurement
from spqtools.progress import Progress
from spqtools.report import JSON_FORMAT, escape, table

_MIB = 1 << 20


@dataclass(frozen=True)
class Contender:
    """One way to load, and what it took in processes that alternate with those of the others.

    Parameters
    ----------
    group : str
        What is loaded: ``weights``, ``PyTorch network`` or ``ONNX Runtime session``.
    way : str
        How: ``spq.load_state_dict``, ``torch.load``, ``safetensors``, ``spq.load``,
        ``spq.session`` or ``InferenceSession``.
    file_bytes : int
        Size of the file that it loads.
    figures : dict of str to float
        Medians over processes of the figures of `spqtools.benchmark.child.Measurement`.
    smallest : dict of str to float
        The smallest of each figure.
    """

    group: str
    way: str
    file_bytes: int
    figures: dict[str, float]
    smallest: dict[str, float]


@dataclass(frozen=True)
class Benchmark:
    """What a comparison has found.

    Parameters
    ----------
    contenders : tuple of Contender
        Ways that load the same stand together, SPQ's first.
    notes : tuple of str
        What was left out, and why.
    """

    contenders: tuple[Contender, ...]
    notes: tuple[str, ...]


def run_benchmark(file: Path, runs: int, threads: int, progress: Progress) -> Benchmark:
    """Load a file and its rivals in fresh processes, in turns.

    The rivals are written to a temporary folder. One round that does not count fills the page cache
    and compiles what is compiled once.

    Parameters
    ----------
    file : Path
        The packed file.
    runs : int
        Processes for each way that count.
    threads : int
        Threads for decoding and for PyTorch; ONNX Runtime takes its own.
    progress : Progress
        Hears of the processes.

    Returns
    -------
    Benchmark
        What all ways took, and what was left out.

    Raises
    ------
    SpqError
        Every reason of `spq.open` and of decoding; `missing_extra` when neither PyTorch nor ONNX
        Runtime is there; `self_check_failed` when one of the processes ends with an error.
    OSError
        A file could not be read or written.
    """
    with tempfile.TemporaryDirectory(prefix="spq-bench-") as folder:
        plan, notes = _plan(file, Path(folder))
        found: dict[str, list[Measurement]] = {way: [] for _, way, _ in plan}
        with progress.stage("bench", (1 + runs) * len(plan)) as tick:
            for number in range(1 + runs):
                for _, way, path in plan:
                    measurement = _measured(way, path, threads)
                    if number:
                        found[way].append(measurement)
                    tick()
        contenders = [
            Contender(
                group,
                way,
                path.stat().st_size,
                figures=summary(found[way], median),
                smallest=summary(found[way], min),
            )
            for group, way, path in plan
        ]
    notes += [f"{way}: {one.note}" for way, rounds in found.items() for one in rounds if one.note]
    return Benchmark(tuple(contenders), tuple(dict.fromkeys(notes)))


def summary(
    rounds: Sequence[Measurement], choose: Callable[[list[float]], float]
) -> dict[str, float]:
    """Reduce each figure that all rounds have to one.

    Parameters
    ----------
    rounds : sequence of Measurement
        At least one.
    choose : callable
        Makes one number of a list.

    Returns
    -------
    dict of str to float
        The figures by name; bytes remain int.
    """
    chosen = {}
    for name, example in rounds[0].figures.items():
        if all(name in one.figures for one in rounds):
            value = choose([one.figures[name] for one in rounds])
            chosen[name] = round(value) if isinstance(example, int) else value
    return chosen


def benchmark_text(benchmark: Benchmark) -> str:
    """Render a comparison for people.

    Parameters
    ----------
    benchmark : Benchmark
        What `run_benchmark` has found.

    Returns
    -------
    str
        One table for each thing that is loaded, one for running networks, and the notes; an x is
        the figure before it in units of SPQ's.
    """
    groups: dict[str, list[Contender]] = {}
    for contender in benchmark.contenders:
        groups.setdefault(contender.group, []).append(contender)
    runs = [row for group in groups.values() for row in _run_rows(group)]
    blocks = [
        *(_load_table(name, group) for name, group in groups.items()),
        table(runs, ["running on zeros", "first run", "run", "x", "smallest"]) if runs else "",
        "\n".join(escape(note) for note in benchmark.notes),
    ]
    return "\n\n".join(block for block in blocks if block)


def benchmark_json(benchmark: Benchmark) -> str:
    """Render a comparison for programs, as one JSON object in ASCII.

    Parameters
    ----------
    benchmark : Benchmark
        What `run_benchmark` has found.

    Returns
    -------
    str
        The JSON text; times in seconds, memory and sizes in bytes.
    """
    content = {"format": JSON_FORMAT, **asdict(benchmark)}
    return json.dumps(content, indent=2, sort_keys=True)


def _load_table(name: str, group: Sequence[Contender]) -> str:
    """Render what loads the same thing: how small, how fast, in how much memory."""
    own = group[0]
    rows = [
        [
            one.way,
            f"{one.file_bytes:,}",
            f"{one.file_bytes / own.file_bytes:.2f}",
            *(_milliseconds(one.figures[figure]) for figure in ("start", "first_load", "load")),
            f"{one.figures['load'] / own.figures['load']:.2f}",
            _milliseconds(one.smallest["load"]),
            f"{one.figures['peak_bytes'] / _MIB:.1f} MiB" if "peak_bytes" in one.figures else "",
        ]
        for one in group
    ]
    heads = ["file bytes", "x", "start", "first load", "load", "x", "smallest", "peak memory"]
    return table(rows, [name, *heads])


def _run_rows(group: Sequence[Contender]) -> list[list[str]]:
    """Render those that were run."""
    ran = [one for one in group if "run" in one.figures]
    return [
        [
            one.way,
            _milliseconds(one.figures["first_run"]),
            _milliseconds(one.figures["run"]),
            f"{one.figures['run'] / ran[0].figures['run']:.2f}",
            _milliseconds(one.smallest["run"]),
        ]
        for one in ran
    ]


def _plan(file: Path, folder: Path) -> tuple[list[tuple[str, str, Path]], list[str]]:
    """Write the rivals; return the group, the way and the file of each contender, and notes."""
    with spq.open(file) as archive:
        kinds = archive.program_kinds
    plan: list[tuple[str, str, Path]] = []
    notes = []
    if missing := _missing("torch", "safetensors"):
        notes.append(f"without loading in PyTorch: {missing} is not installed")
    else:
        weights = "weights"
        plan += [
            (weights, "spq.load_state_dict", file),
            (weights, "torch.load", _as_pickle(file, folder / "weights.pt")),
            (weights, "safetensors", _as_safetensors(file, folder / "weights.safetensors")),
        ]
        if "torch" in kinds:
            plan.append(("PyTorch network", "spq.load", file))
    if "onnx" in kinds:
        if missing := _missing("onnx", "onnxruntime"):
            notes.append(f"without loading in ONNX Runtime: {missing} is not installed")
        else:
            dense = _as_onnx(file, folder / "network.onnx")
            name = "ONNX Runtime session"
            plan += [(name, "spq.session", file), (name, "InferenceSession", dense)]
    if not plan:
        raise SpqError(
            Reason.MISSING_EXTRA,
            "nothing to compare with; run: pip install 'spqformat[torch,onnx]'",
        )
    return plan, notes


def _missing(*packages: str) -> str | None:
    """Return the first package that is not installed."""
    return next((package for package in packages if find_spec(package) is None), None)


def _as_pickle(file: Path, output: Path) -> Path:
    with extra("torch"):
        import torch
    # Given a path, PyTorch says of a full disk that its positions are wrong.
    with output.open("wb") as stream:
        torch.save(spq.load_state_dict(file), stream)
    return output


def _as_safetensors(file: Path, output: Path) -> Path:
    from spqtools.unpack import write_safetensors

    write_safetensors(file, output)
    return output


def _as_onnx(file: Path, output: Path) -> Path:
    from spqtools.unpack import write_onnx

    write_onnx(file, output)
    return output


def _measured(way: str, path: Path, threads: int) -> Measurement:
    """Run one process."""
    # With -P nothing is imported from the folder in which the user happens to be.
    words = [sys.executable, "-P", "-m", "spqtools.benchmark.child", way, str(path), str(threads)]
    outcome = subprocess.run(
        words, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if outcome.returncode:
        # The child's own line is its last; libraries may have warned before it.
        lines = outcome.stderr.strip().splitlines() or [f"it ended with {outcome.returncode}"]
        raise SpqError(Reason.SELF_CHECK_FAILED, f"{way} does not load the file: {lines[-1][:200]}")
    return Measurement(**json.loads(outcome.stdout))


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"
