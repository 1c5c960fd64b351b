"""Numbers that stand in the file: one source for code, registry and tests (spec/registry.md)."""

from enum import IntEnum

import numpy as np

MAGIC = b"\x93SPQ\r\n\x1a\n"
VERSION_MAJOR = 1
VERSION_MINOR = 2
HEADER_BYTES = 64

# Normative maxima (spec 9)
MAX_NAME_BYTES = 1024
MAX_RANK = 32
MAX_ELEMENTS = 1 << 48
MAX_FILE_BYTES = 1 << 62
MAX_LEVELS = 256
MAX_FREQ_LOG2 = 15
MAX_CLASSES = 16
MAX_CONTEXTS = 64
MAX_CHUNK_ELEMENTS = 1 << 24
MIN_ROW_LENGTH = 8
MAX_SYMBOL_BITS = 9
MAX_DIRECTORY_RATIO = 64
MAX_MIXED_ELEMENTS = 1 << 19
MAX_MIXED_LEVELS = 64

# Entropy coder (spec 7)
STATE_LOWER_BOUND = 1 << 32
MANY_LANES = 8
MANY_LANES_FROM_SYMBOLS = 8192

# Mixed predictions (spec 7.5)
MIXED_INPUTS = 5
MIXED_STEPS = 4


class RequiredFeature(IntEnum):
    """Bits of `required_features` (spec 3.4)."""

    DEFLATED_DIRECTORY = 0


KNOWN_REQUIRED_FEATURES = sum(1 << bit for bit in RequiredFeature)


class DType(IntEnum):
    """Element type of a tensor (spec 5.2)."""

    F64 = 0
    F32 = 1
    F16 = 2
    BF16 = 3
    I8 = 4
    I16 = 5
    I32 = 6
    I64 = 7
    U8 = 8
    U16 = 9
    U32 = 10
    U64 = 11
    BOOL = 12

    @property
    def label(self) -> str:
        """Name that users see, such as ``f32``."""
        return self.name.lower()

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """NumPy type of decoded elements; bf16 comes as uint16 bit patterns."""
        return _NUMPY_TYPES[self]

    @property
    def item_bytes(self) -> int:
        """Bytes of one element."""
        return _NUMPY_TYPES[self].itemsize


_NUMPY_TYPES: dict[DType, np.dtype[np.generic]] = {
    DType.F64: np.dtype("<f8"),
    DType.F32: np.dtype("<f4"),
    DType.F16: np.dtype("<f2"),
    DType.BF16: np.dtype("<u2"),
    DType.I8: np.dtype("i1"),
    DType.I16: np.dtype("<i2"),
    DType.I32: np.dtype("<i4"),
    DType.I64: np.dtype("<i8"),
    DType.U8: np.dtype("u1"),
    DType.U16: np.dtype("<u2"),
    DType.U32: np.dtype("<u4"),
    DType.U64: np.dtype("<u8"),
    DType.BOOL: np.dtype("?"),
}


class Encoding(IntEnum):
    """How the elements of a tensor are stored (spec 5.3)."""

    RAW = 0
    ALIAS = 1
    DENSE = 2
    SPARSE = 3
    PLANES = 4
    CONSTANT = 5
    MIXED = 6


class CodebookKind(IntEnum):
    """How the levels of a codebook are stored (spec 6.1)."""

    FULL = 0
    BFLOAT16 = 1
    FLOAT16 = 2
    UNIFORM = 3


class TableKind(IntEnum):
    """How the frequencies of one context are stored (spec 6.2)."""

    EXPLICIT = 0
    FLAT = 1
    BERNOULLI = 2
    MARKOV = 3


class PlaneMode(IntEnum):
    """How the bytes of a plane are stored (spec 6.5.1)."""

    STORED = 0
    CODED = 1


class ProgramCodec(IntEnum):
    """How the bytes of a program are stored (spec 4.2)."""

    STORED = 0
    ZSTD = 1
    ZSTD_DICTIONARY = 2
