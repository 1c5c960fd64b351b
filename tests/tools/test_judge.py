"""A packed file is judged by what comes out of it when it is loaded."""

import io
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

import spq
from spqformat import Reason, SpqError
from spqtools.content import check_exact
from spqtools.judge import accuracy_of_packed, check_runtimes_agree
from spqtools.reading.calibration import Calibration
from spqtools.reading.ingest import Source
from spqtools.reading.programs import Programs, trace, write_programs

INPUTS = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).eval()


@pytest.fixture(scope="module")
def source(network: nn.Module) -> Source:
    return Source(dict(network.state_dict()), "", module=network)


@pytest.fixture(scope="module")
def traced(source: Source) -> ExportedProgram:
    program = trace(source, (INPUTS,))
    assert program is not None
    return program


@pytest.fixture(scope="module")
def programs(source: Source, traced: ExportedProgram) -> Programs:
    return write_programs(traced, source.tensors)


@pytest.fixture(scope="module")
def calibration(network: nn.Module) -> Calibration:
    """Labels that the network gets right."""
    with torch.no_grad():
        return Calibration((INPUTS,), network(INPUTS).argmax(1))


def pack(tensors: dict[str, Tensor], programs: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    spq.save(tensors, stream, programs=programs)
    return stream.getvalue()


def test_programs_that_agree(source: Source, programs: Programs, calibration: Calibration) -> None:
    check_runtimes_agree(pack(source.tensors, programs.stored), calibration)


def wrong_operator(graph: onnx.ModelProto) -> None:
    (relu,) = (node for node in graph.graph.node if node.op_type == "Relu")
    relu.op_type = "Tanh"


def wrong_shape(graph: onnx.ModelProto) -> None:
    """Answers of the right numbers in another shape."""
    name = graph.graph.output[0].name
    last = graph.graph.node[-1]
    last.output[0] = "before"
    graph.graph.node.append(onnx.helper.make_node("Transpose", ["before"], [name], perm=[1, 0]))
    del graph.graph.output[0].type.tensor_type.shape.dim[:]
    graph.graph.output[0].type.tensor_type.ClearField("shape")


@pytest.mark.parametrize("damage", [wrong_operator, wrong_shape])
def test_programs_that_disagree(
    source: Source,
    programs: Programs,
    calibration: Calibration,
    damage: Callable[[onnx.ModelProto], None],
) -> None:
    graph = onnx.ModelProto.FromString(programs.stored["onnx"])
    damage(graph)
    wrong = {**programs.stored, "onnx": graph.SerializeToString()}
    with pytest.raises(SpqError) as caught:
        check_runtimes_agree(pack(source.tensors, wrong), calibration)
    assert caught.value.code == Reason.SELF_CHECK_FAILED
    assert "answer differently" in caught.value.message


def test_a_graph_that_does_not_run(
    source: Source, programs: Programs, calibration: Calibration
) -> None:
    graph = onnx.ModelProto.FromString(programs.stored["onnx"])
    name = graph.graph.output[0].name
    graph.graph.node[-1].output[0] = "before"
    shape = onnx.numpy_helper.from_array(np.array([7, 11]), "shape")
    graph.graph.initializer.append(shape)
    graph.graph.node.append(onnx.helper.make_node("Reshape", ["before", "shape"], [name]))
    graph.graph.output[0].type.tensor_type.ClearField("shape")
    wrong = {**programs.stored, "onnx": graph.SerializeToString()}
    with pytest.raises(SpqError) as caught:
        check_runtimes_agree(pack(source.tensors, wrong), calibration)
    assert caught.value.code == Reason.SELF_CHECK_FAILED


def test_fewer_outputs(source: Source, programs: Programs, calibration: Calibration) -> None:
    graph = onnx.ModelProto.FromString(programs.stored["onnx"])
    graph.graph.output.append(graph.graph.output[0])
    graph.graph.node.append(
        onnx.helper.make_node("Identity", [graph.graph.output[0].name], ["more"])
    )
    graph.graph.output[1].name = "more"
    wrong = {**programs.stored, "onnx": graph.SerializeToString()}
    with pytest.raises(SpqError, match="answer differently"):
        check_runtimes_agree(pack(source.tensors, wrong), calibration)


def test_small_differences_are_rounding(
    source: Source, programs: Programs, calibration: Calibration, traced: ExportedProgram
) -> None:
    """Weights inside the graph that differ a little, then a lot."""
    for factor, agrees in ((1 + 1e-5, True), (1.05, False)):
        graph = onnx.ModelProto.FromString(programs.stored["onnx"])
        scaled = (source.tensors["2.weight"] * factor).numpy()
        graph.graph.initializer.append(onnx.numpy_helper.from_array(scaled, "2.weight"))
        packed = pack(source.tensors, {**programs.stored, "onnx": graph.SerializeToString()})
        if agrees:
            check_runtimes_agree(packed, calibration)
        else:
            with pytest.raises(SpqError, match="answer differently"):
                check_runtimes_agree(packed, calibration)


# Accuracy


@pytest.mark.parametrize("with_program", [True, False])
def test_accuracy_is_that_of_the_loaded_file(
    source: Source,
    programs: Programs,
    traced: ExportedProgram,
    calibration: Calibration,
    with_program: bool,
) -> None:
    """A file with other weights than the network's gets its own figure."""
    changed = {**source.tensors, "2.weight": -source.tensors["2.weight"]}
    packed = pack(changed, programs.stored if with_program else {})
    accuracy = accuracy_of_packed(packed, source, traced, calibration)
    assert accuracy is not None
    assert accuracy.before == 100.0
    assert accuracy.samples == 10
    with torch.no_grad():
        answers = spq.load(packed, None if with_program else nn.Sequential(*_fresh()))(INPUTS)
    assert calibration.labels is not None
    right = answers.argmax(1)[-10:] == calibration.labels[-10:]
    assert accuracy.after == 100 * int(right.sum()) / 10
    assert accuracy.after < 90
    assert "held out" in accuracy.data
    assert source.module is not None
    with torch.no_grad():
        assert torch.equal(source.module(INPUTS).argmax(1), calibration.labels)


def _fresh() -> list[nn.Module]:
    return [nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)]


def test_accuracy_of_the_same_weights(
    source: Source, programs: Programs, traced: ExportedProgram, calibration: Calibration
) -> None:
    packed = pack(source.tensors, programs.stored)
    accuracy = accuracy_of_packed(packed, source, traced, calibration)
    assert accuracy is not None
    assert (accuracy.before, accuracy.after) == (100.0, 100.0)


def test_no_accuracy_without_labels_or_network(
    source: Source, programs: Programs, traced: ExportedProgram, calibration: Calibration
) -> None:
    packed = pack(source.tensors, programs.stored)
    unlabelled = Calibration(calibration.inputs, None)
    assert accuracy_of_packed(packed, source, traced, unlabelled) is None
    bare = Source(source.tensors, "", exported=traced)
    assert accuracy_of_packed(pack(source.tensors, {}), bare, traced, calibration) is None
    exported = accuracy_of_packed(packed, bare, traced, calibration)
    assert exported is not None
    assert exported.before == 100.0


def test_no_accuracy_of_what_is_no_classifier() -> None:
    network = nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Linear(3, 3)).eval()
    source = Source(dict(network.state_dict()), "", module=network)
    traced = trace(source, (INPUTS,))
    assert traced is not None
    packed = pack(source.tensors, write_programs(traced, source.tensors).stored)
    labels = torch.zeros(len(INPUTS), dtype=torch.int64)
    assert accuracy_of_packed(packed, source, traced, Calibration((INPUTS,), labels)) is None


# Exactness


def test_check_exact(source: Source) -> None:
    packed = pack(source.tensors, {})
    check_exact(packed, source.tensors)
    other = {**source.tensors, "0.bias": source.tensors["0.bias"].clone()}
    check_exact(packed, other)
    other["0.bias"][3] += 1e-6
    fewer = dict(list(source.tensors.items())[1:])
    reshaped = {**source.tensors, "0.bias": source.tensors["0.bias"].reshape(4, 4)}
    for wrong in (other, fewer, {**source.tensors, "more": INPUTS}, reshaped):
        with pytest.raises(SpqError) as caught:
            check_exact(packed, wrong)
        assert caught.value.code == Reason.SELF_CHECK_FAILED
