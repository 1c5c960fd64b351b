"""Frequencies sum to their total, keep every symbol, and cost little more than ideal ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spq.frequencies import CodedTable, cheapest_table, explicit_table, mask_table, normalise
from spqformat import Reason
from spqformat.cursor import Cursor
from spqformat.frequency_tables import read_tables
from spqformat.ids import TableKind

quick = settings(deadline=None, derandomize=True, database=None, max_examples=150)
counts_of = st.lists(
    st.one_of(st.just(0), st.integers(0, 3), st.integers(0, 10**9)), min_size=1, max_size=256
).filter(any)


def reread(table: CodedTable, freq_log2: int) -> list[int]:
    cursor = Cursor(table.written, "w", 0, Reason.BAD_TABLES)
    read = read_tables(cursor, 1, table.frequencies.size, freq_log2)[0]
    cursor.finish()
    return [int(value) for value in read]


def bits(counts: NDArray[np.int64], shares: NDArray[np.float64]) -> float:
    used = counts > 0
    return float(-(counts[used] * np.log2(shares[used])).sum())


@quick
@given(counts_of, st.integers(8, 15))
def test_normalise(raw: list[int], freq_log2: int) -> None:
    counts = np.array(raw, dtype=np.int64)
    frequencies = normalise(counts, freq_log2)
    assert int(frequencies.sum(dtype=np.int64)) == 1 << freq_log2
    assert np.array_equal(frequencies > 0, counts > 0)


@quick
@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=16))
def test_normalise_is_nearly_ideal(raw: list[int]) -> None:
    counts = np.array(raw, dtype=np.int64)
    total = int(counts.sum())
    ideal = bits(counts, counts / total)
    assert bits(counts, normalise(counts, 14) / 2.0**14) <= 1.01 * ideal + 0.01 * total


def test_normalise_of_exact_shares() -> None:
    assert normalise(np.array([0, 1, 3, 4, 0]), 8).tolist() == [0, 32, 96, 128, 0]
    assert normalise(np.array([10**12, 1]), 8).tolist() == [255, 1]
    assert normalise(np.full(256, 5), 8).tolist() == [1] * 256


@quick
@given(counts_of, st.booleans())
def test_cheapest_table(raw: list[int], complete: bool) -> None:
    counts = np.array(raw, dtype=np.int64)
    freq_log2, table = cheapest_table(counts, complete)
    assert reread(table, freq_log2) == table.frequencies.tolist()
    assert (table.frequencies[counts > 0] > 0).all()
    assert complete or np.array_equal(table.frequencies > 0, counts > 0)
    for other in (10, 12, 14):
        assert table.bits <= explicit_table(counts, other).bits


def test_flat_where_it_is_smaller() -> None:
    counts = np.full(64, 10)
    freq_log2, table = cheapest_table(counts)
    assert (freq_log2, table.written) == (6, bytes([TableKind.FLAT]))
    assert cheapest_table(counts, complete=False)[1].written[0] == TableKind.EXPLICIT


def test_table_that_is_never_used() -> None:
    table = explicit_table(np.zeros(7, dtype=np.int64), 8)
    assert table.frequencies.tolist() == [256, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("density", [0.0, 0.01, 0.1, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("freq_log2", [12, 14])
def test_mask_table(density: float, freq_log2: int) -> None:
    random = np.random.Generator(np.random.PCG64(3))
    mask = random.random((4000, 8)) < density
    counts = np.bincount(np.packbits(mask, axis=1).ravel(), minlength=256)
    table = mask_table(counts, freq_log2)
    assert reread(table, freq_log2) == table.frequencies.tolist()
    assert (table.frequencies[counts > 0] > 0).all()
    assert table.bits <= explicit_table(counts, freq_log2).bits
    if 0 < density < 0.5:
        assert table.written[0] == TableKind.BERNOULLI


@pytest.mark.parametrize("symbol_bits", [1, 2, 5, 8, 9])
@pytest.mark.parametrize("freq_log2", [12, 14])
def test_mask_table_of_each_alphabet(symbol_bits: int, freq_log2: int) -> None:
    random = np.random.Generator(np.random.PCG64(symbol_bits))
    for count in (1, 40, 3000):
        # Ones come in runs.
        mask = random.random((count, symbol_bits)) < 0.15
        for bit in range(1, symbol_bits):
            same = random.random(count) < 0.6
            mask[same, bit] = mask[same, bit - 1]
        symbols = mask @ (1 << np.arange(symbol_bits))
        counts = np.bincount(symbols, minlength=1 << symbol_bits)
        table = mask_table(counts, freq_log2)
        assert table.frequencies.shape == (1 << symbol_bits,)
        assert reread(table, freq_log2) == table.frequencies.tolist()
        assert (table.frequencies[counts > 0] > 0).all()
        if count == 3000 and symbol_bits >= 8:
            assert table.written[0] == TableKind.MARKOV
        if symbol_bits == 1:
            assert table.written[0] != TableKind.MARKOV


def test_explicit_mask_table_where_places_have_a_shape_in_common() -> None:
    counts = np.ones(512, dtype=np.int64)
    counts[[0b000_000_000, 0b010_111_010, 0b101_010_101]] = 50_000
    table = mask_table(counts, 12)
    assert table.written[0] == TableKind.EXPLICIT
    assert reread(table, 12) == table.frequencies.tolist()


@pytest.mark.parametrize("symbol_bits", [1, 8, 9])
def test_mask_table_of_no_symbols(symbol_bits: int) -> None:
    table = mask_table(np.zeros(1 << symbol_bits, dtype=np.int64), 12)
    assert int(table.frequencies[0]) == 4096
