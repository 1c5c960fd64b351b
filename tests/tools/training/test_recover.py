"""Training wins back what zeros have cost, within the size and the time that it is given."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import spq
from spqtools.evolve.effort import EFFORTS
from spqtools.evolve.rng import Draws
from spqtools.evolve.search import Evolution
from spqtools.evolve.sparse import Sparse
from spqtools.progress import Progress, Tick
from spqtools.training.course import TICKS
from spqtools.training.recover import Recovered, recover
from spqtools.training.refine import Refined, refine
from spqtools.training.state import State
from spqtools.training.variants import vary

ROOMY = 1 << 20
"""Bytes that any file of the network fits into."""


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm1d(6)
        self.hidden = nn.Linear(30, 40)
        self.head = nn.Linear(40, 4)

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.relu(self.norm(self.conv(x))).flatten(1)
        return torch.as_tensor(3 * self.head(torch.relu(self.hidden(seen))))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small sums are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spqtools.training.course._LEAST_STEPS", 240)
    monkeypatch.setattr("spqtools.training.course._PRODUCTS", 1)


@pytest.fixture(scope="module")
def evolution() -> Evolution:
    with torch.random.fork_rng():
        torch.manual_seed(8)
        network, inputs = Small(), torch.randn(1024, 2, 5)
        for _ in range(20):
            network(inputs)
    shapes = ({0: torch.export.Dim.AUTO},)
    graph = torch.export.export(network.eval(), (inputs,), dynamic_shapes=shapes).module()
    assert isinstance(graph, fx.GraphModule)
    return Evolution(graph, [inputs], 0, EFFORTS["fast"])


@pytest.fixture(scope="module")
def sparse(evolution: Evolution) -> Sparse:
    return evolution.cycle(evolution.start(), 0.08, 0)


def file_bytes(tensors: Mapping[str, Tensor]) -> int:
    return spq.save({name: tensor.numpy() for name, tensor in tensors.items()}, io.BytesIO())


def trained(evolution: Evolution, sparse: Sparse, **changed: Any) -> Recovered:
    options = {"target_bytes": ROOMY, "max_levels": 7, "rival": sparse.tensors, **changed}
    return recover(evolution.student, sparse, evolution.inputs, file_bytes, Progress(), **options)


def mask(evolution: Evolution, tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensors[layer.weight].flatten() != 0 for layer in evolution.layers])


def test_divergence_falls_at_the_same_zeros(evolution: Evolution, sparse: Sparse) -> None:
    before = {name: value.clone() for name, value in sparse.tensors.items()}
    found = trained(evolution, sparse)
    assert found.divergence < evolution.measure(sparse.tensors)
    assert evolution.measure(found.tensors) < evolution.measure(sparse.tensors)
    assert not found.is_cut
    for name, keep in sparse.keep.items():
        assert not (found.tensors[name].reshape(keep.shape) != 0)[~keep].any()
    assert all(torch.equal(sparse.tensors[name], value) for name, value in before.items())


def test_a_rival_is_measured_on_the_same_samples(evolution: Evolution, sparse: Sparse) -> None:
    found = trained(evolution, sparse)
    again = trained(evolution, sparse, rival=found.tensors)
    assert again.rival_divergence == again.divergence < found.rival_divergence
    assert trained(evolution, sparse, rival=evolution.teacher).rival_divergence < 1e-6


@pytest.mark.parametrize("max_levels", [1, 3, 7])
def test_weights_lie_on_levels_and_biases_on_steps(
    evolution: Evolution, sparse: Sparse, max_levels: int
) -> None:
    tensors = trained(evolution, sparse, max_levels=max_levels).tensors
    assert tensors.keys() == sparse.tensors.keys()
    for layer in evolution.layers:
        weight = tensors[layer.weight]
        assert weight.shape == sparse.tensors[layer.weight].shape
        assert len(set(weight[weight != 0].tolist())) <= max_levels
        assert torch.equal(weight.bfloat16().float(), weight)
        assert layer.bias is not None
        assert len(set(tensors[layer.bias].tolist())) <= 100
        assert not (torch.signbit(tensors[layer.bias]) & (tensors[layer.bias] == 0)).any()


@pytest.mark.parametrize("share", [0.6, 0.8, 1.2])
def test_the_file_fits(evolution: Evolution, sparse: Sparse, share: float) -> None:
    empty = {name: torch.zeros_like(value) for name, value in sparse.tensors.items()}
    as_it_is = file_bytes(trained(evolution, sparse).tensors)
    target = int(file_bytes(empty) + share * (as_it_is - file_bytes(empty)))
    size = file_bytes(trained(evolution, sparse, target_bytes=target).tensors)
    assert 0.85 * target < size <= target


def test_zeros_stay_zeros_where_there_is_room(evolution: Evolution, sparse: Sparse) -> None:
    as_it_is = file_bytes(trained(evolution, sparse).tensors)
    roomy = trained(evolution, sparse, target_bytes=int(1.3 * as_it_is)).tensors
    was_kept = torch.cat([keep.flatten() for keep in sparse.keep.values()])
    assert not (mask(evolution, roomy) & ~was_kept).any()


def test_a_size_out_of_reach(evolution: Evolution, sparse: Sparse) -> None:
    found = trained(evolution, sparse, target_bytes=10)
    assert not mask(evolution, found.tensors).any()
    assert file_bytes(found.tensors) > 10


def test_same_seed_same_student(evolution: Evolution, sparse: Sparse) -> None:
    one, same, other = (
        trained(evolution, sparse, target_bytes=700, seed=seed) for seed in (1, 1, 2)
    )
    assert one.divergence == same.divergence
    assert all(torch.equal(one.tensors[name], value) for name, value in same.tensors.items())
    assert one.divergence != other.divergence


def test_time_makes_it_shorter(evolution: Evolution, sparse: Sparse) -> None:
    looks = count()
    found = trained(
        evolution, sparse, target_bytes=700, seconds=50, clock=lambda: float(next(looks))
    )
    assert found.is_cut
    assert next(looks) < 60
    assert file_bytes(found.tensors) <= 700


class Noting(Progress):
    """Notes which share of a stage is done after each step."""

    def __init__(self) -> None:
        self.shares: list[float] = []

    @contextmanager
    def stage(self, name: str, total: int | None = None, done: int = 0) -> Iterator[Tick]:
        def tick(steps: int = 1, /, total: int | None = None, *, behind: bool = False) -> None:
            nonlocal done
            done += steps
            self.shares.append(done / TICKS)

        yield tick


@pytest.mark.parametrize("seconds", [50.0, 1e4])
def test_progress_tells_what_will_end_it(
    evolution: Evolution, sparse: Sparse, seconds: float
) -> None:
    """Each step takes a second: time ends it after 50, or the steps do after 240."""
    looks, noting = count(), Noting()

    def clock() -> float:
        return float(next(looks))

    refine(evolution.student, sparse, evolution.inputs, noting, seconds=seconds, clock=clock)
    assert len(noting.shares) in (range(45, 55) if seconds == 50.0 else [240])
    for step, share in enumerate(noting.shares, 1):
        assert share == pytest.approx(step / len(noting.shares), abs=0.06)


def test_progress_of_a_training_that_goes_on_begins_where_it_was(
    evolution: Evolution, sparse: Sparse
) -> None:
    states: list[State] = []
    refined(evolution, sparse, after_step=lambda _, at: states.append(at()))
    looks, noting = count(), Noting()
    options: dict[str, Any] = {
        "seconds": 40.0,
        "clock": lambda: float(next(looks)),
        "begun": states[119],
    }
    refine(evolution.student, sparse, evolution.inputs, noting, **options)
    assert len(noting.shares) < 50
    for step, share in enumerate(noting.shares, 1):
        assert share == pytest.approx(0.5 + 0.5 * step / len(noting.shares), abs=0.06)


@pytest.mark.parametrize("seconds", [0.0, 1e-9])
def test_no_time_at_all(evolution: Evolution, sparse: Sparse, seconds: float) -> None:
    found = trained(evolution, sparse, target_bytes=700, seconds=seconds)
    assert found.is_cut
    assert found.tensors.keys() == sparse.tensors.keys()


def test_time_that_suffices_does_not_matter(evolution: Evolution, sparse: Sparse) -> None:
    looks = count()
    timed = trained(evolution, sparse, seconds=1e4, clock=lambda: float(next(looks)))
    assert not timed.is_cut
    assert timed.divergence == trained(evolution, sparse).divergence


def test_no_progress_ends_it(
    evolution: Evolution, sparse: Sparse, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = count()

    def clock() -> float:
        next(looks)
        return 0.0

    monkeypatch.setattr("spqtools.training.recover._PEAK_RATE", 0.0)
    monkeypatch.setattr("spqtools.training.recover._LOW_RATE", 0.0)
    monkeypatch.setattr("spqtools.training.course._LEAST_BATCH", 32)
    monkeypatch.setattr("spqtools.training.course._LEAST_STEPS", 2000)
    trained(evolution, sparse, clock=clock)
    assert next(looks) < 1950


@pytest.mark.parametrize("samples", [2, 3, 40])
def test_few_samples(evolution: Evolution, sparse: Sparse, samples: int) -> None:
    inputs = [tensor[:samples] for tensor in evolution.inputs]
    options: dict[str, Any] = {"rival": sparse.tensors, "target_bytes": 700, "max_levels": 3}
    found = recover(evolution.student, sparse, inputs, file_bytes, Progress(), **options)
    assert file_bytes(found.tensors) <= 700


def test_from_every_state_a_training_ends_the_same(evolution: Evolution, sparse: Sparse) -> None:
    """The state that was taken before all others is as it was."""
    states: list[State] = []
    whole = trained(
        evolution, sparse, target_bytes=700, after_step=lambda _, at: states.append(at())
    )
    assert len(states) > 200
    for state in [*states[:: len(states) // 5], *states[-2:], states[0]]:
        found = trained(evolution, sparse, target_bytes=700, begun=state)
        assert found.divergence == whole.divergence
        assert all(torch.equal(found.tensors[name], value) for name, value in whole.tensors.items())


def test_states_of_a_training_that_went_on_are_those_of_the_whole(
    evolution: Evolution, sparse: Sparse
) -> None:
    whole: list[State] = []
    again: list[State] = []
    trained(evolution, sparse, target_bytes=700, after_step=lambda _, at: whole.append(at()))
    middle = len(whole) // 2
    state = {name: tensor.clone() for name, tensor in whole[middle].items()}
    options = {"begun": state, "after_step": lambda _, at: again.append(at())}
    trained(evolution, sparse, target_bytes=700, **options)
    assert len(again) == len(whole) - middle - 1
    for one, other in zip(whole[middle + 1 :: 20], again[::20], strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], value) for name, value in other.items())


def test_time_before_a_kill_does_not_count(evolution: Evolution, sparse: Sparse) -> None:
    """What goes on has its own limit, as a new command has."""
    states: list[State] = []
    whole = trained(evolution, sparse, after_step=lambda _, at: states.append(at()))
    looks = count()
    options = {"begun": states[200], "seconds": 90, "clock": lambda: float(next(looks))}
    found = trained(evolution, sparse, **options)
    assert not found.is_cut
    assert found.divergence == whole.divergence


class Telling(Progress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


@pytest.mark.parametrize("other", ["inputs", "student"])
@pytest.mark.parametrize("train", [recover, refine])
def test_what_another_training_left_is_no_beginning(
    evolution: Evolution, sparse: Sparse, train: Callable[..., Any], other: str
) -> None:
    """A data set that is shuffled each time, or a search that has gone on meanwhile."""
    inputs, options = evolution.inputs, {}
    if train is recover:
        options = {"target_bytes": 700, "max_levels": 7, "file_bytes": file_bytes}
        options["rival"] = sparse.tensors

    def run(student: Sparse, samples: Sequence[Tensor], **more: Any) -> tuple[Any, list[str]]:
        progress = Telling()
        arguments = {"progress": progress, **options, **more}
        return train(evolution.student, student, samples, **arguments), progress.notes

    states: list[State] = []
    run(sparse, inputs, after_step=lambda _, at: states.append(at()))
    if other == "inputs":
        inputs = [tensor.flip(0) for tensor in inputs]
    else:
        sparse = evolution.cycle(sparse, 0.05, 1)
    found, notes = run(sparse, inputs, begun=states[-1])
    fresh, _ = run(sparse, inputs)
    assert all(torch.equal(found.tensors[name], value) for name, value in fresh.tensors.items())
    assert len(notes) == 1
    assert notes[0].startswith("the training begins anew")


def refined(evolution: Evolution, sparse: Sparse, **options: Any) -> Refined:
    return refine(evolution.student, sparse, evolution.inputs, Progress(), **options)


def test_refining_keeps_zeros_and_places_no_levels(evolution: Evolution, sparse: Sparse) -> None:
    before = {name: value.clone() for name, value in sparse.tensors.items()}
    found = refined(evolution, sparse)
    assert evolution.measure(found.tensors) < evolution.measure(sparse.tensors)
    assert not found.is_cut
    assert torch.equal(mask(evolution, found.tensors), mask(evolution, sparse.tensors))
    for layer in evolution.layers:
        survivors = found.tensors[layer.weight]
        survivors = survivors[survivors != 0.0]
        assert len(set(survivors.tolist())) > 0.9 * len(survivors)
    assert all(torch.equal(sparse.tensors[name], value) for name, value in before.items())


def test_refining_again_ends_the_same(evolution: Evolution, sparse: Sparse) -> None:
    one, same, other = (refined(evolution, sparse, seed=seed).tensors for seed in (1, 1, 2))
    assert all(torch.equal(one[name], value) for name, value in same.items())
    assert any(not torch.equal(one[name], value) for name, value in other.items())


def test_from_every_state_refining_ends_the_same(evolution: Evolution, sparse: Sparse) -> None:
    states: list[State] = []
    whole = refined(evolution, sparse, after_step=lambda _, at: states.append(at())).tensors
    for state in states[:: len(states) // 5] + states[-2:]:
        found = refined(evolution, sparse, begun=state).tensors
        assert all(torch.equal(found[name], value) for name, value in whole.items())


def test_time_makes_refining_shorter(evolution: Evolution, sparse: Sparse) -> None:
    looks = count()
    found = refined(evolution, sparse, seconds=50, clock=lambda: float(next(looks)))
    assert found.is_cut
    assert next(looks) < 60


def test_variants_are_learnt_from_and_other_images_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """An eighth of the images is held out, and of the others no lesson repeats one."""
    samples, held_out = 64, 8
    with torch.random.fork_rng():
        torch.manual_seed(8)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        images = torch.rand(samples, 3, 8, 8)
    shapes = ({0: torch.export.Dim.AUTO},)
    graph = torch.export.export(network.eval(), (images,), dynamic_shapes=shapes).module()
    assert isinstance(graph, fx.GraphModule)
    evolution = Evolution(graph, [images], 0, EFFORTS["fast"])
    lessons: list[bytes] = []
    variants: list[bytes] = []

    def see(plain: Tensor, draws: Draws) -> Tensor:
        varied = vary(plain, draws)
        lessons.extend(image.numpy().tobytes() for image in plain)
        variants.extend(image.numpy().tobytes() for image in varied)
        return varied

    monkeypatch.setattr("spqtools.training.course.vary", see)
    student = evolution.cycle(evolution.start(), 0.3, 0)
    trained(evolution, student, varies=True)
    plain = {image.numpy().tobytes() for image in images}
    assert set(lessons) <= plain
    assert len(set(lessons)) == samples - held_out
    assert len(set(variants)) == len(variants) > samples
