"""A traced network runs the same from any layer on, and a layer is a matrix times its features."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from spqtools.evolve.moments import measure_moments
from spqtools.evolve.student import Stop, Student


def trace(network: nn.Module, *inputs: Tensor) -> fx.GraphModule:
    shapes = tuple({0: torch.export.Dim.AUTO} for _ in inputs)
    module = torch.export.export(network.eval(), inputs, dynamic_shapes=shapes).module()
    assert isinstance(module, fx.GraphModule)
    return module


def randn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Residual(nn.Module):
    """Two branches, a buffer, two inputs and a nested output."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.deep = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
        self.head = nn.Linear(6, 4)
        self.side = nn.Linear(5, 4)

    def forward(self, image: Tensor, extra: Tensor) -> dict[str, Any]:
        seen = torch.relu(self.norm(self.first(image)))
        seen = seen + self.deep(seen)
        scores = self.head(seen.mean((2, 3))) + self.side(extra)
        return {"scores": scores, "rest": [scores.argmax(1), seen]}


@pytest.fixture(scope="module")
def residual() -> tuple[nn.Module, Student, tuple[Tensor, Tensor]]:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = Residual().eval()
    inputs = randn(10, 2, 6, 5), randn(10, 5)
    return network, Student(trace(network, *inputs), inputs, batch_size=4), inputs


def test_outputs_are_those_of_the_network(
    residual: tuple[nn.Module, Student, tuple[Tensor, Tensor]],
) -> None:
    network, student, inputs = residual
    expected = network(*inputs)
    outputs = student.outputs(student.original)
    assert [len(batch[0]) for batch in outputs] == [4, 4, 2]
    scores, seen = (torch.cat([batch[index] for batch in outputs]) for index in range(2))
    torch.testing.assert_close(scores, expected["scores"])
    torch.testing.assert_close(seen, expected["rest"][1])
    assert len(outputs[0]) == 2, "the classes are whole numbers and do not count"
    (middle,) = student.outputs(student.original, [1])
    assert torch.equal(middle[0], outputs[1][0])


def test_layers_are_found_in_order(
    residual: tuple[nn.Module, Student, tuple[Tensor, Tensor]],
) -> None:
    _, student, _ = residual
    found = {(layer.weight, layer.bias, layer.rows, layer.columns) for layer in student.layers}
    assert found == {
        ("first.weight", "norm.bias", 6, 18),
        ("deep.weight", None, 6, 9),
        ("head.weight", "head.bias", 4, 6),
        ("side.weight", "side.bias", 4, 5),
    }


def test_run_from_a_layer_equals_a_full_run(
    residual: tuple[nn.Module, Student, tuple[Tensor, Tensor]],
) -> None:
    _, student, _ = residual
    weights = dict(student.original)
    stops = 0
    with torch.no_grad():
        for stop in student.walk(weights):
            name = stop.layer.weight
            replaced = {name: weights[name] * 0.5}
            full = student.outputs({**weights, **replaced})
            for partial, whole in zip(stop.finish(replaced, range(3)), full, strict=True):
                assert all(map(torch.equal, partial, whole))
            unchanged = stop.finish({}, [2])
            assert torch.equal(unchanged[0][0], student.outputs(weights, [2])[0][0])
            stops += 1
    assert stops == 4


def test_the_walk_goes_on_with_what_was_put_in_place(
    residual: tuple[nn.Module, Student, tuple[Tensor, Tensor]],
) -> None:
    """Later layers see the inputs that the layers before them give now."""
    _, student, _ = residual
    weights = dict(student.original)
    with torch.no_grad():
        for stop in student.walk(weights):
            expected = student.outputs(weights)
            for partial, whole in zip(stop.finish({}, range(3)), expected, strict=True):
                assert all(map(torch.equal, partial, whole))
            name = stop.layer.weight
            weights[name] = weights[name] * 0.75


def test_tied_weights_are_left_alone() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            self.b.weight = self.a.weight
            self.c = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(self.c(self.b(self.a(x))))

    student = Student(trace(Tied(), randn(4, 3)), [randn(4, 3)], 4)
    assert [layer.weight for layer in student.layers] == ["c.weight"]


GEOMETRIES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(7, 5), (6, 7)),
    "linear without bias": (lambda: nn.Linear(7, 5, bias=False), (6, 7)),
    "linear over a sequence": (lambda: nn.Linear(7, 5), (3, 4, 7)),
    "1d": (lambda: nn.Conv1d(4, 6, 3), (3, 4, 11)),
    "1d strided dilated grouped": (
        lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2),
        (3, 4, 11),
    ),
    "1d depthwise": (lambda: nn.Conv1d(4, 8, 5, padding=2, groups=4, bias=False), (2, 4, 9)),
    "2d": (lambda: nn.Conv2d(3, 5, 3, padding=1), (2, 3, 6, 5)),
    "2d uneven": (
        lambda: nn.Conv2d(3, 5, (1, 4), stride=(2, 1), padding=(0, 2), dilation=(1, 2)),
        (2, 3, 5, 9),
    ),
    "2d strided": (lambda: nn.Conv2d(3, 5, 3, stride=2), (2, 3, 8, 7)),
    "2d dilated": (lambda: nn.Conv2d(3, 5, 3, dilation=(2, 1), padding=(1, 2)), (2, 3, 8, 7)),
    "2d grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, bias=False), (2, 4, 5, 6)),
    "2d depthwise": (lambda: nn.Conv2d(4, 8, 3, padding=1, groups=4), (2, 4, 5, 6)),
    "2d pointwise": (lambda: nn.Conv2d(4, 8, 1), (2, 4, 3, 3)),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_weights_times_features_is_the_output(name: str) -> None:
    make, shape = GEOMETRIES[name]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = nn.Sequential(make())
    inputs = randn(*shape)
    student = Student(trace(network, inputs), [inputs], len(inputs))
    (layer,) = student.layers
    stop = next(student.walk(dict(student.original)))
    output = network(inputs).detach()
    features = layer.features(stop.inputs(0))
    weight = student.original["0.weight"].reshape(layer.groups, -1, layer.columns)
    product = (features @ weight.transpose(1, 2)).transpose(0, 1).reshape(-1, layer.rows)
    if layer.bias is not None:
        product = product + student.original["0.bias"]
    torch.testing.assert_close(product, layer.outputs(output), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(stop.output(0), output, rtol=1e-5, atol=1e-6)
    assert torch.equal(layer.features(stop.inputs(0), 3), features[:, ::3])
    assert torch.equal(layer.outputs(output, 3), layer.outputs(output)[::3])


def test_pixels_of_one_channel_are_laid_out_like_others() -> None:
    """Else convolutions answer channel by channel, and pooling takes ten times as long."""
    inputs = randn(3, 1, 8, 8)
    network = nn.Sequential(nn.Conv2d(1, 4, 3))
    student = Student(trace(network, inputs), [inputs], 3)
    (image,) = student.start(0).values()
    assert torch.equal(image, inputs)
    assert image.stride() == (64, 1, 8, 1)
    stop = next(student.walk(dict(student.original)))
    assert stop.output(0).stride(1) == 1
    torch.testing.assert_close(stop.output(0), network(inputs).detach())


def test_what_is_no_layer() -> None:
    """Transposed convolutions, embeddings and computed weights stay as they are."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose1d(3, 3, 2)
            self.free = nn.Parameter(torch.ones(4, 3))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(self.up(x).mean(-1), self.free * 2)

    student = Student(trace(Odd(), randn(4, 3, 5)), [randn(4, 3, 5)], 4)
    assert student.layers == []


def test_values_are_dropped_when_nobody_needs_them(
    residual: tuple[nn.Module, Student, tuple[Tensor, Tensor]],
) -> None:
    _, student, _ = residual

    def held(stop: Stop) -> int:
        return sum(isinstance(value, Tensor) for value in stop.values[0].values())

    counts = [held(stop) for stop in student.walk(dict(student.original))]
    assert max(counts) <= len(student.original) + 4


def test_what_a_layers_output_is_added_to_is_known_before_the_layer(
    residual: tuple[nn.Module, Student, tuple[Tensor, Tensor]],
) -> None:
    """The shortcut of a block; a sum of two layers has none before the second is run."""
    network, student, (image, _) = residual
    assert isinstance(network, Residual)
    with torch.no_grad():
        shortcut = torch.relu(network.norm(network.first(image)))
        beside = {
            stop.layer.weight: stop.beside(0) for stop in student.walk(dict(student.original))
        }
    assert beside["first.weight"] is None
    found = beside["deep.weight"]
    assert found is not None
    torch.testing.assert_close(found, shortcut[:4], rtol=1e-4, atol=1e-5)
    known = [beside["head.weight"] is not None, beside["side.weight"] is not None]
    assert known == [False, True]


def test_the_last_layer_of_a_block_is_to_take_back_the_error_of_its_shortcut(
    residual: tuple[nn.Module, Student, tuple[Tensor, Tensor]],
) -> None:
    _, student, _ = residual
    damaged = dict(student.original)
    damaged["first.weight"] = damaged["first.weight"] * 0.5
    with torch.no_grad():
        walks = student.walk(damaged), student.walk(dict(student.original))
        for ours, theirs in zip(*walks, strict=True):
            if ours.layer.weight == "deep.weight":
                found = measure_moments(ours, theirs).targets
                wanted = torch.zeros_like(found)
                for batch in range(len(ours.values)):
                    mine, right = ours.beside(batch), theirs.beside(batch)
                    assert mine is not None
                    assert right is not None
                    answer = theirs.output(batch) + right - mine
                    features = ours.layer.features(ours.inputs(batch))
                    rows = ours.layer.outputs(answer).T[:, :, None]
                    wanted += features.transpose(1, 2) @ rows
                torch.testing.assert_close(found, wanted / 10, rtol=1e-4, atol=1e-4)
                return
    raise AssertionError("the layer was not reached")


class Shifted(nn.Module):
    """A layer's output is added to a parameter, which is no shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 4)
        self.shift = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.layer(x) + self.shift)


def test_a_parameter_is_no_shortcut() -> None:
    inputs = randn(3, 5)
    student = Student(trace(Shifted(), inputs), [inputs], batch_size=3)
    (stop,) = student.walk(dict(student.original))
    assert stop.beside(0) is None
