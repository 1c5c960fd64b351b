"""How small and how good packed networks are, on full test sets, through the loaded file.

    python -m tests.bench.accuracy --data FOLDER

Each row is one run of the packer towards a size, on the first 4,096 training images without their
labels (CIFAR-10: 2,048), and one measurement of the file on all 10,000 test images: through
`spq.load` and again through `spq.session`. LeNets that are not there yet are trained first
(`lenets.py`), residual networks come with their published weights (`resnets.py`).
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import spq
from spqtools.goal import Options
from spqtools.pack import PackRequest, run_pack
from spqtools.progress import Progress
from tests.bench import lenets, resnets

RATIOS = {
    ("lenet_300_100", "mnist"): (45, 55, 65, 75, 90),
    ("lenet_5", "mnist"): (60, 90, 110, 140),
    ("lenet_300_100", "fashion-mnist"): (20, 25, 30, 40, 50, 60),
    ("lenet_5", "fashion-mnist"): (20, 30, 40, 50, 80),
    ("resnet_20", "cifar10"): (13, 17, 20, 23),
    ("resnet_56", "cifar10"): (15, 22, 26, 29),
}
_BUILDERS = {name: recipe.build for name, recipe in lenets.RECIPES.items()} | resnets.BUILDERS
_DATA_SETS = (*lenets.DATA_SETS, resnets.DATA_SET)
_BATCH_SAMPLES = 500
_HEADS = (
    "network | data | asked | bytes | ratio | zeros | before | spq.load | spq.session | seconds"
)


def main() -> None:
    """Pack every network at every ratio and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--networks", nargs="*", default=list(_BUILDERS))
    parser.add_argument("--data-sets", nargs="*", default=list(_DATA_SETS))
    parser.add_argument("--ratios", nargs="*", type=float, help="instead of the usual ones")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--effort", default="default")
    arguments = parser.parse_args()
    if set(lenets.DATA_SETS) & set(arguments.data_sets):
        lenets.prepare(arguments.data)
    if resnets.DATA_SET in arguments.data_sets:
        resnets.prepare(arguments.data)
    print(f"| {_HEADS} |\n|{' --- |' * len(_HEADS.split('|'))}", flush=True)
    for (network, data_set), ratios in RATIOS.items():
        if network not in arguments.networks or data_set not in arguments.data_sets:
            continue
        residual = data_set == resnets.DATA_SET
        if residual:
            images, labels = resnets.read_part(arguments.data, "test")
        else:
            images, labels = lenets.read_part(arguments.data / data_set, "t10k")
        before = lenets.accuracy(_original(network, data_set, images.numpy()), labels)
        for ratio in arguments.ratios or ratios:
            for seed in arguments.seeds:
                options = Options(target_ratio=ratio, seed=seed, effort=arguments.effort)
                packed = lenets.MODELS / f"{network}-{data_set}-{ratio:g}-{seed}.spq"
                started = time.monotonic()
                report = run_pack(
                    PackRequest(
                        model=lenets.model_path(network, data_set),
                        output=packed,
                        options=options,
                        arch=f"{(resnets if residual else lenets).__file__}:{network}",
                        calibration=lenets.calibration_path(data_set),
                    ),
                    Progress(),
                )
                seconds = time.monotonic() - started
                after = lenets.accuracy(_through_torch(packed, images.numpy()), labels)
                again = lenets.accuracy(_through_onnx(packed, images.numpy()), labels)
                print(
                    f"| {network} | {data_set} | {ratio:g}x | {report.bytes_after:,} "
                    f"| {report.ratio:.1f}x | {report.sparsity:.1%} | {before:.2f} "
                    f"| {after:.2f} | {again:.2f} | {seconds:.0f} |",
                    flush=True,
                )


def _original(network: str, data_set: str, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the answers of the float32 network."""
    module = _BUILDERS[network]()
    module.load_state_dict(torch.load(lenets.model_path(network, data_set), weights_only=True))
    return _answers(module.eval(), images)


def _through_torch(packed: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the answers of the packed file in PyTorch."""
    return _answers(spq.load(packed), images)


def _answers(module: torch.nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        batches = torch.split(torch.from_numpy(images), _BATCH_SAMPLES)
        answers: NDArray[np.float32] = torch.cat([module(batch) for batch in batches]).numpy()
    return answers


def _through_onnx(packed: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the answers of the packed file in ONNX Runtime."""
    session = spq.session(packed)
    name = session.get_inputs()[0].name
    batches = np.split(images, len(images) // _BATCH_SAMPLES)
    return np.concatenate([session.run(None, {name: batch})[0] for batch in batches])


if __name__ == "__main__":
    main()
