"""The network as a graph of ATen operations, run layer by layer or from any layer on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from spqtools.evolve.folding import fold_norms

_ATEN = torch.ops.aten
_LINEAR = {_ATEN.linear.default}
_CONVOLUTIONS = {_ATEN.conv1d.default, _ATEN.conv2d.default}
# Arguments: input, weight, bias, stride, padding, dilation, transposed, output_padding, groups.
_GENERAL_CONVOLUTION = _ATEN.convolution.default
_SUM = _ATEN.add.Tensor
# Memory and work grow with the square of it.
_COUPLED_ROWS = 512


@dataclass(frozen=True)
class Layer:
    """A linear or convolutional operation whose weight is a parameter.

    Parameters
    ----------
    weight, bias : str, str or None
        State-dict names.
    node : fx.Node
        Place in the student's graph.
    rows, columns : int
        Shape of the weight as a matrix: outputs, and inputs of one group.
    groups : int
        Groups of a convolution; rows of a group see only its columns.
    stride, padding, dilation, kernel : tuple of int, each of length 2
        Geometry of a convolution; the kernel is empty for a linear layer.
    """

    weight: str
    bias: str | None
    node: fx.Node
    rows: int
    columns: int
    groups: int = 1
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    kernel: tuple[int, ...] = ()

    def blocks(self) -> list[tuple[int, slice]]:
        """Cut the rows into stretches whose errors are looked at together: the group, the rows."""
        rows = self.rows // self.groups
        return [
            (group, slice(start, min(start + _COUPLED_ROWS, (group + 1) * rows)))
            for group in range(self.groups)
            for start in range(group * rows, (group + 1) * rows, _COUPLED_ROWS)
        ]

    def features(self, inputs: Tensor, step: int = 1) -> Tensor:
        """Return what the rows are multiplied with at every `step`-th place.

        Float32, shape (groups, places, columns).
        """
        if not self.kernel:
            return inputs.reshape(1, -1, self.columns)[:, ::step]
        image = inputs if inputs.ndim == 4 else inputs.unsqueeze(2)
        image = F.pad(image, (self.padding[1],) * 2 + (self.padding[0],) * 2)
        # A view of all patches, copied once; F.unfold starts threads anew for every sample.
        samples, channels, height, width = image.shape
        rows, columns = self.kernel
        down = (height - self.dilation[0] * (rows - 1) - 1) // self.stride[0] + 1
        across = (width - self.dilation[1] * (columns - 1) - 1) // self.stride[1] + 1
        per_sample, per_channel, per_row, per_pixel = image.stride()
        patches = image.as_strided(
            (self.groups, samples, down, across, channels // self.groups, rows, columns),
            (
                per_channel * (channels // self.groups),
                per_sample,
                per_row * self.stride[0],
                per_pixel * self.stride[1],
                per_channel,
                per_row * self.dilation[0],
                per_pixel * self.dilation[1],
            ),
        )
        place = torch.arange(0, samples * down * across, step)
        sample, place = place.div(down * across, rounding_mode="floor"), place % (down * across)
        row, column = place.div(across, rounding_mode="floor"), place % across
        return patches[:, sample, row, column].reshape(self.groups, -1, self.columns)

    def outputs(self, output: Tensor, step: int = 1) -> Tensor:
        """Return an output, or its gradient, in the order of `features`, shape (places, rows)."""
        if self.kernel:
            output = output.flatten(2).transpose(1, 2)
        return output.reshape(-1, self.rows)[::step]


class Student:
    """A traced network with replaceable weights.

    Parameters
    ----------
    graph : fx.GraphModule
        Placeholders, parameters as ``get_attr``, ATen calls and one output.
    inputs : sequence of Tensor
        Calibration inputs, one per placeholder, first dimension the samples.
    batch_size : int
        Samples of a batch.

    Notes
    -----
    `original` holds the teacher's tensors, with batch norms folded into the layers before them.
    """

    def __init__(self, graph: fx.GraphModule, inputs: Sequence[Tensor], batch_size: int) -> None:
        own = fx.Graph()
        own.output(own.graph_copy(graph.graph, {}))
        nodes = list(own.nodes)
        self.original: dict[str, Tensor] = {
            **{name: value.detach().clone() for name, value in graph.named_parameters()},
            **{name: value.clone() for name, value in graph.named_buffers()},
        }
        for node in nodes:
            if node.op == "get_attr" and str(node.target) not in self.original:
                self.original[str(node.target)] = _attribute(graph, str(node.target))
        self.layers = _find_layers(nodes, self.original)
        self._nodes = [node for node in own.nodes if node.op != "call_module"]
        self._dead = _last_uses(self._nodes)
        self._placeholders = [node for node in self._nodes if node.op == "placeholder"]
        self.batches = _batches(inputs, batch_size)

    def on(self, inputs: Sequence[Tensor], batch_size: int) -> "Student":
        """Return the same network, not a copy of its tensors, on other inputs."""
        other = copy(self)
        other.batches = _batches(inputs, batch_size)
        return other

    def outputs(
        self, weights: Mapping[str, Tensor], batches: Sequence[int] | None = None
    ) -> list[list[Tensor]]:
        """Return the floating-point outputs of the given batches, all by default."""
        chosen = range(len(self.batches)) if batches is None else batches
        return [self.run(weights, self.start(index)) for index in chosen]

    def run(
        self,
        weights: Mapping[str, Tensor],
        values: dict[fx.Node, Any],
        start: int = 0,
        on_layer: Callable[[fx.Node, Any], Any] | None = None,
    ) -> list[Tensor]:
        """Run the graph from node `start` on and return its floating-point outputs.

        `values` holds what the nodes before have computed and is used up. `on_layer` sees the
        output of each call and returns what takes its place.
        """
        for index in range(start, len(self._nodes)):
            node = self._nodes[index]
            if node.op == "output":
                return _floating(fx.node.map_arg(node.args[0], _lookup(weights, values)))
            self._execute(node, weights, values)
            if on_layer is not None and node.op == "call_function":
                values[node] = on_layer(node, values[node])
            for dead in self._dead[index]:
                values.pop(dead, None)
        raise AssertionError("a graph ends with its output")

    def walk(self, weights: dict[str, Tensor]) -> Iterator["Stop"]:
        """Advance through the network, all batches abreast, and stop before each layer.

        The caller may replace the layer's weights at the stop; the walk goes on with them.
        """
        values = [self.start(index) for index in range(len(self.batches))]
        first = 0
        for index, layer in self._stops():
            # Batch after batch, so that values in between are there for one batch at a time.
            for batch in values:
                self._advance(weights, batch, first, index)
            yield Stop(self, layer, index, values, weights)
            first = index

    def _stops(self) -> Iterator[tuple[int, Layer]]:
        """Yield the number of each layer's node, and the layer."""
        layer_of = {layer.node: layer for layer in self.layers}
        for index, node in enumerate(self._nodes):
            if node in layer_of:
                yield index, layer_of[node]

    def _advance(
        self, weights: Mapping[str, Tensor], values: dict[fx.Node, Any], first: int, end: int
    ) -> None:
        """Compute the nodes from `first` to the one before `end`, and drop what is used up."""
        for index in range(first, end):
            self._execute(self._nodes[index], weights, values)
            for dead in self._dead[index]:
                values.pop(dead, None)

    def needs(self) -> "Needs":
        """Return what a pass of one sample takes."""
        largest, live = 1, 1
        products: dict[str, int] = {}
        layers = {layer.node: layer for layer in self.layers}
        values = self.begin([tensor[:1] for tensor in self.batches[0]])
        for index, node in enumerate(self._nodes):
            if node in layers:
                held = (one.numel() for one in values.values() if isinstance(one, Tensor))
                live = max(live, sum(held))
            self._execute(node, self.original, values)
            value = values.get(node)
            if isinstance(value, Tensor):
                largest = max(largest, value.numel())
                if node in layers:
                    products[layers[node].weight] = value.numel() * layers[node].columns
            for dead in self._dead[index]:
                values.pop(dead, None)
        return Needs(largest, live, products)

    def start(self, batch: int) -> dict[fx.Node, Any]:
        """Return what is known before a batch is run: the inputs."""
        return self.begin(self.batches[batch])

    def begin(self, inputs: Sequence[Tensor]) -> dict[fx.Node, Any]:
        """Return what is known before inputs of any number of samples are run."""
        return dict(zip(self._placeholders, map(_channels_last, inputs), strict=True))

    def _execute(
        self, node: fx.Node, weights: Mapping[str, Tensor], values: dict[fx.Node, Any]
    ) -> None:
        """Compute the value of one node."""
        if node.op == "call_function":
            target: Any = node.target
            lookup = _lookup(weights, values)
            arguments = fx.node.map_arg(node.args, lookup)
            keywords = fx.node.map_arg(node.kwargs, lookup)
            values[node] = target(*arguments, **keywords)

    def _fill(
        self, node: fx.Node, weights: Mapping[str, Tensor], values: dict[fx.Node, Any]
    ) -> bool:
        """Compute a node from what is known without passing a layer; tell whether that goes."""
        if node in values or node.op == "get_attr":
            return True
        if node.op != "call_function" or any(layer.node is node for layer in self.layers):
            return False
        if not all(self._fill(source, weights, values) for source in node.all_input_nodes):
            return False
        self._execute(node, weights, values)
        return True


@dataclass(frozen=True)
class Needs:
    """What a pass through a network takes for each sample.

    Parameters
    ----------
    largest : int
        Elements of the largest value.
    live : int
        Elements of the values that a stop before a layer finds, at most.
    products : dict of str to int
        Multiplications of each layer, by the weight's name.
    """

    largest: int
    live: int
    products: dict[str, int]


@dataclass(frozen=True)
class Stop:
    """A walk that has reached a layer.

    Parameters
    ----------
    student : Student
        The network.
    layer : Layer
        The layer that comes next.
    index : int
        Its number among the nodes.
    values : list of dict
        What each batch has computed so far.
    weights : dict of str to Tensor
        The walk's weights.
    """

    student: Student
    layer: Layer
    index: int
    values: list[dict[fx.Node, Any]]
    weights: dict[str, Tensor]

    def inputs(self, batch: int) -> Tensor:
        """Return the layer's input in one batch."""
        source: Any = self.layer.node.args[0]
        tensor: Tensor = self.values[batch][source]
        return tensor

    def output(self, batch: int) -> Tensor:
        """Return the layer's output in one batch under the walk's weights."""
        scratch = dict(self.values[batch])
        self.student._execute(self.layer.node, self.weights, scratch)
        tensor: Tensor = scratch[self.layer.node]
        return tensor

    def beside(self, batch: int) -> Tensor | None:
        """Return what alone the layer's output is added to in one batch, or None.

        That is the shortcut of a residual block, whose error this layer can take back.
        """
        users = list(self.layer.node.users)
        if len(users) != 1 or users[0].target is not _SUM or users[0].kwargs:
            return None
        first, second = users[0].args[:2]
        other = second if first is self.layer.node else first
        if not isinstance(other, fx.Node) or other is self.layer.node or other.op == "get_attr":
            return None
        scratch = dict(self.values[batch])
        if not self.student._fill(other, self.weights, scratch):
            return None
        tensor = scratch[other]
        return tensor if isinstance(tensor, Tensor) else None

    def finish(self, replaced: Mapping[str, Tensor], batches: Sequence[int]) -> list[list[Tensor]]:
        """Return the network's outputs with some weights replaced from this layer on."""
        results = []
        for batch in batches:
            values = dict(self.values[batch])
            results.append(self.student.run({**self.weights, **replaced}, values, self.index))
        return results


def _lookup(
    weights: Mapping[str, Tensor], values: Mapping[fx.Node, Any]
) -> Callable[[fx.Node], Any]:
    """Return what finds a node's value; weights are fetched late, since a walk replaces them."""

    def lookup(node: fx.Node) -> Any:
        return weights[str(node.target)] if node.op == "get_attr" else values[node]

    return lookup


def _batches(inputs: Sequence[Tensor], batch_size: int) -> list[list[Tensor]]:
    """Cut inputs into batches."""
    return [
        [_channels_last(tensor[start : start + batch_size]) for tensor in inputs]
        for start in range(0, inputs[0].shape[0], batch_size)
    ]


def _find_layers(nodes: Sequence[fx.Node], tensors: dict[str, Tensor]) -> list[Layer]:
    """Return the layers in order; one whose weight serves several nodes is left alone.

    Batch norms behind them are folded into them and `tensors`.
    """
    calls = [(node, matrix) for node in nodes if (matrix := _own_weight(node, tensors)) is not None]
    calls = [(node, matrix) for node, matrix in calls if _geometry(node, matrix) is not None]
    fold_norms(calls, tensors)
    layers = []
    for node, matrix in calls:
        source: Any = node.args[2] if len(node.args) > 2 else None
        if source is not None and len(source.users) > 1:
            continue
        weight: Any = node.args[1]
        layers.append(
            Layer(
                str(weight.target),
                None if source is None else str(source.target),
                node,
                matrix.shape[0],
                matrix[0].numel(),
                *(_geometry(node, matrix) or ()),
            )
        )
    return layers


def _own_weight(node: fx.Node, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """Return the weight of a call that alone uses it, if a layer may have it."""
    weight = node.args[1] if node.op == "call_function" and len(node.args) > 1 else None
    if not isinstance(weight, fx.Node) or weight.op != "get_attr" or len(weight.users) > 1:
        return None
    bias = node.args[2] if len(node.args) > 2 else None
    if bias is not None and (not isinstance(bias, fx.Node) or bias.op != "get_attr"):
        return None
    matrix = tensors[str(weight.target)]
    return matrix if matrix.ndim >= 2 and matrix.dtype == torch.float32 else None


def _geometry(node: fx.Node, matrix: Tensor) -> tuple[Any, ...] | None:
    """Read groups, stride, padding, dilation and kernel of a call; None where it is no layer."""
    if node.target in _LINEAR:
        return ()
    if node.target in _CONVOLUTIONS:
        defaults: tuple[Any, ...] = ([1], [0], [1], 1)
        given: tuple[Any, ...] = node.args[3:7]
        stride, padding, dilation, groups = given + defaults[len(given) :]
    elif node.target is _GENERAL_CONVOLUTION and node.args[6] is False:
        stride, padding, dilation, groups = (*node.args[3:6], node.args[8])
    else:
        return None
    if matrix.ndim not in (3, 4) or not isinstance(groups, int):
        return None
    kernel = tuple(matrix.shape[2:])
    return (
        groups,
        _pair(stride, kernel, 1),
        _pair(padding, kernel, 0),
        _pair(dilation, kernel, 1),
        kernel if len(kernel) == 2 else (1, *kernel),
    )


def _pair(value: Any, kernel: tuple[int, ...], missing: int) -> tuple[int, int]:
    """Return a setting for two dimensions; a one-dimensional convolution has height 1."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    values = values * len(kernel) if len(values) == 1 else values
    return (missing, values[0]) if len(kernel) == 1 else (values[0], values[1])


def _last_uses(nodes: Sequence[fx.Node]) -> list[list[fx.Node]]:
    """Return, for each node, the nodes whose values nobody needs after it."""
    last: dict[fx.Node, int] = {}
    for index, node in enumerate(nodes):
        last[node] = index
        for source in node.all_input_nodes:
            last[source] = index
    dead: list[list[fx.Node]] = [[] for _ in nodes]
    for node, index in last.items():
        dead[index].append(node)
    return dead


def _floating(result: Any) -> list[Tensor]:
    """Return the floating-point tensors among nested outputs."""
    if isinstance(result, Tensor):
        return [result] if result.is_floating_point() else []
    if isinstance(result, Mapping):
        result = result.values()
    if isinstance(result, list | tuple) or not isinstance(result, int | float | str | type(None)):
        return [tensor for item in result for tensor in _floating(item)]
    return []


def _attribute(graph: fx.GraphModule, target: str) -> Tensor:
    """Return a tensor attribute that is neither parameter nor buffer."""
    owner: Any = graph
    for part in target.split("."):
        owner = getattr(owner, part)
    tensor: Tensor = owner
    return tensor


def _channels_last(tensor: Tensor) -> Tensor:
    """Lay images out as convolutions like them best on a processor."""
    if tensor.ndim != 4:
        return tensor
    _, channels, height, width = tensor.shape
    laid_out = tensor.contiguous(memory_format=torch.channels_last)
    # A single channel fits both layouts, and its strides tell convolutions which one to answer in:
    # behind LeNet-5's first one, pooling takes a tenth of the time.
    strides = (height * width * channels, 1, width * channels, channels)
    return laid_out.as_strided(tensor.shape, strides)
