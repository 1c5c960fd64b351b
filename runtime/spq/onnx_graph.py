"""The `onnx` program: an ONNX graph without its weights, and how both come together again."""

import re
import warnings
from collections.abc import Collection, Iterator, Mapping

from spq._extras import extra

with extra("onnx"):
    import onnx
    from google.protobuf.message import DecodeError, EncodeError, Message
    from onnx import GraphProto, ModelProto, TensorProto

    from spq.onnx_compact import compact
    from spq.onnx_weights import graphs_inside, take_weights

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spqformat import Reason, SpqError
from spqformat.errors import first_line

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_LEAST_IR_VERSION = 4
_SYMBOL = re.compile(r"\bs[0-9]+\b")
_BFLOAT16 = TensorProto.BFLOAT16


def export(program: "ExportedProgram") -> ModelProto:
    """Convert a traced network; its initializers carry the names of the state dict.

    Parameters
    ----------
    program : ExportedProgram
        Traced network.

    Returns
    -------
    onnx.ModelProto
        Model without optimisations, so that weights stay as they are.

    Raises
    ------
    SpqError
        `missing_extra` without onnxscript, `unsupported_model` when it cannot be converted.
    """
    import logging

    import torch

    with extra("all"):
        import onnxscript  # noqa: F401 - torch.onnx needs it and says so less clearly
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Deprecations between torch and the libraries that it calls are not the user's.
            warnings.simplefilter("ignore")
            converted = torch.onnx.export(program, dynamo=True, optimize=False, verbose=False)
    except Exception as error:  # the exporter raises whatever its translations raise
        raise SpqError(
            Reason.UNSUPPORTED_MODEL, f"the network has no ONNX form ({first_line(error)})"
        ) from error
    finally:
        registration.setLevel(level)
    assert converted is not None
    model: ModelProto = converted.model_proto
    _name_batch(model)
    return model


def strip(
    model: ModelProto, weight_names: Collection[str] = ()
) -> tuple[bytes, dict[str, NDArray[Any]]]:
    """Take the weights out of a model.

    Parameters
    ----------
    model : onnx.ModelProto
        Model with all weights inside; it is not changed.
    weight_names : collection of str
        Names that are weights whatever their size.

    Returns
    -------
    tuple of bytes and dict of str to ndarray
        The graph without weights, in as few bytes as may be: without what only describes it but for
        the metadata of the model, its inner values renamed. And the weights by name; bfloat16 ones
        as ml_dtypes arrays.

    Raises
    ------
    SpqError
        `unsafe_model` when anything refers to a file outside the model.
    """
    refuse_external_data(model, Reason.UNSAFE_MODEL)
    bare = ModelProto()
    bare.CopyFrom(model)
    weights = take_weights(bare.graph, weight_names)
    # Before, each initializer had to be an input as well.
    bare.ir_version = max(bare.ir_version, _LEAST_IR_VERSION)
    _drop_descriptions(bare)
    compact(bare)
    return bare.SerializeToString(deterministic=True), weights


def bind(
    graph: bytes,
    tensors: Mapping[str, NDArray[Any]],
    bfloat16: Collection[str],
    outside: Collection[str] = (),
) -> ModelProto:
    """Put weights into a graph.

    Parameters
    ----------
    graph : bytes
        Stored program, not trusted.
    tensors : mapping of str to ndarray
        Weights by name; those that the graph does not use are left out.
    bfloat16 : collection of str
        Names of uint16 arrays that hold bfloat16 bit patterns.
    outside : collection of str
        Names of weights whose elements stay outside: a session has to be given them.

    Returns
    -------
    onnx.ModelProto
        Complete model.

    Raises
    ------
    SpqError
        `bad_program`.
    """
    model = parse_graph(graph)
    for name in missing_names(model, tensors):
        array = np.ascontiguousarray(tensors[name])
        kind = _BFLOAT16 if name in bfloat16 else onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = model.graph.initializer.add(name=name, data_type=kind, dims=array.shape)
        if name not in outside:
            tensor.raw_data = array.tobytes()
            continue
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "outside"), ("offset", 0), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
    return model


def serialise(model: ModelProto) -> bytes:
    """Return a model as the bytes of a file; refuses `limit_exceeded` beyond 2 GiB."""
    try:
        serialised: bytes = model.SerializeToString(deterministic=True)
    except EncodeError as error:
        raise SpqError(
            Reason.LIMIT_EXCEEDED,
            "one ONNX model holds at most 2 GiB and this one is larger; open it with spq.session, "
            "without sess_options",
        ) from error
    return serialised


def parse_graph(graph: bytes) -> ModelProto:
    """Parse a stored graph; refuses `bad_program` for damage and for external data."""
    try:
        model: ModelProto = ModelProto.FromString(graph)
    except DecodeError as error:
        raise SpqError(
            Reason.BAD_PROGRAM, "the onnx program is not an ONNX model", section="program"
        ) from error
    refuse_external_data(model, Reason.BAD_PROGRAM)
    return model


def missing_names(model: ModelProto, tensors: Mapping[str, object]) -> list[str]:
    """Return the names that nodes use and the graph does not define, in ascending order.

    Raises
    ------
    SpqError
        `bad_program` when the file has no tensor of such a name.
    """
    missing = sorted(_undefined(model.graph, frozenset()))
    for name in missing:
        if name not in tensors:
            raise SpqError(
                Reason.BAD_PROGRAM,
                f"the onnx program needs a tensor {name!r}, which the file does not have",
                section="program",
            )
    return missing


def refuse_external_data(model: ModelProto, reason: Reason) -> None:
    """Refuse a model any tensor of which lies in another file."""
    for tensor in _all_tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise SpqError(
                reason,
                f"tensor {tensor.name!r} refers to another file; "
                "save the model with all weights inside",
            )


def _name_batch(model: ModelProto) -> None:
    """Give the one free size of a traced network its name in place of a tracer's number."""
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    sizes = [size for value in values for size in value.type.tensor_type.shape.dim]
    symbols = {symbol for size in sizes for symbol in _SYMBOL.findall(size.dim_param)}
    if len(symbols) == 1:
        for size in sizes:
            if size.dim_param:
                size.dim_param = _SYMBOL.sub("batch", size.dim_param)


def _undefined(graph: GraphProto, outer: frozenset[str]) -> set[str]:
    """Return names that a graph and its subgraphs use without a definition in sight."""
    known = set(outer)
    known.update(value.name for value in graph.input)
    known.update(tensor.name for tensor in graph.initializer)
    known.update(tensor.values.name for tensor in graph.sparse_initializer)
    undefined: set[str] = set()
    for node in graph.node:
        undefined.update(name for name in node.input if name and name not in known)
        for subgraph in graphs_inside(node):
            undefined |= _undefined(subgraph, frozenset(known))
        known.update(node.output)
    undefined.update(value.name for value in graph.output if value.name not in known)
    return undefined


def _all_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor of a model, wherever it stands."""
    messages: list[Message] = [model]
    while messages:
        message = messages.pop()
        if isinstance(message, TensorProto):
            yield message
            continue
        for field, value in message.ListFields():
            if field.message_type is not None:
                messages.extend([value] if isinstance(value, Message) else value)


def _drop_descriptions(model: ModelProto) -> None:
    """Remove what describes a model and changes nothing.

    The metadata of the model stay: programs look there for the names of classes, strides and such.
    """
    for field in ("producer_name", "producer_version", "doc_string", "domain", "model_version"):
        model.ClearField(field)
    graph = model.graph
    del graph.value_info[:]
    del graph.metadata_props[:]
    graph.ClearField("doc_string")
    for value in (*graph.input, *graph.output):
        del value.metadata_props[:]
        value.ClearField("doc_string")
    for node in graph.node:
        del node.metadata_props[:]
        node.ClearField("doc_string")
        node.ClearField("name")
