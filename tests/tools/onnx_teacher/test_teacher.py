"""An ONNX model becomes a graph that the search can run, and its tensors find their way back."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from spq.onnx_graph import bind, export, strip
from spqformat import Reason, SpqError
from spqtools.evolve.student import Student
from spqtools.onnx_teacher.check import check_teacher
from spqtools.onnx_teacher.teacher import OnnxTeacher, read_teacher
from spqtools.silence import silence
from tests.resnets import resnet_20

_ATEN = torch.ops.aten
Arrays = dict[str, NDArray[Any]]
Shapes = dict[str, tuple[int, ...]]


class Cnn(nn.Module):
    """Convolutions with norms of enough and of too few channels, a depthwise one, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.first_norm = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 32, 3, 2, 1, bias=False)
        self.deep_norm = nn.BatchNorm2d(32)
        self.each = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.each_norm = nn.BatchNorm2d(32)
        self.last = nn.Linear(32, 40)

    def forward(self, images: Tensor) -> Tensor:
        seen = torch.relu(self.first_norm(self.first(images)))
        seen = nn.functional.silu(self.deep_norm(self.deep(seen)))
        seen = seen + self.each_norm(self.each(seen))
        scores: Tensor = self.last(seen.mean((2, 3)))
        return scores.softmax(1)


class Encoder(nn.Module):
    """Tokens to embeddings by one transformer layer; ends with a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu")

    def forward(self, tokens: Tensor) -> Tensor:
        embedded: Tensor = self.layer(self.words(tokens))
        return embedded


class Windows(nn.Module):
    """Splits maps by sizes that are known at run time alone, as vision transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, 4)
        self.mix = nn.Linear(32, 96)
        self.out = nn.Linear(32, 32)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.patches(images)
        samples, channels, height, width = maps.shape
        tokens = maps.flatten(2).transpose(1, 2)
        query, key, value = self.mix(tokens).reshape(samples, -1, 3, 4, 8).permute(2, 0, 3, 1, 4)
        seen = (query @ key.transpose(-1, -2) / 8**0.5).softmax(-1) @ value
        seen = self.out(seen.transpose(1, 2).reshape(samples, height * width, channels))
        scale = torch.arange(height * width, device=seen.device).to(seen.dtype)
        scaled: Tensor = seen * scale[:, None]
        return scaled.transpose(1, 2).reshape(maps.shape)


class Detector(nn.Module):
    """Split blocks, pooled pyramids, two scales, and boxes decoded from distributions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32))
        self.split = nn.Conv2d(32, 32, 1)
        self.inner = nn.Conv2d(16, 16, 3, padding=1)
        self.joined = nn.Conv2d(48, 32, 1)
        self.down = nn.Conv2d(32, 32, 3, 2, 1)
        self.pyramid = nn.Conv2d(128, 32, 1)
        self.boxes = nn.ModuleList(nn.Conv2d(width, 64, 1) for width in (64, 32))
        self.classes = nn.ModuleList(nn.Conv2d(width, 1, 1) for width in (64, 64))
        self.before = nn.Conv2d(32, 64, 3, padding=1)
        self.expectation = nn.Conv2d(16, 1, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        silu, pool = nn.functional.silu, nn.functional.max_pool2d
        halves = silu(self.split(silu(self.stem(images)))).chunk(2, 1)
        fine = silu(self.joined(torch.cat([*halves, halves[1] + self.inner(halves[1])], 1)))
        pooled = [silu(self.down(fine))]
        for _ in range(3):
            pooled.append(pool(pooled[-1], 5, 1, 2))
        coarse = silu(self.pyramid(torch.cat(pooled, 1)))
        up = nn.functional.interpolate(coarse, scale_factor=2.0, mode="nearest")
        merged = torch.cat([fine, up], 1)
        boxes = [
            box(maps).flatten(2) for box, maps in zip(self.boxes, (merged, coarse), strict=True)
        ]
        scored = (merged, silu(self.before(coarse)))
        scores = [one(maps).flatten(2) for one, maps in zip(self.classes, scored, strict=True)]
        sides = torch.cat(boxes, 2)
        shares = sides.view(images.shape[0], 4, 16, -1).transpose(1, 2).softmax(1)
        distances = self.expectation(shares).view(images.shape[0], 4, -1)
        return torch.cat([distances, torch.cat(scores, 2).sigmoid()], 1)


def filled(network: nn.Module) -> nn.Module:
    """Give a network weights of a seed, and its norms something to do."""
    generator = torch.Generator().manual_seed(3)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            scale = 0.5 if tensor.ndim < 2 else tensor[0].numel() ** -0.5
            tensor.copy_(noise.abs() + 0.5 if "var" in name else scale * noise)
    return network.eval()


def exported(network: nn.Module, inputs: Tensor, *, dynamo: bool, **options: Any) -> ModelProto:
    """Return a network as PyTorch exports it, for any number of samples."""
    with silence():
        if dynamo:
            sizes = ({0: torch.export.Dim("batch", min=1, max=64)},)
            program = torch.onnx.export(
                network, (inputs,), dynamo=True, dynamic_shapes=sizes, verbose=False, **options
            )
            assert program is not None
            model: ModelProto = program.model_proto
            return model
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            torch.onnx.export(
                network,
                (inputs,),
                path,
                dynamo=False,
                input_names=["x"],
                dynamic_axes={"x": {0: "batch", 2: "height", 3: "width"}},
                **options,
            )
            return onnx.load(path)


def images(samples: int, size: int = 32) -> Tensor:
    return torch.randn((samples, 3, size, size), generator=torch.Generator().manual_seed(4))


def parsed(text: str, weights: Shapes, version: int = 13, seed: int = 6) -> ModelProto:
    """Return a graph in ONNX's text form with random weights of the given shapes."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {version}]> {text}')
    random = np.random.Generator(np.random.PCG64(seed))
    for name, shape in weights.items():
        array = (random.normal(size=shape) / shape[-1] ** 0.5).astype("f4")
        array = abs(array) + 0.5 if name.startswith("var") else array
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def run(model: ModelProto, inputs: NDArray[Any]) -> list[NDArray[Any]]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    answers: list[NDArray[Any]] = session.run(None, {session.get_inputs()[0].name: inputs})
    return answers


def targets(teacher: OnnxTeacher) -> list[Any]:
    return [node.target for node in teacher.graph.graph.nodes if node.op == "call_function"]


def arrays(student: Student) -> Arrays:
    return {name: tensor.numpy() for name, tensor in student.original.items()}


def check_way_back(model: ModelProto, teacher: OnnxTeacher, inputs: Tensor) -> Student:
    """Check that the folded student's tensors are the model's, and do what the model does."""
    student = Student(teacher.graph, [inputs], batch_size=2)
    graph, weights = strip(model)
    back = teacher.restore(arrays(student))
    assert back.keys() <= weights.keys()
    for name, array in back.items():
        assert (array.shape, array.dtype) == (weights[name].shape, weights[name].dtype)
    for layer in student.layers:
        assert teacher.origins[layer.weight].name in weights
        assert layer.bias is None or teacher.origins[layer.bias].name in weights
    kind = np.float16 if weights[next(iter(back))].dtype == np.float16 else inputs.numpy().dtype
    before = run(model, inputs.numpy().astype(kind))
    after = run(bind(graph, {**weights, **back}, ()), inputs.numpy().astype(kind))
    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-2, atol=2e-3 * float(abs(old).max()))
    return student


REAL: dict[str, tuple[Callable[[], nn.Module], Tensor, dict[str, Any]]] = {
    "cnn": (Cnn, images(4), {"dynamo": True}),
    "cnn, as it is": (Cnn, images(4), {"dynamo": True, "optimize": False}),
    "cnn, legacy": (
        Cnn,
        images(4),
        {"dynamo": False, "training": torch.onnx.TrainingMode.PRESERVE},
    ),
    "resnet": (resnet_20, images(4), {"dynamo": True}),
    "resnet, legacy": (resnet_20, images(4), {"dynamo": False, "opset_version": 11}),
    "encoder": (Encoder, torch.arange(28).reshape(4, 7), {"dynamo": True}),
    "windows": (Windows, images(4), {"dynamo": True}),
    "windows, legacy": (Windows, images(4), {"dynamo": False, "opset_version": 14}),
    "detector": (Detector, images(4), {"dynamo": True}),
    "detector, legacy": (Detector, images(4), {"dynamo": False, "opset_version": 12}),
}


@pytest.mark.parametrize("kind", REAL)
def test_exports_run_and_their_tensors_find_back(kind: str) -> None:
    build, inputs, options = REAL[kind]
    with torch.random.fork_rng():
        model = exported(filled(build()), inputs[:2], **options)
    teacher = read_teacher(model)
    check_teacher(model, teacher, (inputs,))
    check_teacher(model, teacher, (inputs[:1],))
    student = check_way_back(model, teacher, inputs)
    compressible = [
        one for one in strip(model)[1].values() if one.ndim in (2, 4) and one.size >= 1024
    ]
    assert len(student.layers) >= len(compressible) - (kind == "encoder")
    assert len(teacher.graph(*(inputs[:3],))[0]) == 3
    weight = student.layers[0].weight
    weights = {name: tensor.clone() for name, tensor in student.original.items()}
    weights[weight].requires_grad_(True)
    heads = student.outputs(weights)[0]
    total = torch.stack([head.square().sum() for head in heads]).sum()
    (gradient,) = torch.autograd.grad(total, weights[weight])
    assert bool(gradient.any())


def test_heads_of_a_detector_are_its_last_convolutions() -> None:
    model = exported(filled(Detector()), images(2), dynamo=True)
    heads = read_teacher(model).graph(images(2))
    assert [head.shape[1] for head in heads] == [64, 64, 1, 1]
    assert [head.ndim for head in heads] == [4] * 4


def test_norms_are_folded_where_the_file_can_hold_what_changes() -> None:
    model = exported(filled(Cnn()), images(2), **REAL["cnn, legacy"][2])
    teacher = read_teacher(model)
    assert targets(teacher).count(_ATEN.batch_norm.default) == 2  # not that of 8 channels
    student = Student(teacher.graph, [images(2)], batch_size=2)
    # The first layer's bias has 8 elements, which stay in the graph.
    assert [layer.bias is None for layer in student.layers] == [True, False, False, False]
    behind = [user.target for layer in student.layers for user in layer.node.users]
    assert _ATEN.batch_norm.default not in behind
    assert targets(teacher).count(_ATEN.batch_norm.default) == 2  # the teacher is not changed


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("h = MatMul(x, v) y = Add(h, b)", {"v": (40, 48), "b": (48,)}),
        ("h = MatMul(x, v) y = Add(b, h)", {"v": (40, 48), "b": (48,)}),
        ("y = Gemm(x, v, b)", {"v": (40, 48), "b": (48,)}),
        ("y = Gemm<transB = 1>(x, v, b)", {"v": (48, 40), "b": (48,)}),
        ("t = Transpose(v) h = MatMul(x, t) y = Add(h, b)", {"v": (48, 40), "b": (48,)}),
        ("t = Transpose(v) y = Gemm<transB = 1>(x, t, b)", {"v": (40, 48), "b": (48,)}),
    ],
)
def test_matrices_come_back_as_they_are_stored(text: str, weights: Shapes) -> None:
    model = parsed(f"graph (float[N, 40] x) => (float[N, 48] y) {{ {text} }}", weights)
    teacher = read_teacher(model)
    inputs = torch.randn(5, 40)
    check_teacher(model, teacher, (inputs,))
    (layer,) = check_way_back(model, teacher, inputs).layers
    assert (layer.weight, layer.bias) == ("v", "b")
    back = teacher.restore({"v": np.ones((48, 40), "f4"), "b": np.ones(48, "f4")})
    assert back["v"].shape == weights["v"]
    assert teacher.heads == ("y",)


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("y = Gemm<alpha = 0.5>(x, v)", {"v": (40, 48)}),
        ("p = MatMul(x, v) q = Tanh(p) t = Transpose(v) y = MatMul(q, t)", {"v": (40, 48)}),
        ("p = MatMul(x, v) q = MatMul(x, v) y = Add(p, q)", {"v": (40, 48)}),
        ("p = MatMul(x, v) q = Add(p, b) y = Add(q, b)", {"v": (40, 48), "b": (48,)}),
        ("p = MatMul(x, v) y = Add(p, b)", {"v": (40, 48), "b": (3, 48)}),
        ("y = Gemm(x, v, b)", {"v": (200, 8), "b": (8,)}),
        ("p = MatMul(x, v) y = Add(p, b)", {"v": (200, 8), "b": (8,)}),
        ("y = MatMul(x, v)", {"v": (3, 40, 48)}),
    ],
)
def test_weights_and_biases_that_are_not_a_layers_own_are_no_layers(
    text: str, weights: Shapes
) -> None:
    width = weights["v"][-2]
    model = parsed(f"graph (float[3, {width}] x) => (y) {{ {text} }}", weights)
    teacher = read_teacher(model)
    inputs = torch.randn(3, width)
    check_teacher(model, teacher, (inputs,))
    student = check_way_back(model, teacher, inputs)
    assert all(layer.bias is None for layer in student.layers)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_floats_of_other_sizes_come_back(kind: int) -> None:
    model = parsed(
        "graph (float[N, 3, 8, 8] x) => (float[N, 64, 4, 4] y)"
        "{ c = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(x, k, b)"
        " n = BatchNormalization(c, s, t, m, variance) h = Relu(n) y = Conv(h, v) }",
        {"k": (32, 3, 3, 3), "b": (32,), "s": (32,), "t": (32,), "m": (32,), "variance": (32,),
         "v": (64, 32, 1, 1)},
    )  # fmt: skip
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(kind))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = kind
    teacher = read_teacher(model)
    inputs = images(3, 8)
    assert all(tensor.dtype == torch.float32 for tensor in teacher.graph.parameters())
    back = teacher.restore({"k": np.ones((32, 3, 3, 3), "f4")})
    assert back["k"].dtype == helper.tensor_dtype_to_np_dtype(kind)
    if kind == TensorProto.FLOAT16:
        check_way_back(model, teacher, inputs)


@pytest.mark.parametrize(
    "names",
    [
        ("model/conv:0", "b/c.d"),
        ("a.b", "a"),
        ("a", "a.b"),
        ("a..b", "."),
        ("forward", "graph"),
        ("_graph", "x.training"),
        ("tensor_0", "code"),
    ],
)
def test_weights_may_have_any_names(names: tuple[str, str]) -> None:
    model = parsed(
        "graph (float[N, 40] x) => (float[N, 48] y) { h = MatMul(x, first) y = MatMul(h, second) }",
        {"first": (40, 48), "second": (48, 48)},
    )  # fmt: skip
    for tensor, node, name in zip(model.graph.initializer, model.graph.node, names, strict=True):
        tensor.name = node.input[1] = name
    teacher = read_teacher(model)
    inputs = torch.randn(3, 40)
    check_teacher(model, teacher, (inputs,))
    check_way_back(model, teacher, inputs)
    assert teacher.restore(arrays(Student(teacher.graph, [inputs], 3))).keys() == set(names)


@pytest.mark.parametrize(
    ("text", "shape", "squared"),
    [
        ("h = Conv(x, v) f = Flatten(h) y = Softmax(f)", (40, 4, 3, 3), False),
        ("h = Conv(x, v) s = Constant<value_ints = [0, -1]>() y = Reshape(h, s)",
         (40, 4, 3, 3), False),
        ("h = Conv(x, v) r = Relu(h) g = GlobalAveragePool(r) f = Flatten(g) y = Softmax(f)",
         (40, 4, 2, 2), False),
        ("f = Flatten(x) h = Conv(x, v) g = GlobalMaxPool(h) y = Sigmoid(g)", (40, 4, 2, 2), True),
    ],
)  # fmt: skip
def test_class_scores_are_two_dimensional(text: str, shape: tuple[int, ...], squared: bool) -> None:
    rank = "float[N, 40, 1, 1]" if squared else "float[N, 40]"
    model = parsed(f"graph (float[N, 4, 3, 3] x) => ({rank} y) {{ {text} }}", {"v": shape})
    teacher = read_teacher(model)
    inputs = torch.randn(3, 4, 3, 3)
    check_teacher(model, teacher, (inputs,))
    (head,) = teacher.graph(inputs)
    assert tuple(head.shape) == ((3, 40, 2, 2) if squared else (3, 40))
    assert teacher.heads == (("h",) if "Pool" not in text or squared else ("g",))


def test_a_head_is_behind_bias_norm_and_shortcut() -> None:
    model = parsed(
        "graph (float[N, 7, 32] x) => (float[N, 7, 32] y)"
        "{ h = MatMul(x, v) a = Relu(h) g = MatMul(a, w) c = Add(g, b) d = Add(c, h)"
        " n = LayerNormalization(d, s, t) y = Tanh(n) }",
        {"v": (32, 64), "w": (64, 64), "b": (64,), "s": (64,), "t": (64,)},
        17,
    )  # fmt: skip
    assert read_teacher(model).heads == ("n",)
    # What is added to boxes comes from their sizes, and is no shortcut.
    model = parsed(
        "graph (float[N, 7, 32] x) => (float[N, 7, 64] y)"
        "{ h = MatMul(x, v) s = Shape(h) r = ConstantOfShape(s) y = Add(h, r) }",
        {"v": (32, 64)},
    )
    assert read_teacher(model).heads == ("h",)


def test_what_follows_the_heads_may_be_anything() -> None:
    model = parsed(
        "graph (float[N, 4, 8, 8] x, float[N, 2] sizes) => (y) "
        "{ h = Conv(x, v) u = Unknown(h, sizes) y = Tanh(u) z = Conv(h, w) }",
        {"v": (40, 4, 3, 3), "w": (1, 40, 1, 1)},
    )  # fmt: skip
    teacher = read_teacher(model)
    assert teacher.inputs == ("x",)
    assert teacher.heads == ("h",)
    check_teacher(model, teacher, (torch.randn(3, 4, 8, 8),))


def test_a_small_last_layer_counts_unless_the_way_to_it_cannot_be_run() -> None:
    text = "graph (float[N, 4, 8, 8] x) => (y) {{ h = Conv(x, v) u = {}(h) y = Conv(u, w) }}"
    shapes: Shapes = {"v": (40, 4, 3, 3), "w": (2, 40, 1, 1)}
    assert read_teacher(parsed(text.format("Tanh"), shapes)).heads == ("y",)
    assert read_teacher(parsed(text.format("Unknown"), shapes)).heads == ("h",)


def test_graphs_for_one_sample_are_run_for_several() -> None:
    model = parsed(
        "graph (float[1, 4, 3, 3] x) => (float[1, 64] y)"
        "{ c = Conv<pads = [1, 1, 1, 1]>(x, v) s = Constant<value_ints = [1, 9, 32]>()"
        " r = Reshape(c, s) j = Concat<axis = 1>(first, r) q = Constant<value_ints = [1, -1]>()"
        " m = Constant<value_ints = [1, -1, 1]>() o = Reshape(scale, m) p = Mul(j, o)"
        " f = Reshape(p, q) y = Gemm(f, w) }",
        {"v": (32, 4, 3, 3), "first": (1, 1, 32), "scale": (10,), "w": (320, 64)},
    )  # fmt: skip
    teacher = read_teacher(model)
    inputs = torch.randn(5, 4, 3, 3)
    check_teacher(model, teacher, (inputs,))
    assert tuple(teacher.graph(inputs)[0].shape) == (5, 64)


def test_graphs_that_split_their_one_sample_are_refused() -> None:
    model = parsed(
        "graph (float[1, 4, 3, 3] x) => (y) { s = Constant<value_ints = [9, 4]>()"
        " r = Reshape(x, s) y = MatMul(r, v) }",
        {"v": (4, 64)},
    )
    teacher = read_teacher(model)
    check_teacher(model, teacher, (torch.randn(1, 4, 3, 3),))
    with pytest.raises(SpqError, match=r"batch of 1.*export it for batches of any size"):
        check_teacher(model, teacher, (torch.randn(2, 4, 3, 3),))


@pytest.mark.parametrize("operator", ["LSTM", "GRU", "RNN"])
def test_recurrent_networks_are_refused(operator: str) -> None:
    model = parsed(
        "graph (float[T, N, 16] x) => (y)"
        f"{{ h = MatMul(x, v) r, s = {operator}<hidden_size = 32>(h, w, u)"
        " y = MatMul(s, o) }",
        {"v": (16, 64), "w": (1, 128, 64), "u": (1, 128, 32), "o": (32, 4)},
    )  # fmt: skip
    with pytest.raises(SpqError, match=rf"operator {operator};.*--calib") as caught:
        read_teacher(model)
    assert caught.value.code is Reason.UNSUPPORTED_MODEL


@pytest.mark.parametrize("before", ["h = MatMul(x, v)", "h = Tanh(x)"])
def test_control_flow_on_the_way_to_the_heads_is_refused(before: str) -> None:
    model = parsed(
        f"graph (float[N, 40] x, bool c) => (y) {{ {before}"
        " i = If (c) <then_branch = one () => (float[N, 40] p) { p = Identity(h) },"
        " else_branch = two () => (float[N, 40] q) { q = MatMul(h, w) }> y = MatMul(i, w) }",
        {"v": (40, 40), "w": (40, 40)},
    )  # fmt: skip
    with pytest.raises(SpqError, match="operator If;"):
        read_teacher(model)
    del model.graph.node[-1]
    model.graph.output[0].name = "i"
    if before.startswith("h = Tanh"):
        with pytest.raises(SpqError, match="operator If;"):
            read_teacher(model)
    else:
        assert read_teacher(model).heads == ("h",)


def test_damaged_nodes_are_refused() -> None:
    model = parsed("graph (float[N, 40] x) => (float[N, 48] y) { y = Gemm(x, v) }", {"v": (40, 48)})
    del model.graph.node[0].input[1:]
    with pytest.raises(SpqError, match="damaged") as caught:
        read_teacher(model)
    assert caught.value.code is Reason.BAD_MODEL


def test_a_graph_without_layers_is_refused() -> None:
    with pytest.raises(SpqError, match="no convolution"):
        read_teacher(parsed("graph (float[N, 40] x) => (float[N, 40] y) { y = Tanh(x) }", {}))


def test_what_computes_something_else_is_refused() -> None:
    text = "graph (float[N, 40] x) => (float[N, 48] y) { y = MatMul(x, v) }"
    model = parsed(text, {"v": (40, 48)})
    teacher = read_teacher(model)
    other = parsed(text, {"v": (40, 48)}, seed=9)
    with pytest.raises(SpqError, match="answer differently at 'y'") as caught:
        check_teacher(other, teacher, (torch.randn(3, 40),))
    assert caught.value.code is Reason.UNSUPPORTED_MODEL
    with pytest.raises(SpqError, match=r"2 calibration inputs, .* need 1: 'x'") as caught:
        check_teacher(model, teacher, (torch.randn(3, 40), torch.randn(3, 1)))
    assert caught.value.code is Reason.BAD_CALIBRATION
    with pytest.raises(
        SpqError, match="the network takes Nx40 as 'x' and was given 2x41"
    ) as caught:
        check_teacher(model, teacher, (torch.randn(3, 41),))
    assert caught.value.code is Reason.BAD_CALIBRATION
    model = parsed(text.replace("40", "K"), {"v": (40, 48)})
    with pytest.raises(SpqError, match="does not run on the calibration inputs") as caught:
        check_teacher(model, teacher, (torch.randn(3, 41),))
    assert caught.value.code is Reason.BAD_CALIBRATION


def test_functions_of_a_model_are_put_in_line() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17, "own": 1]>'
        "graph (float[N, 40] x) => (float[N, 48] y) { h = own.twice(x) y = MatMul(h, v) }"
        '<opset_import: ["": 17], domain: "own"> twice (a) => (b) { b = Add(a, a) }'
    )
    array = np.ones((40, 48), "f4")
    model.graph.initializer.append(numpy_helper.from_array(array, "v"))
    teacher = read_teacher(model)
    check_teacher(model, teacher, (torch.randn(2, 40),))
    assert _ATEN.linear.default in targets(teacher)


def test_programs_of_packed_networks_can_be_read() -> None:
    network = filled(resnet_20())
    sizes = ({0: torch.export.Dim.AUTO},)
    model = export(torch.export.export(network, (images(2),), dynamic_shapes=sizes))
    teacher = read_teacher(model)
    student = check_way_back(model, teacher, images(4))
    assert {layer.weight for layer in student.layers} == {
        name for name, tensor in network.state_dict().items() if tensor.ndim in (2, 4)
    }
    with torch.no_grad():
        torch.testing.assert_close(
            teacher.graph(images(3))[0], network(images(3)), rtol=1e-3, atol=1e-3
        )
