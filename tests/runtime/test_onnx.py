"""The ONNX side: graphs without weights, weights put back, nothing taken from other files."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
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


def test_metadata_of_the_model_stay() -> None:
    """Exporters of detectors leave the names of classes and the stride there."""
    model = dense()
    props = {"names": "{0: 'cat', 1: 'dog'}", "stride": "32"}
    helper.set_model_props(model, props)
    graph, weights = onnx_graph.strip(model, {"bias"})
    data = packed(graph, weights)
    assert spq.session(data).get_modelmeta().custom_metadata_map == props
    assert {prop.key: prop.value for prop in spq.load_onnx(data).metadata_props} == props


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

    from spqtools.reading.tracing import capture

    network = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    traced = capture(network, (torch.zeros(2, 6),))
    graph, weights = onnx_graph.strip(onnx_graph.export(traced), set(network.state_dict()))
    assert set(network.state_dict()) <= set(weights)
    session = spq.session(packed(graph, weights))
    inputs = RANDOM.normal(size=(7, 6)).astype("f4")
    (output,) = session.run(None, {session.get_inputs()[0].name: inputs})
    with torch.inference_mode():
        expected = network(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


# --- fewer bytes ---------------------------------------------------------------------------


def answers(model: ModelProto, inputs: NDArray[Any]) -> list[Any]:
    """What ONNX Runtime computes from a whole model."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    outputs: list[Any] = session.run(None, {"x": inputs})
    return outputs


def assert_same_answers(model: ModelProto, inputs: NDArray[Any]) -> ModelProto:
    """Compare a model with the one that comes back; return the stored graph."""
    graph, weights = onnx_graph.strip(model)
    expected = answers(model, inputs)
    for wanted, found in zip(expected, run(packed(graph, weights), inputs), strict=True):
        assert wanted.dtype == found.dtype
        np.testing.assert_array_equal(wanted, found)
    return onnx_graph.parse_graph(graph)


def test_defaults_are_left_out() -> None:
    kernels = RANDOM.normal(size=(4, 1, 3)).astype("f4")
    window: dict[str, Any] = {"strides": [1], "dilations": [1], "pads": [0, 0]}
    nodes = [
        helper.make_node("Unsqueeze", ["x", "one"], ["image"]),
        helper.make_node(
            "Conv", ["image", "w"], ["a"], kernel_shape=[3], auto_pad="NOTSET", group=1, **window
        ),
        helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[2], ceil_mode=0, **window),
        helper.make_node("Conv", ["b", "v"], ["y"], pads=[1, 0], group=4, strides=[2]),
    ]
    tensors = {"one": np.array([1]), "w": kernels, "v": np.ones((4, 1, 1), dtype="f4")}
    model = model_of(nodes, tensors)
    inputs = RANDOM.normal(size=(3, 6)).astype("f4")
    stored = assert_same_answers(model, inputs)
    given = [[attribute.name for attribute in node.attribute] for node in stored.graph.node]
    assert given == [[], ["kernel_shape"], ["kernel_shape"], ["group", "pads", "strides"]]


@pytest.mark.parametrize("beta", [1.0, -0.0, 0.5])
def test_other_values_stay(beta: float) -> None:
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], alpha=1.0, beta=beta, transA=0)
    model = model_of([node], {"w": WEIGHT, "b": BIAS})
    stored = assert_same_answers(model, RANDOM.normal(size=(3, 6)).astype("f4"))
    (node,) = stored.graph.node
    assert [attribute.f for attribute in node.attribute] == [beta] * (beta != 1.0)


def reshape(*sizes: str | int, **options: Any) -> ModelProto:
    """A model that reshapes to numbers and sizes: of `x`, or of another of its inputs."""
    nodes, parts, tensors = [], [], {"minus": np.array([-1]), "w": np.zeros(20, dtype="f4")}
    for index, size in enumerate(sizes):
        if isinstance(size, int):
            tensors[f"n{index}"] = np.array([size])
            parts.append(f"n{index}")
            continue
        axis = int(size[1:])
        nodes += [
            helper.make_node("Shape", [size[0]], [f"s{index}"], start=axis, end=axis + 1),
            helper.make_node("Squeeze", [f"s{index}"], [f"t{index}"]),
            helper.make_node("Reshape", [f"t{index}", "minus"], [f"u{index}"]),
        ]
        parts.append(f"u{index}")
    nodes += [
        helper.make_node("Neg", ["x"], ["v"]),
        helper.make_node("Concat", parts, ["shape"], axis=0),
        helper.make_node("Reshape", ["v", "shape"], ["y"], **options),
    ]
    return model_of(nodes, tensors)


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        (("x0", 2, 3), [-1, 2, 3]),
        ((3, "x0", 2), [3, -1, 2]),
        ((-1, 3), [-1, 3]),
        (("v0", -1), [0, -1]),
        (("v0", -1, "x0"), None),  # of which one cannot be inferred
        (("x0", -1), None),
        (("x0", "x1"), None),
        ((0, 6), None),  # means something else under `allowzero`
    ],
)
def test_sizes_that_follow_are_not_computed(
    sizes: tuple[str | int, ...], shape: list[int] | None
) -> None:
    model = reshape(*sizes)
    # The order of evaluation: sizes of `v` need it first.
    nodes = sorted(model.graph.node, key=lambda node: node.op_type != "Neg")
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    if sizes == ("v0", -1, "x0"):
        graph, _ = onnx_graph.strip(model)
        stored = onnx_graph.parse_graph(graph)
    else:
        inputs = RANDOM.normal(size=(4, 6)).astype("f4")
        stored = assert_same_answers(model, inputs)
    constants = [node for node in stored.graph.node if node.op_type == "Constant"]
    if shape is None:
        assert constants == []
        return
    assert [node.op_type for node in stored.graph.node] == ["Neg", "Constant", "Reshape"]
    assert list(constants[0].attribute[0].ints) == shape
    assert not stored.graph.initializer
    np.testing.assert_array_equal(
        answers(spq.load_onnx(packed(stored.SerializeToString(), {})), inputs)[0],
        -inputs.reshape([4 if size == 0 else size for size in shape]),
    )


def test_old_versions_have_no_lists() -> None:
    nodes = [
        helper.make_node("Concat", ["minus", "two"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    model = model_of(nodes, {"minus": np.array([-1]), "two": np.array([2])})
    model.opset_import[0].version = 11
    stored = assert_same_answers(model, RANDOM.normal(size=(3, 6)).astype("f4"))
    assert [node.op_type for node in stored.graph.node] == ["Concat", "Reshape"]


def test_zeros_are_not_added_and_identities_not_taken() -> None:
    kernels = RANDOM.normal(size=(40, 6)).astype("f4")
    nodes = [
        helper.make_node("Constant", [], ["zero"], value_float=0.0),
        helper.make_node("Shape", ["w"], ["count"], start=0, end=1),
        helper.make_node("Expand", ["zero", "count"], ["zeros"]),
        helper.make_node("Reshape", ["x", "image"], ["a"]),
        helper.make_node("Reshape", ["w", "image"], ["kernels"]),
        helper.make_node("Conv", ["a", "kernels", "zeros"], ["b"]),
        helper.make_node("Identity", ["b"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Identity", ["d"], ["y"]),
    ]
    model = model_of(nodes, {"w": kernels, "image": np.array([-1, 6, 1])})
    stored = assert_same_answers(model, RANDOM.normal(size=(3, 6)).astype("f4"))
    kinds = [node.op_type for node in stored.graph.node]
    assert kinds == ["Reshape", "Reshape", "Conv", "Relu", "Identity"]
    assert list(stored.graph.node[2].input)[2:] == []


def test_inner_names_are_short_and_others_stay() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a/very/long/name"]),
        helper.make_node("Neg", ["a/very/long/name"], ["also an output"]),
        helper.make_node("Relu", ["also an output"], ["positive"]),
        helper.make_node("ReduceMax", ["positive"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["is it"], to=TensorProto.BOOL),
        helper.make_node("If", ["is it"], ["r"], then_branch=branch("a"), else_branch=branch("b")),
        helper.make_node("Add", ["r", "positive"], ["y"]),
    ]
    # The weights have the names that come first, so that those are taken.
    tensors = {name: np.full((4, 6), number, dtype="f4") for number, name in enumerate("ab")}
    model = model_of(nodes, tensors, ("y", "also an output"))
    stored = assert_same_answers(model, RANDOM.normal(size=(4, 6)).astype("f4"))
    assert [value.name for value in stored.graph.output] == ["y", "also an output"]
    inner = [name for node in stored.graph.node for name in node.output]
    assert inner == ["c", "also an output", "d", "e", "f", "g", "y"]


def test_own_operators_stay_as_they_are() -> None:
    node = helper.make_node("Relu", ["x"], ["y"], domain="somebody", alpha=1.0)
    unused = helper.make_node("Log", ["x"], ["z"], domain="somebody")
    model = model_of([unused, node], {})
    model.opset_import.append(helper.make_opsetid("somebody", 1))
    graph, _ = onnx_graph.strip(model)
    found = onnx_graph.parse_graph(graph).graph.node
    assert [(stored.op_type, stored.domain) for stored in found] == [
        ("Log", "somebody"),
        ("Relu", "somebody"),
    ]
    assert found[1].attribute[0].f == 1.0


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


def in_default_of_function(tensor: TensorProto) -> ModelProto:
    model = in_function(TensorProto(name="inside", data_type=TensorProto.FLOAT, dims=[0]))
    model.functions[0].attribute_proto.append(helper.make_attribute("value", tensor))
    return model


def in_training(tensor: TensorProto) -> ModelProto:
    model = dense()
    model.training_info.add().initialization.initializer.append(tensor)
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
    in_default_of_function,
    in_training,
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
