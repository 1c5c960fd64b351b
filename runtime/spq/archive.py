"""The open file: what is in it, and each tensor on request."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from spq.floats import FLOATS
from spq.read_ahead import Read, ReadAhead
from spq.source import FileLike, open_source
from spqformat import Limits, Reason, SpqError
from spqformat.ids import DType
from spqformat.model import TensorRecord
from spqformat.reader import check_part, decode_program, read_container

if TYPE_CHECKING:
    from spq.decode import Wanted

Progress = Callable[[int, int], None]
"""Hears of the bytes fetched so far and of all bytes of the file."""

_FLOATS = {dtype.label: dtype for dtype in FLOATS}


@dataclass(frozen=True)
class TensorInfo:
    """What the directory says about a tensor.

    Parameters
    ----------
    name : str
        Name asked for.
    dtype : str
        Element type, such as ``f32``.
    shape : tuple of int
        Dimensions.
    encoding : str
        ``raw``, ``dense``, ``sparse``, ``planes``, ``constant`` or ``mixed``.
    stored_bytes : int
        Bytes in the file, without its directory entry; none of a ``constant`` tensor, whose
        element stands there.
    decoded_bytes : int
        Bytes in memory.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    encoding: str
    stored_bytes: int
    decoded_bytes: int


class Archive:
    """An open SPQ file; its structure has been validated, its tensors decode on request.

    Use it as a context manager. It may be used from several threads.

    Parameters
    ----------
    file : path-like, URL, bytes-like or seekable binary file object
        The file.
    limits : Limits
        What the reader is willing to spend.
    mmap : bool
        Whether a file on disk is mapped into memory.
    progress : callable, optional
        Hears of what has been fetched.

    Raises
    ------
    SpqError
        Every reason of spec 10.1 that concerns the structure.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> with spq.open("model.spq") as archive:
    ...     weight = archive.get_tensor("fc1.weight")
    """

    def __init__(
        self,
        file: FileLike,
        limits: Limits,
        *,
        mmap: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self._closed = False
        self._head = b""
        self._progress, self._fetched_bytes = progress, 0
        self._counting = threading.Lock()
        try:
            self._source = open_source(file, mapped=mmap)
        except (OSError, SpqError):
            raise
        except ValueError as error:
            if isinstance(file, str | os.PathLike):
                raise SpqError(Reason.BAD_ARGUMENT, f"{str(file)[:80]!r} is no path") from error
            raise _is_closed() from error
        try:
            # Where requests are dear, one fetches the directory and, of a small file, everything.
            if self._source.block_bytes:
                self._head = self._read(0, self._source.block_bytes)
            self._container = read_container(self._read, self._source.total_bytes, limits)
            self._limits = limits
        except MemoryError as error:
            self._source.close()
            raise SpqError(
                Reason.LIMIT_EXCEEDED,
                "there is not enough memory for the directory; lower Limits or free some",
            ) from error
        except BaseException:
            self._source.close()
            raise

    @property
    def file_bytes(self) -> int:
        """Length of the file in bytes."""
        return self._container.file_bytes

    @property
    def decoded_bytes(self) -> int:
        """Bytes of all decoded tensors, ties counted once."""
        return self._container.decoded_bytes

    @property
    def metadata(self) -> Mapping[str, str]:
        """The flat string map of the file."""
        return self._container.metadata

    @property
    def aliases(self) -> Mapping[str, str]:
        """Tied names and the stored tensor that each stands for."""
        return self._container.aliases

    @property
    def program_kinds(self) -> tuple[str, ...]:
        """Kinds of the stored programs."""
        return tuple(self._container.programs)

    def keys(self) -> list[str]:
        """Return all tensor names, tied ones included, in ascending order of their UTF-8 bytes."""
        names = [*self._container.tensors, *self._container.aliases]
        return sorted(names, key=lambda name: name.encode("utf-8"))

    def info(self, name: str) -> TensorInfo:
        """Return what the directory says about a tensor; refuses `key_not_found`."""
        record = self._record(name)
        return TensorInfo(
            name,
            record.dtype.label,
            record.shape,
            record.encoding.name.lower(),
            record.stored_bytes,
            record.decoded_bytes,
        )

    def get_tensor(self, name: str) -> NDArray[np.generic]:
        """Decode one tensor.

        Parameters
        ----------
        name : str
            A name of `keys`.

        Returns
        -------
        ndarray
            New, writable, C-contiguous; bf16 tensors come as uint16 bit patterns.

        Raises
        ------
        SpqError
            `key_not_found`, `truncated`, `checksum_mismatch`, `bad_tables`, `bad_stream`;
            `limit_exceeded` when the memory does not suffice; `bad_argument` after `close`.
        """
        record = self._record(name)
        return self.tensors(names=[name])[record.name]

    def tensors(
        self,
        threads: int | None = None,
        *,
        names: Iterable[str] | None = None,
        dtypes: Mapping[str, str] | None = None,
    ) -> dict[str, NDArray[np.generic]]:
        """Decode stored tensors; tied names are left to `aliases`.

        Parameters
        ----------
        threads : int, optional
            Number of threads; by default the processors of this process when there is enough to
            do. The result does not depend on it.
        names : iterable of str, optional
            Tensors to decode, a tied name for the tensor that it stands for; by default all.
        dtypes : mapping of str to str, optional
            Element type for floating-point tensors that are wanted in another than their own:
            ``f64``, ``f32``, ``f16`` or ``bf16``. They are decoded into it directly, rounded to
            nearest, ties to even, from ``f64`` to a half type by way of ``f32``.

        Returns
        -------
        dict of str to ndarray
            Under the names that they are stored under, as `get_tensor` returns them.

        Raises
        ------
        SpqError
            `key_not_found`; `bad_argument` for less than one thread, for a type that a tensor
            cannot have, and after `close`; `truncated`, `checksum_mismatch`, `bad_tables`,
            `bad_stream`; `limit_exceeded` when the memory does not suffice, or wider types take
            more than the limits allow.
        """
        records = {record.name: record for record in map(self._record, self._names(names))}
        targets = {self._record(name).name: label for name, label in (dtypes or {}).items()}
        return self._decode(records.values(), targets, threads)

    def program(self, kind: str) -> bytes | None:
        """Return a stored program, ``torch`` or ``onnx``, or None; refuses `bad_program`."""
        record = self._container.programs.get(kind)
        if record is None:
            return None
        stored = self._read(record.part.offset, record.part.stored_bytes)
        return decode_program(stored, record)

    def verify(self) -> None:
        """Decode everything and compare it with all checksums.

        Raises
        ------
        SpqError
            The first fault that is found.
        """
        from spq.decode import check_decoded

        for record in self._container.tensors.values():
            check_decoded(record, self.get_tensor(record.name))
        for kind in self.program_kinds:
            self.program(kind)

    def close(self) -> None:
        """Close the file; what its directory says stays available."""
        self._closed = True
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _record(self, name: str) -> TensorRecord:
        stored = self._container.aliases.get(name, name)
        record = self._container.tensors.get(stored)
        if record is None:
            raise SpqError(Reason.KEY_NOT_FOUND, f"there is no tensor {name!r} in the file")
        return record

    def _names(self, names: Iterable[str] | None) -> Iterable[str]:
        return self._container.tensors if names is None else names

    def _decode(
        self, records: Iterable[TensorRecord], dtypes: Mapping[str, str], threads: int | None
    ) -> dict[str, NDArray[np.generic]]:
        from spq.decode import Wanted, decode_tensors, garbage_kept

        if self._closed:  # constant tensors stand in the directory, and read nothing
            raise _is_closed()
        wanted = [Wanted(record, _target(record, dtypes.get(record.name))) for record in records]
        wanted_bytes = sum(one.record.element_count * one.dtype.item_bytes for one in wanted)
        most = max(self._limits.max_decoded_bytes, self.decoded_bytes)
        if wanted_bytes > most:
            raise SpqError(
                Reason.LIMIT_EXCEEDED,
                f"in the types wanted the tensors take {wanted_bytes} bytes, and the limit is "
                f"{most}; take fewer, or raise max_decoded_bytes",
            )
        is_remote = self._source.block_bytes > 0
        read = self._read_ahead(wanted) if is_remote else self._read

        def read_part(record: TensorRecord, index: int) -> bytes:
            part = record.parts[index]
            return check_part(read(part.offset, part.stored_bytes), part, record.name)

        try:
            with nullcontext() if is_remote else garbage_kept():
                return decode_tensors(wanted, read_part, threads)
        except MemoryError as error:
            raise SpqError(
                Reason.LIMIT_EXCEEDED,
                "there is not enough memory for the decoded tensors; take them one at a time",
            ) from error

    def _read_ahead(self, wanted: "Iterable[Wanted]") -> Read:
        parts = [part for one in wanted for part in one.record.parts]
        ahead = ReadAhead(self._read, [(part.offset, part.stored_bytes) for part in parts])
        return ahead.read

    def _read(self, offset: int, count: int) -> bytes:
        """Return bytes of the file, which must not have been closed, by nobody."""
        if self._closed:
            raise _is_closed()
        known = self._head[offset : offset + count]
        if len(known) == count:
            return known
        try:
            data = self._source.read(offset + len(known), count - len(known))
        except OSError:
            raise
        except ValueError as error:  # what Python's files and buffers say when they are closed
            raise _is_closed() from error
        if self._progress is not None:
            with self._counting:
                self._fetched_bytes += len(data)
                self._progress(self._fetched_bytes, self._source.total_bytes)
        return known + data


def _is_closed() -> SpqError:
    return SpqError(Reason.BAD_ARGUMENT, "the file has been closed; open it again")


def _target(record: TensorRecord, label: str | None) -> DType:
    """Return the type that a tensor is decoded into."""
    if label is None or label == record.dtype.label:
        return record.dtype
    if label not in _FLOATS or record.dtype.label not in _FLOATS:
        raise SpqError(
            Reason.BAD_ARGUMENT,
            f"{record.name!r} is stored as {record.dtype.label} and is not decoded as {label}; "
            f"only {', '.join(_FLOATS)} turn into each other",
        )
    return _FLOATS[label]


def open(
    file: FileLike,
    limits: Limits | None = None,
    *,
    mmap: bool = False,
    progress: Progress | None = None,
) -> Archive:
    """Open a file: check its structure, decode nothing.

    What is opened so can be given to `load`, `load_state_dict`, `load_onnx` and `session` in place
    of a file, and stays open.

    Parameters
    ----------
    file : path-like, URL, bytes-like or seekable binary file object
        The file. Of one behind a URL only the directory is fetched, and later the tensors that are
        asked for, by ranges; this takes the extra ``remote``.
    limits : Limits, optional
        What the reader is willing to spend.
    mmap : bool
        Whether a file on disk is mapped into memory instead of being read by position. Nobody may
        shorten it meanwhile: the system would end the process.
    progress : callable, optional
        Called after each read with the bytes fetched so far, what is fetched again counted again,
        and those of the file; by one thread at a time. What it raises ends the reading; it must not
        read from the file itself.

    Returns
    -------
    Archive
        Context manager with the tensors on request.

    Raises
    ------
    SpqError
        Every reason of spec 10.1 that concerns the structure; `missing_extra` for a URL without
        fsspec, `bad_argument` for one of an unknown kind.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> with spq.open("model.spq") as archive:
    ...     print(archive.keys())
    >>> with spq.open("https://example.org/model.spq", progress=print) as archive:
    ...     model = spq.load(archive)
    """
    return Archive(file, limits or Limits(), mmap=mmap, progress=progress)


@contextmanager
def opened(file: FileLike | Archive, limits: Limits | None) -> Iterator[Archive]:
    """Open a file and close it in the end, or hand on one that is open.

    Raises
    ------
    SpqError
        As `open`; `bad_argument` for limits of what is open already.
    """
    if not isinstance(file, Archive):
        with Archive(file, limits or Limits()) as archive:
            yield archive
        return
    if limits is not None:
        raise SpqError(Reason.BAD_ARGUMENT, "the file is open already; give the limits to spq.open")
    yield file
