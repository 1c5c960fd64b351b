"""Keeps weights packed in an ONNX model; standard operators expand them where it is loaded."""

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, helper

from spq.onnx_compact import fresh_names, value_names
from spq.onnx_weights import STANDARD_DOMAINS

# The first operator set with CumSum and ScatterElements; that whose ConstantOfShape knows bfloat16.
_OPERATORS_SINCE = 11
_BFLOAT16_SINCE = 20

_MAX_LEVELS = 256
_MAX_REACH = 256
_BIT_PATTERNS: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype("<u4"),
    TensorProto.DOUBLE: np.dtype("<u8"),
    TensorProto.FLOAT16: np.dtype("<u2"),
    TensorProto.BFLOAT16: np.dtype("<u2"),
}
# Not all runtimes divide unsigned numbers of 64 bits, and those with a sign would hold 63 bits: 15
# levels of 4 bits instead of 16.
_WORD = np.dtype("<u4")


def shrink(model: ModelProto) -> None:
    """Replace weights of few distinct values by nodes that expand them, in place.

    Each such initializer becomes a codebook, packed integers and nodes of the model's own operator
    set, the last of which yields exactly its bits under its name. ONNX Runtime computes them once,
    when it opens the model. There are three layouts, and the smallest is taken for each tensor if
    it is smaller than the initializer:

    - single: one value for all weights;
    - dense: the level of each weight;
    - sparse: the gaps between the weights that have not the most frequent value, and their levels.

    What stays: initializers that are inputs as well, those of subgraphs, those of more than 256
    distinct values, bfloat16 before operator set 20 and all of a model of one before 11.

    Parameters
    ----------
    model : onnx.ModelProto
        Model whose float16, bfloat16, float32 and float64 initializers hold raw data.
    """
    graph = model.graph
    standard = [one for one in model.opset_import if one.domain in STANDARD_DOMAINS]
    version = max((one.version for one in standard), default=0)
    redefined = any(function.domain in STANDARD_DOMAINS for function in model.functions)
    if version < _OPERATORS_SINCE or redefined:
        return
    stay = {value.name for value in graph.input}
    if version < _BFLOAT16_SINCE:
        stay |= {t.name for t in graph.initializer if t.data_type == TensorProto.BFLOAT16}
    names = fresh_names(value_names(graph))
    constants: dict[bytes, str] = {}
    result = GraphProto()
    for tensor in graph.initializer:
        draft = None if tensor.name in stay else _smallest(tensor, constants, names)
        if draft is None:
            result.initializer.append(tensor)
        else:
            constants |= draft.constants
            result.MergeFrom(draft.graph)
    result.node.extend(graph.node)
    del graph.node[:], graph.initializer[:]
    graph.MergeFrom(result)


class _Draft:
    """Nodes that yield one tensor, and the constants that it is the first to need."""

    def __init__(self, shared: Mapping[bytes, str], names: Iterator[str]) -> None:
        self.graph = GraphProto()
        self.constants: dict[bytes, str] = {}
        self._shared = shared
        self._names = names

    def node(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node; return the name of its output."""
        name = output or next(self._names)
        self.graph.node.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def constant(self, kind: int, array: NDArray[Any]) -> str:
        """Return the name of an initializer; equal ones are stored once."""
        tensor = TensorProto(data_type=kind, dims=array.shape, raw_data=array.tobytes())
        key = tensor.SerializeToString(deterministic=True)
        name = self._shared.get(key) or self.constants.get(key)
        if name is None:
            name = tensor.name = self.constants[key] = next(self._names)
            self.graph.initializer.append(tensor)
        return name

    def integers(self, *values: int) -> str:
        """Return the name of a list of numbers."""
        return self.constant(TensorProto.INT64, np.array(values, dtype="<i8"))

    def digits(self, digits: NDArray[np.int64], base: int) -> str:
        """Compute digits from words that hold as many as fit, the first in the lowest place."""
        places = _places(base)
        powers = np.power(base, np.arange(places))
        rows = np.pad(digits, (0, -digits.size % places)).reshape(-1, places)
        words = self.constant(TensorProto.UINT32, (rows @ powers)[:, None].astype(_WORD))
        numbers = self.node("Cast", words, to=TensorProto.INT64)
        shifted = self.node("Div", numbers, self.integers(*powers))
        table = self.node("Mod", shifted, self.integers(base))
        flat = self.node("Reshape", table, self.integers(-1))
        return self.node("Slice", flat, self.integers(0), self.integers(digits.size))

    def filled(self, kind: int, value: NDArray[Any], *sizes: int, output: str = "") -> str:
        """Compute a tensor of one value."""
        fill = TensorProto(data_type=kind, dims=[1], raw_data=value.tobytes())
        return self.node("ConstantOfShape", self.integers(*sizes), output=output, value=fill)

    def dense(self, kind: int, values: NDArray[Any], levels: NDArray[np.int64]) -> str:
        """Compute the list of values from all levels."""
        return self.node("Gather", self.constant(kind, values), self.digits(levels, values.size))

    def sparse(self, kind: int, values: NDArray[Any], levels: NDArray[np.int64]) -> str:
        """Compute the list of values from the symbols of `_symbols`."""
        gaps = np.diff(np.flatnonzero(levels), prepend=-1)
        reach = _best_reach(gaps, values.size)
        symbols = _symbols(gaps, levels[levels != 0], reach, values.size)
        one, unit = self.integers(1), self.integers(values.size)
        symbol = self.digits(symbols, reach * values.size)
        level = self.node("Mod", symbol, unit)
        steps = self.node("Add", self.node("Div", symbol, unit), one)
        is_weight = self.node("Cast", level, to=TensorProto.BOOL)
        step = self.node("Where", is_weight, one, self.integers(reach))
        axis = self.constant(TensorProto.INT64, np.zeros((), dtype="<i8"))
        ends = self.node("CumSum", self.node("Mul", steps, step), axis)
        positions = self.node("Sub", ends, one)
        others = self.node("Gather", self.constant(kind, values), level)
        most = self.filled(kind, values[:1], levels.size)
        return self.node("ScatterElements", most, positions, others)


def _smallest(
    tensor: TensorProto, shared: Mapping[bytes, str], names: Iterator[str]
) -> _Draft | None:
    """Return the smallest draft of a tensor, or None where the tensor itself is the smallest."""
    patterns = _patterns(tensor)
    if patterns is None:
        return None
    values, inverse, counts = np.unique(patterns, return_inverse=True, return_counts=True)
    if values.size > _MAX_LEVELS:
        return None
    # The most frequent value is level 0, which the sparse layout does not store.
    order = np.argsort(-counts, kind="stable")
    levels = np.argsort(order)[inverse]
    drafts = []
    if values.size == 1:
        draft = _Draft(shared, names)
        draft.filled(tensor.data_type, values, *tensor.dims, output=tensor.name)
        drafts.append(draft)
    else:
        for layout in (_Draft.dense, _Draft.sparse):
            draft = _Draft(shared, names)
            weights = layout(draft, tensor.data_type, values[order], levels)
            draft.node("Reshape", weights, draft.integers(*tensor.dims), output=tensor.name)
            drafts.append(draft)
    best = min(drafts, key=lambda draft: draft.graph.ByteSize())
    return best if best.graph.ByteSize() < tensor.ByteSize() else None


def _symbols(
    gaps: NDArray[np.int64], levels: NDArray[np.int64], reach: int, level_count: int
) -> NDArray[np.int64]:
    """Code gaps and the levels behind them as numbers below ``reach * level_count``.

    ``(n - 1) * level_count + level`` says that the next weight lies `n` positions on. Where `level`
    is 0 it says that ``n * reach`` positions on there is no weight: so gaps of any length are
    bridged.
    """
    units = (gaps - 1) // reach
    bridges = _bridges(gaps, reach)
    ends = np.cumsum(bridges + 1) - 1
    symbols = np.full(gaps.size + bridges.sum(), (reach - 1) * level_count)
    symbols[ends] = (gaps - units * reach - 1) * level_count + levels
    bridged = bridges > 0
    rest = units - (bridges - 1) * reach
    symbols[ends[bridged] - 1] = (rest[bridged] - 1) * level_count
    return symbols


def _bridges(gaps: NDArray[np.int64], reach: int) -> NDArray[np.int64]:
    """Return how many bridges each gap takes; each spans at most ``reach * reach`` positions."""
    return -(-((gaps - 1) // reach) // reach)


def _best_reach(gaps: NDArray[np.int64], level_count: int) -> int:
    """Return the reach that takes the fewest words."""
    lengths, counts = np.unique(gaps, return_counts=True)

    def words(reach: int) -> int:
        symbols = int(counts @ (_bridges(lengths, reach) + 1))
        return -(-symbols // _places(reach * level_count))

    return min(range(2, _MAX_REACH + 1), key=words)


def _places(base: int) -> int:
    """Return how many digits fit into a word."""
    places, limit = 1, 1 << (8 * _WORD.itemsize)
    while base ** (places + 1) <= limit:
        places += 1
    return places


def _patterns(tensor: TensorProto) -> NDArray[Any] | None:
    """Return the bits of a tensor as a list of unsigned integers, or None for other kinds."""
    dtype = _BIT_PATTERNS.get(tensor.data_type)
    if dtype is None or not tensor.raw_data:
        return None
    if len(tensor.raw_data) != prod(tensor.dims) * dtype.itemsize:
        return None
    return np.frombuffer(tensor.raw_data, dtype)
