"""What each ingredient of the packer is worth: the same file size without one at a time.

    python -m tests.bench.ablation --data FOLDER

Each row is one run of the packer towards the same size and one measurement of the file on all
10,000 test images through `spq.load`. Divergence is that from the teacher on the quarter of the
calibration images that nothing has seen. Sizes land within 2 % of the goal where they can, so that
rows compare.

The packer has no options to leave an ingredient out, so `_patches` replaces names inside it:

- Directed Evolution: each layer gets the zeros of the first proposal, and no shifts between layers
  are tried.
- compensation: the search leaves survivors as they are. What puts them on levels still sees the
  teacher's outputs, so that levels make up for some of the zeros.
- allocation: every layer keeps the same share in the search. Levels may still zero what does not
  pay, wherever it is.
- rate of levels: they lie where k-means puts them. What a level costs still counts in how many
  there are and when weights choose theirs.
- rate of zeros: a place in the mask costs nothing, neither in the search nor when weights choose
  between levels and zero.
- coupled rows: when weights choose levels, each row stands for itself.
- softening: the divergence that steers the search is the one that is reported.
"""

import argparse
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import spq
from spqformat import Reason, SpqError
from spqtools.evolve import search
from spqtools.evolve.allocation import allocate
from spqtools.evolve.effort import EFFORTS
from spqtools.levels import placing, quantise
from spqtools.search import beginning, landing
from spqtools.search.goal import Options
from tests.bench import lenets, networks
from tests.bench.replaced import replaced

VARIANTS = (
    "everything",
    "without Directed Evolution",
    "without compensation",
    "without allocation",
    "without rate of levels",
    "without rate of zeros",
    "without coupled rows",
    "without softening",
)
_HEADS = "variant | seed | bytes | ratio | divergence | accuracy | seconds"


def main() -> None:
    """Pack one network by every variant and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--network", default="lenet_300_100", choices=networks.BUILDERS)
    parser.add_argument("--data-set", default="mnist", choices=networks.DATA_SETS)
    parser.add_argument("--ratio", type=float, default=65)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--effort", default="default", choices=EFFORTS)
    parser.add_argument("--variants", nargs="*", default=VARIANTS, choices=VARIANTS)
    arguments = parser.parse_args()
    if not networks.fits(arguments.network, arguments.data_set):
        parser.error(f"{arguments.network} is not trained on {arguments.data_set}")
    networks.prepare(arguments.data, [arguments.data_set])
    images, labels = networks.read_test(arguments.data, arguments.data_set)
    print(f"| {_HEADS} |\n|{' --- |' * len(_HEADS.split('|'))}", flush=True)
    for variant in arguments.variants:
        for seed in arguments.seeds:
            options = Options(target_ratio=arguments.ratio, seed=seed, effort=arguments.effort)
            measured = _measure(
                variant, arguments.network, arguments.data_set, options, images, labels
            )
            print(f"| {variant} | {seed} | {measured} |", flush=True)


def _measure(
    variant: str, network: str, data_set: str, options: Options, images: Tensor, labels: Tensor
) -> str:
    """Pack a network by one variant and return the figures of its row."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as replaced:
        for replacement in _patches(variant, options.effort):
            replaced.enter_context(replacement)
        packed = Path(folder) / "packed.spq"
        try:
            report = networks.pack(network, data_set, packed, options)
        except SpqError as error:
            if error.code is not Reason.GOAL_NOT_REACHED:
                raise
            return f"{error} | | | |"
        accuracy = lenets.accuracy(networks.answers(spq.load(packed), images), labels)
    return (
        f"{report.bytes_after:,} | {report.ratio:.1f}x | {report.divergence:.5f} "
        f"| {accuracy:.2f} | {report.seconds:.0f}"
    )


def _patches(variant: str, effort: str) -> list[AbstractContextManager[Any]]:
    """Return what has to be replaced in the packer while a variant runs."""
    usual = EFFORTS[effort]
    if variant == "without Directed Evolution":
        first = replace(usual, proposals=1, generations=0, children=0, tilts=0)
        return [patch.dict(EFFORTS, {effort: first})]
    if variant == "without compensation":
        return [replaced(beginning, "Evolution", partial(search.Evolution, compensation=False))]
    if variant == "without allocation":
        return [
            patch.dict(EFFORTS, {effort: replace(usual, tilts=0)}),
            replaced(search, "allocate", _same_shares),
        ]
    if variant == "without rate of levels":
        return [replaced(landing, "place_levels", _by_k_means)]
    if variant == "without rate of zeros":
        return [
            replaced(search, "mask_bits", lambda mask, unit: 0.0),
            replaced(search, "survivor_bits", lambda mask, *_: torch.ones(mask.shape)),
            replaced(quantise, "_place_bits", lambda mask: torch.zeros(mask.shape)),
        ]
    if variant == "without coupled rows":
        return [patch.object(quantise, "_OWN_SHARE", 1.0)]
    if variant == "without softening":
        return [patch.object(search, "SOFTENED", 1.0)]
    return []


def _by_k_means(*arguments: Any, **options: Any) -> dict[str, Tensor]:
    """Do what `place_levels` does, with levels where k-means puts them."""
    return placing.place_levels(*arguments, **{**options, "methods": ("k-means",)})


def _same_shares(
    scores: Mapping[str, Tensor],
    allowed: Mapping[str, Tensor],
    tilt: Mapping[str, float],
    kept_total: int,
) -> tuple[dict[str, int], float]:
    """Do what `allocate` does, but let every layer keep the same share."""
    share = kept_total / sum(mask.numel() for mask in allowed.values())
    counts = {
        name: min(max(1, round(share * mask.numel())), int(mask.sum()))
        for name, mask in allowed.items()
    }
    return counts, allocate(scores, allowed, tilt, kept_total)[1]


if __name__ == "__main__":
    main()
