"""Networks that change values in place are traced as if they did not."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from spq import torch_program
from spq.torch_program_writer import encode
from spqformat import Reason, SpqError
from spqtools.evolve.effort import EFFORTS
from spqtools.evolve.search import Evolution
from spqtools.reading.ingest import Source
from spqtools.reading.programs import trace, write_programs
from spqtools.reading.pt2 import read_pt2
from spqtools.reading.teacher import find_teacher
from spqtools.reading.tracing import capture, functional, keeps_state
from tests.runtime.test_torch_program import Counting


class Block(nn.Module):
    """A residual block as torchvision writes them, in place or not."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.first = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.shortcut = nn.Conv2d(2, 4, 1)
        self.relu = nn.ReLU(inplace=in_place)
        self.last = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.norm(self.first(inputs))
        shortcut = self.shortcut(inputs)
        if self.in_place:
            outputs += shortcut
        else:
            outputs = outputs + shortcut
        result: Tensor = self.last(self.relu(outputs).mean((2, 3)))
        return result


class EndsWithNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.norm(self.relu(self.linear(inputs)))
        return result


def blocks() -> tuple[Block, Block, Tensor]:
    """The same block twice, in place and not, with statistics that are not those of a new norm."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        in_place, plain = Block(in_place=True), Block(in_place=False)
        inputs = torch.randn(24, 2, 5, 5)
        in_place(inputs)
    plain.load_state_dict(in_place.state_dict())
    return in_place.eval(), plain.eval(), inputs


def operations(program: ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def test_in_place_is_traced_like_plain() -> None:
    in_place, plain, inputs = blocks()
    traced = capture(in_place, (inputs,))
    found, wanted = operations(traced), operations(capture(plain, (inputs,)))
    assert [name for name in found if "sym_" not in name] == [
        name for name in wanted if "sym_" not in name
    ]
    torch.testing.assert_close(traced.module()(inputs[:7]), plain(inputs[:7]))


def test_in_place_network_is_stored() -> None:
    in_place, plain, inputs = blocks()
    loaded = torch_program.decode(*encode(capture(in_place, (inputs,))))
    torch.testing.assert_close(loaded(inputs), plain(inputs))


def test_search_gives_what_it_gives_without_in_place() -> None:
    """Values that a search keeps would change under its hands."""
    in_place, plain, inputs = blocks()
    students = []
    for network in (in_place, plain):
        graph = capture(network, (inputs,)).module()
        assert isinstance(graph, torch.fx.GraphModule)
        search = Evolution(graph, [inputs], 0, EFFORTS["default"])
        students.append(search.cycle(search.start(), 0.5, 0))
    for name, tensor in students[0].tensors.items():
        torch.testing.assert_close(tensor, students[1].tensors[name])


def test_norm_is_what_the_network_returns() -> None:
    network, inputs = EndsWithNorm().eval(), torch.randn(4, 3)
    traced = capture(network, (inputs,))
    assert operations(traced)[-1] == "aten.batch_norm.default"
    loaded = torch_program.decode(*encode(traced))
    torch.testing.assert_close(loaded(inputs), network(inputs))
    torch.testing.assert_close(traced.module()(inputs), network(inputs))


def test_functional_network_stays_as_it_is() -> None:
    traced = capture(blocks()[1], (torch.zeros(2, 2, 5, 5),))
    assert functional(traced) is traced
    assert not keeps_state(traced)


def test_network_that_was_traced_elsewhere(tmp_path: Path) -> None:
    in_place, plain, inputs = blocks()
    torch.export.save(torch.export.export(in_place, (inputs,)), tmp_path / "net.pt2")
    traced = trace(Source({}, "", exported=read_pt2(tmp_path / "net.pt2")), None)
    assert traced is not None
    assert {"torch", "onnx"} == write_programs(traced, plain.state_dict()).stored.keys()
    torch.testing.assert_close(traced.module()(inputs), plain(inputs))


def test_network_that_keeps_a_state_is_not_searched() -> None:
    network, inputs = Counting(), (torch.zeros(2, 3),)
    traced = capture(network, inputs)
    assert keeps_state(traced)
    with pytest.raises(SpqError, match="leave out --calib") as caught:
        find_teacher(Source({}, "", module=network), traced, inputs)
    assert caught.value.code is Reason.UNSUPPORTED_MODEL
