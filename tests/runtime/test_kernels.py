"""Each kernel does what its plain-Python twin does, on sound data and on damaged data."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from spq import _bits, rans
from spq._kernels import (
    BAD_PADDING,
    BAD_STATE,
    OK,
    STREAM_TOO_LONG,
    STREAM_TOO_SHORT,
    count_ones_by_class,
    decode_mask,
    decode_symbols,
    decode_values,
    encode_symbols,
    gather_values,
    index_levels,
    lay_out_tables,
    look_up,
    read_tables,
)
from spq._kernels.sparse import _scatter
from spq.frequencies import cheapest_table, explicit_table, mask_table, normalise
from spq.indices import levels_of_symbols, pack_indices
from spqformat import Reason, SpqError, frequency_tables
from spqformat.cursor import Cursor
from spqformat.frequency_tables import (
    flat_frequencies,
    write_bernoulli,
    write_explicit,
    write_flat,
    write_markov,
)
from tests.runtime.twins import recompiled, twin

GUARD = 32
# So that the plain-Python twins of eight lanes take no minutes.
FEW = {"_MANY_FROM": np.uint64(20)}
DECODERS = (recompiled(decode_symbols, **FEW), twin(decode_symbols, **FEW))
ENCODERS = (recompiled(encode_symbols, **FEW), twin(encode_symbols, **FEW))


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
    random: np.random.Generator, coder: rans.Tables, contexts: NDArray[np.uint8], count: int
) -> NDArray[np.uint16]:
    """Symbols that the tables allow."""
    slots = random.integers(0, 1 << coder.freq_log2, count)
    if contexts.size:
        slots += contexts.astype(np.int64) << coder.freq_log2
    return coder.slot_symbols[slots]


def draw_contexts(random: np.random.Generator, context_count: int, count: int) -> NDArray[np.uint8]:
    """One context for each symbol; none of them where there is only one."""
    return random.integers(0, context_count, count if context_count > 1 else 0).astype(np.uint8)


def encoded(
    kernel: Any, symbols: NDArray[np.uint16], coder: rans.Tables, contexts: NDArray[np.uint8]
) -> NDArray[np.uint32]:
    words = np.zeros(16 + -(-symbols.size // 2), dtype=np.uint32)
    start = kernel(symbols, coder.freq_log2, coder.freq_starts, contexts, rans.new_states(), words)
    assert not words[:start].any()
    return words[start:]


def decoded(
    kernel: Any,
    words: NDArray[np.uint32],
    coder: rans.Tables,
    contexts: NDArray[np.uint8],
    count: int,
) -> tuple[int, bytes]:
    """Decode between guard zones; return the status and everything written."""
    states = np.full(8 + 2 * GUARD, 0xAA, dtype=np.uint64)
    symbols = np.full(count + 2 * GUARD, 0xAA, dtype=np.uint16)
    status = kernel(
        words,
        coder.freq_log2,
        coder.slot_symbols,
        coder.freq_starts,
        contexts,
        states[GUARD : GUARD + 8],
        symbols[GUARD : GUARD + count],
    )
    for guarded, size in ((states, 8), (symbols, count)):
        outside = np.concatenate([guarded[:GUARD], guarded[GUARD + size :]])
        assert (outside == 0xAA).all()
    return int(status), symbols[GUARD : GUARD + count].tobytes()


@pytest.mark.parametrize("contexts", [1, 5, 64])
@pytest.mark.parametrize(
    ("alphabet", "freq_log2", "count"),
    [
        (2, 1, 0),
        (200, 8, 1),
        (256, 12, 7),
        (256, 15, 19),
        (256, 9, 20),
        (16, 4, 31),
        (512, 9, 32),
        (300, 14, 37),
        (512, 15, 700),
        (2, 1, 701),
    ],
)
def test_symbols(contexts: int, alphabet: int, freq_log2: int, count: int) -> None:
    random = generator(count)
    coder = tables(random, contexts, alphabet, freq_log2)
    context = draw_contexts(random, contexts, count)
    symbols = draw(random, coder, context, count)
    streams = [encoded(kernel, symbols, coder, context).tobytes() for kernel in ENCODERS]
    assert streams[0] == streams[1]
    for kernel in DECODERS:
        words = np.frombuffer(streams[0], dtype=np.uint32)
        assert decoded(kernel, words, coder, context, count) == (OK, symbols.tobytes())


@pytest.mark.parametrize("count", [12, 19, 60])
@pytest.mark.parametrize("contexts", [1, 3])
@pytest.mark.parametrize("alphabet", [256, 512])
def test_damaged_streams(count: int, contexts: int, alphabet: int) -> None:
    random = generator(count)
    coder = tables(random, contexts, alphabet, 12)
    context = draw_contexts(random, contexts, count)
    stream = encoded(ENCODERS[0], draw(random, coder, context, count), coder, context).tobytes()
    damaged = [stream[:length] for length in range(0, len(stream), 4)]
    damaged += [stream + bytes(4 * extra) for extra in (1, 2, 16, 40)]
    for _ in range(150):
        changed = bytearray(stream)
        changed[int(random.integers(len(changed)))] ^= 1 << int(random.integers(8))
        damaged.append(bytes(changed))
        damaged.append(random.bytes(4 * int(random.integers(0, len(stream) // 2))))
    seen = set()
    for data in damaged:
        words = np.frombuffer(data, dtype=np.uint32)
        outcomes = [decoded(kernel, words, coder, context, count) for kernel in DECODERS]
        assert outcomes[0] == outcomes[1]
        status, symbols = outcomes[0]
        if status == OK:
            # The stream of other symbols, then, and the only one.
            other = np.frombuffer(symbols, dtype=np.uint16)
            assert encoded(ENCODERS[0], other, coder, context).tobytes() == data != stream
        seen.add(status)
    assert seen - {OK} == {STREAM_TOO_SHORT, STREAM_TOO_LONG, BAD_STATE}


@pytest.mark.parametrize("length", [15, 64])
def test_streams_of_another_length(length: int) -> None:
    random = generator(11)
    coder = tables(random, 1, 16, 10)
    words = encoded(
        ENCODERS[0], draw(random, coder, rans.NO_CONTEXTS, length), coder, rans.NO_CONTEXTS
    )
    for count in (0, 1, 14, 16, 63, 65, 200):
        outcomes = [decoded(kernel, words, coder, rans.NO_CONTEXTS, count) for kernel in DECODERS]
        assert outcomes[0] == outcomes[1]
        assert outcomes[0][0] != OK


@pytest.mark.parametrize("freq_log2", [1, 15])
@pytest.mark.parametrize(("count", "lanes"), [(0, 1), (1, 1), (8191, 1), (8192, 8), (10000, 8)])
def test_one_certain_symbol_takes_no_bits(freq_log2: int, count: int, lanes: int) -> None:
    frequencies = np.array([[0, 0, 1 << freq_log2]], dtype=np.uint32)
    coder = rans.build_tables(frequencies, freq_log2)
    symbols = np.full(count, 2, dtype=np.uint8)
    stream = rans.encode(symbols, coder, rans.NO_CONTEXTS)
    assert stream == b"\0\0\0\0\1\0\0\0" * lanes
    assert rans.decode(stream, coder, rans.NO_CONTEXTS, count)[0] == OK


@pytest.mark.parametrize("count", [8191, 8192])
def test_as_many_lanes_as_the_format_has(count: int) -> None:
    random = generator(count)
    coder = tables(random, 1, 300, 12)
    symbols = draw(random, coder, rans.NO_CONTEXTS, count)
    words = encoded(encode_symbols, symbols, coder, rans.NO_CONTEXTS)
    for kernel in (decode_symbols, twin(decode_symbols)):
        outcome = decoded(kernel, words, coder, rans.NO_CONTEXTS, count)
        assert outcome == (OK, symbols.tobytes())


@pytest.mark.parametrize("left_over", [1, 2, 3])
def test_part_of_a_word_is_refused(left_over: int) -> None:
    coder = tables(generator(1), 1, 16, 10)
    stream = rans.encode(np.zeros(9, dtype=np.uint8), coder, rans.NO_CONTEXTS)
    assert rans.as_words(stream + bytes(left_over)) is None
    status, _ = rans.decode(stream + bytes(left_over), coder, rans.NO_CONTEXTS, 9)
    assert status == STREAM_TOO_LONG


# --- tables ------------------------------------------------------------------------------------


def read_by(kernel: Any, data: bytes, count: int, alphabet: int, freq_log2: int) -> Any:
    """Read with a kernel; return the bytes read, and the frequencies when there are any."""
    found = np.full((count, alphabet), 0xAAAA, dtype=np.uint32)
    raw = np.frombuffer(data, dtype=np.uint8)
    table_bytes = int(kernel(raw, freq_log2, np.empty(512, dtype=np.uint64), found))
    return table_bytes, found.tolist() if table_bytes else None


def assert_read_alike(data: bytes, count: int, alphabet: int, freq_log2: int) -> bool:
    """Compare kernel and twin with the reader that refuses; return whether it did not."""
    outcomes = [
        read_by(kernel, data, count, alphabet, freq_log2)
        for kernel in (read_tables, twin(read_tables))
    ]
    assert outcomes[0] == outcomes[1]
    cursor = Cursor(data, "w", 0, Reason.BAD_TABLES)
    try:
        expected = frequency_tables.read_tables(cursor, count, alphabet, freq_log2)
    except SpqError:
        assert outcomes[0] == (0, None)
        return False
    assert outcomes[0] == (len(data) - cursor.remaining_bytes, expected.tolist())
    return True


def some_tables(random: np.random.Generator, alphabet: int, freq_log2: int) -> list[bytes]:
    """One table of each kind that the alphabet and the total allow."""
    counts = random.integers(0, 40, alphabet) * (random.random(alphabet) < 0.3)
    counts[int(random.integers(alphabet))] += 1
    made = [write_flat()]
    if np.count_nonzero(counts) <= 1 << freq_log2:
        made.append(write_explicit(normalise(counts, freq_log2)))
    first, zero, one = (int(density) for density in random.integers(0, 1 << 16, 3))
    most = int(random.integers(0, 11))
    return [*made, write_bernoulli(first, most), write_markov(first, zero, one, most)]


@pytest.mark.parametrize("alphabet", [1, 2, 3, 16, 64, 200, 256, 512])
def test_tables_are_read_alike(alphabet: int) -> None:
    random = generator(alphabet)
    accepted = refused = 0
    for freq_log2 in (1, 4, 9, 12, 15):
        for table in some_tables(random, alphabet, freq_log2):
            changed = bytearray(table + b"\1" * 3)
            for place in range(min(len(changed), 12)):
                for value in (0, 1, 0x7F, 0x80, 0xFF):
                    before, changed[place] = changed[place], value
                    if assert_read_alike(bytes(changed), 1, alphabet, freq_log2):
                        accepted += 1
                    else:
                        refused += 1
                    changed[place] = before
            for length in range(min(len(table), 12)):
                assert not assert_read_alike(table[:length], 1, alphabet, freq_log2)
    assert accepted
    assert refused > 20


def test_tables_follow_each_other() -> None:
    random = generator(3)
    counts = random.integers(0, 90, 512)
    made = [
        explicit_table(counts, 12).written,
        write_flat(),
        mask_table(np.maximum(counts - 80, 0), 12).written,
        write_bernoulli(1000, 3),
        write_markov(900, 700, 20000, 5),
    ]
    assert assert_read_alike(b"".join(made) + b"more", len(made), 512, 12)
    assert not assert_read_alike(b"".join(made), len(made) + 1, 512, 12)


@pytest.mark.parametrize("context_count", [1, 3])
@pytest.mark.parametrize(("alphabet", "freq_log2"), [(1, 1), (256, 8), (200, 12), (512, 15)])
def test_tables_are_laid_out(context_count: int, alphabet: int, freq_log2: int) -> None:
    random = generator(alphabet)
    rows = [
        normalise(random.integers(0, 9, alphabet) + np.eye(alphabet, dtype=int)[0], freq_log2)
        for _ in range(context_count)
    ]
    frequencies = np.stack(rows)
    for kernel in (lay_out_tables, twin(lay_out_tables)):
        slots = np.full(context_count << freq_log2, 0xAAAA, dtype=np.uint16)
        packed = np.zeros(context_count << 9, dtype=np.uint32)
        assert kernel(frequencies, freq_log2, slots, packed) == OK
        assert slots.tolist() == [s for row in rows for s in np.repeat(np.arange(alphabet), row)]
        grid = packed.reshape(context_count, 512)[:, :alphabet]
        assert np.array_equal(grid & 0xFFFF, frequencies)
        assert np.array_equal(grid >> 16, np.cumsum(frequencies, axis=1) - frequencies)


def test_a_flat_table_is_the_cheapest_for_equal_counts() -> None:
    freq_log2, table = cheapest_table(np.full(16, 9, dtype=np.int64))
    assert (freq_log2, table.written) == (4, write_flat())
    assert np.array_equal(table.frequencies, flat_frequencies(16, 4))


# --- masks and values --------------------------------------------------------------------------


def masked(present: NDArray[np.bool_], symbol_bits: int) -> NDArray[np.uint16]:
    """Mask symbols of rows of places, the last one of a row filled up with zeros."""
    rows, row_length = present.shape
    row_symbols = -(-row_length // symbol_bits)
    bits = np.zeros((rows, row_symbols * symbol_bits), dtype=np.int64)
    bits[:, :row_length] = present
    mask = np.zeros(rows * row_symbols, dtype=np.uint16)
    mask[:] = bits.reshape(-1, symbol_bits) @ (1 << np.arange(symbol_bits))
    return mask


def scattered(
    kernel: Any,
    mask: NDArray[np.uint16],
    symbol_bits: int,
    row_length: int,
    order: NDArray[np.uint32],
    values: NDArray[Any],
    count: int,
) -> tuple[int, bytes]:
    """Scatter between guard zones; return the status and everything written."""
    elements = np.full(count + 2 * GUARD, 0xAA, dtype=values.dtype)
    target = elements[GUARD : GUARD + count]
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
    order: NDArray[np.uint32],
) -> tuple[bytes, bytes]:
    """Gather between guard zones; return mask symbols and values."""
    rows, row_symbols = -(-indices.size // row_length), -(-row_length // symbol_bits)
    symbol_count = rows * row_symbols
    mask = np.full(symbol_count + 2 * GUARD, 0xAA, dtype=np.uint16)
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


IN_PLACE = np.empty(0, dtype=np.uint32)
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
    order = random.permutation(row_length).astype(np.uint32) if ordered else IN_PLACE
    placed = grid[:, order] if ordered else grid
    mask = masked(placed != zero_index, symbol_bits)
    values = placed[placed != zero_index]
    values -= values > zero_index

    view = (symbol_bits, row_length, order)
    for kernel in (gather_values, twin(gather_values)):
        assert gathered(kernel, indices, zero_index, *view) == (mask.tobytes(), values.tobytes())
    for width in (1, 2, 4, 8):
        levels = random.integers(1, 1 << 7, level_count).astype(f"u{width}")
        outcome = scattered(_scatter, mask, *view, levels[values], count)
        assert scattered(twin(_scatter), mask, *view, levels[values], count) == outcome
        with_zero = np.insert(levels, zero_index, 0)
        assert outcome == (OK, with_zero[indices].tobytes())


@pytest.mark.parametrize("symbol_bits", SYMBOL_BITS)
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize(("row_length", "count"), [(10, 15), (64, 70), (69, 140), (5, 5)])
def test_ones_outside_the_tensor(
    symbol_bits: int, ordered: bool, row_length: int, count: int
) -> None:
    order = np.arange(row_length, dtype=np.uint32)[::-1].copy() if ordered else IN_PLACE
    values = np.array([7], dtype=np.uint32)
    row_symbols = -(-row_length // symbol_bits)
    mask = np.zeros(-(-count // row_length) * row_symbols, dtype=np.uint16)
    statuses = []
    for symbol in range(mask.size):
        for bit in range(symbol_bits):
            mask[symbol] = 1 << bit
            arguments = (mask, symbol_bits, row_length, order, values, count)
            outcome = scattered(_scatter, *arguments)
            assert scattered(twin(_scatter), *arguments) == outcome
            place = symbol % row_symbols * symbol_bits + bit
            column = row_length - 1 - place if ordered else place
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
    arguments = (mask, symbol_bits, row_length, IN_PLACE, values, count)
    outcome = scattered(_scatter, *arguments)
    assert outcome[0] == BAD_PADDING
    assert scattered(twin(_scatter), *arguments) == outcome


@pytest.mark.parametrize("symbol_bits", [1, 8, 9])
@pytest.mark.parametrize("row_classes", [1, 3])
@pytest.mark.parametrize("index_bits", [4, 8])
@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_chunks(symbol_bits: int, row_classes: int, index_bits: int, width: int) -> None:
    random = generator(symbol_bits + row_classes + index_bits + width)
    row_length, rows = 21, 5
    row_symbols, per_symbol = -(-row_length // symbol_bits), 8 // index_bits
    present = random.random((rows, row_length)) < 0.3
    mask = masked(present, symbol_bits)
    levels = random.permutation(np.arange(1, 17, dtype=f"u{width}"))
    indices = random.integers(0, 16, int(present.sum())).astype(np.uint8)
    expected = np.zeros((rows, row_length), dtype=levels.dtype)
    expected[present] = levels[indices]

    kinds = random.integers(0, row_classes, rows).astype(np.uint8)
    row_contexts = np.empty((0, 0), dtype=np.uint8)
    contexts = rans.NO_CONTEXTS
    if row_classes > 1:
        row_contexts = random.integers(0, 4, (row_classes, row_symbols)).astype(np.uint8)
        contexts = row_contexts[kinds].reshape(-1)
    counts = np.ones((4, 1 << symbol_bits), dtype=np.int64)
    mask_coder = rans.build_tables(np.stack([normalise(row, 10) for row in counts]), 10)
    value_coder = rans.build_tables(flat_frequencies(256, 8)[None, :], 8)
    mask_words = rans.as_words(rans.encode(mask, mask_coder, contexts))
    pairs = pack_indices(indices, index_bits)
    value_words = rans.as_words(rans.encode(pairs, value_coder, rans.NO_CONTEXTS))
    assert mask_words is not None
    assert value_words is not None
    symbol_levels = levels_of_symbols(levels, index_bits)

    for kernels in ((decode_mask, decode_values), (twin(decode_mask), twin(decode_values))):
        found = np.zeros_like(mask)
        scratch = np.empty(contexts.size, dtype=np.uint8)
        tables = mask_coder.freq_log2, mask_coder.slot_symbols, mask_coder.freq_starts
        ones = kernels[0](
            mask_words, *tables, row_contexts, kinds, scratch, rans.new_states(), found
        )
        assert ones == indices.size
        assert np.array_equal(found, mask)
        assert kernels[0](
            mask_words[:-1], *tables, row_contexts, kinds, scratch, rans.new_states(), found
        ) in (-STREAM_TOO_SHORT, -BAD_STATE)

        def values(
            words: Any, kernel: Any = kernels[1], levels_seen: Any = symbol_levels
        ) -> tuple[int, Any]:
            symbols = np.empty(pairs.size, dtype=np.uint16)
            elements = np.full(rows * row_length, 0xAA, dtype=levels.dtype)
            status = kernel(
                words,
                value_coder.freq_log2,
                value_coder.slot_symbols,
                value_coder.freq_starts,
                rans.NO_CONTEXTS,
                rans.new_states(),
                symbols,
                levels_seen,
                np.empty(pairs.size * per_symbol, dtype=levels.dtype),
                indices.size,
                mask,
                symbol_bits,
                row_length,
                IN_PLACE,
                elements,
            )
            return int(status), elements.reshape(rows, row_length)

        status, elements = values(value_words)
        assert status == OK
        assert np.array_equal(elements, expected)
        assert values(value_words[:-1])[0] in (STREAM_TOO_SHORT, BAD_STATE)
        if pairs.size * per_symbol > indices.size:
            padded = pairs.copy()
            padded[-1] |= 0x10
            words = rans.as_words(rans.encode(padded, value_coder, rans.NO_CONTEXTS))
            assert values(words)[0] == BAD_PADDING
            # Levels that a narrower type cannot tell apart.
            alike = np.full_like(symbol_levels, levels[0])
            assert values(words, levels_seen=alike)[0] == BAD_PADDING


@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("per_symbol", [1, 2, 4, 8])
def test_look_up(width: int, per_symbol: int) -> None:
    random = generator(width)
    levels = random.integers(0, 256, (300, per_symbol)).astype(f"u{width}")
    symbols = random.integers(0, 300, 50).astype(np.uint16)
    for kernel in (look_up, twin(look_up)):
        elements = np.zeros(50 * per_symbol, dtype=levels.dtype)
        assert kernel(symbols, levels, elements) == OK
        assert np.array_equal(elements, levels[symbols].reshape(-1))


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
