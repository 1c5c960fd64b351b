"""A student on levels: whom it is near to, and who hears of it."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, fx, nn

from spqtools.evolve.effort import EFFORTS
from spqtools.evolve.search import Evolution
from spqtools.evolve.sparse import Sparse
from spqtools.levels.placing import place_levels, share_of

SHIFT = 5.0


@pytest.fixture(scope="module")
def evolution() -> Evolution:
    with torch.random.fork_rng():
        torch.manual_seed(8)
        network = nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 4)).eval()
        inputs = torch.randn(512, 12)
    shapes = ({0: torch.export.Dim.AUTO},)
    graph = torch.export.export(network, (inputs,), dynamic_shapes=shapes).module()
    assert isinstance(graph, fx.GraphModule)
    return Evolution(graph, [inputs], 0, EFFORTS["fast"])


@pytest.fixture(scope="module")
def student(evolution: Evolution) -> Sparse:
    return evolution.cycle(evolution.start(), 0.5, 0)


def test_biases_are_fitted_to_the_model(evolution: Evolution, student: Sparse) -> None:
    """Whoever has learnt to answer otherwise than the teacher stays so on levels."""
    moved = {**student.tensors, "2.bias": student.tensors["2.bias"] + SHIFT}
    learnt = replace(student, tensors=moved)
    near_itself = place_levels(evolution, learnt, 1e-6, 7, model=moved)["2.bias"]
    near_teacher = place_levels(evolution, learnt, 1e-6, 7)["2.bias"]
    torch.testing.assert_close(near_itself, moved["2.bias"], rtol=0.0, atol=0.1 * SHIFT)
    torch.testing.assert_close(near_teacher, student.tensors["2.bias"], rtol=0.0, atol=0.1 * SHIFT)


def test_steps_are_heard_of_in_order(evolution: Evolution, student: Sparse) -> None:
    heard: list[tuple[list[str], float]] = []

    def hear(layer: Mapping[str, Tensor], share: float) -> None:
        heard.append((sorted(layer), share))

    placed = place_levels(evolution, student, 1e-6, 7, after_step=hear)
    layers = [names for names, _ in heard if names]
    assert layers == [["0.bias", "0.weight"], ["2.bias", "2.weight"]]
    shares = [share for _, share in heard]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert [names for names, _ in heard][: -len(layers)] == [[]] * (len(heard) - len(layers))
    assert len(set(placed["0.weight"].flatten().tolist())) <= 8
    first = [share for names, share in heard if "0.weight" in names]
    assert [share_of(evolution, {"0.weight": placed["0.weight"]})] == pytest.approx(first)
    assert share_of(evolution, {}) == 0.0


def test_gradients_of_the_same_student_are_not_taken_again(
    evolution: Evolution, student: Sparse
) -> None:
    place_levels(evolution, replace(student, tensors=dict(evolution.teacher)), 1e-6, 7)
    shares: list[float] = []
    first = place_levels(
        evolution, student, 1e-6, 7, after_step=lambda layer, share: shares.append(share)
    )
    # One batch for rows, and one for pairs of them.
    assert len(shares) == 2 + len(evolution.layers)
    assert shares == sorted(shares)
    heard: list[float] = []
    again = place_levels(
        evolution, student, 1e-6, 7, after_step=lambda layer, share: heard.append(share)
    )
    assert len(heard) == len(evolution.layers)
    assert all(torch.equal(first[name], tensor) for name, tensor in again.items())
