"""Streams of symbols under static tables: the entropy coder around its two kernels (spec 7)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spqformat.ids import MANY_LANES, MANY_LANES_FROM_SYMBOLS

_START_SHIFT = np.uint32(16)

DECODE_FAULTS = {
    1: "the stream ends early",
    2: "the stream goes on after its last symbol",
    3: "the coder does not end in its initial state",
    4: "a one stands outside the tensor",
}


@dataclass(frozen=True)
class Tables:
    """Frequencies of all contexts in the layout that the kernels read.

    Parameters
    ----------
    freq_log2 : int
        Logarithm of the total of each context.
    slot_symbols : ndarray of uint8 or uint16, shape (context_count << freq_log2,)
        Symbol of each slot; two bytes wide for more than 256 symbols.
    freq_starts : ndarray of uint32, shape (context_count << symbol_log2,)
        Frequency (low half) and first slot (high half) of each symbol; `symbol_log2` is 8, or 9
        for wide symbols.
    """

    freq_log2: int
    slot_symbols: NDArray[np.unsignedinteger]
    freq_starts: NDArray[np.uint32]


def build_tables(frequencies: NDArray[np.uint32], freq_log2: int) -> Tables:
    """Lay out validated frequencies, shape (context_count, alphabet), for the kernels."""
    context_count, alphabet = frequencies.shape
    stride = 256 if alphabet <= 256 else 512
    padded = np.zeros((context_count, stride), dtype=np.uint32)
    padded[:, :alphabet] = frequencies
    starts = np.cumsum(padded, axis=1, dtype=np.uint32) - padded
    symbols = np.arange(stride, dtype=np.uint8 if stride == 256 else np.uint16)
    return Tables(
        freq_log2,
        np.repeat(np.tile(symbols, context_count), padded.ravel()),
        (padded | (starts << _START_SHIFT)).ravel(),
    )


def lane_count(symbol_count: int) -> int:
    """Return the number of interleaved coders: one for short streams, whose states would weigh."""
    return MANY_LANES if symbol_count >= MANY_LANES_FROM_SYMBOLS else 1


def decode(
    stream: bytes, tables: Tables, contexts: NDArray[np.uint8] | None, symbol_count: int
) -> tuple[int, NDArray[np.unsignedinteger]]:
    """Decode a stream; returns the kernel's status and the symbols, shape (symbol_count,)."""
    symbols = np.empty(symbol_count, dtype=tables.slot_symbols.dtype)
    return decode_into(stream, tables, contexts, symbols), symbols


def decode_into(
    stream: bytes,
    tables: Tables,
    contexts: NDArray[np.uint8] | None,
    symbols: NDArray[np.unsignedinteger],
) -> int:
    """Decode a stream into `symbols`, C-contiguous; returns the kernel's status."""
    from spq._kernels import decode_symbols

    states = np.empty(lane_count(symbols.size), dtype=np.uint32)
    coded = np.frombuffer(stream, dtype=np.uint8)
    return decode_symbols(
        coded, tables.freq_log2, tables.slot_symbols, tables.freq_starts, contexts, states, symbols
    )


def encode(
    symbols: NDArray[np.unsignedinteger], tables: Tables, contexts: NDArray[np.uint8] | None
) -> bytes:
    """Encode symbols of the tables' type, each with a frequency above zero in its context."""
    from spq._kernels import encode_symbols

    lanes = lane_count(symbols.size)
    states = np.empty(lanes, dtype=np.uint32)
    buffer = np.empty(4 * lanes + 2 * symbols.size, dtype=np.uint8)
    start = encode_symbols(symbols, tables.freq_log2, tables.freq_starts, contexts, states, buffer)
    return buffer[start:].tobytes()
