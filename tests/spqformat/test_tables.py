"""Codebooks, frequencies, tables of tensors: what is written is read, the rest refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spqformat import Reason, SpqError
from spqformat.codebook import (
    Codebook,
    read_codebook,
    smallest_codebook,
    spanning_codebook,
    uniform_codebook,
    write_codebook,
)
from spqformat.cursor import Cursor, signed_varint, varint
from spqformat.dense_tables import read_dense_tables, write_dense_head
from spqformat.frequency_tables import (
    flat_frequencies,
    markov_frequencies,
    read_freq_log2,
    read_tables,
    write_bernoulli,
    write_explicit,
    write_flat,
    write_markov,
)
from spqformat.ids import (
    MAX_CONTEXTS,
    MAX_FREQ_LOG2,
    MAX_MIXED_ELEMENTS,
    MAX_MIXED_LEVELS,
    MAX_SYMBOL_BITS,
    CodebookKind,
    DType,
    Encoding,
    TableKind,
)
from spqformat.mixed_tables import (
    MixedView,
    can_be_mixed,
    mixed_view,
    positive_count,
    read_mixed_tables,
    write_mixed_tables,
)
from spqformat.model import Part, TensorRecord
from spqformat.sparse_tables import (
    read_sparse_tables,
    write_classes,
    write_contexts,
    write_one_class,
    write_sparse_shape,
)

quick = settings(deadline=None, derandomize=True, database=None, max_examples=150)


def cursor(data: bytes) -> Cursor:
    return Cursor(data, "w", 64, Reason.BAD_TABLES)


def f32(*values: float) -> NDArray[np.uint32]:
    """Bit patterns in ascending order."""
    return np.sort(np.array(values, dtype="<f4").view(np.uint32))


# --- codebook ------------------------------------------------------------------------------


def reread(codebook: Codebook, dtype: DType) -> Codebook:
    reader = cursor(write_codebook(codebook))
    again = read_codebook(reader, dtype)
    reader.finish()
    return again


@pytest.mark.parametrize(
    ("kind", "levels"),
    [
        (CodebookKind.BFLOAT16, f32(0.0, 1.0, -2.5)),
        (CodebookKind.BFLOAT16, np.array([0x7F800000, 0x7FC10000, 0xFF800000], dtype="<u4")),
        (CodebookKind.FLOAT16, f32(0.0, -0.0, 1 / 3 // 2**-12 * 2**-12, 65504.0, 2.0**-24)),
        (CodebookKind.FULL, f32(0.1, -0.3, float("inf"), 1e-45)),
        (CodebookKind.FULL, np.array([0x7FC00001, 0xFFC12345], dtype="<u4")),
    ],
)
def test_codebook_of_each_kind(kind: CodebookKind, levels: NDArray[np.uint32]) -> None:
    codebook = smallest_codebook(levels, DType.F32)
    again = reread(codebook, DType.F32)
    assert again.kind is codebook.kind is kind
    assert again.levels.tobytes() == levels.tobytes()
    assert again.level_count == levels.size


@pytest.mark.parametrize("dtype", [dtype for dtype in DType if dtype is not DType.BOOL])
def test_full_codebook_of_each_type(dtype: DType) -> None:
    width = dtype.item_bytes
    levels = np.array([0, 1, 2 ** (8 * width) - 1], dtype=f"<u{width}")
    codebook = Codebook(CodebookKind.FULL, levels)
    written = write_codebook(codebook)
    assert written == bytes([0, 3]) + levels.tobytes()
    again = reread(codebook, dtype)
    assert again.levels.dtype.itemsize == width
    assert again.levels.tobytes() == levels.tobytes()


@pytest.mark.parametrize(
    ("exponent", "first", "count"),
    [
        *((0, 0, 1), (-3, -8, 16), (102, (1 << 24) - 255, 256), (-126, -(1 << 24), 256)),
        *((-126, 1, 2), (0, -128, 256)),
    ],
)
def test_uniform_codebook(exponent: int, first: int, count: int) -> None:
    codebook = uniform_codebook(exponent, first, count)
    values = codebook.levels.view(np.float32).astype(np.float64)
    assert values.tolist() == [number * 2.0**exponent for number in range(first, first + count)]
    assert not (codebook.levels == 0x80000000).any()
    again = reread(codebook, DType.F32)
    assert again.levels.tobytes() == codebook.levels.tobytes()
    assert (again.kind, again.exponent, again.first) == (CodebookKind.UNIFORM, exponent, first)


@quick
@given(st.lists(st.integers(0, 0xFFFFFFFF), min_size=1, max_size=40, unique=True))
def test_any_levels_survive_their_smallest_codebook(patterns: list[int]) -> None:
    levels = np.array(sorted(patterns), dtype="<u4")
    again = reread(smallest_codebook(levels, DType.F32), DType.F32)
    assert again.levels.tobytes() == levels.tobytes()


@quick
@given(
    st.lists(st.integers(-400, 400), min_size=1, max_size=40, unique=True), st.integers(-126, 94)
)
def test_a_spanning_codebook_contains_the_levels(integers: list[int], exponent: int) -> None:
    values = np.ldexp(np.array(integers, dtype=np.float64), exponent)
    levels = np.sort(values.astype("f4").view("u4"))
    codebook = spanning_codebook(levels)
    shared = int(np.bitwise_or.reduce(integers))
    if not shared or max(integers) - min(integers) > 255 * (shared & -shared):
        assert codebook is None
        return
    assert codebook is not None
    assert reread(codebook, DType.F32).levels.tobytes() == codebook.levels.tobytes()
    assert set(levels.tolist()) <= set(codebook.levels.tolist())
    assert codebook.level_count.bit_count() == 1


@pytest.mark.parametrize(
    "values", [[0.0], [-0.0, 1.0], [np.inf], [np.nan, 1.0], [1.0, 1000.5], [1e-40], [1.0, 257.0]]
)
def test_levels_without_a_spanning_codebook(values: list[float]) -> None:
    assert spanning_codebook(np.array(values, dtype="f4").view("u4")) is None


def codebook_bytes(kind: int, count: int, body: bytes) -> bytes:
    return bytes([kind]) + varint(count) + body


@pytest.mark.parametrize(
    ("data", "dtype", "part"),
    [
        (codebook_bytes(4, 1, bytes(4)), DType.F32, "kind 4 is unknown"),
        (codebook_bytes(1, 1, bytes(2)), DType.F16, "needs elements of type f32"),
        (codebook_bytes(3, 1, bytes(2)), DType.I32, "needs elements of type f32"),
        (codebook_bytes(0, 0, b""), DType.F32, "has no level"),
        (codebook_bytes(0, 257, bytes(4 * 257)), DType.F32, "at most 256"),
        (codebook_bytes(0, 2, bytes(7)), DType.F32, "8 bytes are announced"),
        (codebook_bytes(0, 2, bytes(8)), DType.F32, "ascending order"),
        (codebook_bytes(0, 2, f32(1, 2)[::-1].tobytes()), DType.F32, "ascending order"),
        (codebook_bytes(1, 2, b"\1\0\0\0"), DType.F32, "ascending order"),
        (codebook_bytes(2, 1, b"\x00\x7c"), DType.F32, "not finite"),
        (codebook_bytes(2, 1, b"\x01\x7e"), DType.F32, "not finite"),
        (codebook_bytes(0, 1, b"\2"), DType.BOOL, "booleans"),
        (codebook_bytes(3, 2, signed_varint(103) + signed_varint(0)), DType.F32, "range of exact"),
        (codebook_bytes(3, 2, signed_varint(-127) + signed_varint(0)), DType.F32, "at most"),
        (codebook_bytes(3, 2, signed_varint(0) + signed_varint(1 << 24)), DType.F32, "range of"),
        (codebook_bytes(3, 2, signed_varint(0) + signed_varint(-(1 << 24) - 1)), DType.F32, "at m"),
        (b"", DType.F32, "0 are left"),
    ],
)
def test_refused_codebooks(data: bytes, dtype: DType, part: str) -> None:
    with pytest.raises(SpqError, match=part) as caught:
        read_codebook(cursor(data), dtype)
    assert caught.value.code is Reason.BAD_TABLES


# --- frequencies ---------------------------------------------------------------------------


def frequencies(data: bytes, alphabet: int, freq_log2: int) -> list[int]:
    reader = cursor(data)
    read = read_tables(reader, 1, alphabet, freq_log2)[0]
    reader.finish()
    assert read.dtype == np.uint32
    assert int(read.sum()) == 1 << freq_log2
    return [int(value) for value in read]


def test_explicit_bytes() -> None:
    table = np.array([1, 0, 0, 0, 254, 0, 1, 0], dtype=np.uint32)
    written = write_explicit(table)
    assert written == b"\0" + b"\x01" + b"\0\2" + b"\xfe\x01" + b"\0\0" + b"\x01" + b"\0\0"
    assert frequencies(written, 8, 8) == table.tolist()


@quick
@given(
    st.integers(1, 256),
    st.integers(1, MAX_FREQ_LOG2),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.5, 0.95]),
)
def test_explicit_round_trip(alphabet: int, freq_log2: int, seed: int, empty: float) -> None:
    random = np.random.Generator(np.random.PCG64(seed))
    weights = random.random(alphabet) * (random.random(alphabet) >= empty)
    weights[int(random.integers(alphabet))] += 1.0
    table = random.multinomial(1 << freq_log2, weights / weights.sum()).astype(np.uint32)
    assert frequencies(write_explicit(table), alphabet, freq_log2) == table.tolist()


def test_flat() -> None:
    assert write_flat() == b"\1"
    assert frequencies(b"\1", 16, 6) == [4] * 16
    assert frequencies(b"\1", 1, 15) == [32768]
    assert flat_frequencies(256, 8).tolist() == [1] * 256


def chain_in_integers(
    densities: tuple[int, int, int], max_ones: int, symbol_bits: int, freq_log2: int
) -> list[int] | None:
    """The rule of the format, bit by bit, in unbounded integers."""
    first, after_zero, after_one = densities
    weights = {}
    for symbol in range(1 << symbol_bits):
        if symbol.bit_count() > max_ones:
            continue
        weight, density = 1 << 32, first
        for one in f"{symbol:0{symbol_bits}b}"[::-1]:
            weight = weight * (density if one == "1" else 65536 - density) // 65536
            density = after_one if one == "1" else after_zero
        weights[symbol] = weight
    whole = max(sum(weights.values()), 1)
    table = [0] * (1 << symbol_bits)
    for symbol, weight in weights.items():
        table[symbol] = max(weight * (1 << freq_log2) // whole, 1)
    most = max(range(len(table)), key=table.__getitem__)
    table[most] += (1 << freq_log2) - sum(table)
    return table if table[most] > 0 else None


density_of = st.one_of(st.integers(1, 65535), st.sampled_from([1, 6554, 32768, 65535]))


@settings(quick, max_examples=400)
@given(
    st.tuples(density_of, density_of, density_of),
    st.integers(1, MAX_SYMBOL_BITS),
    st.integers(0, MAX_SYMBOL_BITS),
    st.integers(1, MAX_FREQ_LOG2),
)
def test_markov_is_exact(
    densities: tuple[int, int, int], symbol_bits: int, max_ones: int, freq_log2: int
) -> None:
    max_ones = min(max_ones, symbol_bits)
    table = markov_frequencies(*densities, max_ones, symbol_bits, freq_log2)
    expected = chain_in_integers(densities, max_ones, symbol_bits, freq_log2)
    assert (table if table is None else table.tolist()) == expected
    if expected is not None:
        written = write_markov(*densities, max_ones)
        assert frequencies(written, 1 << symbol_bits, freq_log2) == expected


@quick
@given(density_of, st.integers(1, MAX_SYMBOL_BITS), st.data(), st.integers(1, MAX_FREQ_LOG2))
def test_bernoulli_is_exact(
    density: int, symbol_bits: int, data: st.DataObject, freq_log2: int
) -> None:
    max_ones = data.draw(st.integers(1, symbol_bits))
    expected = chain_in_integers((density,) * 3, max_ones, symbol_bits, freq_log2)
    reader = cursor(write_bernoulli(density, max_ones))
    if expected is None:
        with pytest.raises(SpqError, match="does not fit"):
            read_tables(reader, 1, 1 << symbol_bits, freq_log2)
    else:
        written = write_bernoulli(density, max_ones)
        assert frequencies(written, 1 << symbol_bits, freq_log2) == expected


def bernoulli(density: int, max_ones: int, freq_log2: int) -> NDArray[np.uint32]:
    found = markov_frequencies(density, density, density, max_ones, 8, freq_log2)
    assert found is not None
    return found


def test_bernoulli_values() -> None:
    assert bernoulli(0, 0, 9).tolist() == [512, *[0] * 255]
    assert bernoulli(32768, 8, 12).tolist() == [16] * 256
    tenth = bernoulli(6554, 8, 12)
    assert tenth[[1, 3, 7, 15, 255]].tolist() == [195, 21, 2, 1, 1]
    assert int(tenth[0]) == 4096 - int(tenth[1:].sum())
    assert int(np.argmax(bernoulli(65535, 8, 14))) == 255
    assert markov_frequencies(*(32768,) * 3, 8, 8, 7) is None


def test_markov_values() -> None:
    table = markov_frequencies(32768, 16384, 49152, 3, 3, 8)
    assert table is not None
    assert table.tolist() == [72, 24, 8, 24, 24, 8, 24, 72]
    one_bit = markov_frequencies(16384, 1, 65535, 1, 1, 8)
    assert one_bit is not None
    assert one_bit.tolist() == [192, 64]
    # Every weight is rounded down to nothing.
    nothing = markov_frequencies(65535, 65535, 65535, 0, 9, 4)
    assert nothing is not None
    assert nothing.tolist() == [16, *[0] * 511]


def test_written_masks() -> None:
    assert write_bernoulli(0x1234, 5) == b"\2\x34\x12\5"
    assert write_markov(1, 0x203, 0xFFFE, 9) == b"\3\1\0\3\2\xfe\xff\x09"


@pytest.mark.parametrize(
    ("data", "alphabet", "part"),
    [
        (b"\4", 4, "kind 4 is unknown"),
        (b"\1", 3, "flat table"),
        (b"\1", 512, "flat table"),
        (b"\2\1\0\1", 1, "alphabet of masks"),
        (b"\2\1\0\1", 15, "alphabet of masks"),
        (b"\3\1\0\1\0\1\0\1", 96, "alphabet of masks"),
        (b"\3\1\0\1\0\1\0\1", 1024, "alphabet of masks"),
        (b"\2\1\0\x09", 256, "parameters out of range"),
        (b"\2\1\0\x02", 2, "parameters out of range"),
        (b"\3\1\0\1\0\1\0\x0a", 512, "parameters out of range"),
        (b"\3\0\0\1\0\1\0\1", 16, "parameters out of range"),
        (b"\3\1\0\0\0\1\0\1", 16, "parameters out of range"),
        (b"\3\1\0\1\0\0\0\1", 16, "parameters out of range"),
        (b"\3" + bytes(7), 16, "parameters out of range"),
        (b"\3\1\0\1\0\1\0", 16, "1 bytes are announced"),
        (b"\2\0\0\1", 256, "parameters out of range"),
        (b"\2\1\0\0", 256, "parameters out of range"),
        (b"\2\1\0", 256, "1 bytes are announced"),
        (b"\0" + varint(257), 2, "at most 256"),
        (b"\0" + varint(255) + varint(2), 2, "at most 1"),
        (b"\0" + varint(255) + b"\0\0", 2, "do not add up"),
        (b"\0\0\2", 2, "at most 1"),
        (b"\0\1", 2, "0 are left"),
        (b"\0\0\0\0\0" + varint(256), 3, "split"),
        (b"\0\0\1\0\0" + varint(256), 4, "split"),
        (b"\0" + varint(256) + b"\0\0\0\1", 4, "split"),
        (b"", 2, "0 are left"),
    ],
)
def test_refused_frequencies(data: bytes, alphabet: int, part: str) -> None:
    with pytest.raises(SpqError, match=part) as caught:
        read_tables(cursor(data), 1, alphabet, 8)
    assert caught.value.code is Reason.BAD_TABLES


@pytest.mark.parametrize("table", [write_bernoulli(32768, 8), write_markov(1, 2, 3, 8)])
def test_masks_that_do_not_fit_are_refused(table: bytes) -> None:
    with pytest.raises(SpqError, match="does not fit"):
        read_tables(cursor(table), 1, 256, 7)


@pytest.mark.parametrize("value", [0, MAX_FREQ_LOG2 + 1, 255])
def test_refused_totals(value: int) -> None:
    with pytest.raises(SpqError, match="freq_log2"):
        read_freq_log2(cursor(bytes([value])))


# --- tables of tensors ---------------------------------------------------------------------

TWO_LEVELS = Codebook(CodebookKind.FULL, np.array([1, 2], dtype="<u1"))
HALVES = bytes([1]) + write_explicit(np.array([1, 1], dtype=np.uint32))
DENSE = write_dense_head(TWO_LEVELS, 8, 8) + HALVES
FLAT_MASK = bytes([8, TableKind.FLAT])
SPARSE = (
    write_sparse_shape(TWO_LEVELS, 8, 1, 8, 1)
    + write_one_class()
    + write_one_class()
    + FLAT_MASK
    + bytes([8])
    + HALVES
)


def record(
    encoding: Encoding, chunks: int, elements: int = 20, dtype: DType = DType.U8
) -> TensorRecord:
    parts = tuple(Part(64, 0, 0) for _ in range(1 + chunks))
    return TensorRecord("w", dtype, encoding, (elements,), 0, parts)


def refused(read: Any, data: bytes, chunks: int, part: str, elements: int = 20) -> None:
    encoding = Encoding.DENSE if read is read_dense_tables else Encoding.SPARSE
    with pytest.raises(SpqError, match=part) as caught:
        read(data, record(encoding, chunks, elements))
    assert caught.value.code is Reason.BAD_TABLES
    assert caught.value.section == "w"


def test_dense_tables() -> None:
    tables = read_dense_tables(DENSE, record(Encoding.DENSE, 3))
    assert (tables.index_bits, tables.chunk_elements, tables.freq_log2) == (8, 8, 1)
    assert tables.frequencies.tolist() == [1, 1]
    assert tables.codebook.levels.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("head", "tail", "chunks", "part"),
    [
        ((8, 8), HALVES, 2, "ask for 3 chunks, the directory has 2"),
        ((8, 8), HALVES, 4, "ask for 3 chunks, the directory has 4"),
        ((8, 8), HALVES + b"\0", 3, "left over"),
        ((3, 8), HALVES, 3, "index_bits"),
        ((0, 8), HALVES, 3, "index_bits"),
        ((16, 8), HALVES, 3, "index_bits"),
        ((8, 0), HALVES, 3, "chunk_elements"),
        ((8, 12), HALVES, 3, "chunk_elements"),
        ((8, (1 << 24) + 8), HALVES, 3, "at most"),
        ((8, 8), HALVES[:-1], 3, "0 are left"),
    ],
)
def test_refused_dense_tables(head: tuple[int, int], tail: bytes, chunks: int, part: str) -> None:
    refused(read_dense_tables, write_dense_head(TWO_LEVELS, *head) + tail, chunks, part)


def test_more_levels_than_an_index_tells_apart() -> None:
    three = Codebook(CodebookKind.FULL, np.array([1, 2, 3], dtype="<u1"))
    flat = bytes([8, TableKind.FLAT])
    refused(read_dense_tables, write_dense_head(three, 1, 8) + flat, 3, "index_bits")


def test_symbols_without_a_level_are_refused() -> None:
    three = Codebook(CodebookKind.FULL, np.array([1, 2, 3], dtype="<u1"))
    counts = np.zeros(256, dtype=np.uint32)
    counts[[0b00_01_10_00, 0b10_10_10_10]] = 1, 1
    head = write_dense_head(three, 2, 8)
    tables = read_dense_tables(head + b"\1" + write_explicit(counts), record(Encoding.DENSE, 3))
    assert tables.frequencies.tolist() == counts.tolist()
    for impossible in (0b11, 0b11_00, 0b01_11_01_01, 0b11_00_00_00):
        moved = np.zeros(256, dtype=np.uint32)
        moved[[0, impossible]] = 1, 1
        refused(read_dense_tables, head + b"\1" + write_explicit(moved), 3, "the codebook lacks")


def test_sparse_tables() -> None:
    tables = read_sparse_tables(SPARSE, record(Encoding.SPARSE, 3))
    assert (tables.row_length, tables.rows_per_chunk) == (8, 1)
    assert (tables.symbol_bits, tables.unit_columns) == (8, 1)
    assert (tables.row_class_count, tables.column_class_count) == (1, 1)
    assert tables.row_stream is None
    assert tables.context_of_classes.tolist() == [[0]]
    assert tables.mask_frequencies.shape == (1, 256)
    assert tables.index_bits == 8
    assert tables.value_frequencies.tolist() == [1, 1]


def classes_of(count: int, stream: bytes = b"") -> bytes:
    return write_classes(count, 8, write_explicit(np.eye(1, count, dtype="u4")[0] * 256), stream)


def sparse(
    *,
    levels: tuple[int, ...] = (1, 2),
    row_length: int = 8,
    rows_per_chunk: int = 1,
    view: tuple[int, int] = (8, 1),
    rows: bytes = b"\1",
    columns: bytes = b"\1",
    contexts: bytes = b"",
    masks: bytes = FLAT_MASK,
    index_bits: int = 8,
    values: bytes = HALVES,
) -> bytes:
    codebook = Codebook(CodebookKind.FULL, np.array(levels, dtype="<u1"))
    shape = write_sparse_shape(codebook, row_length, rows_per_chunk, *view)
    return shape + rows + columns + contexts + masks + bytes([index_bits]) + values


@pytest.mark.parametrize("symbol_bits", range(1, MAX_SYMBOL_BITS + 1))
@pytest.mark.parametrize("sorted_columns", [False, True])
def test_units_of_columns(symbol_bits: int, sorted_columns: bool) -> None:
    unit_columns = 1 if sorted_columns else symbol_bits
    data = sparse(
        row_length=10,
        rows_per_chunk=3,
        view=(symbol_bits, unit_columns),
        rows=classes_of(2, b"abcd"),
        columns=classes_of(3, b"efgh"),
        contexts=bytes([0, 1, 0, 2, 2, 1]),
        masks=bytes([9, *[TableKind.FLAT] * 3]),
    )
    tables = read_sparse_tables(data, record(Encoding.SPARSE, 1))
    assert (tables.symbol_bits, tables.unit_columns) == (symbol_bits, unit_columns)
    assert (tables.row_class_count, tables.column_class_count) == (2, 3)
    assert tables.context_of_classes.tolist() == [[0, 1, 0], [2, 2, 1]]
    assert write_contexts(tables.context_of_classes) == bytes([0, 1, 0, 2, 2, 1])
    assert tables.mask_frequencies.shape == (3, 1 << symbol_bits)
    assert tables.row_stream is not None
    assert tables.column_stream is not None
    assert (tables.row_stream.count, tables.row_stream.stream) == (2, b"abcd")
    unit_count = -(-10 // unit_columns)
    assert (tables.column_stream.count, tables.column_stream.stream) == (unit_count, b"efgh")


@pytest.mark.parametrize("counts", [(1, 2), (16, 1), (8, 8), (16, 16)])
@pytest.mark.parametrize("context_count", [1, 2, MAX_CONTEXTS])
def test_contexts(counts: tuple[int, int], context_count: int) -> None:
    pairs = counts[0] * counts[1]
    contexts = np.minimum(np.arange(pairs), context_count - 1).astype(np.uint8)
    context_count = min(context_count, pairs)
    one = write_one_class()
    data = sparse(
        rows=classes_of(counts[0]) if counts[0] > 1 else one,
        columns=classes_of(counts[1]) if counts[1] > 1 else one,
        contexts=contexts.tobytes(),
        masks=bytes([8, *[TableKind.FLAT] * context_count]),
    )
    tables = read_sparse_tables(data, record(Encoding.SPARSE, 3))
    assert np.array_equal(tables.context_of_classes, contexts.reshape(counts))
    assert tables.mask_frequencies.shape == (context_count, 256)


def with_contexts(*contexts: int, tables: int = 1, row_classes: int = 2) -> bytes:
    """Tables of two column classes and several row classes."""
    return sparse(
        rows=classes_of(row_classes),
        columns=classes_of(2),
        contexts=bytes(contexts),
        masks=bytes([8, *[TableKind.FLAT] * tables]),
    )


@pytest.mark.parametrize(
    "data",
    [
        with_contexts(1, 0, 0, 0, tables=2),
        with_contexts(0, 2, 1, 1, tables=3),
        with_contexts(0, 1, 3, 2, tables=4),
        with_contexts(0, 0, 0, 2, tables=3),
        with_contexts(255, 0, 0, 0, tables=1),
        with_contexts(0, 255, 0, 0, tables=1),
        with_contexts(0, 1, 1, 255, tables=2),
        sparse(
            rows=classes_of(16),
            columns=classes_of(5),
            contexts=bytes(range(80)),
            masks=bytes([8, *[TableKind.FLAT] * 80]),
        ),
        sparse(
            rows=classes_of(16),
            columns=classes_of(5),
            contexts=bytes([*range(65), *bytes(15)]),
            masks=bytes([8, *[TableKind.FLAT] * 65]),
        ),
    ],
)
def test_contexts_are_numbered_as_they_appear(data: bytes) -> None:
    refused(read_sparse_tables, data, 3, "not numbered in order")


@pytest.mark.parametrize("level_count", [1, 2, 15, 16])
def test_pairs_of_values(level_count: int) -> None:
    levels = tuple(range(1, level_count + 1))
    counts = np.zeros(256, dtype=np.uint32)
    np.add.at(counts, [0, (level_count - 1) * 17], 1)
    data = sparse(levels=levels, index_bits=4, values=b"\1" + write_explicit(counts))
    tables = read_sparse_tables(data, record(Encoding.SPARSE, 3))
    assert tables.index_bits == 4
    assert tables.value_frequencies.tolist() == counts.tolist()
    for impossible in (level_count, level_count << 4):
        if level_count < 16:
            moved = np.zeros(256, dtype=np.uint32)
            moved[[0, impossible]] = 1, 1
            data = sparse(levels=levels, index_bits=4, values=b"\1" + write_explicit(moved))
            refused(read_sparse_tables, data, 3, "the codebook lacks")


@pytest.mark.parametrize(
    ("data", "chunks", "part"),
    [
        (sparse(levels=(0, 1)), 3, "zero among its levels"),
        (sparse(row_length=7), 3, "row_length"),
        (sparse(row_length=0), 3, "row_length"),
        (sparse(row_length=21), 1, "at most 20"),
        (sparse(rows_per_chunk=0), 3, "rows_per_chunk"),
        (sparse(rows_per_chunk=(1 << 21) + 1), 1, "rows_per_chunk"),
        (sparse(view=(0, 1)), 3, "symbol_bits or unit_columns"),
        (sparse(view=(0, 0)), 3, "symbol_bits or unit_columns"),
        (sparse(view=(10, 1)), 3, "symbol_bits or unit_columns"),
        (sparse(view=(10, 10)), 3, "symbol_bits or unit_columns"),
        (sparse(view=(255, 1)), 3, "symbol_bits or unit_columns"),
        (sparse(view=(8, 0)), 3, "symbol_bits or unit_columns"),
        (sparse(view=(8, 2)), 3, "symbol_bits or unit_columns"),
        (sparse(view=(8, 9)), 3, "symbol_bits or unit_columns"),
        (sparse(view=(1, 2)), 3, "symbol_bits or unit_columns"),
        (sparse(rows=b"\0"), 3, "0 density classes"),
        (sparse(columns=bytes([17])), 3, "17 density classes"),
        (sparse(rows=b"\2\0"), 3, "freq_log2"),
        (sparse(rows=write_classes(2, 1, HALVES[1:], b"")[:-1] + b"\x7f"), 3, "at most"),
        (sparse(rows=classes_of(2), masks=b"", values=b"")[:-1], 3, "2 bytes are announced"),
        (sparse(rows=classes_of(2), contexts=b"\0\1", masks=b"\x08\1"), 3, "kind 8 is unknown"),
        (sparse(masks=bytes([0, 1])), 3, "freq_log2"),
        (sparse(masks=bytes([16, 1])), 3, "freq_log2"),
        (sparse(masks=bytes([7, 1])), 3, "flat table"),
        (sparse(view=(9, 1)), 3, "flat table"),
        (sparse(index_bits=0), 3, "index_bits"),
        (sparse(index_bits=1), 3, "index_bits"),
        (sparse(index_bits=2), 3, "index_bits"),
        (sparse(index_bits=16), 3, "index_bits"),
        (sparse(levels=tuple(range(1, 18)), index_bits=4), 3, "index_bits"),
        (sparse(index_bits=4, values=FLAT_MASK), 3, "the codebook lacks"),
        (sparse(values=bytes([0, 1])), 3, "freq_log2"),
        (sparse(values=HALVES + b"\0"), 3, "left over"),
        (sparse(values=b""), 3, "0 are left"),
        (sparse(), 2, "ask for 3 chunks, the directory has 2"),
        (sparse(rows_per_chunk=2), 3, "ask for 2 chunks, the directory has 3"),
    ],
)
def test_refused_sparse_tables(data: bytes, chunks: int, part: str) -> None:
    refused(read_sparse_tables, data, chunks, part)


@pytest.mark.parametrize("length", range(len(SPARSE)))
def test_sparse_tables_that_end_early(length: int) -> None:
    refused(read_sparse_tables, SPARSE[:length], 3, "announced|are left|goes on")


def test_short_rows_only_for_few_elements() -> None:
    data = sparse(row_length=5)
    assert read_sparse_tables(data, record(Encoding.SPARSE, 1, 5)).row_length == 5
    refused(read_sparse_tables, data, 1, "row_length", elements=6)


# --- tables of mixed tensors ---------------------------------------------------------------

FLOATS = [DType.F64, DType.F32, DType.F16, DType.BF16]
SIGNED = Codebook(CodebookKind.FULL, np.array([1, 0x7E00, 0x8000, 0xFFFF], dtype="<u2"))
MIXED = write_mixed_tables(SIGNED)


def mixed_record(
    shape: tuple[int, ...] = (4, 5), chunks: int = 1, dtype: DType = DType.F16
) -> TensorRecord:
    parts = tuple(Part(64, 0, 0) for _ in range(1 + chunks))
    return TensorRecord("w", dtype, Encoding.MIXED, shape, 0, parts)


def refused_mixed(data: bytes, record: TensorRecord, part: str) -> None:
    with pytest.raises(SpqError, match=part) as caught:
        read_mixed_tables(data, record)
    assert caught.value.code is Reason.BAD_TABLES
    assert caught.value.section == "w"


def test_mixed_tables() -> None:
    tables = read_mixed_tables(MIXED, mixed_record())
    assert tables.codebook.levels.tolist() == [1, 0x7E00, 0x8000, 0xFFFF]
    assert (tables.positive_count, tables.negative_count) == (2, 2)
    assert tables.view == MixedView(4, 5, 1, 1)
    assert write_codebook(SIGNED) == MIXED


@pytest.mark.parametrize(
    ("shape", "view"),
    [
        ((4, 5), (4, 5, 1, 1)),
        ((1, 1), (1, 1, 1, 1)),
        ((4, 5, 1, 1), (4, 5, 1, 1)),
        ((4, 5, 7), (4, 5, 7, 7)),
        ((4, 5, 3, 2), (4, 5, 6, 2)),
        ((4, 5, 2, 3, 7), (4, 5, 42, 7)),
        ((4, 5, 6, 1), (4, 5, 6, 1)),
        ((1, 1, 1 << 19), (1, 1, 1 << 19, 1 << 19)),
    ],
)
def test_views(shape: tuple[int, ...], view: tuple[int, ...]) -> None:
    assert mixed_view(shape) == view
    assert read_mixed_tables(MIXED, mixed_record(shape)).view == view


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("positives", [0, 1, 5, 32, 63, 64])
def test_signs_of_levels(dtype: DType, positives: int) -> None:
    sign = 1 << (8 * dtype.item_bytes - 1)
    numbers = [*range(1, 1 + positives), *range(sign, sign + MAX_MIXED_LEVELS - positives)]
    codebook = Codebook(CodebookKind.FULL, np.array(numbers, dtype=f"<u{dtype.item_bytes}"))
    assert positive_count(codebook) == positives
    tables = read_mixed_tables(write_mixed_tables(codebook), mixed_record(dtype=dtype))
    assert (tables.positive_count, tables.negative_count) == (positives, 64 - positives)


@pytest.mark.parametrize("first", [1, -3, -1])
def test_uniform_levels_of_mixed_tensors(first: int) -> None:
    data = write_mixed_tables(uniform_codebook(-2, first, 3))
    refused_mixed(data, mixed_record(dtype=DType.F32), "uniform codebook")


def levels_of_halves(*levels: int) -> bytes:
    return write_mixed_tables(Codebook(CodebookKind.FULL, np.array(levels, dtype="<u2")))


@pytest.mark.parametrize(
    ("data", "record", "part"),
    [
        *(
            (MIXED, mixed_record(dtype=dtype), "this type and shape")
            for dtype in DType
            if dtype not in FLOATS
        ),
        (MIXED, mixed_record(()), "this type and shape"),
        (MIXED, mixed_record((20,)), "this type and shape"),
        (MIXED, mixed_record((1, (1 << 19) + 1)), "this type and shape"),
        (MIXED, mixed_record((1 << 10, 1 << 10)), "this type and shape"),
        (MIXED, mixed_record((1 << 40, 1, 9)), "this type and shape"),
        (MIXED, mixed_record(chunks=2), "ask for 1 chunks, the directory has 2"),
        (MIXED, mixed_record(chunks=9), "ask for 1 chunks, the directory has 9"),
        (MIXED, mixed_record(dtype=DType.F32), "announced|are left"),
        (MIXED + b"\0", mixed_record(), "1 bytes are left over"),
        (b"", mixed_record(), "0 are left"),
        (b"\0\0", mixed_record(), "no level"),
        (b"\1" + MIXED[1:], mixed_record(), "needs elements of type f32"),
        (levels_of_halves(0), mixed_record(), "zero among its levels"),
        (levels_of_halves(0, 1), mixed_record(), "zero among its levels"),
        (levels_of_halves(2, 1), mixed_record(), "ascending"),
        (levels_of_halves(*range(1, 66)), mixed_record(), "more than 64 levels"),
        (levels_of_halves(*range(1, 257)), mixed_record(), "more than 64 levels"),
    ],
)
def test_refused_mixed_tables(data: bytes, record: TensorRecord, part: str) -> None:
    refused_mixed(data, record, part)


@pytest.mark.parametrize("length", range(len(MIXED)))
def test_mixed_tables_that_end_early(length: int) -> None:
    refused_mixed(MIXED[:length], mixed_record(), "announced|are left")


def test_what_can_be_mixed() -> None:
    assert [dtype for dtype in DType if can_be_mixed(dtype, (3, 3))] == FLOATS
    most = MAX_MIXED_ELEMENTS
    fitting: list[tuple[int, ...]] = [(1, 1), (1, most), (1024, 512, 1, 1), (1 << 9, 1 << 8, 2, 2)]
    others: list[tuple[int, ...]] = [(), (9,), (0, 4), (4, 0), (4, 4, 0), (1, most + 1), (725, 725)]
    assert all(can_be_mixed(DType.F32, shape) for shape in fitting)
    assert not any(can_be_mixed(DType.F32, shape) for shape in others)
