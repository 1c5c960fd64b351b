"""Each kernel does what its plain-Python twin does, on sound data and on damaged data."""

from types import FunctionType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from spq import _bits, _kernels, rans
from spq._kernels import (
    BAD_PADDING,
    BAD_STATE,
    OK,
    STREAM_TOO_LONG,
    STREAM_TOO_SHORT,
    count_ones_by_class,
    decode_symbols,
    encode_symbols,
    gather_values,
    index_levels,
    scatter_values,
)
from spq.frequencies import normalise

LANES = (1, 3, 8)
GUARD = 32


def twin(kernel: Any) -> Any:
    """The plain-Python function of a kernel, calling those of its helpers."""
    helpers = {name: getattr(_kernels, name).py_func for name in ("_step", "_word", "_refill")}
    return FunctionType(kernel.py_func.__code__, {**vars(_kernels), **helpers})


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def tables(
    random: np.random.Generator, contexts: int, alphabet: int, freq_log2: int
) -> rans.Tables:
    """Random frequencies, many of them zero."""
    counts = random.integers(0, 50, (contexts, alphabet)) * (
        random.random((contexts, alphabet)) < 0.4
    )
    counts[:, 0] += 200
    return rans.build_tables(np.stack([normalise(row, freq_log2) for row in counts]), freq_log2)


def draw(
    random: np.random.Generator, coder: rans.Tables, contexts: NDArray[np.uint8] | None, count: int
) -> NDArray[np.unsignedinteger]:
    """Symbols that the tables allow."""
    slots = random.integers(0, 1 << coder.freq_log2, count)
    if contexts is not None:
        slots += contexts.astype(np.int64) << coder.freq_log2
    return coder.slot_symbols[slots]


def encoded(
    kernel: Any,
    symbols: NDArray[np.unsignedinteger],
    coder: rans.Tables,
    contexts: NDArray[np.uint8] | None,
    lanes: int,
) -> bytes:
    states = np.empty(lanes, dtype=np.uint32)
    buffer = np.zeros(4 * lanes + 2 * symbols.size, dtype=np.uint8)
    start = kernel(symbols, coder.freq_log2, coder.freq_starts, contexts, states, buffer)
    assert not buffer[:start].any()
    return buffer[start:].tobytes()


def decoded(
    kernel: Any,
    stream: bytes,
    coder: rans.Tables,
    contexts: NDArray[np.uint8] | None,
    lanes: int,
    count: int,
) -> tuple[int, bytes]:
    """Decode between guard zones; return the status and everything written."""
    states = np.full(lanes + 2 * GUARD, 0xAAAAAAAA, dtype=np.uint32)
    symbols = np.full(count + 2 * GUARD, 0xAA, dtype=coder.slot_symbols.dtype)
    status = kernel(
        np.frombuffer(stream, dtype=np.uint8),
        coder.freq_log2,
        coder.slot_symbols,
        coder.freq_starts,
        contexts,
        states[GUARD : GUARD + lanes],
        symbols[GUARD : GUARD + count],
    )
    for guarded, size in ((states, lanes), (symbols, count)):
        outside = np.concatenate([guarded[:GUARD], guarded[GUARD + size :]])
        assert (outside == outside[0]).all()
    return int(status), symbols[GUARD : GUARD + count].tobytes()


CASES = [
    (lanes, contexts, freq_log2, count)
    for lanes in LANES
    for contexts in (1, 5)
    for freq_log2, count in ((1, 0), (8, 1), (12, 7), (15, 8), (9, 25), (12, 700))
]


@pytest.mark.parametrize(("lanes", "context_count", "freq_log2", "count"), CASES)
def test_symbols(lanes: int, context_count: int, freq_log2: int, count: int) -> None:
    random = generator(lanes * 10_000 + count)
    coder = tables(random, context_count, min(256, 1 << freq_log2), freq_log2)
    contexts = None
    if context_count > 1:
        contexts = random.integers(0, context_count, count).astype(np.uint8)
    symbols = draw(random, coder, contexts, count)
    stream = encoded(encode_symbols, symbols, coder, contexts, lanes)
    assert encoded(twin(encode_symbols), symbols, coder, contexts, lanes) == stream
    outcome = (OK, symbols.tobytes())
    assert decoded(decode_symbols, stream, coder, contexts, lanes, count) == outcome
    assert decoded(twin(decode_symbols), stream, coder, contexts, lanes, count) == outcome


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("context_count", [1, 64])
@pytest.mark.parametrize("alphabet", [300, 512])
def test_wide_symbols(lanes: int, context_count: int, alphabet: int) -> None:
    random = generator(lanes)
    coder = tables(random, context_count, alphabet, 14)
    assert coder.slot_symbols.dtype == np.uint16
    contexts = random.integers(0, context_count, 700).astype(np.uint8)
    symbols = draw(random, coder, contexts, 700)
    assert int(symbols.max()) > 255
    stream = encoded(encode_symbols, symbols, coder, contexts, lanes)
    assert encoded(twin(encode_symbols), symbols, coder, contexts, lanes) == stream
    outcome = (OK, symbols.tobytes())
    assert decoded(decode_symbols, stream, coder, contexts, lanes, 700) == outcome
    assert decoded(twin(decode_symbols), stream, coder, contexts, lanes, 700) == outcome


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("context_count", [1, 3])
@pytest.mark.parametrize("alphabet", [256, 512])
def test_damaged_streams(lanes: int, context_count: int, alphabet: int) -> None:
    random = generator(lanes)
    count = 60
    coder = tables(random, context_count, alphabet, 12)
    contexts = None
    if context_count > 1:
        contexts = random.integers(0, context_count, count).astype(np.uint8)
    symbols = draw(random, coder, contexts, count)
    stream = encoded(encode_symbols, symbols, coder, contexts, lanes)
    damaged = [stream[:length] for length in range(len(stream))]
    damaged += [stream + bytes(extra) for extra in (1, 2, 16, 40)]
    for _ in range(150):
        changed = bytearray(stream)
        changed[int(random.integers(len(changed)))] ^= 1 << int(random.integers(8))
        damaged.append(bytes(changed))
        damaged.append(random.bytes(int(random.integers(0, 2 * len(stream)))))
    seen = set()
    for data in damaged:
        outcome = decoded(decode_symbols, data, coder, contexts, lanes, count)
        assert decoded(twin(decode_symbols), data, coder, contexts, lanes, count) == outcome
        assert outcome[0] != OK
        seen.add(outcome[0])
    assert seen == {STREAM_TOO_SHORT, STREAM_TOO_LONG, BAD_STATE}


@pytest.mark.parametrize("lanes", LANES)
def test_streams_of_another_length(lanes: int) -> None:
    random = generator(11)
    coder = tables(random, 1, 16, 10)
    symbols = draw(random, coder, None, 64)
    stream = encoded(encode_symbols, symbols, coder, None, lanes)
    for count in (0, 1, 63, 65, 200):
        outcome = decoded(decode_symbols, stream, coder, None, lanes, count)
        assert outcome[0] != OK
        assert decoded(twin(decode_symbols), stream, coder, None, lanes, count) == outcome


@pytest.mark.parametrize("freq_log2", [1, 15])
def test_one_certain_symbol_takes_no_bits(freq_log2: int) -> None:
    frequencies = np.array([[0, 0, 1 << freq_log2]], dtype=np.uint32)
    coder = rans.build_tables(frequencies, freq_log2)
    symbols = np.full(3000, 2, dtype=np.uint8)
    stream = rans.encode(symbols, coder, None)
    assert stream == b"\0\0\1\0" * 8
    assert rans.decode(stream, coder, None, 3000)[0] == OK


def test_lanes_follow_from_the_number_of_symbols() -> None:
    assert [rans.lane_count(count) for count in (0, 1, 2047, 2048, 10**6)] == [1, 1, 1, 8, 8]


def symbol_type(symbol_bits: int) -> type[np.unsignedinteger]:
    return np.uint8 if symbol_bits <= 8 else np.uint16


def masked(present: NDArray[np.bool_], symbol_bits: int) -> NDArray[np.unsignedinteger]:
    """Mask symbols of rows of places, the last one of a row filled up with zeros."""
    rows, row_length = present.shape
    row_symbols = -(-row_length // symbol_bits)
    bits = np.zeros((rows, row_symbols * symbol_bits), dtype=np.int64)
    bits[:, :row_length] = present
    mask = np.zeros(rows * row_symbols, dtype=symbol_type(symbol_bits))
    mask[:] = bits.reshape(-1, symbol_bits) @ (1 << np.arange(symbol_bits))
    return mask


def scattered(
    kernel: Any,
    mask: NDArray[np.unsignedinteger],
    symbol_bits: int,
    row_length: int,
    order: NDArray[np.uint32] | None,
    values: NDArray[Any],
    count: int,
) -> tuple[int, bytes]:
    """Scatter between guard zones; return the status and everything written."""
    elements = np.full(count + 2 * GUARD, 0xAA, dtype=values.dtype)
    target = elements[GUARD : GUARD + count]
    target[:] = 0
    status = kernel(mask, symbol_bits, row_length, order, values, target)
    outside = np.concatenate([elements[:GUARD], elements[GUARD + count :]])
    assert (outside == 0xAA).all()
    return int(status), target.tobytes()


def gathered(
    kernel: Any,
    indices: NDArray[np.uint8],
    zero_index: int,
    symbol_bits: int,
    row_length: int,
    order: NDArray[np.uint32] | None,
) -> tuple[bytes, bytes]:
    """Gather between guard zones; return mask symbols and values."""
    rows, row_symbols = -(-indices.size // row_length), -(-row_length // symbol_bits)
    symbol_count = rows * row_symbols
    mask = np.full(symbol_count + 2 * GUARD, 0xAA, dtype=symbol_type(symbol_bits))
    mask[GUARD : GUARD + symbol_count] = 0
    values = np.full(indices.size + 2 * GUARD, 0xAA, dtype=np.uint8)
    count = kernel(
        indices,
        zero_index,
        symbol_bits,
        row_length,
        order,
        mask[GUARD : GUARD + symbol_count],
        values[GUARD : GUARD + int((indices != zero_index).sum())],
    )
    for guarded, size in ((mask, symbol_count), (values, int(count))):
        assert (guarded[:GUARD] == 0xAA).all()
        assert (guarded[GUARD + size :] == 0xAA).all()
    return mask[GUARD : GUARD + symbol_count].tobytes(), values[GUARD : GUARD + count].tobytes()


SYMBOL_BITS = range(1, 10)
ROWS = [(8, 8), (9, 9), (63, 200), (64, 128), (65, 195), (70, 77), (130, 131), (5, 5), (36, 360)]


@pytest.mark.parametrize("symbol_bits", SYMBOL_BITS)
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize(("row_length", "count"), ROWS)
def test_scatter_and_gather(symbol_bits: int, ordered: bool, row_length: int, count: int) -> None:
    random = generator(row_length * 10 + symbol_bits)
    rows = -(-count // row_length)
    level_count, zero_index = 7, int(random.integers(0, 8))
    indices = random.integers(0, level_count + 1, count).astype(np.uint8)
    indices[random.random(count) < 0.3] = zero_index
    grid = np.full((rows, row_length), zero_index, dtype=np.uint8)
    grid.reshape(-1)[:count] = indices
    order = random.permutation(row_length).astype(np.uint32) if ordered else None
    placed = grid if order is None else grid[:, order]
    mask = masked(placed != zero_index, symbol_bits)
    values = placed[placed != zero_index]
    values -= values > zero_index

    view = (symbol_bits, row_length, order)
    for kernel in (gather_values, twin(gather_values)):
        assert gathered(kernel, indices, zero_index, *view) == (mask.tobytes(), values.tobytes())
    for width in (1, 2, 4, 8):
        levels = random.integers(1, 1 << 7, level_count).astype(f"u{width}")
        outcome = scattered(scatter_values, mask, *view, levels[values], count)
        assert scattered(twin(scatter_values), mask, *view, levels[values], count) == outcome
        with_zero = np.insert(levels, zero_index, 0)
        assert outcome == (OK, with_zero[indices].tobytes())


@pytest.mark.parametrize("symbol_bits", SYMBOL_BITS)
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize(("row_length", "count"), [(10, 15), (64, 70), (69, 140), (5, 5)])
def test_ones_outside_the_tensor(
    symbol_bits: int, ordered: bool, row_length: int, count: int
) -> None:
    order = np.arange(row_length, dtype=np.uint32)[::-1].copy() if ordered else None
    values = np.array([7], dtype=np.uint32)
    row_symbols = -(-row_length // symbol_bits)
    mask = np.zeros(-(-count // row_length) * row_symbols, dtype=symbol_type(symbol_bits))
    statuses = []
    for symbol in range(mask.size):
        for bit in range(symbol_bits):
            mask[symbol] = 1 << bit
            arguments = (mask, symbol_bits, row_length, order, values, count)
            outcome = scattered(scatter_values, *arguments)
            assert scattered(twin(scatter_values), *arguments) == outcome
            place = symbol % row_symbols * symbol_bits + bit
            column = place if order is None else row_length - 1 - place
            position = symbol // row_symbols * row_length + column
            inside = place < row_length and position < count
            assert outcome[0] == (OK if inside else BAD_PADDING)
            statuses.append(outcome[0])
        mask[symbol] = 0
    assert statuses.count(OK) == count


@pytest.mark.parametrize("symbol_bits", [1, 5, 8, 9])
def test_all_places_of_a_short_last_row(symbol_bits: int) -> None:
    row_length, count = 67, 67 + 11
    mask = masked(np.ones((2, row_length), dtype=bool), symbol_bits)
    values = np.full(2 * row_length, 3, dtype=np.uint8)
    arguments = (mask, symbol_bits, row_length, None, values, count)
    outcome = scattered(scatter_values, *arguments)
    assert outcome == (BAD_PADDING, bytes([3] * count))
    assert scattered(twin(scatter_values), *arguments) == outcome


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (7, 3), (20, 40)])
def test_count_ones(rows: int, columns: int) -> None:
    random = generator(rows)
    # Up to nine ones in a unit of columns.
    ones = random.integers(0, 10, (rows, columns)).astype(np.uint8)
    ones[random.random((rows, columns)) < 0.5] = 0
    row_classes = random.integers(0, 3, rows).astype(np.uint8)
    column_classes = random.integers(0, 4, columns).astype(np.uint8)
    counted = []
    for kernel in (count_ones_by_class, twin(count_ones_by_class)):
        by_row = np.zeros((rows, 4), dtype=np.int64)
        by_column = np.zeros((columns, 3), dtype=np.int64)
        assert kernel(ones, row_classes, column_classes, by_row, by_column) == OK
        counted.append((by_row.tolist(), by_column.tolist()))
    assert counted[0] == counted[1]
    expected = [
        [int(ones[row, column_classes == kind].sum()) for kind in range(4)] for row in range(rows)
    ]
    assert counted[0][0] == expected
    assert counted[0][1] == [
        [int(ones[row_classes == kind, column].sum()) for kind in range(3)]
        for column in range(columns)
    ]


@pytest.mark.parametrize(
    ("width", "distinct"),
    [
        (width, distinct)
        for width in (1, 2, 4, 8)
        for distinct in (0, 1, 3, 255, 256, 257, 600)
        if width > 1 or distinct <= 256
    ],
)
def test_index_levels(width: int, distinct: int) -> None:
    random = generator(distinct + width)
    values = np.unique(random.integers(0, 1 << (8 * width), 4 * distinct + 4, dtype=np.uint64))
    if width == 1:
        values = np.arange(256, dtype=np.uint64)
    values = random.permutation(values)[:distinct].astype(f"u{width}")
    elements = values[random.integers(0, max(distinct, 1), 2 * distinct)] if distinct else values
    elements = np.concatenate([values, elements])
    outcomes = []
    for kernel in (index_levels, twin(index_levels)):
        slots = np.full(1024, -1, dtype=np.int16)
        levels = np.zeros(256, dtype=elements.dtype)
        indices = np.zeros(elements.size, dtype=np.uint8)
        outcomes.append((kernel(elements, slots, levels, indices), levels, indices))
    (count, levels, indices), (other_count, other_levels, other_indices) = outcomes
    assert count == other_count == (distinct if distinct <= 256 else -1)
    assert levels.tobytes() == other_levels.tobytes()
    assert indices.tobytes() == other_indices.tobytes()
    if count >= 0:
        assert levels[:count].tobytes() == values.tobytes()
        assert levels[indices].tobytes() == elements.tobytes()


def test_index_levels_whose_hashes_collide() -> None:
    # All differ in their upper halves alone.
    elements = (np.arange(256, dtype=np.uint64) << np.uint64(40)) | np.uint64(5)
    levels = np.zeros(256, dtype=np.uint64)
    indices = np.zeros(256, dtype=np.uint8)
    assert index_levels(elements, np.full(1024, -1, dtype=np.int16), levels, indices) == 256
    assert np.array_equal(levels[indices], elements)


@pytest.mark.parametrize("bit", [0, 1, 31, 32, 63])
def test_trailing_zeros(bit: int) -> None:
    for word in (1 << bit, ((1 << 64) - 1) >> bit << bit):
        assert _bits.trailing_zeros(np.uint64(word)) == bit
