"""Both programs of a packed network compute what the network computes."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import spq
from spqformat import Reason, SpqError
from spqtools.content import check_exact
from spqtools.judge import check_runtimes_agree
from spqtools.reading.calibration import Calibration
from spqtools.reading.ingest import Source
from spqtools.reading.programs import Programs, trace, write_programs


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.block = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.stem(x)
        seen = torch.relu(seen + self.norm(self.block(seen)))
        scores: Tensor = self.head(seen.mean((2, 3)))
        return scores


class InPlace(nn.Module):
    """Changes values in place, as the networks of torchvision do."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.norm, self.relu = nn.BatchNorm2d(3), nn.ReLU(inplace=True)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(48, 4), nn.Hardswish(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        seen: Tensor = self.norm(self.block(x))
        seen += x
        scores: Tensor = self.head(self.relu(seen))
        return scores


class TwoInputs(nn.Module):
    """One input is not used; the output is nested."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 6), nn.Linear(3, 6)

    def forward(self, a: Tensor, b: Tensor, unused: Tensor) -> dict[str, Any]:
        scores = self.left(a) * torch.sigmoid(self.right(b))
        return {"more": (scores.argmax(1), [scores.sum(1)]), "scores": scores}


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(6, 6, bias=False), nn.Linear(6, 6)
        self.decode.weight = self.encode.weight

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.decode(torch.tanh(self.encode(x)))
        return scores


class Constants(nn.Module):
    """A buffer that is not in the state dict, and a constant of no name."""

    grid: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(20, 3)
        self.register_buffer("grid", torch.linspace(0, 1, 20), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.dense(x * self.grid + torch.arange(20.0))
        return scores


class ComplexNumbers(nn.Module):
    """Has no ONNX form."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.dense(torch.special.i1e(torch.linalg.qr(x)[0].mT @ x))
        return scores


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "perceptron": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3)),
        (randn(5, 6),),
    ),
    "residual": (Residual, (randn(5, 3, 6, 7),)),
    "in place": (InPlace, (randn(5, 3, 4, 4),)),
    "depthwise": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 8, 3, groups=4, stride=2), nn.ReLU6(), nn.Conv2d(8, 2, 1), nn.Flatten()
        ),
        (randn(5, 4, 7, 7),),
    ),
    "one-dimensional": (
        lambda: nn.Sequential(nn.Conv1d(2, 4, 3, dilation=2), nn.GELU(), nn.MaxPool1d(2)),
        (randn(5, 2, 12),),
    ),
    "two inputs": (TwoInputs, (randn(5, 4), randn(5, 3), randn(5, 2))),
    "tied": (Tied, (randn(5, 6),)),
    "constants": (Constants, (randn(5, 20),)),
}


@cache
def programs_of(name: str) -> tuple[nn.Module, tuple[Tensor, ...], Programs]:
    make, inputs = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = make().eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight)
                nn.init.normal_(module.bias)
    state = dict(network.state_dict())
    traced = trace(Source(state, "", module=network), inputs)
    assert traced is not None
    return network, inputs, write_programs(traced, state)


def saved(network: nn.Module, programs: Programs, path: Path) -> Path:
    spq.save({**network.state_dict(), **programs.constants}, path, programs=programs.stored)
    return path


def flat(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


@pytest.mark.parametrize("name", NETWORKS)
def test_both_programs_answer_like_the_network(name: str, tmp_path: Path) -> None:
    network, inputs, programs = programs_of(name)
    assert set(programs.stored) == {"torch", "onnx"}
    assert programs.notes == ()
    path = saved(network, programs, tmp_path / "net.spq")
    loaded, session = spq.load(path), spq.session(path)
    onnx.checker.check_model(spq.load_onnx(path), full_check=True)
    names = [value.name for value in session.get_inputs()]
    assert len(names) == len(inputs)
    for count in (5, 1, 3):  # the batch size is free
        part = tuple(tensor[:count] for tensor in inputs)
        with torch.no_grad():
            expected, answer = network(*part), loaded(*part)
        arrays = {key: value.numpy() for key, value in zip(names, part, strict=True)}
        other = session.run(None, arrays)
        assert type(answer) is type(expected)
        for wanted, torch_output, onnx_output in zip(
            flat(expected), flat(answer), other, strict=True
        ):
            assert torch.equal(torch_output, wanted)
            np.testing.assert_allclose(onnx_output, wanted.numpy(), rtol=1e-4, atol=1e-5)
    check_runtimes_agree(path.read_bytes(), Calibration(inputs, None))


def test_dicts_keep_their_order(tmp_path: Path) -> None:
    """ONNX knows outputs by their order alone."""

    class Unsorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"scores": self.dense(x), "length": x.norm(dim=1)}

    network, inputs = Unsorted().eval(), (randn(5, 4),)
    state = dict(network.state_dict())
    traced = trace(Source(state, "", module=network), inputs)
    assert traced is not None
    path = saved(network, write_programs(traced, state), tmp_path / "net.spq")
    assert list(spq.load(path)(*inputs)) == ["scores", "length"]
    check_runtimes_agree(path.read_bytes(), Calibration(inputs, None))


@pytest.mark.parametrize("name", NETWORKS)
def test_state_dicts_keep_their_names(name: str, tmp_path: Path) -> None:
    network, _, programs = programs_of(name)
    loaded = spq.load(saved(network, programs, tmp_path / "net.spq"))
    expected, state = network.state_dict(), loaded.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], value) for key, value in expected.items())


def test_programs_hold_no_weights() -> None:
    _, _, programs = programs_of("residual")
    graph = onnx.ModelProto.FromString(programs.stored["onnx"])
    assert all(np.prod(tensor.dims) < 16 for tensor in graph.graph.initializer)
    assert not graph.producer_name
    (size,) = {value.dim_param for value in graph.graph.input[0].type.tensor_type.shape.dim} - {""}
    assert size == "batch"
    assert not any(node.doc_string or node.metadata_props for node in graph.graph.node)
    for program in programs.stored.values():
        assert str(Path(__file__).parent).encode() not in program


def test_programs_are_the_same_again() -> None:
    again = programs_of.__wrapped__("residual")
    assert programs_of("residual")[2].stored == again[2].stored


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    network, _, programs = programs_of("tied")
    path = saved(network, programs, tmp_path / "net.spq")
    with spq.open(path) as archive:
        assert archive.aliases == {"encode.weight": "decode.weight"}
    loaded = spq.load(path)
    assert isinstance(loaded.encode, nn.Module)
    assert isinstance(loaded.decode, nn.Module)
    assert loaded.encode.weight is loaded.decode.weight
    state = spq.load_state_dict(path)
    assert state["encode.weight"] is state["decode.weight"]
    check_exact(path.read_bytes(), dict(network.state_dict()))


def test_tensors_outside_the_state_dict_come_along() -> None:
    network, _, programs = programs_of("constants")
    assert torch.equal(programs.constants["grid"], torch.linspace(0, 1, 20))
    assert not programs.constants.keys() & network.state_dict().keys()


def test_a_network_without_an_onnx_form_gets_a_note(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network, inputs = ComplexNumbers().eval(), (randn(3, 8, 8),)
    state = dict(network.state_dict())
    traced = trace(Source(state, "", module=network), inputs)
    assert traced is not None
    programs = write_programs(traced, state)
    assert set(programs.stored) == {"torch"}
    (note,) = programs.notes
    assert note.startswith("spq.session will not work with this file")
    assert note.isprintable()
    path = saved(network, programs, tmp_path / "net.spq")
    with torch.no_grad():
        assert torch.equal(spq.load(path)(*inputs), network(*inputs))
    with pytest.raises(SpqError) as caught:
        spq.session(path)
    assert caught.value.code == Reason.NO_PROGRAM
    assert capfd.readouterr().err == ""


def test_a_network_that_changes_its_buffers_gets_a_note() -> None:
    class Counting(nn.Module):
        count: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(4, 2)
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            scores: Tensor = self.dense(x) * self.count

            return scores

    network = Counting().eval()
    state = dict(network.state_dict())
    traced = trace(Source(state, "", module=network), (randn(3, 4),))
    assert traced is not None
    programs = write_programs(traced, state)
    assert "torch" not in programs.stored
    assert any("spq.load will need your network" in note for note in programs.notes)


def test_nothing_to_trace() -> None:
    network = nn.Linear(4, 2)
    assert trace(Source({}, ""), (randn(3, 4),)) is None
    assert trace(Source({}, "", module=network), None) is None


@pytest.mark.parametrize("inputs", [(randn(3, 5),), (), (randn(3, 4), randn(3, 4))])
def test_inputs_that_do_not_fit(
    inputs: tuple[Tensor, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SpqError) as caught:
        trace(Source({}, "", module=nn.Linear(4, 2)), inputs)
    assert caught.value.code == Reason.UNSUPPORTED_MODEL
    assert "\n" not in caught.value.message
    assert capfd.readouterr().err == ""
