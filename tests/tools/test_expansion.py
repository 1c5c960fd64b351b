"""Weights that standard operators expand are the same bits, in fewer bytes."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

import spq
from spq import onnx_graph
from spqtools.cli import main
from spqtools.expansion import shrink

OPTIMISATIONS = [
    onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
]


def draw(shape: tuple[int, ...], level_count: int, zeros: float, seed: int = 1) -> NDArray[Any]:
    """Weights with this fraction of zeros and so many other levels, as float64."""
    random = np.random.Generator(np.random.PCG64(seed))
    levels = random.integers(1, level_count + 1, shape) / 4 - 4.125
    return np.where(random.random(shape) < zeros, 0.0, levels)


def model_of(
    tensors: dict[str, NDArray[Any]],
    *,
    opset: int = 17,
    nodes: Iterable[NodeProto] = (),
    outputs: dict[str, tuple[int, ...]] | None = None,
) -> ModelProto:
    """A model that returns each tensor as it is, in float32 if NumPy does not know its kind."""
    returned: list[NodeProto] = []
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (outputs or {}).items()
    ]
    for name, array in tensors.items():
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        if kind == TensorProto.BFLOAT16:
            kind = TensorProto.FLOAT
            returned.append(helper.make_node("Cast", [name], [f"{name}_out"], to=kind))
        else:
            returned.append(helper.make_node("Identity", [name], [f"{name}_out"]))
        values.append(helper.make_tensor_value_info(f"{name}_out", kind, array.shape))
    graph = helper.make_graph(
        [*nodes, *returned],
        "graph",
        [],
        values,
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10 if opset > 20 else 8,
    )


def shrunk(model: ModelProto) -> ModelProto:
    """A smaller copy, which the checker accepts."""
    small = ModelProto()
    small.CopyFrom(model)
    shrink(small)
    onnx.checker.check_model(small, full_check=True)
    assert small.ByteSize() <= model.ByteSize()
    assert small.opset_import == model.opset_import
    return small


def run(model: ModelProto, optimisation: Any) -> dict[str, NDArray[Any]]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = optimisation
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, {}), strict=True))


def assert_exact(model: ModelProto, tensors: dict[str, NDArray[Any]]) -> None:
    """Compare the weights that the model returns, bit for bit."""
    for optimisation in OPTIMISATIONS:
        found = run(model, optimisation)
        for name, array in tensors.items():
            wanted = array.astype("f4") if array.dtype == ml_dtypes.bfloat16 else array
            assert found[f"{name}_out"].dtype == wanted.dtype
            assert found[f"{name}_out"].shape == wanted.shape
            assert found[f"{name}_out"].tobytes() == wanted.tobytes()


def layout(model: ModelProto, name: str = "w") -> str:
    """How the nodes of a model of one weight expand it."""
    if any(tensor.name == name for tensor in model.graph.initializer):
        return "initializer"
    operators = {node.op_type for node in model.graph.node}
    if "ScatterElements" in operators:
        return "sparse"
    return "dense" if "Gather" in operators else "single"


@pytest.mark.parametrize("opset", [11, 13, 17, 21, 23])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    ("level_count", "zeros", "expected"),
    [
        *((16, 0.9, "sparse"), (1, 0.97, "sparse"), (16, 0.0, "dense"), (15, 0.1, "dense")),
        *((1, 0.0, "single"), (1, 1.0, "single")),
    ],
)
def test_same_bits(opset: int, dtype: Any, level_count: int, zeros: float, expected: str) -> None:
    tensors = {"w": draw((30, 80), level_count, zeros).astype(dtype)}
    model = model_of(tensors, opset=opset)
    if dtype == ml_dtypes.bfloat16 and opset < 20:
        shrink(model)
        assert layout(model) == "initializer"
        return
    small = shrunk(model)
    assert layout(small) == expected
    assert_exact(small, tensors)


@pytest.mark.parametrize("shape", [(2000,), (50, 40), (10, 8, 25), (4, 5, 10, 10)])
@pytest.mark.parametrize("zeros", [0.0, 0.8, 1.0])
def test_ranks(shape: tuple[int, ...], zeros: float) -> None:
    tensors = {"w": draw(shape, 8, zeros).astype("f4")}
    small = shrunk(model_of(tensors))
    assert layout(small) != "initializer"
    assert_exact(small, tensors)


@pytest.mark.parametrize("shape", [(), (1,), (10,), (1, 1, 1, 1), (0,), (3, 0)])
def test_small_tensors_stay(shape: tuple[int, ...]) -> None:
    tensors = {"w": np.zeros(shape, dtype="f4")}
    model = model_of(tensors)
    small = shrunk(model)
    assert small == model
    assert_exact(small, tensors)


@pytest.mark.parametrize("level_count", [1, 2, 3, 16])
@pytest.mark.parametrize("zeros", [0.2, 0.95])
def test_never_larger(level_count: int, zeros: float) -> None:
    taken = []
    for size in range(8, 500, 6):
        tensors = {"w": draw((size,), level_count, zeros, size).astype("f4")}
        taken.append(layout(shrunk(model_of(tensors))) != "initializer")
    assert not taken[0]
    assert taken[-1]


def test_level_counts() -> None:
    tensors = {
        f"w{level_count}": (np.arange(3000) % level_count).astype("f4").reshape(50, 60)
        for level_count in (2, 3, 4, 5, 16, 17, 128, 129, 255, 256, 257)
    }
    small = shrunk(model_of(tensors))
    assert [tensor.name for tensor in small.graph.initializer if tensor.name in tensors] == ["w257"]
    assert_exact(small, tensors)


@pytest.mark.parametrize(
    ("dtype", "nan"), [("f2", 0x7E01), ("f4", 0xFFC12345), ("f8", 0x7FF8 << 48)]
)
@pytest.mark.parametrize("zeros", [0.0, 0.9])
def test_patterns(dtype: str, nan: int, zeros: float) -> None:
    array = draw((60, 50), 5, zeros).astype(dtype)
    array[3] = -0.0
    array[5, ::7] = np.inf
    bits = array.view(f"u{array.itemsize}")
    bits[7] = nan
    bits[9, ::5] = nan + 1
    bits[11, :3] = 1  # subnormal
    small = shrunk(model_of({"w": array}))
    assert layout(small) == ("sparse" if zeros else "dense")
    assert_exact(small, {"w": array})


@pytest.mark.parametrize("value", [-0.5, -0.0, np.nan])
@pytest.mark.parametrize("others", [0, 9])
def test_most_frequent_value_need_not_be_zero(value: float, others: int) -> None:
    array = -draw((60, 50), 9, 0.9 if others else 1.0).astype("f4")
    array[array == 0] = value  # of higher bits than the others, which are positive
    small = shrunk(model_of({"w": array}))
    assert layout(small) == ("sparse" if others else "single")
    assert_exact(small, {"w": array})


@pytest.mark.parametrize(
    "positions",
    [
        [0],
        [1],
        [299_999],
        [0, 299_999],
        [0, 1, 2, 3, 299_997, 299_998, 299_999],
        [5, 6, 70_000, 70_255, 70_256, 70_512, 70_769, 136_305, 136_306, 201_843],
        list(range(0, 300_000, 257)),
        np.unique(np.geomspace(1, 299_999, 900).astype(int)).tolist(),
    ],
)
def test_gaps_of_any_length(positions: list[int]) -> None:
    array = np.zeros(300_000, dtype="f4")
    array[positions] = 1 + np.arange(len(positions)) % 3
    small = shrunk(model_of({"w": array}))
    assert layout(small) == "sparse"
    assert_exact(small, {"w": array})


def test_sparse_size() -> None:
    array = draw((300, 400), 16, 0.9).astype("f4")
    small = shrunk(model_of({"w": array}))
    # With a reach of 15, symbols of 17 levels are below 255: four in a word of 32 bits. Each weight
    # takes one, and one more for the bridge where 15 zeros or more are before it.
    symbols = np.count_nonzero(array) * (1 + 0.9**15)
    codebook_and_nodes = 17 * 4 + 800
    assert small.ByteSize() < 1.02 * symbols + codebook_and_nodes
    assert small.ByteSize() < array.nbytes / 30
    assert_exact(small, {"w": array})


@pytest.mark.parametrize(("level_count", "bits"), [(2, 1), (4, 2), (16, 4), (256, 8), (3, 1.6)])
def test_dense_size(level_count: int, bits: float) -> None:
    random = np.random.Generator(np.random.PCG64(2))
    array = random.integers(0, level_count, (300, 400)).astype("f4")
    small = shrunk(model_of({"w": array}))
    assert layout(small) == "dense"
    assert small.ByteSize() < array.size * bits / 8 + level_count * 4 + 800


def test_equal_tensors_are_stored_once() -> None:
    array = draw((100, 100), 16, 0.5).astype("f4")
    one = shrunk(model_of({"v": array})).ByteSize()
    tensors = {"v": array, "w": array}
    small = shrunk(model_of(tensors))
    assert small.ByteSize() < one + 700
    assert_exact(small, tensors)


def test_runtime_expands_once(tmp_path: Path) -> None:
    tensors = {"v": draw((40, 50), 16, 0.9).astype("f4"), "w": draw((40, 50), 9, 0.0).astype("f4")}
    small = shrunk(model_of(tensors))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(small.SerializeToString(), options)
    left = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert set(left) <= {"Identity"}


# --- graphs --------------------------------------------------------------------------------


def test_inputs_stay() -> None:
    tensors = {"v": draw((40, 50), 4, 0.9).astype("f4"), "w": draw((40, 50), 4, 0.5).astype("f4")}
    model = model_of(tensors)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [40, 50]))
    small = shrunk(model)
    assert layout(small, "w") == "initializer"
    assert layout(small, "v") != "initializer"
    assert_exact(small, tensors)


def branch(name: str, inner: NDArray[Any]) -> GraphProto:
    """A graph that adds a weight of its own to one from outside."""
    node = helper.make_node("Add", [name, "a"], ["b"])
    output = helper.make_tensor_value_info("b", TensorProto.FLOAT, inner.shape)
    return helper.make_graph([node], name, [], [output], [numpy_helper.from_array(inner, "a")])


@pytest.mark.parametrize("positive", [True, False])
def test_subgraphs_and_names(positive: bool) -> None:
    inner = np.ones((40, 50), dtype="f4")
    nodes = [
        helper.make_node(
            "If", ["c"], ["d"], then_branch=branch("v", inner), else_branch=branch("w", inner)
        ),
        helper.make_node("Abs", ["d"], ["e"]),
    ]
    tensors = {
        # The dense layout comes first and would take the first names.
        "v": draw((40, 50), 16, 0.0, 3).astype("f4"),
        "w": draw((40, 50), 16, 0.9, 4).astype("f4"),
        "c": np.array(positive),
    }
    model = model_of(tensors, nodes=nodes, outputs={"d": inner.shape, "e": inner.shape})
    model.graph.value_info.append(helper.make_tensor_value_info("f", TensorProto.FLOAT, [1]))
    values = numpy_helper.from_array(np.ones(1, dtype="f4"), "g")
    indices = numpy_helper.from_array(np.zeros(1, dtype="i8"), "")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3]))
    small = shrunk(model)
    branches = [
        attribute.g
        for node in small.graph.node
        for attribute in node.attribute
        if node.op_type == "If"
    ]
    assert [graph.initializer[0].raw_data for graph in branches] == [inner.tobytes()] * 2
    new = [node.output[0] for node in small.graph.node[: -len(model.graph.node)]]
    new += [tensor.name for tensor in small.graph.initializer]
    assert len(new) == len(set(new))
    assert set(new) & set("abcdefg") == {"c"}
    assert_exact(small, tensors)
    expected = tensors["v" if positive else "w"] + inner
    for optimisation in OPTIMISATIONS:
        found = run(small, optimisation)
        assert found["d"].tobytes() == expected.tobytes()
        assert found["e"].tobytes() == np.abs(expected).tobytes()


@pytest.mark.parametrize("opset", [10, 17])
def test_operators_that_mean_something_else(opset: int) -> None:
    model = model_of({"w": np.zeros((30, 40), dtype="f4")}, opset=opset)
    if opset == 17:
        imports = [helper.make_opsetid("", 17)]
        node = helper.make_node("Neg", ["x"], ["y"])
        model.functions.append(helper.make_function("", "Gather", ["x"], ["y"], [node], imports))
    before = model.SerializeToString()
    shrink(model)
    assert model.SerializeToString() == before


def test_domain_by_its_long_name() -> None:
    model = model_of({"w": np.zeros((30, 40), dtype="f4")})
    model.opset_import[0].domain = "ai.onnx"
    assert layout(shrunk(model)) == "single"


@pytest.mark.parametrize("damage", ["shape", "fields", "kind"])
def test_tensors_without_readable_bytes_stay(damage: str) -> None:
    model = model_of({"w": np.zeros((30, 40), dtype="f4")})
    (tensor,) = model.graph.initializer
    if damage == "shape":
        tensor.dims[0] = 31
    elif damage == "fields":
        tensor.float_data.extend([0.0] * 1200)
        tensor.ClearField("raw_data")
    else:
        tensor.data_type = TensorProto.INT32
    before = model.SerializeToString()
    shrink(model)
    assert model.SerializeToString() == before


# --- the command ---------------------------------------------------------------------------


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A packed network of two layers."""
    nodes = [
        helper.make_node("Gemm", ["x", "first", "bias"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "second"], ["y"]),
    ]
    tensors = {
        "first": draw((64, 80), 16, 0.9, 5).astype("f4"),
        "bias": np.linspace(-1, 1, 80, dtype="f4"),
        "second": draw((80, 70), 14, 0.0, 6).astype("f4"),
    }
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 70])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    imports = [helper.make_opsetid("", 17)]
    stripped, weights = onnx_graph.strip(
        helper.make_model(graph, opset_imports=imports, ir_version=8)
    )
    path = tmp_path / "net.spq"
    spq.save(weights, path, programs={"onnx": stripped})
    return path


def test_export(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full, small = packed.with_name("full.onnx"), packed.with_name("small.onnx")
    assert main(["export", str(packed), "-o", str(full)]) == 0
    assert main(["export", str(packed), "-o", str(small), "--compact"]) == 0
    assert f"{small.stat().st_size:,} bytes written" in capsys.readouterr().out.splitlines()[1]
    assert small.stat().st_size < full.stat().st_size / 5
    onnx.checker.check_model(str(small), full_check=True)
    inputs = np.random.Generator(np.random.PCG64(7)).random((9, 64), dtype="f4")
    outputs = [
        onnxruntime.InferenceSession(path).run(None, {"x": inputs})[0] for path in (full, small)
    ]
    assert outputs[0].tobytes() == outputs[1].tobytes()
    names = {value.name for value in onnx.load(small).graph.input}
    assert names == {"x"}
    again = packed.with_name("again.onnx")
    assert main(["export", str(packed), "-o", str(again), "--compact"]) == 0
    assert again.read_bytes() == small.read_bytes()


def test_export_without_a_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "weights.spq", tmp_path / "out.onnx"
    spq.save({"w": np.zeros((30, 40), dtype="f4")}, source)
    assert main(["export", str(source), "-o", str(output), "--compact"]) == 2
    printed, error = capsys.readouterr()
    assert printed == ""
    assert error.startswith("spq: ")
    assert error.count("\n") == 1
    assert "no_program" in error
    assert not output.exists()
