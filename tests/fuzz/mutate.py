"""Changes sound inputs at random and makes lengths and checksums fit again.

Without the repairs, every mutant would die at its first checksum and the rules behind it would
never be asked.
"""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from spqformat import Limits, SpqError
from spqformat.deflate import deflated, inflated
from spqformat.ids import DType, Encoding
from spqformat.model import Container
from spqformat.reader import read_container
from spqformat.writer import EncodedTensor, serialise

T = TypeVar("T")

SECTIONS = ("header", "directory", "metadata", "programs", "part")
INTERESTING = (0, 1, 2, 3, 4, 7, 8, 9, 12, 15, 16, 17, 32, 64, 127, 128, 200, 254, 255)
DIMENSIONS = (0, 1, 2, 3, 7, 8, 9, 64, 255, 256, 1 << 16, 1 << 24, 1 << 32, 1 << 47, 1 << 48)


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


class Draw:
    """Seeded choices, the same wherever NumPy gives the same raw words."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.PCG64(seed)

    def below(self, count: int) -> int:
        """Draw a number from 0 to `count` - 1."""
        return int(self._random.random_raw()) % count

    def one_of(self, choices: Sequence[T]) -> T:
        """Draw one of several things."""
        return choices[self.below(len(choices))]

    def raw_bytes(self, count: int) -> bytes:
        """Draw bytes."""
        words = self._random.random_raw(-(-count // 8))
        return np.asarray(words).tobytes()[:count]

    def changed(self, section: bytes) -> bytes:
        """Return a section with one to three places changed, dropped, added or copied."""
        changed = bytearray(section)
        for _ in range(1 + self.below(3)):
            place = self.below(max(len(changed), 1))
            action = self.below(7)
            if action == 0 and changed:
                del changed[place]
            elif action == 1:
                changed.insert(place, self.below(256))
            elif action == 2 and len(changed) > 8:
                other = self.below(len(changed) - 4)
                changed[place : place + 4] = changed[other : other + 4]
            elif action == 3 and len(changed) > 8 and self.below(4) == 0:
                length = 1 + self.below(16)
                changed[place : place + length] = self.raw_bytes(self.below(length + 4))
            elif changed:
                old = changed[place]
                changed[place] = (
                    old ^ 1 << self.below(8),
                    self.one_of(INTERESTING),
                    (old + self.below(5) - 2) % 256,
                )[action % 3]
        return bytes(changed)


def read(data: bytes) -> Container:
    """Read the structure of a file whatever its size."""
    limits = Limits(max_decoded_bytes=1 << 62)
    return read_container(lambda start, count: data[start : start + count], len(data), limits)


def taken_apart(data: bytes) -> tuple[Container, dict[str, EncodedTensor]]:
    """Return a sound file's structure and its tensors as the writer takes them."""
    container = read(data)
    tensors = {
        name: EncodedTensor(
            record.dtype,
            record.encoding,
            record.shape,
            record.decoded_crc32,
            [data[part.offset : part.offset + part.stored_bytes] for part in record.parts],
            record.element,
        )
        for name, record in container.tensors.items()
    }
    return container, tensors


class Mutator:
    """Makes mutants of one sound file.

    Parameters
    ----------
    data : bytes
        The file.
    seed : int
        Equal seeds give equal mutants.
    """

    def __init__(self, data: bytes, seed: int) -> None:
        self._draw = Draw(seed)
        self._header = data[:60]
        sizes = [int.from_bytes(data[place : place + 4], "little") for place in (48, 52, 56)]
        starts = [64, 64 + sizes[0], 64 + sizes[0] + sizes[1], 64 + sum(sizes)]
        self._directory, self._metadata, self._programs = (
            data[start : start + size] for start, size in zip(starts, sizes, strict=False)
        )
        self._deflated = bool(data[16])
        if self._deflated:
            self._directory = inflated(self._directory, starts[0], Limits())
        self._data_start = starts[3]
        self._data = data[starts[3] :]
        self._container, self._tensors = taken_apart(data)
        records = self._container.tensors.values()
        self._parts = [part for record in records for part in record.parts if part.stored_bytes]

    def mutant(self) -> bytes:
        """Return the next mutant: of its bytes, or of its tensors."""
        rebuilt = self._rebuilt() if self._tensors and self._draw.below(4) == 0 else None
        return self._patched() if rebuilt is None else rebuilt

    def _patched(self) -> bytes:
        """Change bytes of one section."""
        draw = self._draw
        header, directory = bytearray(self._header), self._directory
        metadata, programs, data = self._metadata, self._programs, self._data
        section = draw.one_of(SECTIONS)
        if section == "header":
            header[8 + draw.below(52)] = draw.one_of(INTERESTING)
        elif section == "metadata" and metadata:
            body = draw.changed(metadata[:-4])
            metadata = body + u32(zlib.crc32(body))
        elif section == "programs" and programs:
            size = int.from_bytes(programs[:4], "little")
            body = draw.changed(programs[4:size])
            programs = u32(len(body) + 4) + body + u32(zlib.crc32(body)) + programs[4 + size :]
        elif section == "part" and self._parts:
            part = draw.one_of(self._parts)
            start = part.offset - self._data_start
            changed = draw.changed(data[start : start + part.stored_bytes])
            changed = (changed + bytes(part.stored_bytes))[: part.stored_bytes]
            data = data[:start] + changed + data[start + part.stored_bytes :]
            directory = directory.replace(u32(part.stored_crc32), u32(zlib.crc32(changed)))
        else:
            directory = draw.changed(directory)
        if self._deflated:
            directory = deflated(directory) or directory
            if section == "directory" and draw.below(4) == 0:
                directory = draw.changed(directory)
        if section != "header":
            for place, changed in ((48, directory), (52, metadata), (56, programs)):
                header[place : place + 4] = u32(len(changed))
            total = 64 + len(directory) + len(metadata) + len(programs) + len(data)
            header[32:40] = total.to_bytes(8, "little")
        crc = zlib.crc32(directory, zlib.crc32(header))
        return bytes(header) + u32(crc) + directory + metadata + programs + data

    def _rebuilt(self) -> bytes | None:
        """Change a tensor and write the file anew; None for what the writer refuses."""
        draw = self._draw
        tensors = dict(self._tensors)
        name = draw.one_of(sorted(tensors))
        tensor = tensors[name]
        parts = list(tensor.parts)
        action = draw.below(6)
        if action > 2 and not parts:
            tensor = replace(tensor, element=draw.changed(tensor.element))
        elif action == 0:
            shape = list(tensor.shape)
            if shape and draw.below(3):
                shape[draw.below(len(shape))] = draw.one_of(DIMENSIONS)
            else:
                shape.insert(draw.below(len(shape) + 1), draw.one_of(DIMENSIONS))
            tensor = replace(tensor, shape=tuple(shape))
        elif action == 1:
            tensor = replace(tensor, dtype=draw.one_of(list(DType)))
        elif action == 2:
            encodings = [encoding for encoding in Encoding if encoding is not Encoding.ALIAS]
            tensor = replace(tensor, encoding=draw.one_of(encodings))
        elif action == 3:
            place = draw.below(len(parts))
            if draw.below(2):
                del parts[place]
            else:
                parts.insert(place, draw.one_of(parts))
            tensor = replace(tensor, parts=parts)
        else:
            # Other than above, parts may get longer and shorter.
            place = draw.below(len(parts))
            parts[place] = draw.changed(parts[place])
            tensor = replace(tensor, parts=parts)
        if tensor.encoding is Encoding.RAW:
            content = b"".join(tensor.parts)
            if tensor.decoded_bytes <= 1 << 16 and draw.below(4):
                content = (content + bytes(tensor.decoded_bytes))[: tensor.decoded_bytes]
            tensor = replace(tensor, parts=[content])
        tensors[name] = tensor
        aliases = self._container.aliases
        try:
            return b"".join(serialise(tensors, aliases, self._container.metadata, {}))
        except (SpqError, OverflowError):
            return None
