"""How small and how good packed networks are, on full test sets, through the loaded file.

    python -m tests.bench.accuracy --data FOLDER

Each row is one run of the packer towards a size, on the first 4,096 training images without their
labels (CIFAR-10: 2,048), and one measurement of the file on all 10,000 test images: through
`spq.load` and again through `spq.session`. LeNets that are not there yet are trained first
(`lenets.py`), residual networks come with their published weights (`resnets.py`).
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import spq
from spqtools.search.goal import Options
from tests.bench import lenets, networks

RATIOS = {
    ("lenet_300_100", "mnist"): (40, 45, 65, 75, 90),
    ("lenet_5", "mnist"): (60, 90, 110, 140),
    ("lenet_300_100", "fashion-mnist"): (20, 25, 30, 40, 50, 60),
    ("lenet_5", "fashion-mnist"): (20, 30, 40, 50, 80),
    ("resnet_20", "cifar10"): (13, 17, 20, 23),
    ("resnet_56", "cifar10"): (15, 22, 26, 29),
}
_HEADS = (
    "network | data | asked | bytes | ratio | zeros | before | spq.load | spq.session | seconds"
)


def main() -> None:
    """Pack every network at every ratio and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--networks", nargs="*", default=list(networks.BUILDERS))
    parser.add_argument("--data-sets", nargs="*", default=list(networks.DATA_SETS))
    parser.add_argument("--ratios", nargs="*", type=float, help="instead of the usual ones")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--effort", default="default")
    arguments = parser.parse_args()
    networks.prepare(arguments.data, arguments.data_sets)
    print(f"| {_HEADS} |\n|{' --- |' * len(_HEADS.split('|'))}", flush=True)
    for (network, data_set), ratios in RATIOS.items():
        if network not in arguments.networks or data_set not in arguments.data_sets:
            continue
        images, labels = networks.read_test(arguments.data, data_set)
        original = networks.answers(networks.load(network, data_set), images)
        before = lenets.accuracy(original, labels)
        for ratio in arguments.ratios or ratios:
            for seed in arguments.seeds:
                options = Options(target_ratio=ratio, seed=seed, effort=arguments.effort)
                packed = lenets.MODELS / f"{network}-{data_set}-{ratio:g}-{seed}.spq"
                report = networks.pack(network, data_set, packed, options)
                after = lenets.accuracy(networks.answers(spq.load(packed), images), labels)
                again = lenets.accuracy(networks.answers(_through_onnx(packed), images), labels)
                print(
                    f"| {network} | {data_set} | {ratio:g}x | {report.bytes_after:,} "
                    f"| {report.ratio:.1f}x | {report.sparsity:.1%} | {before:.2f} "
                    f"| {after:.2f} | {again:.2f} | {report.seconds:.0f} |",
                    flush=True,
                )


def _through_onnx(packed: Path) -> Callable[[Tensor], Tensor]:
    """Return the packed file as a network in ONNX Runtime."""
    session = spq.session(packed)
    name = session.get_inputs()[0].name
    return lambda batch: torch.from_numpy(session.run(None, {name: batch.numpy()})[0])


if __name__ == "__main__":
    main()
