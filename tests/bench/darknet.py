"""Darknet configurations as ONNX graphs with drawn weights, where there are no trained ones.

Kinds of layers are those that YOLOv3 has. The weights of a layer are drawn, with replacement, from
those of a trained layer with the same kernel and about as many inputs, so that they have its
distribution, and scaled so that activations neither grow nor vanish.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_OPSET = 13
_SLOPE = 0.1
# What the last layer of a residual block adds, in units of what it is added to.
_RESIDUAL = 0.3


@dataclass(frozen=True)
class _Value:
    """A value of the graph and how many channels it has."""

    name: str
    channels: int


class _Builder:
    """A graph that grows by one section of the configuration after the other."""

    def __init__(self, donors: Sequence[NDArray[np.float32]], seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._donors = donors
        self._random = np.random.default_rng(seed)

    def add(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Append a node and return the name of its value."""
        name = f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def convolution(self, source: _Value, section: dict[str, str], *, gain: float) -> _Value:
        """Append a convolution, its norm folded, and what comes after it."""
        rows, kernel = int(section["filters"]), int(section["size"])
        stem = f"conv{len(self.initializers) // 2}"
        shape = (rows, source.channels, kernel, kernel)
        weight = self._random.choice(self._donor(shape), shape).astype(np.float32)
        weight *= gain * (2.0 / weight[0].size) ** 0.5
        for name, array in (("weight", weight), ("bias", np.zeros(rows, np.float32))):
            self.initializers.append(numpy_helper.from_array(array, f"{stem}.{name}"))
        value = self.add(
            "Conv",
            [source.name, f"{stem}.weight", f"{stem}.bias"],
            kernel_shape=[kernel] * 2,
            strides=[int(section["stride"])] * 2,
            pads=[kernel // 2 if int(section["pad"]) else 0] * 4,
        )
        if section["activation"] == "leaky":
            value = self.add("LeakyRelu", [value], alpha=_SLOPE)
        return _Value(value, rows)

    def upsample(self, source: _Value, factor: int) -> _Value:
        """Append nearest-neighbour upsampling."""
        scales = f"scales{len(self.nodes)}"
        array = np.array([1, 1, factor, factor], np.float32)
        self.initializers.append(numpy_helper.from_array(array, scales))
        value = self.add(
            "Resize",
            [source.name, "", scales],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        return _Value(value, source.channels)

    def _donor(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return a trained layer's weights, of zero mean and unit deviation."""
        fan_in = shape[1] * shape[2] * shape[3]
        alike = [donor for donor in self._donors if donor.shape[2:] == shape[2:]]
        nearest = min(alike, key=lambda donor: abs(log(donor[0].size / fan_in)))
        unit: NDArray[np.float32] = (nearest.reshape(-1) - nearest.mean()) / nearest.std()
        return unit


def detector(
    configuration: Path, donors: Sequence[NDArray[np.float32]], size: int, *, seed: int = 0
) -> onnx.ModelProto:
    """Build the network of a configuration.

    Parameters
    ----------
    configuration : Path
        Darknet's ``.cfg``.
    donors : sequence of ndarray of float32, shape (outputs, inputs, height, width)
        Weights of trained convolutions.
    size : int
        Height and width of the images.
    seed : int
        Seed of the weights.

    Returns
    -------
    onnx.ModelProto
        Its outputs are the raw heads, what comes before each ``[yolo]``.
    """
    builder = _Builder(donors, seed)
    (_, network), *sections = _read(configuration)
    channels = int(network["channels"])
    values: list[_Value] = []
    heads: list[str] = []
    last = _Value("images", channels)
    for place, (kind, section) in enumerate(sections):
        if kind == "convolutional":
            ends_block = place + 1 < len(sections) and sections[place + 1][0] == "shortcut"
            last = builder.convolution(last, section, gain=_RESIDUAL if ends_block else 1.0)
        elif kind == "shortcut":
            other = values[place + int(section["from"])]
            last = _Value(builder.add("Add", [last.name, other.name]), last.channels)
        elif kind == "route":
            places = [int(number) for number in section["layers"].split(",")]
            parts = [values[number + place if number < 0 else number] for number in places]
            last = parts[0]
            if len(parts) > 1:
                joined = builder.add("Concat", [part.name for part in parts], axis=1)
                last = _Value(joined, sum(part.channels for part in parts))
        elif kind == "upsample":
            last = builder.upsample(last, int(section["stride"]))
        elif kind == "yolo":
            heads.append(last.name)
        else:
            raise ValueError(f"a section [{kind}] is not known")
        values.append(last)
    graph = helper.make_graph(
        builder.nodes,
        configuration.stem,
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", channels, size, size])],
        [helper.make_tensor_value_info(head, TensorProto.FLOAT, [None] * 4) for head in heads],
        builder.initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)


def _read(configuration: Path) -> list[tuple[str, dict[str, str]]]:
    """Return the sections of a configuration in order."""
    sections: list[tuple[str, dict[str, str]]] = []
    for line in configuration.read_text().splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith("["):
            sections.append((line.strip("[]"), {}))
        elif line:
            key, _, value = line.partition("=")
            sections[-1][1][key.strip()] = value.strip()
    return sections
