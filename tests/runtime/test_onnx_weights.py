"""Weights leave a graph wherever they are: initializers, constants, subgraphs, half precision."""

import io
import sys
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf.message import EncodeError
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

import spq
from spq import onnx_graph
from spqformat import Reason, SpqError

RANDOM = np.random.Generator(np.random.PCG64(7))
INPUTS = RANDOM.normal(size=(4, 6)).astype("f4")


def matrix(seed: int, dtype: str = "f4", size: int = 6) -> NDArray[Any]:
    return np.random.default_rng(seed).normal(size=(size, size)).astype(dtype)


def constant(name: str, array: NDArray[Any], **options: str) -> NodeProto:
    value = numpy_helper.from_array(array, name)
    return helper.make_node("Constant", [], [name], value=value, **options)


def value(name: str, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, ["rows", "columns"])


def branch(
    output: str, nodes: list[NodeProto], tensors: dict[str, NDArray[Any]] | None = None
) -> GraphProto:
    found = [numpy_helper.from_array(array, name) for name, array in (tensors or {}).items()]
    return helper.make_graph(nodes, output, [], [value(output)], found)


def model_of(
    nodes: list[NodeProto],
    tensors: dict[str, NDArray[Any]],
    version: int = 17,
    ir_version: int = 8,
    kind: int = TensorProto.FLOAT,
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", kind, ["batch", 6])],
        [value("y", kind)],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    imports = [helper.make_opsetid("", version)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


def answer(session: onnxruntime.InferenceSession, inputs: NDArray[Any]) -> NDArray[Any]:
    found: NDArray[Any] = session.run(None, {"x": inputs})[0]
    return found


def round_trip(model: ModelProto, inputs: NDArray[Any] = INPUTS) -> dict[str, NDArray[Any]]:
    """Compare what comes back with the original, by every way; return the weights."""
    graph, weights = onnx_graph.strip(model)
    stream = io.BytesIO()
    spq.save(weights, stream, programs={"onnx": graph})
    data = stream.getvalue()
    expected = answer(onnxruntime.InferenceSession(model.SerializeToString()), inputs)
    sessions = [
        spq.session(data),
        spq.session(data, sess_options=onnxruntime.SessionOptions()),
        onnxruntime.InferenceSession(spq.load_onnx(data).SerializeToString()),
    ]
    for session in sessions:
        np.testing.assert_array_equal(answer(session, inputs), expected)
    checker.check_model(spq.load_onnx(data))
    return weights


def test_constants() -> None:
    nodes = [
        constant("w", matrix(1)),
        constant("few", np.ones(6, "f4")),
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "few"], ["y"]),
    ]
    weights = round_trip(model_of(nodes, {}))
    assert {name: array.tobytes() for name, array in weights.items()} == {"w": matrix(1).tobytes()}


def test_constants_that_are_outputs_stay() -> None:
    assert round_trip(model_of([constant("y", matrix(1))], {})) == {}


def condition() -> list[NodeProto]:
    return [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "zero"], ["positive"]),
    ]


@pytest.mark.parametrize("sign", [1, -1])
def test_branches_with_weights_of_one_name(sign: int) -> None:
    def multiply(output: str, nodes: list[NodeProto]) -> list[NodeProto]:
        return [*nodes, helper.make_node("MatMul", ["x", "w"], [output])]

    nodes = [
        *condition(),
        helper.make_node(
            "If",
            ["positive"],
            ["y"],
            then_branch=branch("one", multiply("one", []), {"w": matrix(1)}),
            else_branch=branch("two", multiply("two", [constant("w", matrix(2))])),
        ),
    ]
    model = model_of(nodes, {"zero": np.zeros((), "f4"), "w.1": matrix(3)})
    weights = round_trip(model, sign * np.abs(INPUTS))
    found = {name: array.tobytes() for name, array in weights.items()}
    assert sorted(found) == ["w", "w.1", "w.2"] or sorted(found) == ["w.1", "w.2", "w.3"]
    assert sorted(found.values()) == sorted(matrix(seed).tobytes() for seed in (1, 2, 3))


def test_branches_inside_branches() -> None:
    inner = helper.make_node(
        "If",
        ["positive"],
        ["inner"],
        then_branch=branch(
            "a", [constant("v", matrix(2)), helper.make_node("MatMul", ["b", "v"], ["a"])]
        ),
        else_branch=branch("c", [helper.make_node("Add", ["b", "b"], ["c"])]),
    )
    outer = [
        helper.make_node("MatMul", ["x", "u"], ["b"]),
        inner,
        helper.make_node("MatMul", ["inner", "u"], ["out"]),
    ]
    nodes = [
        *condition(),
        helper.make_node(
            "If",
            ["positive"],
            ["y"],
            then_branch=branch("out", outer, {"u": matrix(1)}),
            else_branch=branch("same", [helper.make_node("Identity", ["x"], ["same"])]),
        ),
    ]
    weights = round_trip(model_of(nodes, {"zero": np.zeros((), "f4")}), np.abs(INPUTS))
    assert sorted(weights) == ["u", "v"]


def test_weights_that_a_branch_returns_stay() -> None:
    nodes = [
        *condition(),
        helper.make_node(
            "If",
            ["positive"],
            ["y"],
            then_branch=branch("w", [], {"w": matrix(1)}),
            else_branch=branch("v", [constant("v", matrix(2))]),
        ),
    ]
    model = model_of(nodes, {"zero": np.zeros((), "f4")})
    graph, weights = onnx_graph.strip(model)
    assert weights == {}
    assert onnx_graph.parse_graph(graph).graph.node


def test_a_loop() -> None:
    body = helper.make_graph(
        [
            constant("w", matrix(1)),
            helper.make_node("MatMul", ["state", "w"], ["next"]),
            helper.make_node("Identity", ["going"], ["going_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, ["batch", 6]),
        ],
        [
            helper.make_tensor_value_info("going_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, ["batch", 6]),
        ],
    )
    nodes = [helper.make_node("Loop", ["times", "", "x"], ["y"], body=body)]
    assert set(round_trip(model_of(nodes, {"times": np.array(3)}))) == {"w"}


def test_half_precision() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = model_of(nodes, {"w": matrix(1, "f2")}, kind=TensorProto.FLOAT16)
    assert round_trip(model, INPUTS.astype("f2"))["w"].dtype == np.float16


def test_shared_weights() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["y"]),
    ]
    assert set(round_trip(model_of(nodes, {"w": matrix(1, size=6)}))) == {"w"}


@pytest.mark.parametrize("version", [11, 13, 17, 21])
def test_large_weights_of_every_version(version: int) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Reshape", ["a", "shape"], ["b"]),
        helper.make_node("Gather", ["b", "order"], ["y"], axis=1),
    ]
    tensors = {
        "w": np.random.default_rng(1).normal(size=(6, 2000)).astype("f4"),
        "shape": np.array([-1, 2000]),
        "order": np.arange(2000)[::-1].copy(),
    }
    assert set(round_trip(model_of(nodes, tensors, version))) == {"w", "order"}


def test_old_models_repeat_their_weights_among_the_inputs() -> None:
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": matrix(1)}, 8, 3)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [6, 6]))
    assert set(round_trip(model)) == {"w"}


def test_types_that_no_file_holds_stay() -> None:
    tensors = {"w": matrix(1), "words": np.array(["a"] * 30, dtype=object)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Identity", ["words"], ["z"]),
    ]
    model = model_of(nodes, tensors)
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.STRING, [30]))
    assert set(onnx_graph.strip(model)[1]) == {"w"}


def test_sessions_live_without_their_file() -> None:
    weight = np.random.default_rng(1).normal(size=(6, 5000)).astype("f4")
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight})
    graph, weights = onnx_graph.strip(model)
    stream = io.BytesIO()
    spq.save(weights, stream, programs={"onnx": graph})
    session = spq.session(stream.getvalue())
    del weights, stream
    # Whatever was freed is written over.
    junk = [np.full((6, 5000), np.nan, "f4") for _ in range(20)]
    np.testing.assert_allclose(answer(session, INPUTS), INPUTS @ weight, rtol=1e-4, atol=1e-4)
    assert len(junk) == 20


def test_options_serve_several_sessions() -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for seed in range(3):
        weight = np.random.default_rng(seed).normal(size=(6, 5000)).astype("f4")
        graph, weights = onnx_graph.strip(
            model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight})
        )
        stream = io.BytesIO()
        spq.save(weights, stream, programs={"onnx": graph})
        session = spq.session(stream.getvalue(), sess_options=options)
        np.testing.assert_allclose(answer(session, INPUTS), INPUTS @ weight, rtol=1e-4, atol=1e-4)


def test_more_than_a_model_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """What protobuf says of more than 2 GiB, without taking them."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph, weights = onnx_graph.strip(model_of(nodes, {"w": matrix(1, size=6)}))
    stream = io.BytesIO()
    spq.save(weights, stream, programs={"onnx": graph})

    class Large:
        def SerializeToString(self, **_: object) -> bytes:
            raise EncodeError

    monkeypatch.setattr(sys.modules["spq.session"], "bind", lambda *_: Large())
    with pytest.raises(SpqError, match="without sess_options") as caught:
        spq.session(stream.getvalue(), sess_options=onnxruntime.SessionOptions())
    assert caught.value.code is Reason.LIMIT_EXCEEDED
