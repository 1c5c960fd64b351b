"""Decoded tensors in the places of those of a module."""

from collections.abc import Mapping

from spq._extras import extra

with extra("torch"):
    import torch
    from torch import Tensor, nn
    from torch.nn.parameter import is_lazy

from spq.archive import TensorInfo
from spq.save import TORCH_DTYPES
from spqformat import Reason, SpqError

FLOATS = {
    torch.float64: "f64",
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
}
_SHOWN_KEYS = 3


def places(
    model: nn.Module, infos: Mapping[str, TensorInfo], *, strict: bool
) -> dict[str, torch.dtype]:
    """Compare what a file holds with what a module wants, before anything is decoded.

    Parameters
    ----------
    model : nn.Module
        The module, on whatever device, ``meta`` included; it is not changed.
    infos : mapping of str to TensorInfo
        Tensors of the file by the names that they shall have in the module.
    strict : bool
        Whether the names must be the same; one of several tied names is enough.

    Returns
    -------
    dict of str to torch.dtype
        Element type of each tensor of the module that the file has.

    Raises
    ------
    SpqError
        `model_mismatch`, naming the tensor.
    """
    tensors = _tensors(model)
    transient = _transient(model)
    wanted = {name: tensor for name, tensor in tensors.items() if name not in transient}
    filled = {id(wanted[name]) for name in infos if name in wanted}
    if strict:
        _refuse_names("lacks", [name for name in wanted if id(wanted[name]) not in filled])
        _refuse_names("has unexpected", [name for name in infos if name not in wanted])
    for name, tensor in tensors.items():
        if tensor.is_meta and id(tensor) not in filled:
            raise SpqError(
                Reason.MODEL_MISMATCH,
                f"{name!r} of the model is on the meta device and not in the file; "
                "build it on a real device",
            )
    return {name: _checked(name, wanted[name], infos[name]) for name in infos if name in wanted}


def fill(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Let tensors take the places of those of a module, without copying an element.

    Names that are tied in the module, or that share one tensor, become one parameter.

    Parameters
    ----------
    model : nn.Module
        Module that the tensors fit, see `places`.
    tensors : mapping of str to Tensor
        Tensors by their names in the module.

    Raises
    ------
    SpqError
        `model_mismatch` when the module ties names that differ, or refuses a tensor; then it is
        unchanged.
    """
    before = _tensors(model)
    leaders: dict[int, str] = {}
    for name in tensors:
        leader = leaders.setdefault(id(before[name]), name)
        if not _same(tensors[leader], tensors[name]):
            raise SpqError(
                Reason.MODEL_MISMATCH,
                f"the model ties {name!r} to {leader!r}, and they differ in the file",
            )
    parameters: dict[int, nn.Parameter] = {}
    after: dict[str, Tensor] = {}
    for name, tensor in before.items():
        if id(tensor) not in leaders:
            continue
        new = tensors[leaders[id(tensor)]]
        if isinstance(tensor, nn.Parameter):
            made = nn.Parameter(new, requires_grad=tensor.requires_grad)
            new = parameters.setdefault(id(new), made)
        after[name] = new
    try:
        _set(model, after)
    except Exception as error:  # modules may say anything when an attribute is set
        _set(model, {name: before[name] for name in after})
        raise SpqError(
            Reason.MODEL_MISMATCH, f"the model refuses the tensors: {str(error)[:200]}"
        ) from error


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers under all of their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _transient(model: nn.Module) -> set[str]:
    """Return the names of buffers that no state dict holds."""
    return {
        f"{path}.{key}".lstrip(".")
        for path, module in model.named_modules(remove_duplicate=False)
        for key in module._non_persistent_buffers_set
    }


def _same(first: Tensor, second: Tensor) -> bool:
    """Compare bits, so that a NaN is itself; what has no elements at hand is taken for equal."""
    if first is second or first.is_meta:
        return True
    patterns = [tensor.reshape(-1).view(torch.uint8) for tensor in (first, second)]
    return torch.equal(*patterns)


def _set(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Set attributes as code would: recurrent layers keep lists of their weights up to date."""
    for name, tensor in tensors.items():
        parent, _, key = name.rpartition(".")
        setattr(model.get_submodule(parent), key, tensor)


def _checked(name: str, wanted: Tensor, info: TensorInfo) -> torch.dtype:
    """Return the element type of a module's tensor that a stored one can take the place of."""
    if is_lazy(wanted):
        raise SpqError(
            Reason.MODEL_MISMATCH, f"{name!r} of the model has no shape yet; run the model once"
        )
    is_plain = type(wanted) in (Tensor, nn.Parameter) and wanted.layout is torch.strided
    if not is_plain or wanted.is_quantized:
        what = wanted.dtype if is_plain else type(wanted).__name__
        raise SpqError(
            Reason.MODEL_MISMATCH,
            f"{name!r} of the model is a {what}, no plain dense tensor; "
            "load into the model as it was before it was converted",
        )
    if wanted.shape != info.shape:
        raise SpqError(
            Reason.MODEL_MISMATCH,
            f"{name!r} has shape {info.shape} in the file and {tuple(wanted.shape)} in the model",
        )
    dtype = wanted.dtype
    both_float = dtype in FLOATS and info.dtype in FLOATS.values()
    own = TORCH_DTYPES.get(str(dtype))
    if not both_float and (own is None or info.dtype != own.label):
        raise SpqError(
            Reason.MODEL_MISMATCH,
            f"{name!r} has type {info.dtype} in the file and {dtype} in the model",
        )
    return dtype


def _refuse_names(what: str, names: list[str]) -> None:
    if names:
        shown = ", ".join(repr(name) for name in names[:_SHOWN_KEYS])
        more = f" and {len(names) - _SHOWN_KEYS} more" if len(names) > _SHOWN_KEYS else ""
        raise SpqError(
            Reason.MODEL_MISMATCH,
            f"the file {what} {shown}{more}; pass the model it was packed from, or strict=False",
        )
