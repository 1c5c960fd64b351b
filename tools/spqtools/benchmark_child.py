"""Loads one file in one way in a process of its own, and says how long that took.

    python -m spqtools.benchmark_child WAY FILE THREADS

The parent is `spqtools.benchmark`; the result goes to standard output as JSON.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

_PAGE_BYTES = 4096
# As long as this, and as often as that, a network is run for its latency.
_RUN_SECONDS = 0.5
_LEAST_RUNS = 5
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_ELEMENTS = {
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}

Load = Callable[[], Any]
Run = Callable[[], object]
Way = tuple[Load, Callable[[Any], Run | None]]
"""What loads, and what makes of the loaded something to run."""


def main() -> None:
    """Measure what the command line names."""
    way, path, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    found = measure(lambda: WAYS[way](path, threads))
    sys.stdout.write(json.dumps(found))


def measure(prepare: Callable[[], Way]) -> dict[str, float]:
    """Import, load twice and, where there is a network, run it.

    Parameters
    ----------
    prepare : callable
        Imports what is needed.

    Returns
    -------
    dict of str to float
        Seconds: ``import``, ``first_load``, ``load``, ``first_run``, ``run``; bytes that the first
        load added at its peak: ``peak_bytes``, where the system tells.
    """
    started = time.perf_counter()
    load, as_run = prepare()
    found = {"import": time.perf_counter() - started}
    before = _resident_peak(reset=True)
    started = time.perf_counter()
    loaded = load()
    found["first_load"] = time.perf_counter() - started
    peak = _resident_peak()
    if before is not None and peak is not None:
        found["peak_bytes"] = peak - before
    del loaded
    started = time.perf_counter()
    loaded = load()
    found["load"] = time.perf_counter() - started
    run = as_run(loaded)
    if run is not None:
        seconds: list[float] = []
        while sum(seconds) < _RUN_SECONDS or len(seconds) <= _LEAST_RUNS:
            started = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - started)
        found["first_run"] = seconds[0]
        found["run"] = float(np.median(seconds[1:]))
    return found


def _resident_peak(*, reset: bool = False) -> int | None:
    """Return the most bytes that were in memory since the last reset; Linux alone tells."""
    try:
        if reset:
            _RESET.write_text("5", "ascii")
        lines = _STATUS.read_text("ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")), None)


def _no_run(state: object) -> None:
    """Weights alone are not run."""


def _spq_state(path: str, threads: int) -> Way:
    import torch

    import spq

    torch.set_num_threads(threads)
    assert callable(spq.load_state_dict)
    return lambda: spq.load_state_dict(path, threads=threads), _no_run


def _torch_state(path: str, threads: int) -> Way:
    import torch

    torch.set_num_threads(threads)
    return lambda: torch.load(path, weights_only=True), _no_run


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

    return load, _no_run


def _spq_module(path: str, threads: int) -> Way:
    import torch

    import spq

    torch.set_num_threads(threads)

    def as_run(network: Any) -> Run | None:
        inputs = [torch.from_numpy(array) for array in _example(path).values()]
        return partial(torch.inference_mode()(network), *inputs) if inputs else None

    return lambda: spq.load(path, threads=threads), as_run


def _spq_session(path: str, threads: int) -> Way:
    import spq

    assert callable(spq.session)
    return lambda: spq.session(path, threads=threads), _session_run


def _onnx_session(path: str, threads: int) -> Way:
    import onnxruntime

    providers = ["CPUExecutionProvider"]
    return lambda: onnxruntime.InferenceSession(path, providers=providers), _session_run


def _session_run(session: Any) -> Run:
    return partial(session.run, None, _zeros(session.get_inputs()))


def _example(path: str) -> Mapping[str, Any]:
    """Return zeros as the network's ONNX form takes them, where that is known."""
    import spq

    with spq.open(path) as archive:
        if "onnx" not in archive.program_kinds:
            return {}
        try:
            return _zeros(spq.session(archive).get_inputs())
        except spq.SpqError:  # ONNX Runtime is not installed
            return {}


def _zeros(inputs: list[Any]) -> dict[str, Any]:
    return {
        value.name: np.zeros(
            [size if isinstance(size, int) else 1 for size in value.shape], _ELEMENTS[value.type]
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
