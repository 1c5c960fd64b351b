"""The example of a detector runs as its README says, on a network of the same kind."""

import json
import re
import runpy
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageColor

from spqtools.cli import main
from spqtools.evolve.effort import EFFORTS
from spqtools.reading.images import read_image
from spqtools.reading.preprocess import parse_preprocess
from tests.tools.comparison.test_request import INPUT, OBJECTS, constant, eight

EXAMPLE = Path(__file__).parents[2] / "examples" / "yolo"
DETECT = EXAMPLE / "detect.py"
TEXT = (EXAMPLE / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PREPROCESS = "size=416,fit=letterbox,fill=128"
CLASSES, ANCHORS, CELLS = 2, 3, 4


def tiny(path: Path) -> Path:
    """A detector with the inputs, heads and outputs of tiny-YOLOv3, sure of all it sees."""
    random = np.random.default_rng(0)
    bias = np.tile(np.array([0, 0, -2, -2, 3, 3, -9], dtype="f4"), ANCHORS)
    count = ANCHORS * CELLS**2
    constants = {
        "first": random.normal(size=(8, 3, 4, 4)).astype("f4") / 3,
        "last": random.normal(size=(bias.size, 8, 1, 1)).astype("f4") / 8,
        "bias": bias,
        "cells": np.array([1, ANCHORS, 5 + CLASSES, CELLS**2]),
        "parts": np.array([2, 2, 1, CLASSES]),
        "box_shape": np.array([1, count, 4]),
        "score_shape": np.array([1, CLASSES, count]),
    }
    steps: list[tuple[str, list[str], list[str], dict[str, Any]]] = [
        ("Conv", ["input_1", "first"], ["a"], {"strides": [104, 104]}),
        ("LeakyRelu", ["a"], ["b"], {}),
        ("Conv", ["b", "last", "bias"], ["head"], {}),
        ("Reshape", ["head", "cells"], ["c"], {}),
        ("Sigmoid", ["c"], ["d"], {}),
        ("Split", ["d", "parts"], ["start", "size", "object", "class"], {"axis": 2}),
        ("Add", ["start", "size"], ["end"], {}),
        ("Concat", ["start", "end"], ["e"], {"axis": 2}),
        ("Transpose", ["e"], ["f"], {"perm": [0, 1, 3, 2]}),
        ("Reshape", ["f", "box_shape"], ["fractions"], {}),
        ("Concat", ["image_shape", "image_shape"], ["sides"], {"axis": 1}),
        ("Mul", ["fractions", "sides"], ["boxes"], {}),
        ("Mul", ["object", "class"], ["g"], {}),
        ("Transpose", ["g"], ["h"], {"perm": [0, 2, 1, 3]}),
        ("Reshape", ["h", "score_shape"], ["scores"], {}),
    ]
    shapes: dict[str, list[Any]] = {
        "input_1": ["N", 3, 416, 416],
        "image_shape": ["N", 2],
        "boxes": [1, count, 4],
        "scores": [1, CLASSES, count],
    }
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    ]
    graph = helper.make_graph(
        [helper.make_node(kind, taken, given, **more) for kind, taken, given, more in steps],
        "tiny",
        values[:2],
        values[2:],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the README takes for granted, in the current folder."""
    random = np.random.default_rng(1)
    tiny(tmp_path / "yolo.onnx")
    for name, count in (("images", 8), ("others", 2)):
        (tmp_path / name).mkdir()
        for number in range(count):
            pixels = random.integers(0, 256, (9, 12, 3), dtype=np.uint8)
            image = Image.fromarray(pixels).resize((120 + number, 90))
            image.save(tmp_path / name / f"{number}.png")
    image.save(tmp_path / "photo.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "0.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "names.txt").write_text("traffic light\nhorse\n")
    monkeypatch.chdir(tmp_path)
    # One cycle, a short training and one thread: what is looked for are commands that do not run.
    for name in ("fast", "default"):
        monkeypatch.setitem(EFFORTS, name, replace(EFFORTS["fast"], densities=(0.2,)))
    monkeypatch.setattr("spqtools.search.compress._THREADS", 1)
    monkeypatch.setattr("spqtools.training.course._PRODUCTS", 1)
    monkeypatch.setattr("spqtools.training.course._LEAST_STEPS", 20)
    return tmp_path


def detect(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> None:
    monkeypatch.setattr("sys.argv", ["detect.py", *map(str, words)])
    runpy.run_path(str(DETECT), run_name="__main__")


def run(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run commands of a shell here."""
    for line in block.replace("\\\n", "").splitlines():
        words = shlex.split(line)
        if words[0] == "spq":
            assert main(words[1:]) == 0
        elif words[0] == "python":
            assert words[1] == "examples/yolo/detect.py"
            detect(monkeypatch, *words[2:])
        else:
            assert words[:2] == ["pip", "install"]


def test_readme(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = BLOCK.findall(TEXT)
    assert len(blocks) >= 8
    variables: dict[str, Any] = {}
    for language, block in blocks:
        if language == "sh":
            run(block, monkeypatch)
        elif name := re.match(r"# (\w+\.py)\n", block):
            (folder / name[1]).write_text(block)
        else:
            exec(block, variables)  # noqa: S102
    expected = parse_preprocess(PREPROCESS).apply(read_image(folder / "photo.jpg"))
    assert np.array_equal(variables["pixels"][0], expected)
    boxes, scores = variables["outputs"]
    assert boxes.shape == (1, scores.shape[2], 4)
    for pictures in ("seen", "found"):
        assert len(list((folder / pictures).iterdir())) == 2
    assert {path.name for path in folder.glob("*.spq")} >= {"yolo.spq", "trained.spq", "mine.spq"}

    # What detect.py prints is what spq compare counts.
    capsys.readouterr()
    words = ["--data", "others", "--task", "detection", "--preprocess", PREPROCESS]
    assert main(["compare", "yolo.spq", "yolo.spq", *words, "--confidence", "0.5", "--json"]) == 0
    counted = json.loads(capsys.readouterr().out)["figures"]["objects"]
    for more, known in (([], "0"), (["--names", "names.txt"], "traffic light")):
        detect(monkeypatch, "yolo.spq", "others", "--preprocess", PREPROCESS, *more)
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == counted > 0
        pattern = re.compile(rf"[01]\.png( \d+){{4}} [01]\.\d\d {known}")
        assert all(map(pattern.fullmatch, lines))


def test_options_of_the_readme_exist(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("pack", "compare"):
        main([command, "--help"])
    with pytest.raises(SystemExit):
        detect(monkeypatch, "--help")
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert set(re.findall(r"(?<![-\w])--[a-z][a-z-]*", TEXT)) <= known


def test_boxes_lie_where_the_objects_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, image = eight(tmp_path / "eight.onnx", OBJECTS), tmp_path / "one.png"
    Image.new("RGB", (200, 100), "white").save(image)
    given = ["--preprocess", f"size={INPUT}", "--confidence", "0.87"]
    detect(monkeypatch, model, image, *given, "--pictures", tmp_path / "new")
    assert capsys.readouterr().out == "one.png 20 10 100 60 0.90 dog's bowl\n"
    with Image.open(tmp_path / "new" / "one.png") as picture:
        pixels = np.asarray(picture)
    assert np.argwhere((pixels != 255).any(-1)).min(0).tolist() == [10, 20]
    assert pixels[60, 100].tolist() == list(ImageColor.getrgb("limegreen"))
    assert (pixels[61:] == 255).all()


@pytest.mark.parametrize(
    ("model", "more", "said"),
    [
        ("none.onnx", [], "none.onnx"),
        ("eight.onnx", ["--pictures", "."], "holds files"),
        ("eight.onnx", ["--names", "one.png"], "not text in UTF-8"),
        ("four.onnx", [], "four.onnx has outputs 1x2x2x2; read are"),
    ],
)
def test_refusals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, more: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    eight(Path("eight.onnx"), OBJECTS)
    constant(Path("four.onnx"), np.zeros((1, 2, 2, 2), dtype="f4"))
    Image.new("RGB", (20, 10), "white").save("one.png")
    with pytest.raises(SystemExit, match=rf"detect.py: .*{said}"):
        detect(monkeypatch, model, "one.png", "--preprocess", "size=32", *more)
