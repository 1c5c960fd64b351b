"""Writes tensors into a file: exact, no search."""

import os
import sys
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from spq.encode import encode_tensor
from spqformat import Reason, SpqError
from spqformat.atomic import write_atomically
from spqformat.ids import DType
from spqformat.writer import EncodedTensor, check_shape, checked_utf8, serialise

if TYPE_CHECKING:
    import torch

_DTYPES = {dtype.numpy: dtype for dtype in DType if dtype is not DType.BF16}
TORCH_DTYPES = {
    "torch.float64": DType.F64,
    "torch.float32": DType.F32,
    "torch.float16": DType.F16,
    "torch.bfloat16": DType.BF16,
    "torch.int8": DType.I8,
    "torch.int16": DType.I16,
    "torch.int32": DType.I32,
    "torch.int64": DType.I64,
    "torch.uint8": DType.U8,
    "torch.uint16": DType.U16,
    "torch.uint32": DType.U32,
    "torch.uint64": DType.U64,
    "torch.bool": DType.BOOL,
}


def save(
    tensors: "Mapping[str, NDArray[Any] | torch.Tensor]",
    path: str | os.PathLike[str] | BinaryIO,
    *,
    metadata: Mapping[str, str] | None = None,
    programs: Mapping[str, bytes] | None = None,
    fast_load: bool = True,
) -> int:
    """Write tensors exactly: what `load_state_dict` and `open` give back is what went in.

    A tensor with at most 256 distinct values, pruned or quantised by whatever tool, is stored as
    a codebook and entropy-coded indices, where zeros cost a fraction of a bit, or, with a single
    value, as that value. Of other tensors, bytes that are predictable, such as the exponents of
    trained weights, are entropy-coded. Two names that share their memory are stored once and come
    back tied.

    Parameters
    ----------
    tensors : mapping of str to ndarray or torch.Tensor
        Any shape; floating point (64, 32, 16 bits, bfloat16), integers or booleans.
    path : path-like or binary file object
        Where to write; a path is replaced in one step or not at all.
    metadata : mapping of str to str, optional
        Flat string map to store.
    programs : mapping of str to bytes, optional
        Programs by kind: ``torch`` or ``onnx``.
    fast_load : bool, optional
        Whether all tensors are coded so that they decode fast. False, which is how `spq pack` saves
        unless it is given ``--fast-load``, codes some under predictions that learn while they
        decode, for a few per cent fewer bytes and tens of nanoseconds for each element:
        floating-point tensors of two dimensions or more, at most 2**19 elements and at most 64
        distinct values besides zero, where that saves a 64th or more.

    Returns
    -------
    int
        Bytes written.

    Raises
    ------
    SpqError
        `bad_argument` for names, types, shapes or metadata that the format cannot hold, and for a
        path or file that takes no bytes.
    OSError
        The file could not be written; nothing was changed.

    Examples
    --------
    >>> spq.save({"weight": numpy.zeros((300, 784), dtype="f4")}, "weights.spq")
    """
    encoded: dict[str, EncodedTensor] = {}
    aliases: dict[str, str] = {}
    owners: dict[Hashable, str] = {}
    # A mapping may make its tensors on request; two of them would have the same memory one after
    # the other, and seem tied, if they were not kept.
    kept = {name: tensors[name] for name in sorted(tensors, key=checked_utf8)}
    for name, tensor in kept.items():
        array, dtype, identity = _as_array(name, tensor)
        owner = owners.setdefault(identity, name) if array.size else name
        if owner != name:
            aliases[name] = owner
        else:
            encoded[name] = encode_tensor(array, dtype, fast_load=fast_load)
    pieces = serialise(encoded, aliases, metadata or {}, programs or {})
    if isinstance(path, str | os.PathLike):
        _check_path(path)
        return write_atomically(path, pieces)
    if not hasattr(path, "write"):
        raise SpqError(
            Reason.BAD_ARGUMENT, f"a {type(path).__name__} is neither a path nor a binary file"
        )
    return sum(_write(path, piece) for piece in pieces)


def _check_path(path: str | os.PathLike[str]) -> None:
    """Refuse what the system would not take for a path."""
    try:
        os.path.realpath(path)
    except ValueError as error:
        raise SpqError(Reason.BAD_ARGUMENT, f"{str(path)[:80]!r} is no path") from error


def _write(stream: BinaryIO, piece: bytes) -> int:
    """Write all of a piece, also to an unbuffered file, which may take less at a time."""
    left = piece
    while left:
        try:
            taken = stream.write(left)
        except OSError:
            raise
        except (ValueError, TypeError) as error:  # what Python's files say when closed, or of text
            raise SpqError(
                Reason.BAD_ARGUMENT, "the file takes no bytes; open it anew, with mode 'wb'"
            ) from error
        if not taken:
            raise OSError("the file takes no more bytes")
        left = left[taken:]
    return len(piece)


def _as_array(name: str, tensor: object) -> tuple[NDArray[Any], DType, Hashable]:
    """Return a tensor's elements, its type, and what tells its memory from another's."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(tensor, torch.Tensor):
        dtype = TORCH_DTYPES.get(str(tensor.dtype))
        if dtype is None or tensor.layout is not torch.strided or tensor.is_meta:
            raise _unsupported(name, f"{tensor.layout} {tensor.dtype}")
        check_shape(name, tensor.shape)  # NumPy refuses some in its own way
        layout = (tuple(tensor.shape), tensor.stride(), dtype, tensor.is_neg())
        owner = (tensor.device, tensor.data_ptr(), layout)
        # resolve_neg and resolve_conj do nothing for ordinary tensors and make lazy ones real.
        plain = tensor.detach().resolve_neg().cpu().contiguous()
        if dtype is DType.BF16:
            plain = plain.view(torch.uint16)
        return plain.numpy(), dtype, owner
    if not isinstance(tensor, np.ndarray):
        raise _unsupported(name, type(tensor).__name__)
    identity = (tensor.__array_interface__["data"][0], tensor.shape, tensor.strides, tensor.dtype)
    if tensor.dtype.name == "bfloat16":
        plain = np.ascontiguousarray(tensor).view(np.uint16)
        return plain.reshape(tensor.shape), DType.BF16, identity
    dtype = _DTYPES.get(tensor.dtype.newbyteorder("<"))
    if dtype is None:
        raise _unsupported(name, str(tensor.dtype))
    return tensor, dtype, identity


def _unsupported(name: str, kind: str) -> SpqError:
    return SpqError(
        Reason.BAD_ARGUMENT,
        f"tensor {name!r} is a {kind}; pass NumPy arrays or dense torch tensors of floats, "
        "integers or booleans",
    )
