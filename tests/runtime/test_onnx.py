"""The ONNX side: graphs without weights, weights put back, nothing taken from other files."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    helper,
    numpy_helper,
)

import spq
from spq import onnx_graph
from spqformat import Limits, Reason, SpqError

RANDOM = np.random.Generator(np.random.PCG64(6))
WEIGHT = RANDOM.normal(size=(6, 5)).astype("f4")
BIAS = RANDOM.normal(size=5).astype("f4")


def model_of(
    nodes: list[NodeProto],
    tensors: dict[str, NDArray[Any]],
    outputs: tuple[str, ...] = ("y",),
    **options: Any,
) -> ModelProto:
    """A model of one input `x` of six columns."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    imports = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, **options)


def dense() -> ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"], name="first", doc_string="why"),
        helper.make_node("Add", ["product", "bias"], ["y"]),
    ]
    return model_of(
        nodes, {"weight": WEIGHT, "bias": BIAS}, producer_name="somebody", doc_string="secret"
    )


def packed(graph: bytes, tensors: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    spq.save(tensors, stream, programs={"onnx": graph})
    return stream.getvalue()


def run(data: bytes, inputs: NDArray[Any]) -> list[Any]:
    outputs: list[Any] = spq.session(data).run(None, {"x": inputs})
    return outputs


def test_round_trip() -> None:
    graph, weights = onnx_graph.strip(dense(), {"bias"})
    assert set(weights) == {"weight", "bias"}
    assert len(graph) < 300
    data = packed(graph, weights)
    inputs = RANDOM.normal(size=(4, 6)).astype("f4")
    (output,) = run(data, inputs)
    np.testing.assert_allclose(output, inputs @ WEIGHT + BIAS, rtol=1e-5, atol=1e-6)
    model = spq.load_onnx(data)
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert found["weight"].tobytes() == WEIGHT.tobytes()
    assert found["bias"].tobytes() == BIAS.tobytes()


def test_small_tensors_stay_in_the_graph() -> None:
    model = dense()
    graph, weights = onnx_graph.strip(model)
    assert set(weights) == {"weight"}
    assert [tensor.name for tensor in onnx_graph.parse_graph(graph).graph.initializer] == ["bias"]
    assert len(model.graph.initializer) == 2


def test_descriptions_are_left_out() -> None:
    graph, _ = onnx_graph.strip(dense())
    for word in (b"somebody", b"secret", b"why", b"first"):
        assert word not in graph
    again = dense()
    again.producer_name = "somebody else"
    assert onnx_graph.strip(again)[0] == graph


def test_inputs_that_repeat_weights_are_left_out() -> None:
    model = dense()
    model.graph.input.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, [6, 5]))
    graph, _ = onnx_graph.strip(model)
    assert [value.name for value in onnx_graph.parse_graph(graph).graph.input] == ["x"]


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        *(("f8", TensorProto.DOUBLE), ("f4", TensorProto.FLOAT), ("f2", TensorProto.FLOAT16)),
        *(("i1", TensorProto.INT8), ("i8", TensorProto.INT64), ("u2", TensorProto.UINT16)),
        *(("u8", TensorProto.UINT64), ("?", TensorProto.BOOL)),
        (ml_dtypes.bfloat16, TensorProto.BFLOAT16),
    ],
)
def test_element_types(dtype: Any, kind: int) -> None:
    array = (np.arange(40).reshape(8, 5) % 3).astype(dtype)
    model = model_of([helper.make_node("Identity", ["w"], ["y"])], {"w": array})
    graph, weights = onnx_graph.strip(model)
    (tensor,) = spq.load_onnx(packed(graph, weights)).graph.initializer
    assert (tensor.data_type, list(tensor.dims)) == (kind, [8, 5])
    assert numpy_helper.to_array(tensor).tobytes() == array.tobytes()


def test_tied_weights() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["z"]),
        helper.make_node("MatMul", ["z", "b"], ["y"]),
    ]
    square = RANDOM.normal(size=(6, 6)).astype("f4")
    graph, _ = onnx_graph.strip(model_of(nodes, {"a": square, "b": square}))
    data = packed(graph, {"a": square, "b": square})
    with spq.open(data) as archive:
        assert dict(archive.aliases) == {"b": "a"}
    inputs = np.eye(6, dtype="f4")
    np.testing.assert_allclose(run(data, inputs)[0], square @ square, rtol=1e-4, atol=1e-5)


def test_only_what_the_graph_uses_is_bound() -> None:
    graph, weights = onnx_graph.strip(dense(), {"bias"})
    data = packed(graph, {**weights, "unused": np.zeros(9)})
    names = [tensor.name for tensor in spq.load_onnx(data).graph.initializer]
    assert names == ["bias", "weight"]


def branch(value: str) -> GraphProto:
    node = helper.make_node("Add", ["x", value], [f"{value}_sum"])
    output = helper.make_tensor_value_info(f"{value}_sum", TensorProto.FLOAT, None)
    return helper.make_graph([node], value, [], [output])


def test_weights_of_subgraphs() -> None:
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "zero"], ["positive"]),
        helper.make_node(
            "If", ["positive"], ["y"], then_branch=branch("one"), else_branch=branch("two")
        ),
    ]
    tensors = {
        "zero": np.zeros((), dtype="f4"),
        "one": np.full((4, 6), 1, dtype="f4"),
        "two": np.full((4, 6), 2, dtype="f4"),
    }
    graph, weights = onnx_graph.strip(model_of(nodes, tensors))
    assert set(weights) == {"one", "two"}
    data = packed(graph, weights)
    inputs = np.ones((4, 6), dtype="f4")
    assert (run(data, inputs)[0] == 2).all()
    assert (run(data, -inputs)[0] == 1).all()


def test_from_torch() -> None:
    import torch

    from spq import torch_program

    network = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    traced = torch_program.capture(network, (torch.zeros(2, 6),))
    graph, weights = onnx_graph.strip(onnx_graph.export(traced), set(network.state_dict()))
    assert set(network.state_dict()) <= set(weights)
    session = spq.session(packed(graph, weights))
    inputs = RANDOM.normal(size=(7, 6)).astype("f4")
    (output,) = session.run(None, {session.get_inputs()[0].name: inputs})
    with torch.inference_mode():
        expected = network(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


# --- refusals ------------------------------------------------------------------------------


def refused(data: bytes, reason: Reason = Reason.BAD_PROGRAM) -> str:
    with pytest.raises(SpqError) as caught:
        spq.session(data)
    assert caught.value.code is reason
    return caught.value.message


def test_no_program() -> None:
    stream = io.BytesIO()
    spq.save({"w": WEIGHT}, stream, programs={"torch": b"{}"})
    assert "no ONNX graph" in refused(stream.getvalue(), Reason.NO_PROGRAM)


@pytest.mark.parametrize("graph", [b"\xff" * 50, b"nonsense", b"\x0a\xff\xff\xff\xff\x0f"])
def test_what_is_no_model(graph: bytes) -> None:
    assert "not an ONNX model" in refused(packed(graph, {}))


@pytest.mark.parametrize("graph", [b"", ModelProto(ir_version=8).SerializeToString()])
def test_empty_models(graph: bytes) -> None:
    assert "ONNX Runtime refuses" in refused(packed(graph, {}))


def test_missing_tensors() -> None:
    graph, weights = onnx_graph.strip(dense(), {"bias"})
    assert "'bias'" in refused(packed(graph, {"weight": weights["weight"]}))
    assert "'weight'" in refused(packed(graph, {"bias": weights["bias"]}))


def test_tensors_of_another_shape() -> None:
    graph, weights = onnx_graph.strip(dense(), {"bias"})
    data = packed(graph, {**weights, "weight": np.zeros((5, 5, 5), dtype="f4")})
    assert "ONNX Runtime refuses" in refused(data)


def test_unknown_operators() -> None:
    model = model_of([helper.make_node("Nonsense", ["x"], ["y"])], {})
    assert "ONNX Runtime refuses" in refused(packed(model.SerializeToString(), {}))


def test_limits() -> None:
    graph, weights = onnx_graph.strip(dense(), {"bias"})
    with pytest.raises(SpqError) as caught:
        spq.session(packed(graph, weights), limits=Limits(max_decoded_bytes=100))
    assert caught.value.code is Reason.LIMIT_EXCEEDED


def test_session_options_are_passed_on() -> None:
    graph, weights = onnx_graph.strip(dense(), {"bias"})
    session = spq.session(packed(graph, weights), providers=["CPUExecutionProvider"])
    assert session.get_providers() == ["CPUExecutionProvider"]


# --- other files ---------------------------------------------------------------------------


def outside(location: str = "../../etc/passwd") -> TensorProto:
    tensor = TensorProto(name="outside", data_type=TensorProto.FLOAT, dims=[6])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def hidden(tensor: TensorProto) -> TensorProto:
    """The same without the flag that says so."""
    tensor.ClearField("data_location")
    return tensor


def with_attribute(attribute: AttributeProto) -> ModelProto:
    model = dense()
    model.graph.node[0].attribute.append(attribute)
    return model


def in_initializer(tensor: TensorProto) -> ModelProto:
    model = dense()
    model.graph.initializer.append(tensor)
    return model


def in_sparse_values(tensor: TensorProto) -> ModelProto:
    model = dense()
    model.graph.sparse_initializer.add().values.CopyFrom(tensor)
    return model


def in_sparse_indices(tensor: TensorProto) -> ModelProto:
    model = dense()
    model.graph.sparse_initializer.add().indices.CopyFrom(tensor)
    return model


def in_constant(tensor: TensorProto) -> ModelProto:
    return with_attribute(helper.make_attribute("value", tensor))


def in_constants(tensor: TensorProto) -> ModelProto:
    attribute = AttributeProto(name="values", type=AttributeProto.TENSORS)
    attribute.tensors.append(tensor)
    return with_attribute(attribute)


def in_sparse_constant(tensor: TensorProto) -> ModelProto:
    attribute = AttributeProto(name="value", type=AttributeProto.SPARSE_TENSOR)
    attribute.sparse_tensor.values.CopyFrom(tensor)
    return with_attribute(attribute)


def in_subgraph(tensor: TensorProto) -> ModelProto:
    graph = branch("one")
    graph.initializer.append(tensor)
    return with_attribute(helper.make_attribute("then_branch", graph))


def in_subgraph_of_subgraph(tensor: TensorProto) -> ModelProto:
    inner = branch("one")
    inner.node[0].attribute.append(helper.make_attribute("value", tensor))
    outer = branch("two")
    outer.node[0].attribute.append(helper.make_attribute("body", inner))
    attribute = AttributeProto(name="bodies", type=AttributeProto.GRAPHS)
    attribute.graphs.append(outer)
    return with_attribute(attribute)


def in_function(tensor: TensorProto) -> ModelProto:
    node = helper.make_node("Constant", [], ["y"])
    node.attribute.append(helper.make_attribute("value", tensor))
    model = dense()
    imports = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("own", "f", [], ["y"], [node], imports))
    return model


PLACES: list[Callable[[TensorProto], ModelProto]] = [
    in_initializer,
    in_sparse_values,
    in_sparse_indices,
    in_constant,
    in_constants,
    in_sparse_constant,
    in_subgraph,
    in_subgraph_of_subgraph,
    in_function,
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("change", [lambda tensor: tensor, hidden])
def test_external_data(
    place: Callable[[TensorProto], ModelProto], change: Callable[[TensorProto], TensorProto]
) -> None:
    model = place(change(outside()))
    tensors = {"one": np.zeros(6, dtype="f4"), "two": np.zeros(6, dtype="f4")}
    assert "'outside' refers to another file" in refused(packed(model.SerializeToString(), tensors))
    with pytest.raises(SpqError) as caught:
        onnx_graph.strip(model)
    assert caught.value.code is Reason.UNSAFE_MODEL


def test_files_beside_the_model_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "beside").write_bytes(np.ones(6, dtype="f4").tobytes())
    model = in_initializer(outside("beside"))
    path = tmp_path / "model.spq"
    spq.save({}, path, programs={"onnx": model.SerializeToString()})
    for load in (spq.load_onnx, spq.session):
        with pytest.raises(SpqError) as caught:
            load(path)
        assert caught.value.code is Reason.BAD_PROGRAM
