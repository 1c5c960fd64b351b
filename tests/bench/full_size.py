"""How a detector of full size packs: YOLOv3, 62 million weights, by a search of one cycle.

    python -m tests.bench.full_size --data FOLDER

The graph is that of Darknet's configuration with weights drawn like those of tiny-YOLOv3
(`darknet.py`), so that its accuracy means nothing; the work and the memory are real. One cycle goes
all the way to 90 % zeros; then the survivors are put on 15 levels, the file is written, and ONNX
Runtime opens it and runs an image. A whole search takes the cycle several times.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnx
from onnx import numpy_helper

import spq
from spqtools.evolve.effort import EFFORTS
from spqtools.pack import PackRequest, run_pack
from spqtools.progress import ConsoleProgress, Tick
from spqtools.reading.preprocess import parse_preprocess
from spqtools.search.goal import Options, planned_cycles
from tests.bench import darknet
from tests.bench.detector import BITS, PREPROCESS

_SIZE = 416
_SPARSITY = 0.9
_RUNS = 5


class _Timed(ConsoleProgress):
    """Progress that remembers how long each stage took."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, total: int | None = None, done: int = 0) -> Iterator[Tick]:
        """Open a stage of the work; see `Progress.stage`."""
        started = time.perf_counter()
        with super().stage(name, total, done) as tick:
            yield tick
        self.seconds[name] = time.perf_counter() - started


def main() -> None:
    """Build, pack, open and run the network, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--effort", default="fast", choices=EFFORTS)
    arguments = parser.parse_args()
    tiny = onnx.load(arguments.data / "tiny-yolov3" / "tiny-yolov3-11.onnx")
    weights = [numpy_helper.to_array(tensor) for tensor in tiny.graph.initializer]
    donors = [array for array in weights if array.ndim == 4]
    model = darknet.detector(arguments.data / "tiny-yolov3" / "yolov3.cfg", donors, _SIZE)
    effort = EFFORTS[arguments.effort]
    with tempfile.TemporaryDirectory() as folder:
        whole, packed = Path(folder) / "yolov3.onnx", Path(folder) / "yolov3.spq"
        onnx.save(model, whole)
        count = sum(numpy_helper.to_array(one).size for one in model.graph.initializer)
        # Whoever packs a file does not hold the network beside it.
        del model, weights, donors
        request = PackRequest(
            model=whole,
            output=packed,
            options=Options(sparsity=_SPARSITY, bits=BITS, effort=arguments.effort, fitness="yolo"),
            calibration=arguments.data / "coco128" / "images" / "train2017",
            preprocess=parse_preprocess(PREPROCESS),
        )
        progress = _Timed()
        at_once = replace(effort, densities=(), ratio=1.0 - _SPARSITY)
        with patch.dict(EFFORTS, {arguments.effort: at_once}):
            report = run_pack(request, progress)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        cycle = progress.seconds["evolve"]
        rest = report.seconds - cycle
        cycles = planned_cycles(_SPARSITY, effort)
        print(f"weights: {count:,}")
        print(f"file: {report.bytes_after:,} bytes, {report.ratio:.1f}x, {report.sparsity:.1%}")
        print(f"peak memory: {peak:.2f} GiB")
        print(f"one cycle: {cycle:.0f} s, all else: {rest:.0f} s")
        print(f"a search of {cycles} cycles, projected: {(cycles * cycle + rest) / 60:.0f} min")
        _run(packed)


def _run(packed: Path) -> None:
    """Open a packed network in ONNX Runtime and run an image."""
    started = time.perf_counter()
    session = spq.session(packed)
    print(f"spq.session: {time.perf_counter() - started:.2f} s")
    image = np.full((1, 3, _SIZE, _SIZE), 0.5, np.float32)
    taken = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        heads = session.run(None, {session.get_inputs()[0].name: image})
        taken.append(time.perf_counter() - started)
    shapes = ", ".join("x".join(map(str, head.shape)) for head in heads)
    print(f"one image: {np.median(taken):.2f} s, heads {shapes}")


if __name__ == "__main__":
    main()
