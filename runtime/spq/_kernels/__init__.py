"""Kernels of the codec, encoding and decoding side by side.

Each is a typed function that allocates nothing and raises nothing; `.py_func` is its plain-Python
twin. Callers prove every precondition that a docstring states: a kernel has no bounds checks.
Indices are unsigned throughout, because a signed one would be tested for wrap-around. Few types
reach a kernel, because each combination is compiled on its own: symbols are uint16 everywhere, and
an empty array stands for one that is absent.
"""

from spq._kernels.elements import index_levels, join_planes, look_up
from spq._kernels.mixed import code_signed_indices
from spq._kernels.rans import decode_symbols, encode_symbols
from spq._kernels.sparse import count_ones_by_class, decode_mask, decode_values, gather_values
from spq._kernels.status import (
    BAD_PADDING,
    BAD_STATE,
    OK,
    STREAM_TOO_LONG,
    STREAM_TOO_SHORT,
)
from spq._kernels.tables import lay_out_tables, read_tables

__all__ = [
    "BAD_PADDING",
    "BAD_STATE",
    "OK",
    "STREAM_TOO_LONG",
    "STREAM_TOO_SHORT",
    "code_signed_indices",
    "count_ones_by_class",
    "decode_mask",
    "decode_symbols",
    "decode_values",
    "encode_symbols",
    "gather_values",
    "index_levels",
    "join_planes",
    "lay_out_tables",
    "look_up",
    "read_tables",
]
