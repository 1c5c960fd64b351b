"""Each ONNX operator computes on the way to a head what ONNX Runtime computes."""

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor

from spqformat import Reason, SpqError
from spqtools.evolve.student import Student
from spqtools.onnx_teacher.check import check_teacher
from spqtools.onnx_teacher.ops import is_known
from spqtools.onnx_teacher.teacher import read_teacher
from spqtools.onnx_teacher.wiring import read_wiring

# Name, version of the operators, and what makes y of x, which has the shape (N, 4, 6, 8).
UNARY = ["Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Neg", "Reciprocal", "Relu", "Round", "Selu"]
UNARY += ["Sigmoid", "Sin", "Softplus", "Tanh", "HardSigmoid", "HardSwish", "Elu", "LeakyRelu"]
PAIRS = ["Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Sum", "Mean"]
COMPARISONS = ["Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"]

CASES: list[tuple[str, int, str]] = [
    *((name, 14, f"y = {name}(x)") for name in UNARY),
    *((name, 13, f"p = Abs(x) q = Sigmoid(x) y = {name}(p, q)") for name in PAIRS),
    *((name, 16, f"r = Round(x) s = {name}(r, x) y = Where(s, x, r)") for name in COMPARISONS),
    ("Add integers", 13, "s = Shape(x) t = Add(s, s) u = Sub(t, s) y = Reshape(x, u)"),
    (
        "Mod",
        13,
        "m = Constant<value = int64 {-3}>() n = Constant<value = int64 {7}>()"
        " d = Mod(n, m) f = Cast<to = 1>(d) y = Mul(x, f)",
    ),
    ("Mod fmod", 13, "s = Sigmoid(x) y = Mod<fmod = 1>(x, s)"),
    ("IsNaN", 13, "l = Log(x) n = IsNaN(l) y = Where(n, x, l)"),
    (
        "ScatterND",
        13,
        "t = Transpose<perm = [1, 0, 2, 3]>(x) c = Constant<value = int64[2] {1, 3}>()"
        " u = Gather(t, c) j = Constant<value = int64[2,1] {2, -4}>()"
        " v = ScatterND(t, j, u) y = Transpose<perm = [1, 0, 2, 3]>(v)",
    ),
    ("Sqrt", 13, "p = Abs(x) y = Sqrt(p)"),
    ("Log", 13, "p = Exp(x) y = Log(p)"),
    ("Elu alpha", 13, "y = Elu<alpha = 0.3>(x)"),
    ("LeakyRelu alpha", 9, "y = LeakyRelu<alpha = 0.3>(x)"),
    ("HardSigmoid alpha", 9, "y = HardSigmoid<alpha = 0.3, beta = 0.4>(x)"),
    ("Selu alpha", 9, "y = Selu<alpha = 1.5, gamma = 1.2>(x)"),
    ("PRelu", 9, "s = Constant<value = float[4,1,1] {0.1, 0.2, 0.3, 0.4}>() y = PRelu(x, s)"),
    ("Mish", 18, "y = Mish(x)"),
    ("Gelu", 20, "y = Gelu(x)"),
    ("Gelu tanh", 20, 'y = Gelu<approximate = "tanh">(x)'),
    ("Clip 6", 9, "y = Clip<min = -0.5, max = 0.5>(x)"),
    ("Clip 13", 13, "a = Constant<value = float {-0.5}>() y = Clip(x, a)"),
    ("Clip none", 13, "y = Clip(x)"),
    ("Softmax 9", 9, "y = Softmax(x)"),
    ("Softmax 9 axis", 9, "y = Softmax<axis = 3>(x)"),
    ("Softmax 13", 13, "y = Softmax(x)"),
    ("LogSoftmax 11", 11, "y = LogSoftmax<axis = 2>(x)"),
    ("LogSoftmax 13", 13, "y = LogSoftmax<axis = 1>(x)"),
    ("Not, And, Or", 13, "s = Less(x, x) t = Not(s) u = And(s, t) v = Or(u, t) y = Where(v, x, x)"),
    ("Cast", 13, "i = Cast<to = 7>(x) f = Cast<to = 1>(i) b = Cast<to = 9>(i) y = Where(b, f, x)"),
    (
        "Div integers",
        13,
        "m = Constant<value = int64 {-7}>() n = Constant<value = int64 {2}>()"
        " d = Div(m, n) f = Cast<to = 1>(d) y = Mul(x, f)",
    ),
    *(
        (f"Reduce{kind} 9", 9, f"r = Reduce{kind}<axes = [2, -1]>(x) y = Add(x, r)")
        for kind in ("Mean", "Sum", "Max", "Min", "L2", "Prod")
    ),
    *(
        (
            f"Reduce{kind} 18",
            18,
            "a = Constant<value = int64[1] {3}>()"
            f" r = Reduce{kind}<keepdims = 0>(x, a) c = Constant<value = int64[1] {{-1}}>()"
            " u = Unsqueeze(r, c) y = Add(x, u)",
        )
        for kind in ("Mean", "Sum", "Max", "Min", "L2", "Prod")
    ),
    ("ReduceSum nothing", 13, "y = ReduceSum<noop_with_empty_axes = 1>(x)"),
    ("ReduceSum all", 13, "r = ReduceSum(x) t = Tanh(r) s = Sub(t, t) y = Add(x, s)"),
    ("ArgMax", 13, "i = ArgMax<axis = 1>(x) f = Cast<to = 1>(i) y = Add(x, f)"),
    (
        "ArgMax last",
        13,
        "r = Round(x) i = ArgMax<axis = 2, select_last_index = 1>(r)"
        " f = Cast<to = 1>(i) y = Add(x, f)",
    ),
    (
        "Shape 15",
        15,
        "s = Shape<start = 1, end = -1>(x) f = Cast<to = 1>(s) m = ReduceMax(f) y = Mul(x, m)",
    ),
    (
        "Size",
        13,
        "t = Transpose<perm = [3, 1, 2, 0]>(x) c = Constant<value = int64[1] {0}>()"
        " g = Gather<axis = 3>(t, c) n = Size(g) f = Cast<to = 1>(n) y = Div(x, f)",
    ),
    ("Reshape", 13, "s = Constant<value = int64[4] {0, 4, -1, 4}>() y = Reshape(x, s)"),
    (
        "Reshape dynamic",
        11,
        "s = Shape(x) o = Constant<value = int64 {0}>() n = Gather(s, o)"
        " u = Unsqueeze<axes = [0]>(n) r = Constant<value = int64[3] {4, 8, 6}>()"
        " t = Concat<axis = 0>(u, r) y = Reshape(x, t)",
    ),
    (
        "Flatten",
        13,
        "f = Flatten(x) s = Constant<value = int64[4] {-1, 4, 8, 6}>() y = Reshape(f, s)",
    ),
    (
        "Flatten axis",
        13,
        "f = Flatten<axis = 2>(x) s = Constant<value = int64[4] {-1, 4, 8, 6}>() y = Reshape(f, s)",
    ),
    ("Transpose", 13, "y = Transpose<perm = [0, 1, 3, 2]>(x)"),
    ("Transpose all", 13, "t = Transpose(x) y = Transpose(t)"),
    ("Squeeze 11", 11, "u = Unsqueeze<axes = [0, -1]>(x) y = Squeeze<axes = [0, -1]>(u)"),
    (
        "Squeeze 13",
        13,
        "a = Constant<value = int64[2] {-1, 2}>() u = Unsqueeze(x, a) y = Squeeze(u, a)",
    ),
    ("Gather", 13, "i = Constant<value = int64[4] {3, -1, 0, 1}>() y = Gather<axis = 1>(x, i)"),
    (
        "Gather 0-d",
        13,
        "i = Constant<value = int64 {-2}>() g = Gather<axis = 2>(x, i)"
        " a = Constant<value = int64[1] {2}>() y = Unsqueeze(g, a)",
    ),
    (
        "ConstantOfShape",
        13,
        "s = Shape(x) c = ConstantOfShape<value = float[1] {2.5}>(s) y = Add(x, c)",
    ),
    (
        "Expand",
        13,
        "s = Shape(x) o = Constant<value = float[4,1,1] {1, 2, 3, 4}>()"
        " e = Expand(o, s) y = Mul(x, e)",
    ),
    ("Expand less", 13, "o = Constant<value = int64[1] {1}>() e = Expand(x, o) y = Neg(e)"),
    ("Tile", 13, "r = Constant<value = int64[4] {1, 1, 2, 3}>() y = Tile(x, r)"),
    (
        "Range",
        13,
        "s = Shape(x) i = Constant<value = int64 {3}>() n = Gather(s, i)"
        " a = Constant<value = int64 {0}>() d = Constant<value = int64 {1}>() r = Range(a, n, d)"
        " f = Cast<to = 1>(r) y = Add(x, f)",
    ),
    ("Concat", 13, "t = Tanh(x) y = Concat<axis = -1>(x, t, x)"),
    ("Split 11", 11, "p, q = Split<axis = 1, split = [1, 3]>(x) y = Concat<axis = 1>(q, p)"),
    (
        "Split 13",
        13,
        "s = Constant<value = int64[2] {3, 1}>() p, q = Split<axis = 1>(x, s)"
        " y = Concat<axis = 1>(q, p)",
    ),
    ("Split even", 13, "p, q = Split<axis = 2>(x) y = Sub(q, p)"),
    ("Split 18", 18, "p, q, r = Split<axis = 3, num_outputs = 3>(x) y = Concat<axis = 3>(r, q, p)"),
    ("Slice 9", 9, "y = Slice<starts = [1, -5], ends = [100, -1], axes = [2, 3]>(x)"),
    (
        "Slice 13",
        13,
        "a = Constant<value = int64[2] {-1, 1}>()"
        " b = Constant<value = int64[2] {-100, 7}>() c = Constant<value = int64[2] {2, 3}>()"
        " d = Constant<value = int64[2] {-2, 2}>() y = Slice(x, a, b, c, d)",
    ),
    (
        "Slice computed",
        13,
        "s = Shape(x) o = Constant<value = int64[1] {1}>()"
        " e = Constant<value = int64[1] {4}>() l = Slice(s, o, e) n = Sub(l, l) h = Sub(l, o)"
        " a = Constant<value = int64[3] {1, 2, 3}>() p = Slice(x, n, h, a)"
        " w3 = Constant<value = int64[8] {0, 0, 0, 0, 0, 1, 0, 0}>() y = Pad(p, w3)",
    ),
    ("Pad 9", 9, "y = Pad<pads = [0, 0, 1, 2, 0, 0, 0, 1], value = 0.5>(x)"),
    (
        "Pad 11",
        11,
        "p = Constant<value = int64[8] {0, 0, -1, 2, 0, 0, 0, 1}>()"
        " v = Constant<value = float {0.5}>() y = Pad(x, p, v)",
    ),
    (
        "Pad reflect",
        13,
        'p = Constant<value = int64[8] {0, 0, 1, 2, 0, 0, 3, 1}>() y = Pad<mode = "reflect">(x, p)',
    ),
    (
        "Pad edge",
        13,
        'p = Constant<value = int64[8] {0, 0, 1, 2, 0, 0, 3, 1}>() y = Pad<mode = "edge">(x, p)',
    ),
    (
        "Pad axes",
        18,
        "p = Constant<value = int64[4] {1, 0, 2, 1}>()"
        " a = Constant<value = int64[2] {-1, 2}>() y = Pad(x, p, , a)",
    ),
    ("DepthToSpace", 11, "y0 = DepthToSpace<blocksize = 2>(x) y = SpaceToDepth<blocksize = 2>(y0)"),
    (
        "DepthToSpace CRD",
        11,
        'd = DepthToSpace<blocksize = 2, mode = "CRD">(x) y = SpaceToDepth<blocksize = 2>(d)',
    ),
    ("Einsum", 13, 'y = Einsum<equation = "nchw,ncvw->nchv">(x, x)'),
    (
        "Trilu",
        14,
        "k = Constant<value = int64 {1}>() u = Trilu(x, k) l = Trilu<upper = 0>(x) y = Add(u, l)",
    ),
    ("Identity, Dropout", 13, "i = Identity(x) d, m = Dropout(i) y = Identity(d)"),
    ("Dropout 9", 9, "y = Dropout<ratio = 0.5>(x)"),
    ("MatMul", 13, "t = Transpose<perm = [0, 1, 3, 2]>(x) y = MatMul(x, t)"),
    (
        "Gemm",
        13,
        "f = Flatten<axis = 2>(x) g = Gemm<alpha = 0.5, beta = 2.0, transB = 1>(f, f, f2)"
        " h = MatMul(g, f) s = Shape(x) y = Reshape(h, s)".replace(", f2", ""),
    ),
    ("MaxPool", 12, "y = MaxPool<kernel_shape = [3, 2], strides = [2, 1], pads = [1, 0, 0, 1]>(x)"),
    ("MaxPool ceil", 12, "y = MaxPool<kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1>(x)"),
    (
        "MaxPool dilations",
        12,
        "y = MaxPool<kernel_shape = [2, 2], dilations = [2, 3], pads = [1, 1, 1, 1]>(x)",
    ),
    ("MaxPool same", 11, 'y = MaxPool<kernel_shape = [2, 2], auto_pad = "SAME_UPPER">(x)'),
    (
        "MaxPool lower",
        11,
        'y = MaxPool<kernel_shape = [2, 3], strides = [2, 2], auto_pad = "SAME_LOWER">(x)',
    ),
    ("AveragePool", 11, "y = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x)"),
    ("AveragePool pads", 11, "y = AveragePool<kernel_shape = [3, 3], pads = [1, 0, 0, 2]>(x)"),
    (
        "AveragePool count",
        11,
        "y = AveragePool<kernel_shape = [3, 3], pads = [1, 0, 0, 2], count_include_pad = 1>(x)",
    ),
    (
        "AveragePool ceil",
        11,
        "y = AveragePool<kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1>(x)",
    ),
    (
        "AveragePool same",
        11,
        'y = AveragePool<kernel_shape = [2, 2], strides = [2, 2], auto_pad = "SAME_LOWER">(x)',
    ),
    (
        "AveragePool valid",
        19,
        'y = AveragePool<kernel_shape = [2, 2], dilations = [1, 1], auto_pad = "VALID">(x)',
    ),
    ("GlobalAveragePool", 11, "g = GlobalAveragePool(x) y = Mul(x, g)"),
    ("GlobalMaxPool", 11, "g = GlobalMaxPool(x) y = Mul(x, g)"),
    ("LRN", 13, "y = LRN<size = 3, alpha = 0.1>(x)"),
    (
        "InstanceNormalization",
        9,
        "s = Constant<value = float[4] {1, 2, 3, 4}>()"
        " y = InstanceNormalization<epsilon = 0.01>(x, s, s)",
    ),
    (
        "LayerNormalization",
        17,
        "s = Constant<value = float[8] {1, 2, 3, 4, 5, 6, 7, 8}>()"
        " y = LayerNormalization<epsilon = 0.01>(x, s, s)",
    ),
    (
        "LayerNormalization axis",
        17,
        "o = Constant<value = float[1] {2.0}>()"
        " h = Constant<value = int64[2] {6, 8}>() s = Expand(o, h)"
        " y = LayerNormalization<axis = 2>(x, s)",
    ),
    (
        "GroupNormalization",
        21,
        "s = Constant<value = float[4] {1, 2, 3, 4}>()"
        " y = GroupNormalization<num_groups = 2>(x, s, s)",
    ),
    (
        "BatchNormalization",
        9,
        "s = Constant<value = float[4] {1, 2, 3, 4}>()"
        " y = BatchNormalization<epsilon = 0.01>(x, s, s, s, s)",
    ),
    (
        "ConvTranspose",
        11,
        "k = Constant<value = float[4,1,2,2] {1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6,"
        " 5, 4, 3, 2}>() y = ConvTranspose<group = 4, strides = [2, 2], pads = [1, 0, 0, 1],"
        " output_padding = [1, 0]>(x, k)",
    ),
    (
        "ConvTranspose same",
        11,
        "k = Constant<value = float[4,1,2,2] {1, 2, 3, 4, 5, 6, 7, 8, 9, 8,"
        " 7, 6, 5, 4, 3, 2}>()"
        ' y = ConvTranspose<group = 4, auto_pad = "SAME_UPPER">(x, k)',
    ),
    ("Upsample", 9, "s = Constant<value = float[4] {1, 1, 2, 2}>() y = Upsample(x, s)"),
    (
        "Upsample linear",
        9,
        's = Constant<value = float[4] {1, 1, 2, 2}>() y = Upsample<mode = "linear">(x, s)',
    ),
    ("Resize 10", 10, "s = Constant<value = float[4] {1, 1, 1.5, 2}>() y = Resize(x, s)"),
    *(
        (
            f"Resize {mode} {places} {rounding}",
            13,
            "s = Constant<value = float[4] {1, 1, 2.5, 0.75}>()"
            f' y = Resize<mode = "{mode}", coordinate_transformation_mode = "{places}",'
            f' nearest_mode = "{rounding}">(x, , s)',
        )
        for mode, places, rounding in (
            ("nearest", "asymmetric", "floor"),
            ("nearest", "asymmetric", "ceil"),
            ("nearest", "half_pixel", "round_prefer_floor"),
            ("nearest", "half_pixel", "round_prefer_ceil"),
            ("linear", "half_pixel", "floor"),
            ("linear", "pytorch_half_pixel", "floor"),
            ("linear", "align_corners", "floor"),
            ("linear", "asymmetric", "floor"),
            ("cubic", "half_pixel", "floor"),
        )
    ),
    (
        "Resize sizes",
        13,
        "s = Shape(x) o = Constant<value = int64[4] {0, 0, 3, 5}>() t = Add(s, o)"
        ' y = Resize<mode = "linear">(x, , , t)',
    ),
    (
        "Resize axes",
        18,
        "t = Constant<value = int64[2] {9, 4}>()"
        " y = Resize<axes = [2, 3], antialias = 0>(x, , , t)",
    ),
    (
        "Resize symmetric",
        19,
        "s = Constant<value = float[4] {1, 1, 1.3, 2}>()"
        ' y = Resize<mode = "linear", coordinate_transformation_mode = "half_pixel_symmetric">'
        "(x, , s)",
    ),
    ("Conv same", 11, 'y = Conv<auto_pad = "SAME_UPPER", kernel_shape = [3, 3]>(x, k4)'),
    ("Conv lower", 11, 'y = Conv<auto_pad = "SAME_LOWER", strides = [2, 2]>(x, k4)'),
    ("Conv dilations", 11, "y = Conv<dilations = [2, 1], pads = [1, 2, 0, 1]>(x, k4)"),
    ("Conv valid", 11, 'y = Conv<auto_pad = "VALID", strides = [1, 2]>(x, k4)'),
    ("Conv group", 11, "y = Conv<group = 2, pads = [1, 1, 1, 1]>(x, k2)"),
    (
        "Conv computed weight",
        11,
        "k = Tanh(k4) b = Constant<value = float[4] {1, 2, 3, 4}>()"
        " y = Conv<pads = [1, 0, 1, 0]>(x, k, b)",
    ),
]


def model_of(version: int, body: str) -> ModelProto:
    """Return a graph that gives what `body` makes of x to a convolution of 2,304 weights."""
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {version}]>'
        "graph (float[N, 4, 6, 8] x) => (float[N, 64, H, W] z) {" + body + " z = Conv(y, w) }"
    )
    random = np.random.Generator(np.random.PCG64(1))
    for name, shape in {"w": (64, 4, 1, 1), "k4": (4, 4, 3, 3), "k2": (4, 2, 3, 3)}.items():
        array = random.normal(size=shape).astype("f4")
        if name == "w":
            array = random.normal(size=(64, 4, 3, 3)).astype("f4") * 0.2
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    model.graph.node[-1].attribute.append(onnx.helper.make_attribute("pads", [1, 1, 1, 1]))
    return model


def samples(count: int) -> Tensor:
    return torch.randn((count, 4, 6, 8), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("version", "body"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_an_operator_is_that_of_onnx_runtime(version: int, body: str) -> None:
    model = model_of(version, body)
    teacher = read_teacher(model)
    check_teacher(model, teacher, (samples(2),))
    check_teacher(model, teacher, (samples(1),))
    student = Student(teacher.graph, [samples(3)], batch_size=3)
    weights = {name: tensor.clone() for name, tensor in student.original.items()}
    weights["w"].requires_grad_(True)
    (head,) = student.outputs(weights)[0]
    (gradient,) = torch.autograd.grad(head.square().sum(), weights["w"])
    assert bool(gradient.isfinite().all())
    assert bool(gradient.any())


def test_gradients_reach_what_is_before_an_operator() -> None:
    body = "c = Conv<pads = [1, 1, 1, 1]>(x, k4) m = Mish(c) p = MaxPool<kernel_shape = [2, 2]>(m)"
    scales = "s = Constant<value = float[4] {1, 1, 2, 2}>() y = Resize(p, , s)"
    teacher = read_teacher(model_of(18, f"{body} {scales}"))
    student = Student(teacher.graph, [samples(2)], batch_size=2)
    weights = {name: tensor.clone() for name, tensor in student.original.items()}
    weights["k4"].requires_grad_(True)
    (head,) = student.outputs(weights)[0]
    (gradient,) = torch.autograd.grad(head.square().sum(), weights["k4"])
    assert bool(gradient.any())


@pytest.mark.parametrize(
    ("version", "body", "named"),
    [
        (13, "y, i = TopK<axis = 1>(x, k)", "TopK"),
        (
            13,
            'y = Resize<coordinate_transformation_mode = "tf_crop_and_resize">(x, r, s)',
            "Resize with coordinate_transformation_mode",
        ),
        (18, "y = Resize<antialias = 1>(x, , s)", "Resize with antialias"),
        (
            19,
            "y = AveragePool<kernel_shape = [2, 2], dilations = [2, 2]>(x)",
            "AveragePool with dilations",
        ),
        (18, "y = GroupNormalization<num_groups = 2>(x, s, s)", "GroupNormalization"),
        (13, "y, i = MaxPool<kernel_shape = [1, 1]>(x) z0 = Cast<to = 1>(i) y = Add(y, z0)", ""),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(version: int, body: str, named: str) -> None:
    if not named:
        body, named = "v, i = MaxPool<kernel_shape = [1, 1]>(x) y = Cast<to = 1>(i)", "makes i"
    with pytest.raises(SpqError, match=named) as caught:
        read_teacher(model_of(version, body))
    assert caught.value.code is Reason.UNSUPPORTED_MODEL
    assert "--calib" in caught.value.message


def test_operators_of_other_domains_are_not_mistaken_for_standard_ones() -> None:
    model = model_of(13, "y = Relu(x)")
    model.graph.node[0].domain = "com.example"
    wiring = read_wiring(model)
    assert wiring.operations[0].kind == "com.example.Relu"
    assert not is_known(wiring.operations[0], wiring.version)
