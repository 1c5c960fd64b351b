"""What a container says about itself, as frozen records with the field names of the spec."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

from spqformat.ids import DType, Encoding, ProgramCodec


@dataclass(frozen=True, slots=True)
class Part:
    """A contiguous run of stored bytes with its checksum (spec 5.4).

    Parameters
    ----------
    offset : int
        First byte in the file.
    stored_bytes : int
        Length in bytes.
    stored_crc32 : int
        CRC-32 of the stored bytes.
    """

    offset: int
    stored_bytes: int
    stored_crc32: int


@dataclass(frozen=True)
class TensorRecord:
    """One stored tensor of the directory (spec 5).

    Parameters
    ----------
    name : str
        Name, unique in the file.
    dtype : DType
        Element type.
    encoding : Encoding
        `RAW`, `DENSE`, `SPARSE`, `PLANES`, `CONSTANT` or `MIXED`.
    shape : tuple of int
        Dimensions, row-major.
    decoded_crc32 : int
        CRC-32 of the decoded little-endian elements in row-major order.
    parts : tuple of Part
        One part for `RAW`, none for `CONSTANT`; the tables and then the chunks for the others.
    element : bytes
        The element that a `CONSTANT` tensor repeats, little-endian; empty for the others.
    """

    name: str
    dtype: DType
    encoding: Encoding
    shape: tuple[int, ...]
    decoded_crc32: int
    parts: tuple[Part, ...]
    element: bytes = b""

    @cached_property
    def element_count(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def decoded_bytes(self) -> int:
        """Bytes of the decoded tensor."""
        return self.element_count * self.dtype.item_bytes

    @property
    def stored_bytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.stored_bytes for part in self.parts)


@dataclass(frozen=True)
class ProgramRecord:
    """One stored program (spec 4.2).

    Parameters
    ----------
    kind : str
        Registered kind: ``onnx`` or ``torch``.
    codec : ProgramCodec
        How the bytes are stored.
    decoded_bytes : int
        Length of the program in bytes.
    part : Part
        Where it is stored.
    """

    kind: str
    codec: ProgramCodec
    decoded_bytes: int
    part: Part


@dataclass(frozen=True)
class Container:
    """A structurally valid file: every length, order and sum has been checked, nothing is decoded.

    Parameters
    ----------
    file_bytes : int
        Length of the file.
    decoded_bytes : int
        Bytes of all decoded tensors together, ties counted once.
    tensors : mapping of str to TensorRecord
        Stored tensors in ascending order of their UTF-8 names.
    aliases : mapping of str to str
        Tied names and the stored tensor that each stands for.
    metadata : mapping of str to str
        Flat string map.
    programs : mapping of str to ProgramRecord
        Programs by kind.
    """

    file_bytes: int
    decoded_bytes: int
    tensors: Mapping[str, TensorRecord]
    aliases: Mapping[str, str]
    metadata: Mapping[str, str]
    programs: Mapping[str, ProgramRecord]
