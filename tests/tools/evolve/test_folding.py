"""A batch norm behind a layer is folded into it only where the network's function stays."""

import torch
from torch import Tensor, nn

from spqtools.evolve.student import Student
from tests.tools.evolve.test_student import randn, trace


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=0.01)
    norm.weight.data = randn(channels, seed=2)
    norm.bias.data = randn(channels, seed=3)
    norm.running_mean = randn(channels, seed=4)
    norm.running_var = randn(channels, seed=5).square() + 0.1
    return norm


class Chain(nn.Module):
    """Layer and norm, once to be folded and twice not."""

    def __init__(self) -> None:
        super().__init__()
        self.folded = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = _norm(4)
        self.used_twice = nn.Conv2d(4, 4, 1)
        self.before = _norm(4)

    def forward(self, image: Tensor) -> Tensor:
        seen = torch.relu(self.norm(self.folded(image)))
        again = self.used_twice(seen)
        total: Tensor = self.before(again) + again
        return total


def test_a_norm_behind_a_layer_only_adds_its_bias() -> None:
    network = Chain().eval()
    image = randn(5, 2, 6, 6)
    student = Student(trace(network, image), [image], batch_size=2)
    (found, expected) = torch.cat([b[0] for b in student.outputs(student.original)]), network(image)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    tensors = student.original
    ones = torch.ones(4)
    assert torch.equal(tensors["norm.weight"], ones)
    assert torch.equal(tensors["norm.running_mean"], 0 * ones)
    torch.testing.assert_close(tensors["norm.running_var"] + 0.01, ones)
    assert torch.equal(tensors["folded.bias"], 0 * ones)
    assert [layer.bias for layer in student.layers] == ["norm.bias", "used_twice.bias"]


def test_a_norm_beside_another_use_stays() -> None:
    network = Chain().eval()
    image = randn(5, 2, 6, 6)
    student = Student(trace(network, image), [image], batch_size=2)
    stored = network.state_dict()
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert torch.equal(student.original[f"before.{name}"], stored[f"before.{name}"])


def test_the_output_of_a_folded_layer_has_the_norms_bias() -> None:
    network = Chain().eval()
    image = randn(5, 2, 6, 6)
    student = Student(trace(network, image), [image], batch_size=5)
    with torch.no_grad():
        stop = next(student.walk(dict(student.original)))
        torch.testing.assert_close(
            stop.output(0), network.norm(network.folded(image)), rtol=1e-4, atol=1e-5
        )


class Sequences(nn.Module):
    """A norm along the places of a sequence, of which there are as many as features."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4, eps=0.01)
        self.norm.running_mean = randn(4, seed=4)
        self.norm.running_var = randn(4, seed=5).square() + 0.1

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.norm(self.layer(inputs))
        return result


def test_only_norms_along_a_layers_rows_are_folded() -> None:
    network = Sequences().eval()
    for inputs, bias in ((randn(5, 4, 4), "layer.bias"), (randn(5, 4), "norm.bias")):
        student = Student(trace(network, inputs), [inputs], batch_size=5)
        ((found,),) = student.outputs(student.original)
        torch.testing.assert_close(found, network(inputs), rtol=1e-4, atol=1e-5)
        assert [layer.bias for layer in student.layers] == [bias]
