"""Reads the model that is to be packed, whatever it is stored in, and never runs code from it."""

import hashlib
import pickle  # noqa: TID251 - for the name of the error that restricted loading raises
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.parameter import is_lazy

from spqformat import Limits, Reason, SpqError
from spqtools.memory import memory_of
from spqtools.reading.callables import call_named
from spqtools.reading.pt2 import read_pt2

if TYPE_CHECKING:
    from onnx import ModelProto

_LEAST_TORCH = (2, 10)
_STATE_KEYS = ("state_dict", "model_state_dict", "model")
_WRAPPER_PREFIX = "module."
_SHOWN_KEYS = 3
_SELF_CONTAINED = (".onnx", ".pt2")
_STORABLE = frozenset(
    {
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
        *(torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    }
)


@dataclass(frozen=True)
class Source:
    """A model as read.

    Parameters
    ----------
    tensors : dict of str to Tensor
        Parameters and buffers; empty for an ONNX model.
    module : nn.Module, optional
        The network built by `--arch`, filled, in evaluation mode.
    exported : ExportedProgram, optional
        The traced network of a .pt2.
    onnx_model : onnx.ModelProto, optional
        The model of an .onnx.
    digest : str
        SHA-256 of the file in hexadecimal.
    """

    tensors: dict[str, Tensor]
    digest: str
    module: nn.Module | None = None
    exported: ExportedProgram | None = None
    onnx_model: "ModelProto | None" = None


def ingest(path: Path, arch: str | None = None) -> Source:
    """Read a model.

    Parameters
    ----------
    path : Path
        ``.pt``, ``.pth``, ``.th`` or ``.bin`` with a state dict; ``.pt2``; ``.safetensors``;
        ``.onnx``.
    arch : str, optional
        ``MODULE:CALLABLE`` or ``path/to/file.py:CALLABLE`` that builds the network of a state
        dict. This runs the caller's own code.

    Returns
    -------
    Source
        The model.

    Raises
    ------
    SpqError
        `bad_model`, `unsafe_model`, `unsupported_model`, `model_mismatch`, `bad_argument`,
        `missing_extra`.
    OSError
        The file cannot be read.
    """
    suffix = path.suffix.lower()
    if arch is not None and suffix in _SELF_CONTAINED:
        raise SpqError(
            Reason.BAD_ARGUMENT, f"a {suffix} brings its own network; leave out --arch {arch}"
        )
    digest = _sha256(path)
    if suffix == ".onnx":
        return Source({}, digest, onnx_model=_read_onnx(path))
    if suffix == ".pt2":
        program = read_pt2(path)
        tensors = {name: tensor.detach() for name, tensor in program.state_dict.items()}
        _check_storable(tensors)
        return Source(tensors, digest, exported=program)
    tensors = _read_safetensors(path) if suffix == ".safetensors" else _read_state_dict(path)
    _check_storable(tensors)
    if arch is None:
        return Source(tensors, digest)
    module = _build(arch)
    _fill(module, tensors, arch)
    return Source(tensors, digest, module=module)


def _sha256(path: Path) -> str:
    """Return the digest of a file that is not empty."""
    with path.open("rb") as stream:
        if not stream.read(1):
            raise SpqError(Reason.BAD_MODEL, f"{path} is empty; save or fetch it again")
        stream.seek(0)
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict with pickles restricted to tensors and plain containers."""
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < _LEAST_TORCH:
        raise SpqError(
            Reason.UNSAFE_MODEL,
            f"torch {torch.__version__} does not read pickles safely; update it to 2.10 or newer",
        )
    if _is_torchscript(path):
        raise SpqError(
            Reason.UNSAFE_MODEL,
            f"{path} is TorchScript, which is code; save model.state_dict() instead",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if (
            "Unsupported" in str(error)
            or "GLOBAL" in str(error)
            or "WeightsUnpickler" in str(error)
        ):
            raise SpqError(
                Reason.UNSAFE_MODEL,
                f"{path} holds Python objects besides tensors, or is damaged, and is not opened; "
                "save model.state_dict() instead of the model",
            ) from error
        raise _damaged(path) from error
    except OSError:
        raise
    except Exception as error:  # torch.load raises whatever its parsers raise on damaged input
        raise _damaged(path) from error
    return _find_state(loaded, path)


def _find_state(loaded: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict inside what a file holds."""
    if isinstance(loaded, Mapping):
        for key in _STATE_KEYS:
            if isinstance(loaded.get(key), Mapping):
                loaded = loaded[key]
                break
    if not isinstance(loaded, Mapping) or not loaded:
        raise SpqError(Reason.BAD_MODEL, f"{path} holds no state dict; save model.state_dict()")
    foreign = [key for key, value in loaded.items() if not isinstance(value, Tensor)]
    if foreign or not all(isinstance(key, str) for key in loaded):
        raise SpqError(
            Reason.BAD_MODEL,
            f"{path} is not a state dict: {str((foreign or list(loaded))[0])[:80]!r} "
            "is no tensor; save model.state_dict() alone",
        )
    prefix = _WRAPPER_PREFIX if all(key.startswith(_WRAPPER_PREFIX) for key in loaded) else ""
    return {key.removeprefix(prefix): value.detach() for key, value in loaded.items()}


def _is_torchscript(path: Path) -> bool:
    """Tell whether a zip archive holds compiled code."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(
                "/code/" in f"/{name}" or name.endswith("constants.pkl")
                for name in archive.namelist()
            )
    except Exception:  # zipfile raises whatever it meets; restricted loading says what is wrong
        return False


def _check_storable(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that a packed file cannot hold, before anybody computes with them."""
    sizes: dict[object, int] = {}
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_meta or tensor.dtype not in _STORABLE:
            raise SpqError(
                Reason.UNSUPPORTED_MODEL,
                f"tensor {name[:80]!r} is {tensor.layout} {tensor.dtype}; only dense floats, "
                "integers and booleans can be packed",
            )
        sizes[memory_of(name, tensor)] = tensor.numel() * tensor.element_size()
    # A tensor may repeat a few stored bytes over and over.
    most = Limits().max_decoded_bytes
    if sum(sizes.values()) > most:
        raise SpqError(
            Reason.UNSUPPORTED_MODEL,
            f"the tensors take {sum(sizes.values())} bytes; {most} is the most that can be packed",
        )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a .safetensors."""
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise SpqError(
            Reason.MISSING_EXTRA, "safetensors is missing; run: pip install 'spqformat[torch]'"
        ) from error
    try:
        return dict(load_file(path))
    except OSError:
        raise
    except Exception as error:  # load_file raises whatever its parts raise on damaged input
        raise _damaged(path) from error


def _read_onnx(path: Path) -> "ModelProto":
    """Read an .onnx; tensors in other files are refused before anybody looks for them."""
    import onnx
    from google.protobuf.message import DecodeError

    from spq.onnx_graph import refuse_external_data

    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise _damaged(path) from error
    if not model.graph.node:
        raise _damaged(path)
    refuse_external_data(model, Reason.UNSAFE_MODEL)
    return model


def _build(arch: str) -> nn.Module:
    """Build the network that the caller names."""
    network = call_named(arch, "--arch")
    if not isinstance(network, nn.Module):
        raise SpqError(
            Reason.BAD_ARGUMENT, f"--arch {arch!r} returns a {type(network).__name__}, no nn.Module"
        )
    return network


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], arch: str) -> None:
    """Load a state dict that fits, and say where one does not."""
    wanted = module.state_dict()
    for what, names in (
        ("lacks", [name for name in wanted if name not in tensors]),
        ("has unexpected", [name for name in tensors if name not in wanted]),
    ):
        if names:
            shown = ", ".join(repr(name) for name in names[:_SHOWN_KEYS])
            raise SpqError(
                Reason.MODEL_MISMATCH, f"the state dict {what} {shown} of {arch}; check --arch"
            )
    for name, tensor in tensors.items():
        if is_lazy(wanted[name]):
            continue
        if wanted[name].shape != tensor.shape:
            raise SpqError(
                Reason.MODEL_MISMATCH,
                f"{name!r} has shape {tuple(tensor.shape)} in the state dict and "
                f"{tuple(wanted[name].shape)} in {arch}; check --arch",
            )
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1].strip()[:160]
        raise SpqError(Reason.MODEL_MISMATCH, f"{arch} refuses the state dict: {first}") from error
    module.eval()


def _damaged(path: Path) -> SpqError:
    return SpqError(
        Reason.BAD_MODEL,
        f"{path} is damaged or not what its name says; give a .pt with a state dict, a .pt2, "
        "a .safetensors or an .onnx, or save or fetch it again",
    )
