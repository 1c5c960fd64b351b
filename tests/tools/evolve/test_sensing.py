"""What gradients say of rows, pairs of rows and places, against one sample after the other."""

from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from spqtools.evolve.divergence import Divergence
from spqtools.evolve.moments import measure_moments
from spqtools.evolve.rng import Draws
from spqtools.evolve.sensing import Sensing, _weight_products
from spqtools.evolve.sparse import Sparse
from spqtools.evolve.student import Student
from spqtools.evolve.sums import Sums

SAMPLES, BATCH, SEED = 24, 8, 3


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 6, 3, padding=1)
        self.grouped = nn.Conv1d(6, 4, 2, groups=2, bias=False)
        self.head = nn.Conv1d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.head(self.features(x)))

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.grouped(torch.relu(self.conv(x))))


class Classifier(Small):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean(2)


class Case:
    """A network, a look at it, and the gradients of each of its samples."""

    def __init__(self, network: type[Small]) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(8)
            self.network, inputs = network().eval(), torch.randn(SAMPLES, 2, 5)
        shapes = ({0: torch.export.Dim.AUTO},)
        graph = torch.export.export(self.network, (inputs,), dynamic_shapes=shapes).module()
        assert isinstance(graph, fx.GraphModule)
        self.student = Student(graph, [inputs], BATCH)
        with torch.no_grad():
            self.divergence = Divergence(self.student.outputs(self.student.original))
        keep = {
            layer.weight: torch.ones(layer.rows, layer.columns, dtype=torch.bool)
            for layer in self.student.layers
        }
        self.state = Sparse(self.student.original, keep, {})
        self.kept = sum(mask.numel() for mask in keep.values())
        self.by_weight: dict[str, list[Tensor]] = defaultdict(list)
        self.by_output: dict[str, list[Tensor]] = defaultdict(list)
        for sample in range(SAMPLES):
            self._differentiate(inputs, sample)

    def sensing(self) -> Sensing:
        return Sensing(self.student, self.divergence, SEED)

    def power(self, places: dict[str, list[Tensor]]) -> dict[str, Tensor]:
        """Return the sum of the squared inputs of each layer's groups, weighted by place."""
        found = {}
        with torch.no_grad():
            walks = [self.student.walk(dict(self.student.original)) for _ in range(2)]
            for stop, twin in zip(*walks, strict=True):
                moments = measure_moments(stop, twin, places[stop.layer.weight])
                squares = moments.row_inputs(stop.layer).diagonal(dim1=1, dim2=2)
                found[stop.layer.weight] = SAMPLES * squares.sum(1)
        return found

    def _differentiate(self, inputs: Tensor, sample: int) -> None:
        """Remember one sample's gradients of all weights and at all outputs."""
        outputs: dict[str, Tensor] = {}
        hooks = []
        for name, module in self.network.named_children():

            def see(_: nn.Module, __: object, output: Tensor, name: str = name) -> None:
                outputs[f"{name}.weight"] = output

            hooks.append(module.register_forward_hook(see))
        scores = self.network(inputs[sample : sample + 1])
        for hook in hooks:
            hook.remove()
        batch, place = divmod(sample, BATCH)
        signs = Draws(SEED, "signs", self.kept, batch).signs(BATCH * scores.numel())
        chosen = torch.from_numpy(signs).reshape(BATCH, *scores.shape[1:])[place : place + 1]
        loss = self.divergence.pseudo_loss([scores], [chosen])
        weights = dict(self.network.named_parameters())
        found = torch.autograd.grad(loss, [*outputs.values(), *(weights[name] for name in outputs)])
        for name, at_output, of_weight in zip(
            outputs, found[: len(outputs)], found[len(outputs) :], strict=True
        ):
            self.by_output[name].append(at_output[0])
            self.by_weight[name].append(of_weight.flatten(1))


@pytest.fixture(scope="module", params=[Small, Classifier])
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def test_places_count_by_their_squared_gradients(case: Case) -> None:
    places = case.sensing().look(case.state).places
    if isinstance(case.network, Classifier):
        assert not any(places.values())
        return
    assert places.keys() == case.by_output.keys()
    for name, gradients in case.by_output.items():
        # Rows by places.
        costs = torch.stack([one.reshape(len(one), -1).square().sum(0) for one in gradients])
        wanted = 0.25 + 0.75 * costs / costs.mean()
        assert [len(batch) for batch in places[name]] == [BATCH * costs.shape[1]] * 3
        found = torch.cat(places[name]).reshape(SAMPLES, -1)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_couplings_are_products_of_gradients_sample_by_sample(case: Case) -> None:
    sensing = case.sensing()
    sensed, couplings = sensing.look(case.state), sensing.couplings(case.state)
    power = case.power(sensed.places)
    for layer in case.student.layers:
        name = layer.weight
        rows = layer.rows // layer.groups
        for (group, part), found in zip(layer.blocks(), couplings[name], strict=True):
            assert part == slice(group * rows, (group + 1) * rows)
            own = [gradient[part] for gradient in case.by_weight[name]]
            wanted = sum(gradient @ gradient.T for gradient in own) / power[name][group]
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-8)
            torch.testing.assert_close(
                sensed.rows[name][part], found.diagonal(), rtol=1e-3, atol=1e-9
            )


def test_a_second_look_sees_the_same(case: Case) -> None:
    sensing = case.sensing()
    first = sensing.look(case.state)
    assert sensing.look(case.state) is first
    again = Sparse(dict(case.state.tensors), case.state.keep, {})
    second = sensing.look(again)
    assert second is not first
    for name, rows in first.rows.items():
        assert torch.equal(rows, second.rows[name])
        pairs = zip(first.places[name], second.places[name], strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
    coupled, recoupled = case.sensing().couplings(case.state), sensing.couplings(again)
    assert all(torch.equal(coupled[name][0], recoupled[name][0]) for name in coupled)


class Killed(Exception):
    """Comes between two batches."""


@pytest.mark.parametrize("kind", ["rows", "pairs"])
def test_an_interrupted_look_goes_on_behind_the_last_batch(
    case: Case, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def results(sensing: Sensing) -> list[Tensor]:
        if kind == "pairs":
            return [block for blocks in sensing.couplings(case.state).values() for block in blocks]
        sensed = sensing.look(case.state)
        batches = [batch for one in sensed.places.values() for batch in one]
        return [*sensed.rows.values(), *batches]

    def kill(share: float) -> None:
        if share > 0.5:
            raise Killed

    killed, whole = case.sensing(), case.sensing()
    with pytest.raises(Killed):
        (killed.couplings if kind == "pairs" else killed.look)(case.state, kill)
    sums = killed.sums[kind]
    assert sums.done == 2
    resumed = case.sensing()
    tensors = {name: tensor.clone() for name, tensor in sums.tensors().items()}
    resumed.sums[kind] = Sums.from_tensors(sums.student, sums.done, tensors)
    looked: list[int] = []
    gradients = Sensing._gradients

    def count(self: Sensing, state: Sparse, batch: int) -> Any:
        looked.append(batch)
        return gradients(self, state, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Sensing, "_gradients", count)
        found = results(resumed)
    assert looked == [2]
    pairs = zip(found, results(whole), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_a_look_that_ends_within_a_batch_leaves_the_sums_of_the_others(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    sensing = case.sensing()
    gradients = Sensing._gradients

    def end(self: Sensing, state: Sparse, batch: int) -> Any:
        for index, found in enumerate(gradients(self, state, batch)):
            if (batch, index) == (1, 1):
                raise Killed
            yield found

    with monkeypatch.context() as patch:
        patch.setattr(Sensing, "_gradients", end)
        with pytest.raises(Killed):
            sensing.look(case.state)
    assert sensing.sums["rows"].done == 1
    again, wanted = sensing.look(case.state), case.sensing().look(case.state)
    assert all(torch.equal(rows, again.rows[name]) for name, rows in wanted.rows.items())


class Windows(nn.Module):
    """Puts windows of an image beside the images, as Swin does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(3, 5), nn.Conv1d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        windows = torch.relu(self.inner(x.reshape(-1, 2, 3)))
        return torch.as_tensor(self.head(windows.reshape(-1, 4, 5).transpose(1, 2)))


class Sequence(nn.Module):
    """Puts the places of a sequence before its samples."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(3, 5), nn.Conv1d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = torch.relu(self.inner(x.transpose(0, 1)))
        return torch.as_tensor(self.head(first.permute(1, 2, 0)))


@pytest.mark.parametrize("build", [Windows, Sequence])
def test_samples_need_not_be_the_first_dimension(build: type[nn.Module]) -> None:
    """Of 27 samples in batches of eight, the last has three."""
    with torch.random.fork_rng():
        torch.manual_seed(8)
        network, inputs = build().eval(), torch.randn(27, 4, 3)
    shapes = ({0: torch.export.Dim.AUTO},)
    graph = torch.export.export(network, (inputs,), dynamic_shapes=shapes).module()
    assert isinstance(graph, fx.GraphModule)
    student = Student(graph, [inputs], BATCH)
    with torch.no_grad():
        divergence = Divergence(student.outputs(student.original))
    keep = {
        layer.weight: torch.ones(layer.rows, layer.columns, dtype=torch.bool)
        for layer in student.layers
    }
    state = Sparse(student.original, keep, {})
    places = Sensing(student, divergence, SEED).look(state).places
    assert [len(batch) for batch in places["inner.weight"]] == [4 * BATCH] * 3 + [4 * 3]
    assert torch.cat(places["inner.weight"]).mean() == pytest.approx(1.0)
    walks = [student.walk(dict(student.original)) for _ in range(2)]
    with torch.no_grad():
        for stop, twin in zip(*walks, strict=True):
            measure_moments(stop, twin, places[stop.layer.weight])


def test_sums_are_those_of_one_student_alone(case: Case) -> None:
    sensing = case.sensing()
    sensing.look(case.state)
    other = {name: 1.5 * tensor for name, tensor in case.state.tensors.items()}
    state = Sparse(other, case.state.keep, {})
    found, wanted = sensing.look(state), case.sensing().look(state)
    assert all(torch.equal(rows, found.rows[name]) for name, rows in wanted.rows.items())
    assert sensing.knows(state)
    assert not sensing.knows(case.state)
    sensing.forget_all_but([case.state])
    assert not sensing.sums


def test_layers_that_the_output_does_not_hear_cost_nothing(case: Case) -> None:
    deaf = dict(case.student.original)
    deaf["head.weight"] = torch.zeros_like(deaf["head.weight"])
    sensed = case.sensing().look(Sparse(deaf, case.state.keep, {}))
    assert not sensed.rows["conv.weight"].any()
    assert all(bool((batch == 0.25).all()) for batch in sensed.places["conv.weight"])
    assert len(sensed.places["conv.weight"]) == (not isinstance(case.network, Classifier)) * 3
    assert bool((sensed.rows["head.weight"] > 0).all())


@pytest.mark.parametrize("places", [1, 40])
def test_gradients_need_not_be_multiplied_out(places: int) -> None:
    """With one place the factors are not the gradient, with forty they are."""
    generator = torch.Generator().manual_seed(7)
    errors = torch.randn(2, 5, 4, places, generator=generator)
    features = torch.randn(2, 5, places, 6, generator=generator)
    gradient = errors @ features
    own, other = _weight_products(errors, features)
    assert (own.shape == gradient.shape) == (places == 40)
    torch.testing.assert_close((own * other).sum((1, 3)), gradient.square().sum((1, 3)))
    torch.testing.assert_close(own @ other.transpose(2, 3), gradient @ gradient.transpose(2, 3))
