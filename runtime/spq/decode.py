"""From the stored parts of a tensor to its elements, chunk by chunk."""

import contextlib
import gc
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Condition
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from spq._processors import processor_count
from spq.dense import DenseDecoder
from spq.floats import Convert, conversion
from spq.mixed import MixedDecoder
from spq.planes import PlanesDecoder
from spq.scratch import Scratch
from spq.sparse import SparseDecoder
from spqformat import Reason, SpqError
from spqformat.coded import bad_stream
from spqformat.ids import DType, Encoding
from spqformat.model import TensorRecord

ReadPart = Callable[[TensorRecord, int], bytes]
"""Returns the checked bytes of a tensor's part."""

_PARALLEL_FROM_BYTES = 1 << 22
# An element of a mixed tensor takes the work of so many bytes of others.
_MIXED_WORK = 128
# Raw elements that are converted at once.
_CONVERTED = 1 << 20


@dataclass(frozen=True)
class Wanted:
    """A tensor to decode, and the element type that it is wanted in.

    Parameters
    ----------
    record : TensorRecord
        The tensor.
    dtype : DType
        Its own type; or, for floating-point tensors, another of these.
    """

    record: TensorRecord
    dtype: DType


def decode_tensors(
    wanted: Sequence[Wanted], read_part: ReadPart, threads: int | None
) -> dict[str, NDArray[np.generic]]:
    """Decode tensors and their chunks in parallel.

    Neither the result nor a refusal depends on `threads`. A tensor's tables are validated before
    its elements are allocated, and kept until its last chunk is decoded: at any time those of at
    most `threads` tensors.

    Parameters
    ----------
    wanted : sequence of Wanted
        Tensors to decode. Their elements are converted level by level or some at a time, never as
        a second tensor; what is stored raw is read whole.
    read_part : callable
        Source of stored bytes.
    threads : int or None
        Number of threads; None takes the processors of this process when there is enough to do.

    Returns
    -------
    dict of str to ndarray
        New C-contiguous arrays; bf16 tensors as uint16 bit patterns.

    Raises
    ------
    SpqError
        `bad_argument` for no threads; `truncated`, `checksum_mismatch`, `bad_tables`, `bad_stream`.
    """
    if threads is None:
        work = sum(_work(one.record) for one in wanted)
        threads = processor_count() if work >= _PARALLEL_FROM_BYTES else 1
    if threads < 1:
        raise SpqError(Reason.BAD_ARGUMENT, f"{threads} threads decode nothing; pass 1 or more")
    crew = _Crew(wanted, read_part)
    # The first part of a coded tensor is its tables.
    worker_count = min(threads, sum(max(len(one.record.parts) - 1, 1) for one in wanted))
    if worker_count <= 1:
        crew.work()
    else:
        crew.work_together(worker_count)
    return crew.result()


def _work(record: TensorRecord) -> int:
    """Return what a tensor takes to be decoded, in bytes of other tensors."""
    if record.encoding is Encoding.MIXED:
        return _MIXED_WORK * record.element_count
    return record.decoded_bytes


@contextlib.contextmanager
def garbage_kept() -> Iterator[None]:
    """Hold the garbage collector back, of the whole process: not while anybody waits for a network.

    Decoding makes no cycles, but many objects, and the first decoding imports Numba: beside a large
    framework in memory, collections in vain took a third of a small file's time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def check_decoded(record: TensorRecord, array: NDArray[np.generic]) -> None:
    """Compare a decoded tensor with the checksum of its elements; refuses `checksum_mismatch`."""
    if zlib.crc32(np.ascontiguousarray(array).data) != record.decoded_crc32:
        raise SpqError(
            Reason.CHECKSUM_MISMATCH,
            "decoded elements do not match their checksum; a faulty encoder wrote the file",
            section=record.name,
        )


class _Decoder(Protocol):
    """What decodes the chunks of one tensor; holds its tables."""

    @property
    def chunk_count(self) -> int:
        """Number of chunks, at least one."""

    def decode_chunk(self, chunk: int, elements: NDArray[np.generic], scratch: Scratch) -> None:
        """Put the elements of a chunk into their places in those of the tensor.

        Either every one of its elements is written, or the chunk is refused.
        """


@dataclass(frozen=True)
class _Job:
    """A chunk to decode; the jobs of a tensor keep its decoder alive and nothing else does."""

    tensor: int
    chunk: int
    decoder: _Decoder
    elements: NDArray[np.generic]


class _Crew:
    """Shares out tensors and their chunks, in order, among the threads that call `work`.

    A thread opens another tensor only when no chunk of an open one is left to take, so that there
    are never more open tensors than threads.
    """

    def __init__(self, wanted: Sequence[Wanted], read_part: ReadPart) -> None:
        self._wanted = wanted
        self._read_part = read_part
        self._elements: list[NDArray[np.generic] | None] = [None] * len(wanted)
        self._changed = Condition()
        self._jobs: deque[_Job] = deque()
        self._opened = 0  # tensors that some thread has taken
        self._opening = 0  # of these, the ones whose chunks are not known yet
        # Of all refusals the one that a single thread would meet; later places need no work.
        self._end = (len(wanted), 0)
        self._refusal: BaseException | None = None

    def work(self) -> None:
        """Decode until nothing is left to do."""
        scratch = Scratch()
        while self._step(scratch):
            pass

    def work_together(self, worker_count: int) -> None:
        """Work in several threads."""
        with ThreadPoolExecutor(worker_count) as pool:
            workers = [pool.submit(self.work) for _ in range(worker_count)]
            try:
                for worker in workers:
                    worker.result()
            finally:
                self.stop()

    def stop(self) -> None:
        """Let all threads return soon."""
        with self._changed:
            self._end = min(self._end, (0, 0))
            self._changed.notify_all()

    def result(self) -> dict[str, NDArray[np.generic]]:
        """Return the tensors, or raise the refusal of the first that has one."""
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            try:
                raise refusal
            finally:
                # Its traceback leads here; a circle would keep the elements in memory.
                del refusal
        return {
            one.record.name: elements.view(one.dtype.numpy).reshape(one.record.shape)
            for one, elements in zip(self._wanted, self._elements, strict=True)
            if elements is not None
        }

    def _step(self, scratch: Scratch) -> bool:
        """Decode one chunk, or open a tensor and decode its first; False when all is done."""
        with self._changed:
            while not self._jobs and self._opened >= self._end[0] and self._opening:
                self._changed.wait()
            job = self._jobs.popleft() if self._jobs else None
            tensor = self._opened
            if job is None:
                if tensor >= self._end[0]:
                    return False
                self._opened += 1
                self._opening += 1
        if job is None:
            job = self._open(tensor)
        if job is not None and (job.tensor, job.chunk) < self._end:
            try:
                job.decoder.decode_chunk(job.chunk, job.elements, scratch)
            except BaseException as error:
                self._refuse((job.tensor, job.chunk), error)
        return True

    def _open(self, tensor: int) -> _Job | None:
        """Validate the tables of a tensor, hand out its other chunks and return the first."""
        record, dtype = self._wanted[tensor].record, self._wanted[tensor].dtype
        jobs: list[_Job] = []
        try:
            convert = conversion(record.dtype, dtype)
            decoder = _DECODERS[record.encoding](record, self._read_part, convert)
            elements = self._elements[tensor] = _allocate(record, dtype)
            jobs = [_Job(tensor, c, decoder, elements) for c in range(decoder.chunk_count)]
        except BaseException as error:
            self._refuse((tensor, -1), error)
        with self._changed:
            self._jobs.extend(jobs[1:])
            self._opening -= 1
            self._changed.notify_all()
        return jobs[0] if jobs else None

    def _refuse(self, place: tuple[int, int], error: BaseException) -> None:
        """Note a refusal unless there is an earlier one."""
        with self._changed:
            if place < self._end:
                self._end, self._refusal = place, error
            self._changed.notify_all()


def _allocate(record: TensorRecord, dtype: DType) -> NDArray[np.generic]:
    """Return unsigned integers of the element's width, not yet written, shape (element_count,)."""
    return np.empty(record.element_count, dtype=f"u{dtype.item_bytes}")


class _RawDecoder:
    """Elements stored as they are."""

    chunk_count = 1

    def __init__(self, record: TensorRecord, read_part: ReadPart, convert: Convert) -> None:
        self._record = record
        self._read_part = read_part
        self._convert = convert

    def decode_chunk(self, chunk: int, elements: NDArray[np.generic], scratch: Scratch) -> None:
        """Copy the only part."""
        stored = self._read_part(self._record, chunk)
        width = self._record.dtype.item_bytes
        raw = np.frombuffer(stored, dtype=f"<u{width}")
        for first in range(0, raw.size, _CONVERTED):
            some = slice(first, first + _CONVERTED)
            elements[some] = self._convert(raw[some])
        if self._record.dtype is DType.BOOL and elements.view(np.uint8).max(initial=0) > 1:
            raise bad_stream(self._record, chunk, "a boolean is neither 0 nor 1")


class _ConstantDecoder:
    """One element for all, from the directory."""

    chunk_count = 1

    def __init__(self, record: TensorRecord, read_part: ReadPart, convert: Convert) -> None:
        element = np.frombuffer(record.element, dtype=f"<u{record.dtype.item_bytes}")
        self._element = convert(element)

    def decode_chunk(self, chunk: int, elements: NDArray[np.generic], scratch: Scratch) -> None:
        """Repeat the element."""
        elements[:] = self._element


_DECODERS: Mapping[Encoding, Callable[[TensorRecord, ReadPart, Convert], _Decoder]] = {
    Encoding.RAW: _RawDecoder,
    Encoding.DENSE: DenseDecoder,
    Encoding.SPARSE: SparseDecoder,
    Encoding.PLANES: PlanesDecoder,
    Encoding.CONSTANT: _ConstantDecoder,
    Encoding.MIXED: MixedDecoder,
}
