"""Cycles hit their counts, keep old zeros, and draw the same after an interruption."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from spqtools.evolve.effort import EFFORTS
from spqtools.evolve.search import Evolution, held_out_samples
from spqtools.evolve.sparse import Sparse


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 6, 3, padding=1)
        self.hidden = nn.Linear(30, 20)
        self.head = nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.relu(self.conv(x)).flatten(1)
        return torch.as_tensor(self.head(torch.relu(self.hidden(seen))))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small sums are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def graph() -> tuple[fx.GraphModule, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(8)
        network, inputs = Small().eval(), torch.randn(96, 2, 5)
    shapes = ({0: torch.export.Dim.AUTO},)
    module = torch.export.export(network, (inputs,), dynamic_shapes=shapes).module()
    assert isinstance(module, fx.GraphModule)
    return module, inputs


def evolution(
    graph: tuple[fx.GraphModule, Tensor], seed: int = 0, effort: str = "default"
) -> Evolution:
    module, inputs = graph
    return Evolution(module, [inputs], seed, EFFORTS[effort], batch_size=32)


def kept(state: Sparse) -> int:
    return sum(int(mask.sum()) for mask in state.keep.values())


TOTAL = 6 * 6 + 30 * 20 + 20 * 4


def test_the_start_is_the_teacher(graph: tuple[fx.GraphModule, Tensor]) -> None:
    search = evolution(graph)
    start = search.start()
    assert start.density == 1.0
    assert kept(start) == TOTAL
    assert search.measure(start.tensors) == pytest.approx(0, abs=1e-6)


def test_held_out_samples_never_steer(graph: tuple[fx.GraphModule, Tensor]) -> None:
    module, inputs = graph
    assert [held_out_samples(count) for count in (1, 2, 4, 96)] == [0, 1, 1, 24]
    other = inputs.clone()
    other[-24:] = 7.0
    first = evolution((module, inputs)).start()
    states = [
        evolution((module, data), effort="fast").cycle(first, 0.4, 0) for data in (inputs, other)
    ]
    for name, value in states[0].tensors.items():
        assert torch.equal(value, states[1].tensors[name])


@pytest.mark.parametrize("effort", ["fast", "default"])
def test_cycles_hit_the_count_and_keep_earlier_zeros(
    graph: tuple[fx.GraphModule, Tensor], effort: str
) -> None:
    search = evolution(graph, effort=effort)
    state = search.start()
    for number, density in enumerate((0.5, 0.3, 0.1)):
        following = search.cycle(state, density, number)
        assert abs(kept(following) - round(density * TOTAL)) <= 6
        for name, mask in following.keep.items():
            assert not (mask & ~state.keep[name]).any()
            weight = following.tensors[name].reshape(mask.shape)
            assert not weight[~mask].any()
            assert torch.equal(weight != 0, mask)
        assert following.zero_cost > 0
        state = following
    assert state.tensors.keys() == search.teacher.keys()
    assert search.evaluations > 0


def test_evolving_beats_zeroing_at_random(graph: tuple[fx.GraphModule, Tensor]) -> None:
    search = evolution(graph)
    evolved = search.measure(search.cycle(search.start(), 0.3, 0).tensors)
    random = np.random.default_rng(1)
    tensors = dict(search.teacher)
    for layer in search.layers:
        shape = tensors[layer.weight].shape
        mask = torch.from_numpy(random.random(tuple(shape)) < 0.3)
        tensors[layer.weight] = tensors[layer.weight] * mask
    assert evolved < 0.5 * search.measure(tensors)


def test_the_teacher_is_not_changed(graph: tuple[fx.GraphModule, Tensor]) -> None:
    search = evolution(graph, effort="fast")
    before = {name: value.clone() for name, value in search.teacher.items()}
    search.cycle(search.start(), 0.2, 0)
    assert all(torch.equal(value, before[name]) for name, value in search.teacher.items())
    assert all(torch.equal(value, before[name]) for name, value in graph[0].state_dict().items())


def test_a_cycle_depends_on_its_number_not_on_those_before(
    graph: tuple[fx.GraphModule, Tensor],
) -> None:
    """What a resumed search draws is what an uninterrupted one would have drawn."""
    whole = evolution(graph)
    middle = whole.cycle(whole.start(), 0.5, 0)
    end = whole.cycle(middle, 0.2, 1)
    resumed = evolution(graph).cycle(middle, 0.2, 1)
    for name, value in end.tensors.items():
        assert torch.equal(value, resumed.tensors[name])
    assert end.tilt == resumed.tilt
    assert end.zero_cost == resumed.zero_cost


def test_seeds_search_differently(graph: tuple[fx.GraphModule, Tensor]) -> None:
    states = [
        (search := evolution(graph, seed)).cycle(search.start(), 0.2, 0) for seed in (0, 0, 1)
    ]
    same, different = (
        all(torch.equal(states[0].keep[name], other.keep[name]) for name in states[0].keep)
        for other in states[1:]
    )
    assert same
    assert not different


def test_revise_replaces_what_it_is_told(graph: tuple[fx.GraphModule, Tensor]) -> None:
    search = evolution(graph, effort="fast")
    state = search.cycle(search.start(), 0.5, 0)
    seen = []

    def halve(layer, moments, weight, bias):  # type: ignore[no-untyped-def]
        seen.append(layer.weight)
        return {layer.weight: 0.5 * weight.reshape(search.teacher[layer.weight].shape)}

    tensors = search.revise(state, halve)
    assert seen == ["conv.weight", "hidden.weight", "head.weight"]
    for name, mask in state.keep.items():
        assert torch.equal(tensors[name].reshape(mask.shape) != 0, mask)
    assert tensors.keys() == state.tensors.keys()
