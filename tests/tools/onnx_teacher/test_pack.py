"""`spq pack model.onnx --calib x.npz`: the search watches the answers of an ONNX graph."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import spq
from spqformat import Reason, SpqError
from spqtools.cli import main
from spqtools.pack import PackRequest, run_pack
from spqtools.progress import Progress
from spqtools.reading.calibration import read_calibration
from spqtools.reading.preprocess import parse_preprocess
from spqtools.report import Report
from spqtools.search.goal import Options

SIZE, CLASSES = 8, 24


def classifier(path: Path) -> Path:
    """A convolution, a norm, and a matrix whose rows are the inputs, as Keras has them."""
    random = np.random.default_rng(0)
    weights = {
        "conv/kernel:0": random.normal(size=(24, 3, 3, 3)) / 5,
        "norm/scale": random.uniform(0.5, 1.5, 24),
        "norm/shift": random.normal(size=24) / 4,
        "norm/mean": random.normal(size=24) / 4,
        "norm/variance": random.uniform(0.5, 1.5, 24),
        "dense/kernel:0": random.normal(size=(24 * 16, CLASSES)) / 8,
        "dense/bias:0": random.normal(size=CLASSES) / 4,
    }
    nodes = [
        helper.make_node("Conv", ["images", "conv/kernel:0"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node(
            "BatchNormalization",
            ["a", *(name for name in weights if name.startswith("norm/"))],
            ["b"],
        ),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("MaxPool", ["c"], ["d"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("MatMul", ["e", "dense/kernel:0"], ["f"]),
        helper.make_node("Add", ["f", "dense/bias:0"], ["g"]),
        helper.make_node("Softmax", ["g"], ["classes"], axis=1),
    ]
    shapes: dict[str, list[str | int]] = {
        "images": ["batch", 3, SIZE, SIZE],
        "classes": ["batch", CLASSES],
    }
    images, classes = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    )
    graph = helper.make_graph(
        nodes,
        "classifier",
        [images],
        [classes],
        [numpy_helper.from_array(value.astype("f4"), name) for name, value in weights.items()],
    )
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def answers(file: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = spq.session(file).run(None, {"images": images})[0]
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier(tmp_path_factory.mktemp("onnx") / "model.onnx")


@pytest.fixture(scope="module")
def images() -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(160, 3, SIZE, SIZE)).astype("f4")


@pytest.fixture(scope="module")
def teacher(model: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    return answers_of_onnx(model, images)


def answers_of_onnx(model: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(None, {"images": images})[0]
    return found


@pytest.fixture(scope="module")
def calibration(
    tmp_path_factory: pytest.TempPathFactory,
    images: NDArray[np.float32],
    teacher: NDArray[np.float32],
) -> Path:
    path = tmp_path_factory.mktemp("calibration") / "x.npz"
    np.savez(path, x=images, y=teacher.argmax(1))
    return path


def test_answers_are_watched(
    model: Path,
    calibration: Path,
    images: NDArray[np.float32],
    teacher: NDArray[np.float32],
    tmp_path: Path,
) -> None:
    files = {}
    for name, given in (("blind", None), ("watched", calibration)):
        files[name] = tmp_path / f"{name}.spq"
        options = Options(sparsity=0.7, bits=4, effort="fast")
        report = run_pack(PackRequest(model, files[name], options, calibration=given), Progress())
    assert report.divergence_kind == "KL divergence in nats"
    assert report.accuracy is not None
    assert report.accuracy.before == 100.0
    assert report.notes == ()
    assert report.sparsity == pytest.approx(0.7, abs=0.02)
    errors = {name: np.abs(answers(file, images) - teacher).mean() for name, file in files.items()}
    assert errors["watched"] < 0.5 * errors["blind"]


def test_same_seed_same_bytes(model: Path, calibration: Path, tmp_path: Path) -> None:
    packed = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.spq"
        options = Options(target_ratio=15, effort="fast", seed=3)
        run_pack(PackRequest(model, path, options, calibration=calibration), Progress())
        packed.append(path.read_bytes())
    assert packed[0] == packed[1]


def test_training_helps(
    model: Path, calibration: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("spqtools.training.course._PRODUCTS", 10**9)
    found = {}
    for recovery in (None, str(calibration)):
        options = Options(sparsity=0.9, bits=4, effort="fast", recovers=recovery is not None)
        request = PackRequest(
            model,
            tmp_path / "out.spq",
            options,
            calibration=calibration,
            recovery=recovery,
        )
        found[recovery] = run_pack(request, Progress()).divergence
    trained, searched = found[str(calibration)], found[None]
    assert trained is not None
    assert searched is not None
    assert trained < searched


def test_a_folder_of_images_and_a_fitness(model: Path, tmp_path: Path) -> None:
    random, folder = np.random.default_rng(2), tmp_path / "images"
    folder.mkdir()
    for index in range(24):
        pixels = random.integers(0, 256, (10 + index, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    fitness = tmp_path / "mine.py"
    fitness.write_text("def mine(ours, right):\n    return ((ours[0] - right[0]) ** 2).mean()\n")
    output = tmp_path / "out.spq"
    arguments = [
        *("pack", str(model), "--calib", str(folder), "--effort", "fast", "-o", str(output)),
        *("--preprocess", f"size={SIZE},fit=letterbox", "--sparsity", "0.5"),
        *("--fitness", f"{fitness}:mine"),
    ]
    assert main(arguments) == 0
    with spq.open(output) as archive:
        assert archive.metadata["spq.divergence"].endswith("by --fitness")
        assert '"mine.py:mine@' in archive.metadata["spq.options"]
        assert str(tmp_path) not in archive.metadata["spq.options"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--preprocess", "size=8"], "add --calib"),
        (["--fitness", "yolo"], "add --calib"),
        (["--calib", "{calibration}", "--preprocess", "size=8"], "--preprocess"),
        (["--calib", "{calibration}", "--fitness", "yolo"], "--fitness 'yolo' fails"),
        (["--calib", "{calibration}", "--fitness", "{code}:nothing"], "alike, and is inf;"),
        (["--calib", "{calibration}", "--fitness", "{code}:alike"], "alike, and is 1;"),
        (["--calib", "{calibration}", "--fitness", "{code}:misspelt"], "misspelt"),
        (["--calib", "{calibration}", "--fitness", "other"], "none of squared, yolo"),
        (["--calib", "{narrow}"], "takes Nx3x8x8 as 'images' and was given 2x3x8x7"),
        (["--calib", "{two}"], "inputs"),
    ],
)
def test_what_does_not_go_together(
    model: Path,
    calibration: Path,
    images: NDArray[np.float32],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    files = {"calibration": calibration, "code": tmp_path / "code.py"}
    files |= {"narrow": tmp_path / "a.npz", "two": tmp_path / "b.npz"}
    np.savez(files["narrow"], x=images[:, :, :, 1:])
    np.savez(files["two"], x=images, other=images)
    files["code"].write_text(
        "def nothing(ours, right):\n    return ours[0].sum() * float('nan')\n"
        "def alike(ours, right):\n    return 1 + 0 * ours[0].sum()\n"
    )
    output = tmp_path / "out.spq"
    given = [argument.format(**files) for argument in arguments]
    assert main(["pack", str(model), "-o", str(output), *given]) == 2
    stderr = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in stderr
    assert not output.exists()


def test_an_operator_that_the_search_cannot_run(
    model: Path, calibration: Path, tmp_path: Path
) -> None:
    graph = onnx.load(model)
    graph.graph.node[2].op_type = "Relu"
    graph.graph.node[2].domain = "elsewhere"
    graph.opset_import.append(helper.make_opsetid("elsewhere", 1))
    path = tmp_path / "odd.onnx"
    onnx.save(graph, path)
    with pytest.raises(SpqError, match="leave out --calib") as caught:
        run_pack(
            PackRequest(path, tmp_path / "out.spq", Options(), calibration=calibration), Progress()
        )
    assert caught.value.code is Reason.UNSUPPORTED_MODEL


@pytest.mark.parametrize("kind", ["batch of 4", "float16"])
def test_accuracy_of_models_that_want_their_inputs_otherwise(
    model: Path, images: NDArray[np.float32], tmp_path: Path, kind: str
) -> None:
    """Thirteen samples fill three batches of four and one in part."""
    graph = onnx.load(model)
    if kind == "float16":
        for tensor in graph.graph.initializer:
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor).astype("f2"), tensor.name)
            )
        for value in (*graph.graph.input, *graph.graph.output):
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    else:
        for value in (*graph.graph.input, *graph.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 4
    path, calibration = tmp_path / "model.onnx", tmp_path / "x.npz"
    onnx.save(graph, path)
    np.savez(calibration, x=images[:52], y=answers_of_onnx(model, images[:52]).argmax(1))
    request = PackRequest(
        path, tmp_path / "out.spq", Options(sparsity=0.2, effort="fast"), calibration=calibration
    )
    accuracy = run_pack(request, Progress()).accuracy
    assert accuracy is not None
    assert accuracy.samples == 13
    assert accuracy.before >= 90.0
    with spq.open(request.output) as archive:
        expected = np.float16 if kind == "float16" else np.float32
        assert archive.get_tensor("conv/kernel:0").dtype == expected


@pytest.fixture
def folder(images: NDArray[np.float32], tmp_path: Path) -> Path:
    """Sixteen pictures of another size than the network takes."""
    folder = tmp_path / "images"
    folder.mkdir()
    for index, one in enumerate(images[:16]):
        pixels = np.clip(128 + 50 * one.transpose(1, 2, 0), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).resize((20, 12)).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spqtools.training.course._PRODUCTS", 1)
    monkeypatch.setattr("spqtools.training.course._LEAST_STEPS", 60)


def trained(model: Path, folder: Path, recovery: Path, output: Path) -> Report:
    request = PackRequest(
        model,
        output,
        Options(sparsity=0.5, effort="fast", recovers=True),
        calibration=folder,
        preprocess=parse_preprocess(f"size={SIZE}"),
        recovery=str(recovery),
    )
    return run_pack(request, Progress())


@pytest.mark.usefixtures("short_training")
def test_training_on_a_file_after_a_folder_of_images(
    model: Path, images: NDArray[np.float32], folder: Path, tmp_path: Path
) -> None:
    arrays = tmp_path / "x.npz"
    np.savez(arrays, x=images)
    report = trained(model, folder, arrays, tmp_path / "out.spq")
    assert report.sparsity == pytest.approx(0.5, abs=0.02)
    assert f"trained on {len(images)} inputs without labels" in report.notes


@pytest.mark.usefixtures("short_training")
def test_training_on_images_varies_them(model: Path, folder: Path, tmp_path: Path) -> None:
    same = tmp_path / "same.npz"
    np.savez(same, x=read_calibration(folder, parse_preprocess(f"size={SIZE}")).inputs[0].numpy())
    outputs = [tmp_path / f"{name}.spq" for name in ("first", "again", "plain")]
    for output, recovery in zip(outputs, (folder, folder, same), strict=True):
        report = trained(model, folder, recovery, output)
        varied = "trained on 16 images, varied, without labels" in report.notes
        assert varied == (recovery == folder)
    first, again, plain = (output.read_bytes() for output in outputs)
    assert first == again
    assert first != plain
