"""The trained networks of the benchmarks by name, their data, and what is often done with them."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spqtools.evolve.effort import Effort
from spqtools.evolve.search import Evolution
from spqtools.evolve.sparse import Sparse
from spqtools.evolve.student import Layer
from spqtools.pack import PackRequest, run_pack
from spqtools.progress import Progress
from spqtools.reading.calibration import read_calibration
from spqtools.reading.tracing import capture
from spqtools.report import Report
from spqtools.search.goal import Options, Trial, next_density
from tests.bench import lenets, resnets

BUILDERS = {name: recipe.build for name, recipe in lenets.RECIPES.items()} | resnets.BUILDERS
DATA_SETS = (*lenets.DATA_SETS, resnets.DATA_SET)
BATCH_SAMPLES = 500


def fits(network: str, data_set: str) -> bool:
    """Tell whether a network is there for a data set."""
    return network in (resnets.BUILDERS if data_set == resnets.DATA_SET else lenets.RECIPES)


def prepare(data: Path, data_sets: Sequence[str]) -> None:
    """See to it that the networks of some data sets and their calibration inputs are there."""
    torch.set_num_threads(lenets.THREADS)
    if set(lenets.DATA_SETS) & set(data_sets):
        lenets.prepare(data)
    if resnets.DATA_SET in data_sets:
        resnets.prepare(data)


def read_test(data: Path, data_set: str) -> tuple[Tensor, Tensor]:
    """Read all 10,000 test images, as the networks want them, and their labels."""
    if data_set == resnets.DATA_SET:
        return resnets.read_part(data, "test")
    return lenets.read_part(data / data_set, "t10k")


def read_calibration_images(data: Path, data_set: str) -> tuple[Tensor, Tensor]:
    """Read the calibration inputs and their labels, which most benchmarks do not show."""
    if data_set == resnets.DATA_SET:
        images, labels = resnets.read_part(data, "train_5k")
        samples = resnets.CALIBRATION_SAMPLES
    else:
        images, labels = lenets.read_part(data / data_set, "train")
        samples = lenets.CALIBRATION_SAMPLES
    return images[:samples], labels[:samples]


def load(network: str, data_set: str) -> nn.Module:
    """Return a trained network."""
    module = BUILDERS[network]()
    module.load_state_dict(torch.load(lenets.model_path(network, data_set), weights_only=True))
    return module.eval()


def answers(network: Callable[[Tensor], Tensor], images: Tensor) -> NDArray[np.float32]:
    """Return what a network says to images."""
    with torch.inference_mode():
        batches = torch.split(images, BATCH_SAMPLES)
        said: NDArray[np.float32] = torch.cat([network(batch) for batch in batches]).numpy()
    return said


def pack(
    network: str,
    data_set: str,
    output: Path,
    options: Options,
    recovery: str | None = None,
    calibration: Path | None = None,
) -> Report:
    """Pack a trained network as `spq pack` does, on the usual calibration inputs or others."""
    source = resnets if data_set == resnets.DATA_SET else lenets
    request = PackRequest(
        model=lenets.model_path(network, data_set),
        output=output,
        options=options,
        arch=f"{source.__file__}:{network}",
        calibration=calibration or lenets.calibration_path(data_set),
        recovery=recovery,
    )
    return run_pack(request, Progress())


def evolution(network: str, data_set: str, effort: Effort) -> Evolution:
    """Return the search for a student of a trained network."""
    inputs = read_calibration(lenets.calibration_path(data_set)).inputs
    graph = capture(load(network, data_set), (inputs[0][:2],)).module()
    assert isinstance(graph, torch.fx.GraphModule)
    return Evolution(graph, inputs, 0, effort)


def students(search: Evolution, sparsities: Sequence[float]) -> Iterator[Sparse]:
    """Go down the effort's ladder and yield a student at each of some growing sparsities."""
    student = search.start()
    trials: list[Trial] = []
    for sparsity in sparsities:
        while (density := next_density(trials, sparsity, search.effort)) is not None:
            student = search.cycle(student, density, len(trials))
            trials.append(Trial(density, beyond=False))
        yield student


def by_name(
    search: Evolution, layer: Layer, weight: Tensor, bias: Tensor | None
) -> dict[str, Tensor]:
    """Return a layer's matrix and bias as `Evolution.revise` wants them."""
    named = {layer.weight: weight.reshape(search.teacher[layer.weight].shape)}
    if layer.bias is not None and bias is not None:
        named[layer.bias] = bias
    return named
