"""Real exported ONNX graphs come back whole: the same answers, from a smaller file.

    python -m tests.bench.onnx_graphs --data FOLDER --models SILERO.onnx --minilm FOLDER

Each graph is stored without loss, its weights apart from the graph, and opened by `spq.session`,
once with weights that ONNX Runtime takes from memory and once from a whole model. The last column
is the largest difference of any output of either from the original's: tiny-YOLOv3 on a photograph,
silero-vad on a tone, MiniLM (exported here from its published weights, and once more in float16)
on three sentences.
"""

import argparse
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import spq
from spq import onnx_graph
from spqtools.reading.tracing import capture
from tests.bench import minilm

_SIDE = 416
_HEADS = "model | opset | weights | bytes before | .spq bytes | graph in it | largest difference"
Inputs = Mapping[str, NDArray[Any]]


def main() -> None:
    """Store every graph, open it again and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--models", type=Path, nargs="*", default=[], help=".onnx of silero-vad")
    parser.add_argument("--minilm", type=Path, help="folder with model.safetensors and vocab.txt")
    arguments = parser.parse_args()
    print(f"| {_HEADS} |\n|{' --- |' * len(_HEADS.split('|'))}")
    yolo = arguments.data / "tiny-yolov3"
    _compare("tiny-yolov3-11", (yolo / "tiny-yolov3-11.onnx").read_bytes(), _photo(yolo))
    for path in arguments.models:
        _compare(path.stem, path.read_bytes(), _tone(path))
    if arguments.minilm is not None:
        tokens = minilm.sentences(arguments.minilm)
        traced = capture(minilm.load(arguments.minilm), (tokens,))
        model = onnx_graph.export(traced)
        inputs = {model.graph.input[0].name: tokens.numpy()}
        _compare("MiniLM-L6", model.SerializeToString(), inputs)
        _compare("MiniLM-L6, float16 weights", _halved(model).SerializeToString(), inputs)


def _compare(name: str, before: bytes, inputs: Inputs) -> None:
    """Print the row of a model."""
    model = onnx.load_from_string(before)
    graph, weights = onnx_graph.strip(model)
    stream = io.BytesIO()
    spq.save(weights, stream, programs={"onnx": graph})
    data = stream.getvalue()
    expected = onnxruntime.InferenceSession(before).run(None, inputs)
    sessions = [spq.session(data), spq.session(data, sess_options=onnxruntime.SessionOptions())]
    difference = max(
        float(np.abs(wanted.astype(np.float64) - found).max(initial=0))
        for session in sessions
        for wanted, found in zip(expected, session.run(None, inputs), strict=True)
    )
    versions = max(entry.version for entry in model.opset_import if not entry.domain)
    print(
        f"| {name} | {versions} | {len(weights)} | {len(before):,} | {len(data):,} "
        f"| {len(graph):,} | {difference:.1g} |",
        flush=True,
    )


def _photo(folder: Path) -> Inputs:
    """Return a photograph as tiny-YOLOv3 wants it: its longer side fills a grey square."""
    image = Image.open(folder / "dog.jpg").convert("RGB")
    scale = _SIDE / max(image.size)
    width, height = (round(side * scale) for side in image.size)
    square = Image.new("RGB", (_SIDE, _SIDE), (128, 128, 128))
    square.paste(image.resize((width, height)), ((_SIDE - width) // 2, (_SIDE - height) // 2))
    pixels = np.asarray(square, dtype=np.float32) / 255
    shape = np.array([[image.height, image.width]], dtype=np.float32)
    return {"input_1": pixels.transpose(2, 0, 1)[None], "image_shape": shape}


def _tone(path: Path) -> Inputs:
    """Return 512 samples of a tone, an empty memory and, where it is asked for, the rate."""
    every: Inputs = {
        "input": 0.3 * np.sin(np.arange(512, dtype=np.float32) / 7)[None],
        "state": np.zeros((2, 1, 128), dtype=np.float32),
        "sr": np.array(16_000),
    }
    session = onnxruntime.InferenceSession(path)
    return {value.name: every[value.name] for value in session.get_inputs()}


def _halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose float32 matrices are float16 initializers that a node widens."""
    half = onnx.ModelProto()
    half.CopyFrom(model)
    casts = []
    for tensor in half.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2:
            name, short = tensor.name, f"{tensor.name}.half"
            array = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(array, short))
            casts.append(helper.make_node("Cast", [short], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *half.graph.node]
    del half.graph.node[:]
    half.graph.node.extend(nodes)
    return half


if __name__ == "__main__":
    main()
