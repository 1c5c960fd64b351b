"""Decoded tensors as PyTorch state dicts and modules."""

from collections.abc import Callable, Mapping

from spq._extras import extra

with extra("torch"):
    import torch
    from torch import Tensor, nn

from spq._processors import processor_count
from spq.archive import Archive, opened
from spq.filling import FLOATS, fill, places
from spq.source import FileLike
from spqformat import Limits, Reason, SpqError


def load_state_dict(
    file: FileLike | Archive,
    *,
    device: "str | torch.device" = "cpu",
    dtype: "torch.dtype | None" = None,
    prefix: str = "",
    keys: Callable[[str], bool] | None = None,
    threads: int | None = None,
    limits: Limits | None = None,
) -> dict[str, Tensor]:
    """Decode the tensors of a file.

    Parameters
    ----------
    file : path-like, URL, bytes-like, seekable binary file object or Archive
        The file, or one that `spq.open` has opened.
    device : str or torch.device
        Where the tensors go.
    dtype : torch.dtype, optional
        Type that floating-point tensors are decoded into; by default each keeps its own.
    prefix : str
        Only names that begin so are taken, and without it.
    keys : callable, optional
        Tells of a name, without the prefix, whether it is taken.
    threads : int, optional
        Threads that decode; by default the processors of this process, no more than PyTorch uses.
    limits : Limits, optional
        What the reader is willing to spend.

    Returns
    -------
    dict of str to Tensor
        Contiguous tensors; tied names share one tensor.

    Raises
    ------
    SpqError
        Every reason of spec 10.1; `bad_argument` for a type that is not floating-point and for a
        device that is not there; `missing_extra` without PyTorch.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> model.load_state_dict(spq.load_state_dict("model.spq"))
    >>> encoder.load_state_dict(spq.load_state_dict("model.spq", prefix="encoder."))
    """
    _check_target(device, dtype)
    with opened(file, limits) as archive:
        chosen = _chosen(archive, prefix, keys)
        dtypes = {} if dtype is None else dict.fromkeys(_floats(archive, chosen), dtype)
        return _decoded(archive, chosen, dtypes, device, threads)


def load(
    file: FileLike | Archive,
    model: nn.Module | None = None,
    *,
    device: "str | torch.device" = "cpu",
    dtype: "torch.dtype | None" = None,
    strict: bool = True,
    prefix: str = "",
    keys: Callable[[str], bool] | None = None,
    threads: int | None = None,
    limits: Limits | None = None,
) -> nn.Module:
    """Load a network, ready for inference.

    Parameters
    ----------
    file : path-like, URL, bytes-like, seekable binary file object or Archive
        The file, or one that `spq.open` has opened.
    model : nn.Module, optional
        Network to fill; without it, the file's own program is built. Decoded tensors take the
        places of the network's own, which may be on the device ``meta``; they keep the network's
        element types. Names tied in the network or in the file become one parameter.
    device : str or torch.device
        Where the network goes.
    dtype : torch.dtype, optional
        Type that floating-point tensors are decoded into.
    strict : bool
        Whether names in `model` and in the file must be the same.
    prefix : str
        Only names of the file that begin so are taken, and without it; for `model` alone.
    keys : callable, optional
        Tells of a name, without the prefix, whether it is taken; for `model` alone.
    threads : int, optional
        Threads that decode; by default the processors of this process, no more than PyTorch uses.
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
        `bad_argument` for a type that is not floating-point, for a device that is not there, and
        for `prefix` or `keys` without `model`; `model_mismatch` when names, shapes or types differ,
        and then `model` is unchanged.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> model = spq.load("model.spq")
    >>> scores = model(images)
    """
    _check_target(device, dtype)
    with opened(file, limits) as archive:
        if model is None:
            if prefix or keys is not None:
                raise SpqError(
                    Reason.BAD_ARGUMENT,
                    "the stored program needs all of its tensors; prefix and keys want a model",
                )
            return _from_program(archive, device, dtype, threads)
        chosen = _chosen(archive, prefix, keys)
        infos = {name: archive.info(stored) for name, stored in chosen.items()}
        dtypes = places(model, infos, strict=strict)
        if dtype is not None:
            dtypes |= dict.fromkeys(_floats(archive, chosen) & dtypes.keys(), dtype)
        fitting = {name: chosen[name] for name in dtypes}
        fill(model, _decoded(archive, fitting, dtypes, device, threads))
    return model.to(device=device, dtype=dtype).eval()


def _check_target(device: "str | torch.device", dtype: "torch.dtype | None") -> None:
    """Find out before anything is decoded whether tensors can become what they are wanted as."""
    if dtype is not None and dtype not in FLOATS:
        raise _not_decoded_into(dtype)
    try:
        torch.empty(0, device=device)
    except Exception as error:  # PyTorch raises several types for devices that it lacks
        raise SpqError(
            Reason.BAD_ARGUMENT, f"PyTorch has no device {str(device)!r} here; take 'cpu'"
        ) from error


def _not_decoded_into(dtype: "torch.dtype") -> SpqError:
    return SpqError(
        Reason.BAD_ARGUMENT,
        f"tensors are not decoded into {dtype}; take float64, float32, float16 or bfloat16",
    )


def _from_program(
    archive: Archive,
    device: "str | torch.device",
    dtype: "torch.dtype | None",
    threads: int | None,
) -> nn.Module:
    """Build the network that is in the file."""
    program = archive.program("torch")
    if program is None:
        raise SpqError(
            Reason.NO_PROGRAM,
            "the file holds weights alone; pass the network: spq.load(path, model=...)",
        )
    from spq.torch_program import decode

    return decode(program, load_state_dict(archive, device=device, dtype=dtype, threads=threads))


def _chosen(archive: Archive, prefix: str, keys: Callable[[str], bool] | None) -> dict[str, str]:
    """Return the stored tensors that are taken, by the names they get; tied names share one."""
    beginning_so = [name for name in archive.keys() if name.startswith(prefix)]  # noqa: SIM118
    names = {name.removeprefix(prefix): archive.aliases.get(name, name) for name in beginning_so}
    return {name: stored for name, stored in names.items() if keys is None or keys(name)}


def _floats(archive: Archive, chosen: Mapping[str, str]) -> set[str]:
    """Return the names of floating-point tensors."""
    return {
        name for name, stored in chosen.items() if archive.info(stored).dtype in FLOATS.values()
    }


def _decoded(
    archive: Archive,
    chosen: Mapping[str, str],
    dtypes: "Mapping[str, torch.dtype]",
    device: "str | torch.device",
    threads: int | None,
) -> dict[str, Tensor]:
    """Return tensors, floating-point ones in the types wanted."""
    labels: dict[str, str] = {}
    floats = _floats(archive, chosen)
    for name, dtype in dtypes.items():
        if name not in floats:
            continue
        if dtype not in FLOATS:
            raise _not_decoded_into(dtype)
        if labels.setdefault(chosen[name], FLOATS[dtype]) != FLOATS[dtype]:
            raise SpqError(
                Reason.MODEL_MISMATCH,
                f"{name!r} is tied in the file, and the model has tied names in several types; "
                "give them one, or pass dtype",
            )
    tensors = {}
    for stored, array in archive.tensors(
        _threads(threads), names=chosen.values(), dtypes=labels
    ).items():
        tensor = torch.from_numpy(array)
        if labels.get(stored, archive.info(stored).dtype) == "bf16":
            tensor = tensor.view(torch.bfloat16)
        tensors[stored] = tensor.to(device)
    return {name: tensors[stored] for name, stored in chosen.items()}


def _threads(threads: int | None) -> int | None:
    """Return the threads that decode: none of its own choice may be more than PyTorch has."""
    most = torch.get_num_threads()
    return most if threads is None and most < processor_count() else threads
