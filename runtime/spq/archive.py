"""The open file: what is in it, and each tensor on request."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from spq.source import FileLike, open_source
from spqformat import Limits, Reason, SpqError
from spqformat.model import TensorRecord
from spqformat.reader import check_part, decode_program, read_container


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
        ``raw``, ``dense``, ``sparse`` or ``planes``.
    stored_bytes : int
        Bytes in the file, without its directory entry.
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
    file : path-like, bytes-like or seekable binary file object
        The file.
    limits : Limits
        What the reader is willing to spend.

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

    def __init__(self, file: FileLike, limits: Limits) -> None:
        self._closed = False
        try:
            self._source = open_source(file)
        except OSError:
            raise
        except ValueError as error:
            raise _is_closed() from error
        try:
            self._container = read_container(self._read, self._source.total_bytes, limits)
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
        return self._decode([record], None)[record.name]

    def tensors(self, threads: int | None = None) -> dict[str, NDArray[np.generic]]:
        """Decode all stored tensors; tied names are left to `aliases`.

        Parameters
        ----------
        threads : int, optional
            Number of threads; by default the number of processors when there is enough to do. The
            result does not depend on it.

        Returns
        -------
        dict of str to ndarray
            As `get_tensor` returns them.

        Raises
        ------
        SpqError
            `bad_argument` for less than one thread, and after `close`; `truncated`,
            `checksum_mismatch`, `bad_tables`, `bad_stream`; `limit_exceeded` when the memory does
            not suffice.
        """
        return self._decode(self._container.tensors.values(), threads)

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
            check_decoded(record, self._decode([record], None)[record.name])
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

    def _decode(
        self, records: Iterable[TensorRecord], threads: int | None
    ) -> dict[str, NDArray[np.generic]]:
        from spq.decode import decode_tensors

        try:
            return decode_tensors(records, self._read_part, threads)
        except MemoryError as error:
            raise SpqError(
                Reason.LIMIT_EXCEEDED,
                "there is not enough memory for the decoded tensors; take them one at a time",
            ) from error

    def _read_part(self, record: TensorRecord, index: int) -> bytes:
        part = record.parts[index]
        stored = self._read(part.offset, part.stored_bytes)
        return check_part(stored, part, record.name)

    def _read(self, offset: int, count: int) -> bytes:
        """Return bytes of the file, which must not have been closed, by nobody."""
        try:
            if not self._closed:
                return self._source.read(offset, count)
        except OSError:
            raise
        except ValueError as error:  # what Python's files and buffers say when they are closed
            raise _is_closed() from error
        raise _is_closed()


def _is_closed() -> SpqError:
    return SpqError(Reason.BAD_ARGUMENT, "the file has been closed; open it again")


def open(file: FileLike, limits: Limits | None = None) -> Archive:
    """Open a file: check its structure, decode nothing.

    Parameters
    ----------
    file : path-like, bytes-like or seekable binary file object
        The file.
    limits : Limits, optional
        What the reader is willing to spend.

    Returns
    -------
    Archive
        Context manager with the tensors on request.

    Raises
    ------
    SpqError
        Every reason of spec 10.1 that concerns the structure.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> with spq.open("model.spq") as archive:
    ...     print(archive.keys())
    """
    return Archive(file, limits or Limits())
