"""Streams of symbols under static tables: the entropy coder around its two kernels (spec 7)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spqformat import frequency_tables
from spqformat.cursor import Cursor
from spqformat.frequency_tables import TableRows
from spqformat.ids import MANY_LANES, MAX_SYMBOL_BITS

DECODE_FAULTS = {
    1: "the stream ends early",
    2: "the stream goes on after its last symbol",
    3: "the coder does not end in its initial state",
    4: "padding is not zero, or a one stands outside the tensor",
}
NO_CONTEXTS = np.empty(0, dtype=np.uint8)
"""Stands for context 0 throughout."""


@dataclass(frozen=True)
class Tables:
    """Frequencies of all contexts in the layout that the kernels read.

    Parameters
    ----------
    freq_log2 : int
        Logarithm of the total of each context.
    slot_symbols : ndarray of uint16, shape (context_count << freq_log2,)
        Symbol of each slot.
    freq_starts : ndarray of uint32, shape (context_count << SYMBOL_LOG2,)
        Frequency (low half) and first slot (high half) of each symbol.
    """

    freq_log2: int
    slot_symbols: NDArray[np.uint16]
    freq_starts: NDArray[np.uint32]


def build_tables(frequencies: NDArray[np.uint32], freq_log2: int) -> Tables:
    """Lay out validated frequencies, shape (context_count, alphabet), for the kernels."""
    from spq._kernels import lay_out_tables
    from spq._kernels.rans import SYMBOL_LOG2

    slot_symbols = np.empty(len(frequencies) << freq_log2, dtype=np.uint16)
    freq_starts = np.zeros(len(frequencies) << SYMBOL_LOG2, dtype=np.uint32)
    lay_out_tables(frequencies, freq_log2, slot_symbols, freq_starts)
    return Tables(freq_log2, slot_symbols, freq_starts)


def read_tables(cursor: Cursor, table_count: int, alphabet: int, freq_log2: int) -> TableRows:
    """Read frequency tables as `spqformat.frequency_tables.read_tables` does, but faster."""
    from spq import _kernels

    frequencies = np.empty((table_count, alphabet), dtype=np.uint32)
    weights = np.empty(1 << MAX_SYMBOL_BITS, dtype=np.uint64)
    raw = np.frombuffer(cursor.rest(), dtype=np.uint8)
    table_bytes = _kernels.read_tables(raw, freq_log2, weights, frequencies)
    if not table_bytes:
        return frequency_tables.read_tables(cursor, table_count, alphabet, freq_log2)
    cursor.take(table_bytes)
    return frequencies


def as_words(stream: bytes) -> NDArray[np.uint32] | None:
    """Return the words of a stream; None when part of a word is left over, as in no valid one."""
    if len(stream) % 4:
        return None
    return np.frombuffer(stream, dtype="<u4").astype(np.uint32, copy=False)


def new_states() -> NDArray[np.uint64]:
    """Return the scratch that the kernels keep the states of their lanes in."""
    return np.empty(MANY_LANES, dtype=np.uint64)


def decode(
    stream: bytes, tables: Tables, contexts: NDArray[np.uint8], symbol_count: int
) -> tuple[int, NDArray[np.uint16]]:
    """Decode a stream; returns the kernel's status and the symbols, shape (symbol_count,)."""
    from spq._kernels import STREAM_TOO_LONG, decode_symbols

    symbols = np.empty(symbol_count, dtype=np.uint16)
    words = as_words(stream)
    if words is None:
        return STREAM_TOO_LONG, symbols
    status = decode_symbols(
        words,
        tables.freq_log2,
        tables.slot_symbols,
        tables.freq_starts,
        contexts,
        new_states(),
        symbols,
    )
    return status, symbols


def encode(
    symbols: NDArray[np.unsignedinteger], tables: Tables, contexts: NDArray[np.uint8]
) -> bytes:
    """Encode symbols, each with a frequency above zero in its context."""
    from spq._kernels import encode_symbols

    words = np.empty(2 * MANY_LANES + -(-symbols.size // 2), dtype=np.uint32)
    wide = symbols.astype(np.uint16, copy=False)
    start = encode_symbols(
        wide, tables.freq_log2, tables.freq_starts, contexts, new_states(), words
    )
    return words[start:].astype("<u4", copy=False).tobytes()
