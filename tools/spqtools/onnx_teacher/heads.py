"""Finds the raw heads of an ONNX network: what its last layers say before anything is decoded."""

from collections.abc import Sequence
from dataclasses import dataclass

from spqformat import Reason, SpqError
from spqtools.onnx_teacher.ops import cannot_run, is_known
from spqtools.onnx_teacher.wiring import SIZES, Operation, Wiring

# A last layer may be small, the scores of two classes for example, while matrices that decode boxes
# are smaller still. Only larger ones count where the way to a small one cannot be run.
_LEAST_ELEMENTS = (64, 1024)
_LAYERS = frozenset({"Conv", "Gemm", "MatMul"})
# The search cannot run these, and has to say so instead of leaving out half of a network.
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
# What may stand between the scores of a classifier and the network's output,
_AFTER_SCORES = frozenset({"Softmax", "LogSoftmax", "Flatten", "Squeeze", "Reshape", "Cast"})
# and between its last layer and the scores.
_POOLING = frozenset(
    {"Relu", "GlobalAveragePool", "AveragePool", "GlobalMaxPool", "MaxPool", "ReduceMean"}
)


@dataclass(frozen=True)
class Head:
    """A value that the student has to get right.

    Parameters
    ----------
    value : str
        Name in the graph.
    is_scores : bool
        Whether it holds one score for each class and nothing else.
    """

    value: str
    is_scores: bool = False


def find_heads(wiring: Wiring) -> list[Head]:
    """Return the heads: what is behind each layer that no other layer follows.

    Parameters
    ----------
    wiring : Wiring
        The graph.

    Returns
    -------
    list of Head
        In the graph's order.

    Raises
    ------
    SpqError
        `unsupported_model` when there are no layers.
    """
    heads: list[Head] = []
    for least in _LEAST_ELEMENTS:
        layers = [one for one in wiring.operations if _elements(wiring, one) >= least]
        found = _behind_last(wiring, layers)
        heads = found or heads
        needed = wiring.needed(head.value for head in found)
        if found and all(is_known(operation, wiring.version) for operation in needed):
            break
    if not heads:
        for operation in wiring.operations:
            if operation.captured:
                raise cannot_run(operation.kind)
        raise SpqError(
            Reason.UNSUPPORTED_MODEL,
            "the graph has no convolution and no matrix product with weights of its own; "
            "leave out --calib, and the weights alone are looked at",
        )
    return heads


def _elements(wiring: Wiring, operation: Operation) -> int:
    """Return how many weights a layer has; none for what is no layer."""
    if operation.kind in _RECURRENT or _RECURRENT.intersection(operation.inner_kinds):
        return max(_LEAST_ELEMENTS)
    stored = _weight(wiring, operation)
    if stored is None:
        return 0
    array = wiring.constants[stored[0]]
    return array.size if array.ndim >= 2 else 0


def _weight(wiring: Wiring, operation: Operation) -> tuple[str, bool] | None:
    """Return the constant that is a layer's weight, and whether it is turned first."""
    return wiring.stored(operation.inputs[1]) if operation.kind in _LAYERS else None


def _behind_last(wiring: Wiring, layers: Sequence[Operation]) -> list[Head]:
    """Return what is behind the last layers, each value once."""
    chosen = set(layers)
    led_to: set[str] = set()
    for operation in reversed(wiring.operations):
        if operation.kind not in SIZES and (
            operation in chosen or led_to.intersection(operation.outputs)
        ):
            led_to.update(operation.inputs, operation.captured)
    computed = wiring.following({name for layer in layers for name in layer.outputs})
    last = [layer for layer in layers if not led_to.intersection(layer.outputs)]
    values = dict.fromkeys(_end(wiring, layer, computed) for layer in last)
    scores = _scores(wiring, set(values))
    return [Head(scores.get(value, value), is_scores=value in scores) for value in values]


def _end(wiring: Wiring, layer: Operation, computed: set[str]) -> str:
    """Return the value behind a layer's bias, norm and shortcut."""
    value = layer.outputs[0]
    rows = rows_of(wiring, layer)
    while (user := wiring.only_user(value)) is not None:
        if user.kind == "Add":
            (other,) = [name for name in user.inputs if name != value] or [value]
            constant = wiring.constants.get(other)
            is_bias = constant is not None and constant.size == rows
            if not is_bias and other not in computed:
                break
        elif (
            user.kind not in ("BatchNormalization", "LayerNormalization") or user.inputs[0] != value
        ):
            break
        value = user.outputs[0]
    return value


def rows_of(wiring: Wiring, layer: Operation) -> int:
    """Return the outputs of a layer, as many as its biases; 0 where its weights do not tell."""
    stored = _weight(wiring, layer)
    if stored is None:
        return 0
    name, transposed = stored
    is_turned = layer.kind == "MatMul" or (
        layer.kind == "Gemm" and not layer.attributes.get("transB", 0)
    )
    rows: int = wiring.constants[name].shape[-1 if is_turned != transposed else 0]
    return rows


def _scores(wiring: Wiring, heads: set[str]) -> dict[str, str]:
    """Return, by the heads, the class scores that two-dimensional outputs are made of."""
    found = {}
    for output, rank in wiring.outputs.items():
        if rank != 2:
            continue
        value = output
        while value not in heads and value in wiring.maker:
            if wiring.maker[value].kind not in _AFTER_SCORES:
                break
            value = wiring.maker[value].inputs[0]
        scores = value
        while value not in heads and value in wiring.maker:
            if wiring.maker[value].kind not in _POOLING | _AFTER_SCORES:
                break
            value = wiring.maker[value].inputs[0]
        if value in heads:
            found[value] = scores
    return found
