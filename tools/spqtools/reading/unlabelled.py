"""Reads the inputs that a student learns from: calibration files, or what a callable yields."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spqformat import Reason, SpqError
from spqtools.reading.calibration import read_calibration
from spqtools.reading.callables import call_named, failed
from spqtools.reading.preprocess import Preprocess

OPTION = "--recover"
MOST_BYTES = 2 << 30


def read_unlabelled(
    source: str, examples: Sequence[Tensor], preprocess: Preprocess | None = None
) -> tuple[Tensor, ...]:
    """Read inputs; labels are ignored.

    Parameters
    ----------
    source : str
        Path of what `read_calibration` reads, or ``MODULE:CALLABLE`` or ``FILE.py:CALLABLE`` that
        returns an iterable of batches: an array or tensor, or a tuple or list of them, one for each
        input of the network and then perhaps labels.
    examples : sequence of Tensor
        Inputs that the network is known to take, one for each.
    preprocess : Preprocess, optional
        What is done to the images of a folder, see `read_calibration`; a callable does it itself.

    Returns
    -------
    tuple of Tensor
        Inputs of the examples' types and shapes, but for the number of samples.

    Raises
    ------
    SpqError
        `bad_calibration` for inputs that differ from the examples in number, type or shape, are not
        finite, are fewer than two or take more than 2 GiB, and for all that `read_calibration`
        refuses; `bad_argument` for a callable that fails.
    OSError
        A file cannot be read.
    """
    path = Path(source)
    if path.exists() or ":" not in source:
        inputs = read_calibration(path, preprocess).inputs
    else:
        inputs = _collect(source, len(examples))
    _check(inputs, examples)
    return inputs


def _collect(source: str, count: int) -> tuple[Tensor, ...]:
    """Join the batches that a callable's iterable yields."""
    batches: list[list[Tensor]] = []
    taken = 0
    for batch in _batches(source):
        parts = batch if isinstance(batch, tuple | list) else [batch]
        if len(parts) < count:
            raise _refuse(f"batch {len(batches)} has {len(parts)} inputs, the network {count}")
        tensors = [_as_tensor(part, len(batches)) for part in parts[:count]]
        if batches and any(
            new.shape[1:] != old.shape[1:] or new.dtype != old.dtype
            for new, old in zip(tensors, batches[0], strict=True)
        ):
            raise _refuse(f"batch {len(batches)} has another shape or type than those before it")
        taken += sum(tensor.nbytes for tensor in tensors)
        if taken > MOST_BYTES:
            raise _refuse(f"{source} yields more than {MOST_BYTES >> 30} GiB; yield fewer samples")
        batches.append(tensors)
    if not batches:
        raise _refuse(f"{source} yields no batches")
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))


def _batches(source: str) -> Iterable[Any]:
    """Yield what a callable's iterable yields; what it raises becomes a refusal."""
    try:
        yield from call_named(source, OPTION)
    except (SpqError, OSError):
        raise
    except (Exception, SystemExit) as error:  # the caller's own code may raise anything
        raise failed(source, OPTION, error) from error


def _as_tensor(part: object, batch: int) -> Tensor:
    """Return a part of a batch as a tensor of its own."""
    try:
        tensor = torch.as_tensor(part).detach().cpu().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise _refuse(f"batch {batch} holds a {type(part).__name__}, no array or tensor") from error
    if tensor.ndim == 0:
        raise _refuse(f"batch {batch} is a single number; its first dimension counts samples")
    return tensor.float() if tensor.is_floating_point() else tensor


def _check(inputs: Sequence[Tensor], examples: Sequence[Tensor]) -> None:
    """Refuse inputs that the network was not traced for."""
    if len(inputs) != len(examples):
        raise _refuse(f"there are {len(inputs)} inputs, the network has {len(examples)}")
    samples = inputs[0].shape[0]
    if samples < 2:
        raise _refuse("there are fewer than two samples; some learn, others tell when to stop")
    for number, (tensor, example) in enumerate(zip(inputs, examples, strict=True)):
        if tensor.shape[1:] != example.shape[1:] or tensor.dtype != example.dtype:
            raise _refuse(
                f"input {number} has shape {tuple(tensor.shape[1:])} and type {_type(tensor)} "
                f"where the calibration inputs have {tuple(example.shape[1:])} and {_type(example)}"
            )
        if tensor.shape[0] != samples:
            raise _refuse(f"input {number} has {tensor.shape[0]} samples, others have {samples}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise _refuse(f"input {number} has values that are not finite; clean it")


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _refuse(message: str) -> SpqError:
    return SpqError(Reason.BAD_CALIBRATION, f"{OPTION}: {message}")
