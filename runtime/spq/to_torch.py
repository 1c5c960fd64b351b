"""Decoded tensors as PyTorch state dicts and modules."""

from collections.abc import Mapping
from typing import Any

from spq._extras import extra

with extra("torch"):
    import torch
    from torch import Tensor, nn

from spq.archive import Archive
from spq.source import FileLike
from spqformat import Limits, Reason, SpqError

_SHOWN_KEYS = 3


def load_state_dict(
    file: FileLike,
    *,
    device: "str | torch.device" = "cpu",
    dtype: "torch.dtype | None" = None,
    limits: Limits | None = None,
) -> dict[str, Tensor]:
    """Decode all tensors of a file.

    Parameters
    ----------
    file : path-like, bytes-like or seekable binary file object
        The file.
    device : str or torch.device
        Where the tensors go.
    dtype : torch.dtype, optional
        Type that floating-point tensors are converted to; by default each keeps its own.
    limits : Limits, optional
        What the reader is willing to spend.

    Returns
    -------
    dict of str to Tensor
        Contiguous tensors; tied names share one tensor.

    Raises
    ------
    SpqError
        Every reason of spec 10.1; `missing_extra` without PyTorch.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> model.load_state_dict(spq.load_state_dict("model.spq"))
    """
    with Archive(file, limits or Limits()) as archive:
        return _tensors(archive, device, dtype)


def load(
    file: FileLike,
    model: nn.Module | None = None,
    *,
    device: "str | torch.device" = "cpu",
    dtype: "torch.dtype | None" = None,
    strict: bool = True,
    limits: Limits | None = None,
) -> nn.Module:
    """Load a network, ready for inference.

    Parameters
    ----------
    file : path-like, bytes-like or seekable binary file object
        The file.
    model : nn.Module, optional
        Network to fill; without it, the file's own program is built.
    device : str or torch.device
        Where the network goes.
    dtype : torch.dtype, optional
        Type that floating-point tensors are converted to.
    strict : bool
        Whether names in `model` and in the file must be the same.
    limits : Limits, optional
        What the reader is willing to spend.

    Returns
    -------
    nn.Module
        `model`, or a new module with the names of the original, in evaluation mode.

    Raises
    ------
    SpqError
        Every reason of spec 10.1; `no_program` when the file has none and no `model` is given;
        `model_mismatch` when names or shapes differ, and then `model` is unchanged.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> model = spq.load("model.spq")
    >>> scores = model(images)
    """
    with Archive(file, limits or Limits()) as archive:
        program = None if model is not None else archive.program("torch")
        if model is None and program is None:
            raise SpqError(
                Reason.NO_PROGRAM,
                "the file holds weights alone; pass the network: spq.load(path, model=...)",
            )
        tensors = _tensors(archive, device, dtype)
    if model is None:
        from spq.torch_program import decode

        assert program is not None
        return decode(program, tensors)
    _check_fit(model, tensors, strict)
    model.load_state_dict(tensors, strict=strict)
    return model.to(device=device, dtype=dtype).eval()


def _tensors(
    archive: Archive, device: "str | torch.device", dtype: "torch.dtype | None"
) -> dict[str, Tensor]:
    """Return all tensors of an open file in the order of its names."""
    stored: dict[str, Tensor] = {}
    for name, array in archive.tensors().items():
        tensor = torch.from_numpy(array)
        if archive.info(name).dtype == "bf16":
            tensor = tensor.view(torch.bfloat16)
        target = dtype if tensor.is_floating_point() else None
        stored[name] = tensor.to(device=device, dtype=target)
    names = archive.keys()
    return {name: stored[archive.aliases.get(name, name)] for name in names}


def _check_fit(model: nn.Module, tensors: Mapping[str, Tensor], strict: bool) -> None:
    """Refuse a model that the tensors do not fit, before anything is changed."""
    wanted: dict[str, Any] = model.state_dict()
    if strict:
        for what, names in (
            ("lacks", [name for name in wanted if name not in tensors]),
            ("has unexpected", [name for name in tensors if name not in wanted]),
        ):
            if names:
                shown = ", ".join(repr(name) for name in names[:_SHOWN_KEYS])
                more = f" and {len(names) - _SHOWN_KEYS} more" if len(names) > _SHOWN_KEYS else ""
                raise SpqError(
                    Reason.MODEL_MISMATCH,
                    f"the file {what} {shown}{more}; pass the model it was packed from, "
                    "or strict=False",
                )
    for name, tensor in tensors.items():
        if name in wanted and wanted[name].shape != tensor.shape:
            raise SpqError(
                Reason.MODEL_MISMATCH,
                f"{name!r} has shape {tuple(tensor.shape)} in the file and "
                f"{tuple(wanted[name].shape)} in the model",
            )
