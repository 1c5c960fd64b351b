"""How fast a packed file loads beside the same weights in other files."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import spq
from spqformat import Reason, SpqError
from spqtools.progress import Progress
from spqtools.report import table

JSON_FORMAT = 1
_MIB = 1 << 20


@dataclass(frozen=True)
class Contender:
    """One way to load, and what it took: medians over processes, alternating with the others.

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
        See `spqtools.benchmark_child.measure`.
    """

    group: str
    way: str
    file_bytes: int
    figures: dict[str, float]


def run_benchmark(file: Path, runs: int, threads: int, progress: Progress) -> list[Contender]:
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
    list of Contender
        Ways that load the same stand together, SPQ's first.

    Raises
    ------
    SpqError
        Every reason of `spq.open`; `missing_extra` when neither PyTorch nor ONNX Runtime is there;
        `self_check_failed` when one of the processes ends with an error.
    OSError
        A file could not be read or written.
    """
    with tempfile.TemporaryDirectory(prefix="spq-bench-") as folder:
        plan = _plan(file, Path(folder))
        found: dict[str, list[dict[str, float]]] = {way: [] for _, way, _ in plan}
        with progress.stage("bench", (1 + runs) * len(plan)) as tick:
            for number in range(1 + runs):
                for _, way, path in plan:
                    figures = _measured(way, path, threads)
                    if number:
                        found[way].append(figures)
                    tick()
        return [
            Contender(group, way, path.stat().st_size, medians(found[way]))
            for group, way, path in plan
        ]


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each figure over rounds that all have the same ones."""
    return {name: median(figures[name] for figures in rounds) for name in rounds[0]}


def benchmark_text(contenders: Sequence[Contender]) -> str:
    """Render a comparison for people.

    Parameters
    ----------
    contenders : sequence of Contender
        What `run_benchmark` has found.

    Returns
    -------
    str
        One table for each thing that is loaded, with times as multiples of SPQ's.
    """
    blocks = []
    for group in dict.fromkeys(contender.group for contender in contenders):
        rows = [contender for contender in contenders if contender.group == group]
        own = rows[0].figures["load"]
        heads = [group, "file bytes", "import", "first load", "load", "x", "peak memory"]
        has_runs = "run" in rows[0].figures
        heads += ["first run", "run"] if has_runs else []
        lines = []
        for row in rows:
            figures = row.figures
            line = [
                row.way,
                f"{row.file_bytes:,}",
                *(_milliseconds(figures[name]) for name in ("import", "first_load", "load")),
                f"{figures['load'] / own:.2f}",
                f"{figures['peak_bytes'] / _MIB:.1f} MiB" if "peak_bytes" in figures else "",
            ]
            if has_runs:
                line += [_milliseconds(figures[name]) for name in ("first_run", "run")]
            lines.append(line)
        blocks.append(table(lines, heads))
    return "\n\n".join(blocks)


def benchmark_json(contenders: Sequence[Contender]) -> str:
    """Render a comparison for programs, as one JSON object in ASCII.

    Parameters
    ----------
    contenders : sequence of Contender
        What `run_benchmark` has found.

    Returns
    -------
    str
        The JSON text; times in seconds.
    """
    content = {"format": JSON_FORMAT, "contenders": [asdict(one) for one in contenders]}
    return json.dumps(content, indent=2, sort_keys=True)


def _plan(file: Path, folder: Path) -> list[tuple[str, str, Path]]:
    """Write the rivals; return what is loaded, the way and the file of each contender."""
    has_torch = find_spec("torch") is not None and find_spec("safetensors") is not None
    has_onnx = find_spec("onnx") is not None and find_spec("onnxruntime") is not None
    with spq.open(file) as archive:
        kinds = archive.program_kinds
    plan: list[tuple[str, str, Path]] = []
    if has_torch:
        weights = "weights"
        plan += [
            (weights, "spq.load_state_dict", file),
            (weights, "torch.load", _as_pickle(file, folder / "weights.pt")),
            (weights, "safetensors", _as_safetensors(file, folder / "weights.safetensors")),
        ]
        if "torch" in kinds:
            plan.append(("PyTorch network", "spq.load", file))
    if has_onnx and "onnx" in kinds:
        dense = folder / "network.onnx"
        from spqtools.unpack import write_onnx

        write_onnx(file, dense)
        name = "ONNX Runtime session"
        plan += [(name, "spq.session", file), (name, "InferenceSession", dense)]
    if not plan:
        raise SpqError(
            Reason.MISSING_EXTRA,
            "nothing to compare with; run: pip install 'spqformat[torch,onnx]'",
        )
    return plan


def _as_pickle(file: Path, output: Path) -> Path:
    import torch

    torch.save(spq.load_state_dict(file), output)
    return output


def _as_safetensors(file: Path, output: Path) -> Path:
    from spqtools.unpack import write_safetensors

    write_safetensors(file, output)
    return output


def _measured(way: str, path: Path, threads: int) -> dict[str, float]:
    """Run one process."""
    words = [sys.executable, "-m", "spqtools.benchmark_child", way, str(path), str(threads)]
    outcome = subprocess.run(words, capture_output=True, text=True, check=False)
    if outcome.returncode:
        last = outcome.stderr.strip().splitlines() or ["it was ended"]
        raise SpqError(Reason.SELF_CHECK_FAILED, f"{way} does not load the file: {last[-1][:200]}")
    found: dict[str, float] = json.loads(outcome.stdout)
    return found


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"
