"""How small and how good a detector becomes: tiny-YOLOv3 on COCO.

    python -m tests.bench.detector --data FOLDER

FOLDER holds ``tiny-yolov3`` with the network and ``coco128`` with images and labels. Each row is
one run of the packer on the 128 training images, without their labels, at a share of zeros and 4
bits, and one comparison with the original on the 64 validation images, through the packed file: how
many of the objects that the original is sure of it finds (`spq compare`), and AP50 on the labels.

`magnitude` zeroes the same share of each layer, its smallest weights, by the same steps and with
the same compensation, levels and training.
"""

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from spqtools.comparison.request import CompareRequest, run_compare
from spqtools.evolve.effort import EFFORTS
from spqtools.evolve.population import top
from spqtools.evolve.search import NOBODY, Evolution, Watch
from spqtools.evolve.sparse import Begun, Sparse
from spqtools.pack import PackRequest, run_pack
from spqtools.progress import Progress
from spqtools.reading.preprocess import parse_preprocess
from spqtools.search import beginning
from spqtools.search.goal import Options
from tests.bench.replaced import replaced

PREPROCESS = "size=416,fit=letterbox,fill=128"
BITS = 4
METHODS = ("evolution", "magnitude")
CONFIDENCES = (0.8, 0.5)
_HEADS = (
    "method | trained | zeros | bytes | ratio | divergence | found at 0.8 | found at 0.5 | AP50 "
    "| of the original's | seconds"
)


class Magnitude(Evolution):
    """A search that only knows how large weights are."""

    def cycle(
        self,
        state: Sparse,
        density: float,
        number: int,
        begun: Begun | None = None,
        watch: Watch = NOBODY,
    ) -> Sparse:
        """Zero the smallest weights of each layer, and compensate."""
        keep = {}
        for layer in self.layers:
            allowed = state.keep[layer.weight]
            size = state.tensors[layer.weight].reshape(allowed.shape).abs()
            keep[layer.weight] = top(size, allowed, round(density * allowed.numel()))
        with torch.no_grad():
            student = Sparse(self.prune(state, keep), keep, state.tilt)
        return replace(student, zero_cost=self._zero_cost(student))


def main() -> None:
    """Pack the detector in every way and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--sparsities", nargs="*", type=float, default=[0.8, 0.85, 0.9, 0.95])
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    parser.add_argument("--trained", nargs="*", type=int, default=[0, 1], choices=[0, 1])
    parser.add_argument("--effort", default="default", choices=EFFORTS)
    parser.add_argument("--keep", type=Path, help="folder for the packed files")
    arguments = parser.parse_args()
    print(f"| {_HEADS} |\n|{' --- |' * len(_HEADS.split('|'))}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        folder.mkdir(exist_ok=True)
        for sparsity in arguments.sparsities:
            for method in arguments.methods:
                for trained in arguments.trained:
                    name = f"tiny-yolov3-{sparsity:g}-{method}{'-trained' * trained}.spq"
                    figures = _row(
                        arguments.data,
                        folder / name,
                        method,
                        Options(
                            sparsity=sparsity,
                            bits=BITS,
                            effort=arguments.effort,
                            fitness="yolo",
                            recovers=bool(trained),
                        ),
                    )
                    print(f"| {method} | {'yes' if trained else 'no'} | {figures} |", flush=True)


def _row(data: Path, packed: Path, method: str, options: Options) -> str:
    """Pack the detector in one way and return its figures."""
    images = data / "coco128" / "images"
    request = PackRequest(
        model=data / "tiny-yolov3" / "tiny-yolov3-11.onnx",
        output=packed,
        options=options,
        calibration=images / "train2017",
        preprocess=parse_preprocess(PREPROCESS),
        recovery=str(images / "train2017") if options.recovers else None,
    )
    with _search(method):
        report = run_pack(request, Progress())
    compared = CompareRequest(
        teacher=request.model,
        student=packed,
        data=images / "val2017",
        task="detection",
        preprocess=request.preprocess,
        labels=data / "coco128" / "labels" / "val2017",
    )
    found: Sequence[Any] = [
        run_compare(replace(compared, confidence=confidence), Progress()).figures
        for confidence in CONFIDENCES
    ]
    shares = " | ".join(f"{one.found} of {one.objects}" for one in found)
    before, after = found[0].teacher_precision.at_half, found[0].student_precision.at_half
    return (
        f"{report.sparsity:.1%} | {report.bytes_after:,} | {report.ratio:.1f}x "
        f"| {report.divergence:.3f} | {shares} | {after:.3f} | {after / before:.0%} "
        f"| {report.seconds:.0f}"
    )


def _search(method: str) -> AbstractContextManager[Any]:
    """Return what has to be replaced in the packer while a method runs."""
    return nullcontext() if method == "evolution" else replaced(beginning, "Evolution", Magnitude)


if __name__ == "__main__":
    main()
