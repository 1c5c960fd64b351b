"""Codebooks, frequencies, tables of tensors: what is written is read, the rest refused."""

from fractions import Fraction
from math import comb
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spqformat import Reason, SpqError
from spqformat.cursor import Cursor, signed_varint, varint
from spqformat.ids import MAX_FREQ_LOG2, CodebookKind, DType, Encoding, TableKind
from spqformat.model import Part, TensorRecord
from spqformat.tables import (
    Codebook,
    bernoulli_frequencies,
    flat_frequencies,
    read_codebook,
    read_dense_tables,
    read_freq_log2,
    read_frequencies,
    read_sparse_tables,
    smallest_codebook,
    uniform_codebook,
    write_bernoulli,
    write_classes,
    write_codebook,
    write_dense_head,
    write_explicit,
    write_flat,
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
    read = read_frequencies(reader, alphabet, freq_log2)
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


def bernoulli_by_fractions(density: int, max_ones: int, freq_log2: int) -> list[int] | None:
    """The rule of the format in exact fractions."""
    share = Fraction(density, 1 << 16)
    chances = [share**ones * (1 - share) ** (8 - ones) for ones in range(max_ones + 1)]
    whole = sum(chance * comb(8, ones) for ones, chance in enumerate(chances))
    table = [0] * 256
    for byte in range(256):
        ones = byte.bit_count()
        if ones <= max_ones:
            table[byte] = max(1, int(chances[ones] / whole * (1 << freq_log2)))
    most = table.index(max(table))
    table[most] += (1 << freq_log2) - sum(table)
    return table if table[most] > 0 else None


@quick
@given(
    st.one_of(st.integers(1, 65535), st.sampled_from([1, 6554, 32768, 65535])),
    st.integers(1, 8),
    st.integers(1, MAX_FREQ_LOG2),
)
def test_bernoulli_is_exact(density: int, max_ones: int, freq_log2: int) -> None:
    table = bernoulli_frequencies(density, max_ones, freq_log2)
    expected = bernoulli_by_fractions(density, max_ones, freq_log2)
    assert (table if table is None else table.tolist()) == expected
    if expected is not None:
        assert frequencies(write_bernoulli(density, max_ones), 256, freq_log2) == expected


def test_bernoulli_values() -> None:
    def table(density: int, max_ones: int, freq_log2: int) -> NDArray[np.uint32]:
        found = bernoulli_frequencies(density, max_ones, freq_log2)
        assert found is not None
        return found

    assert table(0, 0, 9).tolist() == [512, *[0] * 255]
    assert table(32768, 8, 12).tolist() == [16] * 256
    tenth = table(6554, 8, 12)
    assert tenth[[1, 3, 7, 15, 255]].tolist() == [195, 21, 2, 1, 1]
    assert int(tenth[0]) == 4096 - int(tenth[1:].sum())
    assert int(np.argmax(table(65535, 8, 14))) == 255
    assert bernoulli_frequencies(32768, 8, 7) is None


@pytest.mark.parametrize(
    ("data", "alphabet", "part"),
    [
        (b"\3", 4, "kind 3 is unknown"),
        (b"\1", 3, "flat table"),
        (b"\1", 512, "flat table"),
        (b"\2\1\0\1", 16, "parameters out of range"),
        (b"\2\1\0\x09", 256, "parameters out of range"),
        (b"\2\0\0\1", 256, "parameters out of range"),
        (b"\2\1\0\0", 256, "parameters out of range"),
        (b"\2\1\0", 256, "1 bytes are announced"),
        (b"\0" + varint(257), 2, "at most 256"),
        (b"\0" + varint(255) + varint(2), 2, "at most 1"),
        (b"\0" + varint(255) + b"\0\0", 2, "do not add up"),
        (b"\0\0\2", 2, "at most 1"),
        (b"\0\1", 2, "0 are left"),
        (b"", 2, "0 are left"),
    ],
)
def test_refused_frequencies(data: bytes, alphabet: int, part: str) -> None:
    with pytest.raises(SpqError, match=part) as caught:
        read_frequencies(cursor(data), alphabet, 8)
    assert caught.value.code is Reason.BAD_TABLES


def test_bernoulli_that_does_not_fit_is_refused() -> None:
    with pytest.raises(SpqError, match="does not fit"):
        read_frequencies(cursor(write_bernoulli(32768, 8)), 256, 7)


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
    write_sparse_shape(TWO_LEVELS, 8, 1)
    + write_one_class()
    + write_one_class()
    + FLAT_MASK
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
    assert (tables.row_class_count, tables.column_class_count) == (1, 1)
    assert tables.row_stream is None
    assert tables.mask_frequencies.shape == (1, 256)
    assert tables.value_frequencies.tolist() == [1, 1]


def test_sparse_tables_with_classes() -> None:
    classes = write_classes(2, 1, HALVES[1:], b"abcd")
    data = (
        write_sparse_shape(TWO_LEVELS, 8, 3)
        + classes
        + classes
        + bytes([8])
        + bytes([TableKind.FLAT]) * 4
        + HALVES
    )
    tables = read_sparse_tables(data, record(Encoding.SPARSE, 1))
    assert tables.mask_frequencies.shape == (4, 256)
    for stream, count in ((tables.row_stream, 3), (tables.column_stream, 8)):
        assert stream is not None
        assert (stream.count, stream.stream) == (count, b"abcd")
        assert stream.frequencies.tolist() == [1, 1]


def sparse(
    *,
    levels: tuple[int, ...] = (1, 2),
    row_length: int = 8,
    rows_per_chunk: int = 1,
    rows: bytes = b"\1",
    columns: bytes = b"\1",
    masks: bytes = FLAT_MASK,
    values: bytes = HALVES,
) -> bytes:
    codebook = Codebook(CodebookKind.FULL, np.array(levels, dtype="<u1"))
    shape = write_sparse_shape(codebook, row_length, rows_per_chunk)
    return shape + rows + columns + masks + values


@pytest.mark.parametrize(
    ("data", "chunks", "part"),
    [
        (sparse(levels=(0, 1)), 3, "zero among its levels"),
        (sparse(row_length=7), 3, "row_length"),
        (sparse(row_length=0), 3, "row_length"),
        (sparse(row_length=21), 1, "at most 20"),
        (sparse(rows_per_chunk=0), 3, "rows_per_chunk"),
        (sparse(rows_per_chunk=(1 << 21) + 1), 1, "rows_per_chunk"),
        (sparse(rows=b"\0"), 3, "0 density classes"),
        (sparse(columns=bytes([17])), 3, "17 density classes"),
        (sparse(rows=b"\2\0"), 3, "freq_log2"),
        (sparse(rows=write_classes(2, 1, HALVES[1:], b"")[:-1] + b"\x7f"), 3, "at most"),
        (
            sparse(
                rows=write_classes(16, 4, b"\1", b""),
                columns=write_classes(8, 3, b"\1", b""),
            ),
            3,
            "128 contexts",
        ),
        (sparse(masks=bytes([16, 1])), 3, "freq_log2"),
        (sparse(masks=bytes([7, 1])), 3, "flat table"),
        (sparse(values=HALVES + b"\0"), 3, "left over"),
        (sparse(values=b""), 3, "0 are left"),
        (sparse(), 2, "ask for 3 chunks, the directory has 2"),
        (sparse(rows_per_chunk=2), 3, "ask for 2 chunks, the directory has 3"),
    ],
)
def test_refused_sparse_tables(data: bytes, chunks: int, part: str) -> None:
    refused(read_sparse_tables, data, chunks, part)


def test_short_rows_only_for_few_elements() -> None:
    data = sparse(row_length=5)
    assert read_sparse_tables(data, record(Encoding.SPARSE, 1, 5)).row_length == 5
    refused(read_sparse_tables, data, 1, "row_length", elements=6)
