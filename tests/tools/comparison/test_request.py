"""`spq compare` counts what a small network still answers as its teacher does."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

import spq
from spqtools.cli import main
from spqtools.comparison import detectors
from spqtools.comparison.pictures import GAP_PIXELS, HEAD_PIXELS, MOST_SIDE_PIXELS
from spqtools.reading.ingest import Source
from spqtools.reading.programs import trace, write_programs
from spqtools.unpack import write_onnx

FLOAT = TensorProto.FLOAT
SIZES = [(64, 48), (40, 90)]
INPUT = 32
# Fractions of the image: left, top, right, bottom; class and confidence of the teacher.
OBJECTS = [((0.1, 0.1, 0.5, 0.6), 1, 0.9), ((0.5, 0.2, 0.9, 0.9), 0, 0.85)]

Answer = list[tuple[tuple[float, float, float, float], int, float]]


def save_model(
    path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], **constants: Any
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        inputs,
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"names": "{0: 'cat', 1: \"dog's bowl\"}"})
    onnx.save(model, path)
    return path


def zoo(path: Path, answer: Answer, classes: int = 2) -> Path:
    """A detector that is told the size of the image, and finds the same fractions in any."""
    boxes = np.array([box for box, _, _ in answer], dtype="f4")[None][..., [1, 0, 3, 2]]
    scores = np.zeros((1, classes, len(answer)), dtype="f4")
    for number, (_, kind, confidence) in enumerate(answer):
        scores[0, kind, number] = confidence
    return save_model(
        path,
        [
            helper.make_node("Concat", ["image_shape", "image_shape"], ["sides"], axis=1),
            helper.make_node("Mul", ["fractions", "sides"], ["boxes"]),
            # The image is used, and adds nothing.
            helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
            helper.make_node("Add", ["constant_scores", "nothing"], ["scores"]),
        ],
        [
            helper.make_tensor_value_info("image", FLOAT, ["N", 3, None, None]),
            helper.make_tensor_value_info("image_shape", FLOAT, ["N", 2]),
        ],
        [
            helper.make_tensor_value_info("boxes", FLOAT, [1, None, 4]),
            helper.make_tensor_value_info("scores", FLOAT, [1, classes, None]),
        ],
        fractions=boxes,
        constant_scores=scores,
        zero=np.float32(0),
    )


def eight(path: Path, answer: Answer, classes: int = 2) -> Path:
    """A detector that knows its own input alone, 32 x 32, and answers as YOLOv8 does."""
    output = np.zeros((1, 4 + classes, 10), dtype="f4")
    for number, ((left, top, right, bottom), kind, confidence) in enumerate(answer):
        centre = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        output[0, :4, number] = INPUT * np.array(centre)
        output[0, 4 + kind, number] = confidence
    return constant(path, output)


def constant(path: Path, output: Any, shape: tuple[Any, ...] = (1, 3, INPUT, INPUT)) -> Path:
    """A network that always gives the same answer."""
    return save_model(
        path,
        [
            helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
            helper.make_node("Add", ["output", "nothing"], ["answer"]),
        ],
        [helper.make_tensor_value_info("image", FLOAT, shape)],
        [helper.make_tensor_value_info("answer", FLOAT, output.shape)],
        output=output,
        zero=np.float32(0),
    )


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, size in enumerate(SIZES):
        Image.new("RGB", size, (90, 160, 230)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """The objects that the teacher finds, for each image."""
    folder = tmp_path / "labels"
    folder.mkdir()
    lines = [
        f"{kind} {(left + right) / 2} {(top + bottom) / 2} {right - left} {bottom - top}"
        for (left, top, right, bottom), kind, _ in OBJECTS
    ]
    for number in range(len(SIZES)):
        (folder / f"{number}.txt").write_text("\n".join(lines))
    return folder


Figures = Callable[..., dict[str, Any]]


@pytest.fixture
def compare(capfd: pytest.CaptureFixture[str], images: Path) -> Figures:
    """Compare detectors; return the JSON."""

    def run(teacher: Path, student: Path, *words: str | Path) -> dict[str, Any]:
        given = ["compare", teacher, student, "--data", images, "--task", "detection", *words]
        assert main([*map(str, given), "--json"]) == 0
        content: dict[str, Any] = json.loads(capfd.readouterr().out)
        assert content["format"] == 1
        return content

    return run


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*words: str | Path) -> str:
        assert main(["compare", *map(str, words)]) == 2
        # ONNX Runtime would write past Python's standard error.
        output, error = capfd.readouterr()
        assert output == ""
        assert error.startswith("spq: ")
        assert error.count("\n") == 1
        return error

    return run


# Detection


def test_a_detector_finds_what_it_finds(compare: Figures, tmp_path: Path, labels: Path) -> None:
    path = zoo(tmp_path / "t.onnx", OBJECTS)
    content = compare(path, path, "--labels", labels)
    precision = {"at_half": pytest.approx(1.0), "mean": pytest.approx(1.0)}
    assert content["figures"] == {
        "images": 2,
        "confidence": 0.8,
        "least_confidence": 0.5,
        "objects": 4,
        "found": 4,
        "found_as_sure": 4,
        "false_alarms": 0,
        "labelled": 2,
        "teacher_precision": precision,
        "student_precision": precision,
    }
    assert content["teacher_bytes"] == content["student_bytes"] == path.stat().st_size
    assert content["ratio"] == 1.0


def test_layouts_agree(compare: Figures, tmp_path: Path, labels: Path) -> None:
    teacher, student = zoo(tmp_path / "t.onnx", OBJECTS), eight(tmp_path / "s.onnx", OBJECTS)
    content = compare(teacher, student, "--preprocess", "size=32", "--labels", labels)
    assert content["figures"]["found_as_sure"] == 4
    assert content["figures"]["student_precision"]["mean"] == pytest.approx(1.0)


def test_what_is_lost_and_what_is_new(compare: Figures, tmp_path: Path, labels: Path) -> None:
    corner = (0.0, 0.8, 0.2, 1.0)
    teacher = zoo(tmp_path / "t.onnx", [*OBJECTS, ((0.0, 0.0, 0.1, 0.1), 0, 0.6)])
    student = zoo(
        tmp_path / "s.onnx",
        [
            (OBJECTS[0][0], 1, 0.55),  # found, not as sure
            (OBJECTS[1][0], 1, 0.95),  # another class: lost, and a false alarm
            (corner, 0, 0.7),  # not sure enough for a false alarm
            ((0.0, 0.0, 0.1, 0.1), 0, 0.9),  # the teacher has seen it too
        ],
    )
    figures = compare(teacher, student, "--labels", labels)["figures"]
    counts = [figures[name] for name in ("objects", "found", "found_as_sure", "false_alarms")]
    assert counts == [4, 2, 0, 2]
    assert figures["teacher_precision"]["at_half"] == pytest.approx(1.0)
    assert figures["student_precision"]["at_half"] < 0.6


def test_the_teacher_may_be_less_sure(compare: Figures, tmp_path: Path) -> None:
    path = zoo(tmp_path / "t.onnx", [(OBJECTS[0][0], 0, 0.3)])
    figures = compare(path, path, "--confidence", "0.2")["figures"]
    assert (figures["least_confidence"], figures["objects"], figures["found"]) == (0.2, 2, 2)


def test_without_objects(
    compare: Figures, tmp_path: Path, images: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = zoo(tmp_path / "t.onnx", [(OBJECTS[0][0], 0, 0.001)])
    figures = compare(path, path)["figures"]
    assert figures["objects"] == figures["found"] == 0
    assert main(["compare", *[str(path)] * 2, "--data", str(images), "--task", "detection"]) == 0
    assert "on 2 images" in capfd.readouterr().out


def test_text(
    tmp_path: Path, images: Path, labels: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    teacher, student = zoo(tmp_path / "t.onnx", OBJECTS), zoo(tmp_path / "s\n.onnx", OBJECTS[:1])
    words = ["--data", images, "--labels", labels, "--task", "detection"]
    assert main(["compare", *map(str, [teacher, student, *words])]) == 0
    output, error = capfd.readouterr()
    assert error == ""
    head, table, count = output.strip().split("\n\n")
    assert head == rf"{teacher} -> {tmp_path}/s\n.onnx"
    assert count == "on 2 images"
    rows = [line.split("  ")[0] for line in table.splitlines()[2:]]
    assert rows == ["file bytes", "objects of the teacher at 0.80", "", "", *rows[4:]]
    assert rows[4:] == ["false alarms at 0.80", "labels for 2 of 2 images", "AP50", "AP50:95"]
    found, precision = table.splitlines()[4], table.splitlines()[8]
    assert found.split() == ["found", "at", "0.50", "4", "2", "50.0%"]
    assert precision.split() == ["AP50", "1.000", "0.500", "50.0%"]


def test_pictures(compare: Figures, tmp_path: Path) -> None:
    teacher = zoo(tmp_path / "t.onnx", OBJECTS)
    student = zoo(tmp_path / "s.onnx", [OBJECTS[0], ((0.5, 0.2, 0.9, 0.9), 1, 0.9)])
    compare(teacher, student, "--pictures", tmp_path / "new" / "seen")
    names = sorted(path.name for path in (tmp_path / "new" / "seen").iterdir())
    assert names == ["0.jpg", "1.jpg"]
    for name, (width, height) in zip(names, SIZES, strict=True):
        with Image.open(tmp_path / "new" / "seen" / name) as picture:
            assert picture.size == (2 * width + GAP_PIXELS, height + HEAD_PIXELS)
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        reds = (pixels - [255, 0, 0]).__abs__().max(-1) < 60
        # What the student has lost is red at its own place in both halves.
        top, left = HEAD_PIXELS + 0.2 * height, 0.5 * width
        for offset in (0, width + GAP_PIXELS):
            half = reds[HEAD_PIXELS:, offset : offset + width]
            assert half.any()
            rows, columns = np.nonzero(half)
            assert HEAD_PIXELS + rows.min() == pytest.approx(top, abs=2)
            assert columns.min() == pytest.approx(left, abs=2)


def painted(path: Path, fraction: float) -> str:
    """Return the colour of the right half's box that begins at a fraction of the image."""
    with Image.open(path) as picture:
        width = (picture.width - GAP_PIXELS) // 2
        height = picture.height - HEAD_PIXELS
        x = width + GAP_PIXELS + round(fraction * width)
        pixel = np.array(picture.getpixel((x + 1, HEAD_PIXELS + round(0.8 * height))))
    return min(COLOURS, key=lambda colour: np.abs(pixel - COLOURS[colour]).sum())


COLOURS = {
    "blue": (90, 160, 230),
    "green": (50, 205, 50),
    "orange": (255, 165, 0),
    "grey": (192, 192, 192),
}


def test_colours_of_the_student(compare: Figures, tmp_path: Path, images: Path) -> None:
    for file in images.iterdir():
        file.unlink()
    Image.new("RGB", (400, 200), COLOURS["blue"]).save(images / "0.png")
    # Found; a false alarm; seen, but not surely enough for one; no object to the teacher, but seen.
    confidences = [(0.9, 0.9), (0.0, 0.9), (0.0, 0.7), (0.6, 0.9)]
    boxes = [(0.1 + 0.2 * number, 0.2, 0.2 + 0.2 * number, 0.9) for number in range(4)]
    teacher, student = (
        zoo(
            tmp_path / f"{side}.onnx",
            [(box, 0, sure[side]) for box, sure in zip(boxes, confidences, strict=True)],
        )
        for side in (0, 1)
    )
    compare(teacher, student, "--pictures", tmp_path / "seen")
    colours = [painted(tmp_path / "seen" / "0.jpg", box[0]) for box in boxes]
    assert colours == ["green", "orange", "grey", "grey"]


def test_large_images(compare: Figures, tmp_path: Path, images: Path) -> None:
    for file in images.iterdir():
        file.unlink()
    Image.new("RGB", (40_000, 1_000), COLOURS["blue"]).save(images / "0.png")
    path = zoo(tmp_path / "t.onnx", [((0.5, 0.1, 0.9, 0.9), 0, 0.9)])
    compare(path, path, "--pictures", tmp_path / "seen")
    with Image.open(tmp_path / "seen" / "0.jpg") as picture:
        assert picture.size == (2 * MOST_SIDE_PIXELS + GAP_PIXELS, 50 + HEAD_PIXELS)
    assert painted(tmp_path / "seen" / "0.jpg", 0.5) == "green"
    assert painted(tmp_path / "seen" / "0.jpg", 0.7) == "blue"


def test_names(
    compare: Figures,
    refused: Callable[..., str],
    tmp_path: Path,
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts: list[str] = []
    monkeypatch.setattr(
        detectors,
        "write_picture",
        lambda _file, _image, left, _right: texts.extend(mark.text for mark in left.marks),
    )
    path, names = zoo(tmp_path / "t.onnx", OBJECTS[:1]), tmp_path / "own.names"
    words = ("--pictures", tmp_path / "seen", "--names", names)
    compare(path, path, *words[:2])
    names.write_text("\ufeffchat\nécuelle du chien\n\n", encoding="utf-8")
    compare(path, path, *words)
    assert texts == ["dog's bowl 0.90"] * 2 + ["écuelle du chien 0.90"] * 2
    both = (path, path, "--data", images, *DETECTION)
    assert "--names is for pictures; add" in refused(*both, *words[2:])
    names.write_text("cat\n\n")
    sentence = refused(*both, *words)
    assert f"--names: {names} has 1 names, the networks know 2 classes" in sentence
    names.write_bytes(b"\xff\xfe")
    assert "is not text in UTF-8" in refused(*both, *words)
    assert len(texts) == 4


def test_images_without_labels(
    compare: Figures, tmp_path: Path, images: Path, labels: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (labels / "1.txt").unlink()
    path = zoo(tmp_path / "t.onnx", OBJECTS)
    words = ("--labels", labels)
    figures = compare(path, path, *words)["figures"]
    assert (figures["labelled"], figures["images"]) == (1, 2)
    assert compare(path, path)["figures"]["labelled"] is None
    assert main(["compare", *map(str, [path, path, "--data", images, *DETECTION, *words])]) == 0
    assert "labels for 1 of 2 images" in capfd.readouterr().out


# Classification


def pack(path: Path, network: nn.Module) -> Path:
    """Write a network as .spq with an ONNX program."""
    traced = trace(Source({}, "", module=network), (torch.zeros(2, 6),))
    assert traced is not None
    state = network.state_dict()
    programs = write_programs(traced, state)
    spq.save({**state, **programs.constants}, path, programs={"onnx": programs.stored["onnx"]})
    return path


@pytest.fixture
def classifier() -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Linear(6, 8).eval()


def test_classifiers(
    tmp_path: Path, classifier: nn.Linear, capfd: pytest.CaptureFixture[str]
) -> None:
    packed, dense = pack(tmp_path / "t.spq", classifier), tmp_path / "t.onnx"
    write_onnx(packed, dense)
    with torch.no_grad():
        classifier.weight += torch.linspace(-0.3, 0.3, 48).reshape(8, 6).roll(3, 1)
    student = pack(tmp_path / "s.spq", classifier)
    x = np.random.default_rng(4).normal(size=(150, 6)).astype("f4")
    y = np.arange(150) % 8
    np.savez(tmp_path / "c.npz", x=x, y=y)
    with torch.no_grad():
        expected = spq.session(packed).run(None, {spq.session(packed).get_inputs()[0].name: x})[0]
        answers = classifier(torch.from_numpy(x)).numpy()
    words = ["--data", tmp_path / "c.npz", "--task", "classification"]
    for teacher in (packed, dense):
        assert main(["compare", *map(str, [teacher, student, *words, "--json"])]) == 0
        figures = json.loads(capfd.readouterr().out)["figures"]
        order, wanted = np.argsort(-answers, axis=1), expected.argmax(1)
        assert figures["samples"] == 150
        assert figures["agreement"]["top1"] == pytest.approx((order[:, 0] == wanted).mean())
        top5 = (order[:, :5] == wanted[:, None]).any(1).mean()
        assert figures["agreement"]["top5"] == pytest.approx(top5)
        assert figures["student_accuracy"]["top1"] == pytest.approx((order[:, 0] == y).mean())
        assert figures["teacher_accuracy"]["top1"] == pytest.approx((wanted == y).mean())
        logarithms = torch.from_numpy(expected).log_softmax(1), torch.from_numpy(answers)
        expectation = (
            (logarithms[0].exp() * (logarithms[0] - logarithms[1].log_softmax(1))).sum(1).mean()
        )
        assert figures["divergence"] == pytest.approx(float(expectation), rel=1e-4)
        assert 0.3 < figures["agreement"]["top1"] < 1
    assert main(["compare", *map(str, [packed, packed, *words])]) == 0
    rows = [line.split("  ") for line in capfd.readouterr().out.split("\n\n")[1].splitlines()]
    assert [rows[3][0], rows[3][-1].strip()] == ["same answer", "100.00%"]
    assert rows[6][-1] == "+0.00 points"


def test_images_for_classifiers(
    tmp_path: Path, images: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # One sample at a time, and dimensions left from averaging.
    path = constant(tmp_path / "t.onnx", np.array([1, 5, 3], "f4").reshape(1, 3, 1, 1))
    words = ["--data", images, "--task", "classification", "--preprocess", "size=32"]
    assert main(["compare", *map(str, [path, path, *words, "--json"])]) == 0
    figures = json.loads(capfd.readouterr().out)["figures"]
    assert figures == {
        "samples": 2,
        "agreement": {"top1": 1.0, "top5": 1.0},
        "divergence": 0.0,
        "teacher_accuracy": None,
        "student_accuracy": None,
    }


# Refusals


DETECTION = ("--task", "detection")
CLASSIFICATION = ("--task", "classification")


def test_help_names_colours_and_layouts(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--help"]) == 0
    text = " ".join(capfd.readouterr().out.split())
    for part in ("green is", "red what", "orange its", "grey what", "without NMS"):
        assert part in text
    for layout in ("1x(4+CLASSES)xN", "1xNx(5+CLASSES)", "1xNx4 with 1xCLASSESxN"):
        assert layout in text


def test_words(tmp_path: Path, images: Path, refused: Callable[..., str]) -> None:
    path = zoo(tmp_path / "t.onnx", OBJECTS)
    both = (path, path, "--data", images)
    assert "--task" in refused(*both)
    assert "--data" in refused(path, path, *DETECTION)
    assert "preprocess: size=x is not" in refused(*both, *DETECTION, "--preprocess", "size=x")
    assert "from 0.01 to 1" in refused(*both, *DETECTION, "--confidence", "1.5")
    for option, value in (
        ("labels", images),
        ("confidence", "0.5"),
        ("pictures", tmp_path),
        ("names", path),
    ):
        sentence = refused(*both, *CLASSIFICATION, f"--{option}", value)
        assert f"--{option} is for --task detection" in sentence


def test_files_that_are_no_networks(
    tmp_path: Path, images: Path, refused: Callable[..., str]
) -> None:
    path = zoo(tmp_path / "t.onnx", OBJECTS)
    after = ("--data", images, *DETECTION)
    weights = tmp_path / "w.spq"
    spq.save({"w": np.ones(3, "f4")}, weights)
    assert "[no_program]" in refused(path, weights, *after)
    (tmp_path / "x.onnx").write_bytes(b"nonsense")
    assert "is neither .spq nor an .onnx" in refused(tmp_path / "x.onnx", path, *after)
    (tmp_path / "x.spq").write_bytes(weights.read_bytes()[:20])
    assert "[truncated in" in refused(tmp_path / "x.spq", path, *after)


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 4), ("N", 2)])
def test_inputs_that_are_no_images(
    tmp_path: Path, images: Path, refused: Callable[..., str], shape: tuple[Any, ...]
) -> None:
    path = constant(tmp_path / "t.onnx", np.zeros((1, 7, 20), "f4"), shape)
    assert "a detector takes one image" in refused(path, path, "--data", images, *DETECTION)


def test_detectors_that_are_none(tmp_path: Path, images: Path, refused: Callable[..., str]) -> None:
    teacher = eight(tmp_path / "t.onnx", OBJECTS)
    after = ("--data", images, *DETECTION, "--preprocess", "size=32")
    for name, output, part in (
        ("flat", np.zeros((1, 1000)), "has outputs 1x1000; read are 1x(4+CLASSES)xN"),
        ("logits", np.full((1, 7, 20), 4.0), "not within 0 and 1"),
        ("nan", np.full((1, 7, 20), np.nan), "values that are not numbers"),
        ("more", np.zeros((1, 7, 20)), "knows 3 classes, the teacher 2"),
    ):
        student = constant(tmp_path / f"{name}.onnx", output.astype("f4"))
        sentence = refused(teacher, student, *after)
        assert part in sentence
        assert str(student) in sentence


def test_images_of_another_size(tmp_path: Path, images: Path, refused: Callable[..., str]) -> None:
    path = eight(tmp_path / "t.onnx", OBJECTS)
    new = tmp_path / "new"
    sentence = refused(path, path, "--data", images, *DETECTION, "--pictures", new)
    assert (
        f"{path} takes 1x3x32x32 as 'image' and was given 1x3x48x64; for images write " in sentence
    )
    assert "--preprocess size=32x32,fit=letterbox," in sentence
    assert not new.exists()


def test_images_that_break_a_graph_of_free_size(
    tmp_path: Path, images: Path, refused: Callable[..., str]
) -> None:
    path = save_model(
        tmp_path / "t.onnx",
        [helper.make_node("Add", ["image", "other"], ["y"])],
        [helper.make_tensor_value_info("image", FLOAT, ["N", 3, None, None])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        other=np.zeros((1, 3, 32, 32), "f4"),
    )
    sentence = refused(path, path, "--data", images, *DETECTION)
    assert "does not run on this data" in sentence
    assert "; check its shape and type, and --preprocess for images" in sentence


def test_data(tmp_path: Path, images: Path, labels: Path, refused: Callable[..., str]) -> None:
    path = zoo(tmp_path / "t.onnx", OBJECTS)
    sentence = refused(path, path, "--data", labels, *DETECTION)
    assert "holds no images" in sentence
    assert "folders in it are not searched" in sentence
    assert "is not a folder" in refused(path, path, "--data", path, *DETECTION)
    both = (path, path, "--data", images, *DETECTION)
    (labels / "1.txt").write_text("2 0.5 0.5 0.1 0.1")
    assert "line 1" in refused(*both, "--labels", labels)
    Image.new("RGB", (4, 4)).save(images / "1.bmp")
    assert "rename one" in refused(*both)


@pytest.mark.parametrize("content", [None, "", " \n\n"])
def test_labels_are_looked_for_before_anything_runs(
    tmp_path: Path, images: Path, labels: Path, refused: Callable[..., str], content: str | None
) -> None:
    path, new = zoo(tmp_path / "t.onnx", OBJECTS), tmp_path / "new"
    for file in labels.iterdir():
        file.unlink()
        if content is not None:
            file.write_text(content)
    words = ("--data", images, *DETECTION, "--labels", labels, "--pictures", new)
    sentence = refused(path, path, *words)
    assert f"has no boxes for the images; those of 0.png belong in {labels / '0.txt'}" in sentence
    assert not new.exists()


def test_pictures_replace_nothing(
    tmp_path: Path, images: Path, refused: Callable[..., str]
) -> None:
    path = zoo(tmp_path / "t.onnx", OBJECTS)
    before = {file: file.read_bytes() for file in images.iterdir()}
    sentence = refused(path, path, "--data", images, *DETECTION, "--pictures", images)
    assert "holds files already" in sentence
    assert {file: file.read_bytes() for file in images.iterdir()} == before


def test_classifiers_that_are_none(
    tmp_path: Path, classifier: nn.Linear, refused: Callable[..., str]
) -> None:
    path = pack(tmp_path / "t.spq", classifier)
    data = tmp_path / "c.npz"
    x = np.zeros((3, 6), "f4")
    after = ("--data", data, *CLASSIFICATION)
    np.savez(data, x=x, z=x)
    assert "takes 1 inputs, the data have 2" in refused(path, path, *after)
    np.savez(data, x=x[:, :4])
    assert "takes Nx6 as 'input' and was given 3x4; give it samples" in refused(path, path, *after)
    np.savez(data, x=x, y=np.array([0, 8, 1]))
    assert "not all within the 8 classes" in refused(path, path, *after)
    assert "is for folders" in refused(path, path, *after, "--preprocess", "size=4")
    np.savez(data, x=x)
    for name, output, part in (
        ("boxes", np.zeros((1, 4, 5)), "answers with 3x4x5"),
        ("one", np.zeros((1, 1)), "answers with 3x1"),
        ("infinite", np.full((1, 8), np.inf), "not finite"),
        ("fewer", np.zeros((1, 7)), "knows 7 classes, the teacher 8"),
    ):
        student = constant(tmp_path / f"{name}.onnx", output.astype("f4"), (1, 6))
        assert part in refused(path, student, *after)


def test_without_cocos_code(
    tmp_path: Path,
    images: Path,
    labels: Path,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    path = zoo(tmp_path / "t.onnx", OBJECTS)
    (images / "0.png").write_bytes(b"not looked at")
    sentence = refused(path, path, "--data", images, *DETECTION, "--labels", labels)
    assert "pip install 'spqformat[all]' [missing_extra]" in sentence
