"""The codecs of the codec benchmark: SPQ, its rivals, and what memory itself allows.

Every rival stores a tensor on a codebook as float32 levels and coded indices, and tensors of more
than 256 distinct values as coded float32. Rivals are given the indices; SPQ finds them itself.
"""

import importlib
import io
import lzma
import math
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Protocol, TypeVar

import numpy as np
import zstandard
from numpy.typing import NDArray

import spq
from tests.bench.tensor_sets import Tensor, TensorSet

SPQ = "spq"
_BLOCK = 1 << 16
_FREQUENCY_TOTAL = 0xFFFF

T = TypeVar("T")
R = TypeVar("R")
Arrays = Mapping[str, NDArray[np.generic]]
Pieces = tuple[bytes, bytes]
"""The codebook of a tensor, empty when there is none, and its coded elements."""


class Codec(Protocol):
    """One way to store a set of tensors."""

    def encode(self, tensors: TensorSet) -> int:
        """Store a set, keep it, and return its bytes; 0 for what stores nothing."""
        ...

    def decode(self, threads: int) -> Arrays:
        """Return ready float32 arrays of the stored set."""
        ...


class TensorCodec(Protocol):
    """One way to store one tensor."""

    def encode(self, tensor: Tensor) -> Pieces:
        """Return what a file would hold."""
        ...

    def decode(self, stored: Pieces, size: int) -> NDArray[np.float32]:
        """Return all `size` elements."""
        ...


class SpqFile:
    """SPQ through its public functions: a whole file in memory."""

    def encode(self, tensors: TensorSet) -> int:
        file = io.BytesIO()
        spq.save({name: tensor.elements() for name, tensor in tensors.items()}, file)
        self._file = file.getvalue()
        return len(self._file)

    def decode(self, threads: int) -> Arrays:
        with spq.open(self._file) as archive:
            return archive.tensors(threads=threads)


class PerTensor:
    """Lifts a tensor codec to sets; threads take whole tensors, the largest first."""

    def __init__(self, codec: TensorCodec) -> None:
        self._codec = codec

    def encode(self, tensors: TensorSet) -> int:
        ordered = sorted(tensors.items(), key=lambda item: -item[1].size)
        self._shapes = {name: tensor.shape for name, tensor in ordered}
        self._stored = {name: self._codec.encode(tensor) for name, tensor in ordered}
        return sum(len(piece) for pieces in self._stored.values() for piece in pieces)

    def decode(self, threads: int) -> Arrays:
        names = list(self._stored)
        return dict(zip(names, _map(self._decode_one, names, threads), strict=True))

    def _decode_one(self, name: str) -> NDArray[np.float32]:
        shape = self._shapes[name]
        return self._codec.decode(self._stored[name], math.prod(shape)).reshape(shape)


class ByteCoder:
    """A general compressor; zstd's contexts serve one thread each."""

    def __init__(
        self,
        compress: Callable[[bytes], bytes],
        decompressor: Callable[[], Callable[[bytes], bytes]],
    ) -> None:
        self.compress = compress
        self._decompressor = decompressor
        self._local = threading.local()

    def decompress(self, stored: bytes) -> bytes:
        if not hasattr(self._local, "decompress"):
            self._local.decompress = self._decompressor()
        content: bytes = self._local.decompress(stored)
        return content


def zstd(level: int) -> ByteCoder:
    """Return zstd with its own defaults: one frame, no checksum."""
    return ByteCoder(
        lambda content: zstandard.ZstdCompressor(level=level).compress(content),
        lambda: zstandard.ZstdDecompressor().decompress,
    )


def xz(preset: int) -> ByteCoder:
    """Return xz with its own defaults."""
    return ByteCoder(lambda content: lzma.compress(content, preset=preset), lambda: lzma.decompress)


class Float32Bytes:
    """The float32 elements as bytes through a general compressor."""

    def __init__(self, coder: ByteCoder) -> None:
        self._coder = coder

    def encode(self, tensor: Tensor) -> Pieces:
        return b"", self._coder.compress(tensor.elements().tobytes())

    def decode(self, stored: Pieces, size: int) -> NDArray[np.float32]:
        return np.frombuffer(self._coder.decompress(stored[1]), dtype=np.float32, count=size)


class PackedIndices:
    """Indices, two in a byte up to 16 levels, through a general compressor, and a table.

    The table of 256 entries gives two float32 elements, or one beyond 16 levels. NumPy takes from
    it block by block, because that is the fastest of its ways: the widened indices stay in cache.
    """

    def __init__(self, coder: ByteCoder) -> None:
        self._coder = coder

    def encode(self, tensor: Tensor) -> Pieces:
        if tensor.indices is None:
            return b"", self._coder.compress(tensor.levels.tobytes())
        packed = _pack(tensor.indices, tensor.levels.size)
        return tensor.levels.tobytes(), self._coder.compress(packed.tobytes())

    def decode(self, stored: Pieces, size: int) -> NDArray[np.float32]:
        levels = np.frombuffer(stored[0], dtype=np.float32)
        content = self._coder.decompress(stored[1])
        if not levels.size:
            return np.frombuffer(content, dtype=np.float32, count=size)
        packed, table = np.frombuffer(content, dtype=np.uint8), _table(levels)
        wide = np.empty(packed.size, dtype=table.dtype)
        for first in range(0, packed.size, _BLOCK):
            block = slice(first, first + _BLOCK)
            np.take(table, packed[block], out=wide[block], mode="clip")
        return wide.view(np.float32)[:size]


def _pack(indices: NDArray[np.uint8], level_count: int) -> NDArray[np.uint8]:
    """Return indices as bytes, two in each when they fit, first index lowest."""
    if level_count > 16:
        return indices
    padded = np.concatenate([indices, np.zeros(indices.size % 2, dtype=np.uint8)])
    packed: NDArray[np.uint8] = padded[::2] | (padded[1::2] << np.uint8(4))
    return packed


def _table(levels: NDArray[np.float32]) -> NDArray[np.generic]:
    """Return the one or two levels of each byte as unsigned integers."""
    symbols = np.arange(256)
    if levels.size > 16:
        return levels[np.minimum(symbols, levels.size - 1)].view(np.uint32)
    nibbles = np.stack([symbols & 15, symbols >> 4], axis=1)
    return levels[np.minimum(nibbles, levels.size - 1)].view(np.uint64)[:, 0]


class Constriction:
    """constriction's ANS under one categorical model per tensor, stored as 16-bit frequencies."""

    def __init__(self) -> None:
        self._stream = importlib.import_module("constriction").stream

    def encode(self, tensor: Tensor) -> Pieces:
        if tensor.indices is None:
            return b"", tensor.levels.tobytes()
        counts = np.bincount(tensor.indices, minlength=tensor.levels.size)
        scaled = np.rint(counts * (_FREQUENCY_TOTAL / tensor.size))
        frequencies = np.where(counts > 0, np.maximum(scaled, 1), 0).astype(np.uint16)
        coder = self._stream.stack.AnsCoder()
        coder.encode_reverse(tensor.indices.astype(np.int32), self._model(frequencies))
        words: bytes = coder.get_compressed().tobytes()
        return tensor.levels.tobytes(), frequencies.tobytes() + words

    def decode(self, stored: Pieces, size: int) -> NDArray[np.float32]:
        levels = np.frombuffer(stored[0], dtype=np.float32)
        if not levels.size:
            return np.frombuffer(stored[1], dtype=np.float32).copy()
        frequencies = np.frombuffer(stored[1], dtype=np.uint16, count=levels.size)
        words = np.frombuffer(stored[1][frequencies.nbytes :], dtype=np.uint32)
        symbols = self._stream.stack.AnsCoder(words).decode(self._model(frequencies), size)
        elements: NDArray[np.float32] = levels[symbols]
        return elements

    def _model(self, frequencies: NDArray[np.uint16]) -> object:
        """Return the model; it wants two symbols at least."""
        weights = np.zeros(max(2, frequencies.size), dtype=np.float32)
        weights[: frequencies.size] = frequencies
        return self._stream.model.Categorical(weights, perfect=False)


class Fill:
    """No codec: memory for the elements, filled with one value."""

    def __init__(self, *, fresh: bool) -> None:
        self._fresh = fresh

    def encode(self, tensors: TensorSet) -> int:
        self._sizes = {name: tensor.size for name, tensor in tensors.items()}
        self._arrays = self._allocate()
        return 0

    def decode(self, threads: int) -> Arrays:
        arrays = self._allocate() if self._fresh else self._arrays
        blocks = [
            array[first : first + _BLOCK * 16]
            for array in arrays.values()
            for first in range(0, array.size, _BLOCK * 16)
        ]
        _map(lambda block: block.fill(1.0), blocks, threads)
        return arrays

    def _allocate(self) -> dict[str, NDArray[np.float32]]:
        return {name: np.empty(size, dtype=np.float32) for name, size in self._sizes.items()}


def _map(action: Callable[[T], R], items: list[T], threads: int) -> list[R]:
    """Apply an action to all items in order of appearance."""
    if threads == 1:
        return [action(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(action, items))


CODECS: Mapping[str, Callable[[], Codec]] = {
    SPQ: SpqFile,
    "zstd-19 of nibbles + pair table": lambda: PerTensor(PackedIndices(zstd(19))),
    "zstd-19 of float32": lambda: PerTensor(Float32Bytes(zstd(19))),
    "xz -6 of nibbles + pair table": lambda: PerTensor(PackedIndices(xz(6))),
    "constriction ANS, order 0": lambda: PerTensor(Constriction()),
    "memory fill": lambda: Fill(fresh=False),
    "allocation + fill": lambda: Fill(fresh=True),
}


def missing(codec: str) -> str | None:
    """Return why a codec cannot run here, or None."""
    if codec.startswith("constriction") and find_spec("constriction") is None:
        return "constriction is not installed"
    return None


def is_lossless(codec: str) -> bool:
    """Return whether a codec gives back what it was given; fills do not."""
    return not codec.endswith("fill")
