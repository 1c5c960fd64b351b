"""Loads one file in one way in a process of its own, and says how long that took.

    python -m spqtools.benchmark.child WAY FILE THREADS

The parent is `spqtools.benchmark.processes`; the result goes to standard output as JSON.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spqformat.errors import first_line

_PAGE_BYTES = 4096
# As long as this, and as often as that, a network is run for its latency.
_RUN_SECONDS = 0.5
_LEAST_RUNS = 5
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")

Load = Callable[[], Any]
Run = Callable[[], object]
Way = tuple[Load, Callable[[Any], Run] | None]
"""What loads, and what makes of the loaded something to run, if it can run."""


@dataclass(frozen=True)
class Measurement:
    """What one process has found.

    Parameters
    ----------
    figures : dict of str to float
        Seconds: ``start``, which is imports and the first use of the compiled decoder;
        ``first_load`` with ``start`` in it; ``load``, a second one; of networks ``first_run`` and
        ``run``, the median of later ones. Bytes, as int, that the first load added at its peak to
        what was resident after the start: ``peak_bytes``, where the system tells.
    note : str or None
        Why a network was not run.
    """

    figures: dict[str, float]
    note: str | None


class NotRunError(Exception):
    """Says why there is nothing to run a network on."""


def main() -> None:
    """Measure what the command line names; a failure is one line on standard error."""
    way, path, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    try:
        found = measure(lambda: WAYS[way](path, threads))
    except Exception as error:  # whatever the libraries raise on a file
        sys.exit(f"{type(error).__name__}: {first_line(error)}")
    sys.stdout.write(json.dumps(asdict(found)))


def measure(prepare: Callable[[], Way]) -> Measurement:
    """Start, load twice and, where there is a network, run it.

    Parameters
    ----------
    prepare : callable
        Imports what is needed and uses it once.

    Returns
    -------
    Measurement
        What that took. A network that cannot be run on zeros has a note instead of times.
    """
    started = time.perf_counter()
    load, as_run = prepare()
    start = time.perf_counter() - started
    peak_bytes = _watch_memory()
    started = time.perf_counter()
    loaded = load()
    figures = {"start": start, "first_load": start + time.perf_counter() - started}
    if peak_bytes is not None:
        figures["peak_bytes"] = peak_bytes()
    del loaded
    started = time.perf_counter()
    loaded = load()
    figures["load"] = time.perf_counter() - started
    if as_run is None:
        return Measurement(figures, None)
    try:
        first, *later = _seconds_of_runs(as_run(loaded))
    except NotRunError as error:
        return Measurement(figures, f"not run: {first_line(error)}")
    except Exception as error:  # whatever a network, PyTorch or ONNX Runtime raises
        return Measurement(figures, f"not run, as it refuses zeros: {first_line(error)}")
    return Measurement({**figures, "first_run": first, "run": median(later)}, None)


def _seconds_of_runs(run: Run) -> list[float]:
    """Run for as long and as often as the constants say, once more at the beginning."""
    seconds: list[float] = []
    while sum(seconds) < _RUN_SECONDS or len(seconds) <= _LEAST_RUNS:
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return seconds


def _watch_memory() -> Callable[[], int] | None:
    """Return what tells by how many bytes the resident memory has grown at its peak since now.

    Linux can forget the peak until now. Elsewhere only what goes beyond it is seen, so that growth
    is told too small; and on Linux that older peak may even be of the process that started this
    one. Without either nothing can be told.
    """
    try:
        _RESET.write_text("5", "ascii")
    except OSError:
        try:
            import resource
        except ImportError:
            return None
        unit = 1 if sys.platform == "darwin" else 1 << 10

        def peak() -> int:
            return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    else:

        def peak() -> int:
            lines = _STATUS.read_text("ascii").splitlines()
            return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))

    before = peak()
    return lambda: peak() - before


def _use_decoder(path: str) -> None:
    """Decode the smallest tensor of each kind, for which the compiled decoder is made ready."""
    import spq

    with spq.open(path) as archive:
        infos = {name: archive.info(name) for name in archive.keys()}  # noqa: SIM118
        by_size = sorted(infos, key=lambda name: infos[name].stored_bytes, reverse=True)
        kinds = {(infos[name].encoding, infos[name].dtype): name for name in by_size}
        for name in kinds.values():
            archive.get_tensor(name)


def _spq_state(path: str, threads: int) -> Way:
    import torch

    import spq

    torch.set_num_threads(threads)
    assert callable(spq.load_state_dict)
    _use_decoder(path)
    return lambda: spq.load_state_dict(path, threads=threads), None


def _torch_state(path: str, threads: int) -> Way:
    import torch

    torch.set_num_threads(threads)
    return lambda: torch.load(path, weights_only=True), None


def _safetensors_state(path: str, threads: int) -> Way:
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(threads)

    def load() -> object:
        state = load_file(path)
        # The file is only mapped; what is used is read from it page by page.
        for tensor in state.values():
            tensor.reshape(-1).view(torch.uint8)[::_PAGE_BYTES].sum()
        return state

    return load, None


def _spq_module(path: str, threads: int) -> Way:
    import torch

    import spq

    torch.set_num_threads(threads)
    assert callable(spq.load)
    _use_decoder(path)

    def as_run(network: Any) -> Run:
        inputs = [torch.from_numpy(array) for array in _example(path).values()]
        return partial(torch.inference_mode()(network), *inputs)

    return lambda: spq.load(path, threads=threads), as_run


def _spq_session(path: str, threads: int) -> Way:
    import spq

    assert callable(spq.session)
    _use_decoder(path)
    return lambda: spq.session(path, threads=threads), _session_run


def _onnx_session(path: str, threads: int) -> Way:
    import onnxruntime

    providers = ["CPUExecutionProvider"]
    return lambda: onnxruntime.InferenceSession(path, providers=providers), _session_run


def _session_run(session: Any) -> Run:
    return partial(session.run, None, _zeros(session.get_inputs()))


def _example(path: str) -> dict[str, NDArray[np.generic]]:
    """Return zeros as the network's ONNX form takes them: the torch program knows no shapes."""
    import spq

    with spq.open(path) as archive:
        try:
            return _zeros(spq.session(archive).get_inputs())
        except spq.SpqError as error:
            raise NotRunError(
                f"only an ONNX program says what its inputs are, and {error.message}"
            ) from error


def _zeros(inputs: list[Any]) -> dict[str, NDArray[np.generic]]:
    """Return zeros for each input by its name; dimensions that are free have size 1."""
    from spqtools.onnx_runtime import ELEMENT_TYPES

    unknown = [value.type for value in inputs if value.type not in ELEMENT_TYPES]
    if unknown:
        raise NotRunError(f"it takes inputs of type {unknown[0]}")
    return {
        value.name: np.zeros(
            [size if isinstance(size, int) else 1 for size in value.shape],
            ELEMENT_TYPES[value.type],
        )
        for value in inputs
    }


WAYS: dict[str, Callable[[str, int], Way]] = {
    "spq.load_state_dict": _spq_state,
    "torch.load": _torch_state,
    "safetensors": _safetensors_state,
    "spq.load": _spq_module,
    "spq.session": _spq_session,
    "InferenceSession": _onnx_session,
}

if __name__ == "__main__":
    main()
