"""How small and how good networks are that were trained on the original's outputs.

    python -m tests.bench.recovery --data FOLDER

Each row is one run of `spq pack --recover` towards a size and one measurement of the file on all
10,000 test images through `spq.load`. LeNets learn from all 60,000 training images, residual
networks from 5,000 in sixteen variants (`resnets.varied`), none of them with its label.
"""

import argparse
from pathlib import Path

import numpy as np

import spq
from spqtools.search.goal import Options
from tests.bench import lenets, networks, resnets

RATIOS = {
    ("lenet_300_100", "mnist"): 130.0,
    ("lenet_5", "mnist"): 300.0,
    ("resnet_20", "cifar10"): 26.0,
}
_HEADS = "network | data | seed | asked | bytes | ratio | zeros | before | spq.load | seconds"


def main() -> None:
    """Pack every network and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--networks", nargs="*", default=[network for network, _ in RATIOS])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--effort", default="default")
    arguments = parser.parse_args()
    cases = {case: ratio for case, ratio in RATIOS.items() if case[0] in arguments.networks}
    networks.prepare(arguments.data, [data_set for _, data_set in cases])
    print(f"| {_HEADS} |\n|{' --- |' * len(_HEADS.split('|'))}", flush=True)
    for (network, data_set), ratio in cases.items():
        images, labels = networks.read_test(arguments.data, data_set)
        original = networks.answers(networks.load(network, data_set), images)
        before = lenets.accuracy(original, labels)
        for seed in arguments.seeds:
            packed = lenets.MODELS / f"{network}-{data_set}-recovered-{seed}.spq"
            options = Options(target_ratio=ratio, seed=seed, effort=arguments.effort, recovers=True)
            recovery = _unlabelled(data_set, arguments.data)
            report = networks.pack(network, data_set, packed, options, recovery)
            after = lenets.accuracy(networks.answers(spq.load(packed), images), labels)
            print(
                f"| {network} | {data_set} | {seed} | {ratio:g}x | {report.bytes_after:,} "
                f"| {report.ratio:.1f}x | {report.sparsity:.1%} | {before:.2f} | {after:.2f} "
                f"| {report.seconds:.0f} |",
                flush=True,
            )


def _unlabelled(data_set: str, data: Path) -> str:
    """Return what `spq pack --recover` takes."""
    if data_set == resnets.DATA_SET:
        return f"{resnets.__file__}:varied"
    path = lenets.MODELS / f"{data_set}-unlabelled.npz"
    images, _ = lenets.read_part(data / data_set, "train")
    np.savez(path, x=images.numpy())
    return str(path)


if __name__ == "__main__":
    main()
