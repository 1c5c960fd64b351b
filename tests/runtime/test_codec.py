"""What goes in comes out, bit for bit, whatever the elements and however many threads decode."""

import io
import math
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import spq
from spq import sparse
from spq.encode import encode_tensor
from spqformat import frequency_tables
from spqformat.codebook import Codebook
from spqformat.ids import CodebookKind, DType, Encoding
from spqformat.sparse_tables import SparseTables, read_sparse_tables
from spqformat.writer import EncodedTensor, serialise

quick = settings(deadline=None, derandomize=True, database=None, max_examples=400)

STORED = [dtype for dtype in DType if dtype is not DType.BF16]

SPECIAL = {
    DType.F64: [0, 1 << 63, 0x7FF0 << 48, 0xFFF0 << 48, 1, 0x7FF0_0000_0000_0001, 0xFFF8 << 48],
    DType.F32: [0, 0x80000000, 0x7F800000, 0xFF800000, 1, 0x7F800001, 0xFFC12345, 0x007FFFFF],
    DType.F16: [0, 0x8000, 0x7C00, 0xFC00, 1, 0x7C01, 0xFE55, 0x03FF],
}


def whole_file(tensors: dict[str, NDArray[Any]]) -> bytes:
    stream = io.BytesIO()
    assert spq.save(tensors, stream) == len(stream.getvalue())
    return stream.getvalue()


def check(array: NDArray[Any]) -> str:
    """Save, load and compare a tensor; return its encoding."""
    with spq.open(whole_file({"w": array})) as archive:
        archive.verify()
        again = archive.get_tensor("w")
        info = archive.info("w")
    assert again.shape == array.shape == info.shape
    assert again.dtype == array.dtype
    assert again.tobytes() == array.tobytes()
    assert again.flags.writeable
    assert again.flags.c_contiguous
    return info.encoding


shapes = st.one_of(
    st.sampled_from([(), (0,), (3, 0, 2), (1,), (1, 1, 1), (7,), (8,), (9,), (257,), (5000,)]),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4)),
    st.sampled_from([(5, 4, 3, 3), (3, 2, 5, 5), (2, 3, 7, 7), (9, 7, 3), (2, 2, 11, 11)]),
)


@quick
@given(
    dtype=st.sampled_from([*STORED, *[DType.F32] * 8]),
    shape=shapes,
    level_count=st.sampled_from([1, 2, 3, 4, 5, 9, 13, 15, 16, 17, 100, 255, 256, 257, 1000]),
    sparsity=st.sampled_from([0.0, 0.3, 0.6, 0.9, 0.99, 1.0]),
    kind=st.sampled_from(["bits", "special", "grid", "halves"]),
    uneven=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_round_trip(
    dtype: DType,
    shape: tuple[int, ...],
    level_count: int,
    sparsity: float,
    kind: str,
    uneven: bool,
    seed: int,
) -> None:
    random = np.random.Generator(np.random.PCG64(seed))
    width = dtype.item_bytes
    levels = random.integers(0, 1 << (8 * width), level_count, dtype=np.uint64)
    if kind == "special":
        special = SPECIAL.get(dtype, [0, 1, (1 << (8 * width)) - 1, 1 << (8 * width - 1)])
        levels = np.concatenate([np.array(special, dtype=np.uint64), levels])[:level_count]
    if dtype is DType.BOOL:
        levels &= np.uint64(1)
    patterns = levels.astype(f"<u{width}")
    if dtype is DType.F32 and kind in ("grid", "halves"):
        step = 2.0 ** int(random.integers(-126, 100))
        values = (np.arange(level_count) - int(random.integers(0, level_count + 1))) * step
        if kind == "halves":
            values = random.normal(size=level_count).astype("f2")
        patterns = values.astype("<f4").view("<u4")
    count = math.prod(shape)
    weights = random.random(patterns.size) ** (8.0 if uneven else 0.0)
    chosen = random.choice(patterns, count, p=weights / weights.sum())
    present = random.random(shape) >= sparsity
    if uneven and len(shape) == 2:
        present &= random.random(shape[1])[None, :] < random.random(shape[0])[:, None]
    elements = np.where(present.reshape(-1), chosen, 0).astype(f"<u{width}")
    check(elements.view(dtype.numpy).reshape(shape))


@pytest.mark.parametrize("level_count", range(1, 40))
@pytest.mark.parametrize("count", [20, 200, 1500])
def test_few_irregular_levels(level_count: int, count: int) -> None:
    random = np.random.Generator(np.random.PCG64(level_count))
    levels = random.normal(size=level_count).astype("f4")
    check(levels[random.integers(0, level_count, count)])


@pytest.mark.parametrize(
    "numbers",
    [
        *([(1 << 24) - 2, (1 << 24) - 1, 1 << 24], [-(1 << 24), 1 - (1 << 24), 2 - (1 << 24)]),
        *([(1 << 24) - 200, (1 << 24) - 1], [-128, 127], [-127, 128], [-128, 128], [0, 255]),
    ],
)
@pytest.mark.parametrize("exponent", [-149, -127, -126, 0, 102, 103])
def test_grids_at_the_edge_of_exactness(numbers: list[int], exponent: int) -> None:
    random = np.random.Generator(np.random.PCG64(1))
    values = np.ldexp(np.array(numbers, dtype="f8"), exponent).astype("f4")
    assert np.isfinite(values).all()
    check(values[random.integers(0, values.size, 900)])


@pytest.mark.parametrize("dtype", [DType.F64, DType.F32, DType.F16])
def test_special_values(dtype: DType) -> None:
    patterns = np.array(SPECIAL[dtype], dtype=f"<u{dtype.item_bytes}")
    for elements in (patterns, np.tile(patterns, 300), np.repeat(patterns, 300)):
        check(elements.view(dtype.numpy))


def test_negative_zero_is_no_zero() -> None:
    array = np.zeros((50, 60), dtype="f4")
    array[::3] = -0.0
    array[5] = 1.5
    check(array)


@pytest.mark.parametrize("dtype", [dtype.numpy for dtype in STORED])
@pytest.mark.parametrize("shape", [(), (0,), (0, 5), (1,)])
def test_empty_and_single(dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> None:
    check(np.zeros(shape, dtype=dtype))
    check(np.ones(shape, dtype=dtype))


def test_each_encoding_is_taken() -> None:
    random = np.random.Generator(np.random.PCG64(2))
    normal = random.normal(size=(80, 90)).astype("f4")
    assert check(normal) == "planes"
    assert check(np.frombuffer(random.bytes(30_000), dtype="f4")) == "raw"
    levels = np.round(normal * 3) + 20
    assert check(levels) == "dense"
    levels[:40] *= random.random((40, 90)) < 0.3
    levels[40:] *= random.random((40, 90)) < 0.01
    assert check(levels) == "sparse"


def test_sizes_come_near_the_entropy() -> None:
    random = np.random.Generator(np.random.PCG64(3))
    shape = (400, 500)
    present = random.random(shape) < 0.1
    weights = (random.integers(1, 16, shape) * present).astype("f4")
    mask_bits = -(0.1 * math.log2(0.1) + 0.9 * math.log2(0.9)) * weights.size
    ideal = mask_bits + math.log2(15) * present.sum()
    assert 8 * len(whole_file({"w": weights})) < 1.02 * ideal + 2000
    indices = random.integers(0, 11, shape).astype("u1")
    assert 8 * len(whole_file({"w": indices})) < 1.01 * math.log2(11) * indices.size + 2000


# --- several chunks ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large() -> dict[str, NDArray[Any]]:
    """Tensors of several chunks each."""
    random = np.random.Generator(np.random.PCG64(4))
    shape = (1300, 900)
    uneven = random.random(shape) < 0.4 * random.random(900)[None, :] ** 2
    return {
        "dense": random.integers(-7, 8, 1_200_001).astype("f4") * np.float32(0.37),
        "packed": random.integers(0, 2, 1_100_003).astype(bool),
        "sparse": (random.integers(-3, 4, shape) * uneven).astype("f4"),
        "flat": (random.integers(1, 4, 1_200_007) * (random.random(1_200_007) < 0.05)).astype("i2"),
        "planes": random.normal(size=600_001),
        "raw": np.frombuffer(random.bytes(8000), dtype="f8"),
        "empty": np.zeros((0, 3), dtype="f4"),
    }


@pytest.fixture(scope="module")
def large_file(large: dict[str, NDArray[Any]]) -> bytes:
    return whole_file(large)


@pytest.mark.parametrize("threads", [None, 1, 2, 8])
def test_any_number_of_threads(
    large: dict[str, NDArray[Any]], large_file: bytes, threads: int | None
) -> None:
    with spq.open(large_file) as archive:
        decoded = archive.tensors(threads)
        assert archive.info("dense").encoding == archive.info("packed").encoding == "dense"
        assert archive.info("sparse").encoding == archive.info("flat").encoding == "sparse"
        assert [archive.info(name).encoding for name in ("planes", "raw")] == ["planes", "raw"]
    assert sorted(decoded) == sorted(large)
    for name, array in large.items():
        assert decoded[name].dtype == array.dtype
        assert decoded[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("threads", [1, 8])
def test_damage_is_found_by_any_number_of_threads(large_file: bytes, threads: int) -> None:
    reasons = []
    for position in (len(large_file) // 2, len(large_file) * 2 // 3, len(large_file) - 1):
        changed = bytearray(large_file)
        changed[position] ^= 1
        with spq.open(bytes(changed)) as archive, pytest.raises(spq.SpqError) as caught:
            archive.tensors(threads)
        reasons.append(caught.value.code)
    assert reasons == [spq.Reason.CHECKSUM_MISMATCH] * 3


def test_encoder_does_not_change_its_input() -> None:
    array = np.asfortranarray(np.arange(5000, dtype="f4").reshape(50, 100) % 7)
    before = array.copy()
    encode_tensor(array, DType.F32)
    assert np.array_equal(array, before)


# --- sparse tensors ------------------------------------------------------------------------


def clustered(shape: tuple[int, ...], seed: int, level_count: int = 4) -> NDArray[np.float32]:
    """Pruned weights: ones of a kernel, or of a column, in runs; rows differ in density."""
    random = np.random.Generator(np.random.PCG64(seed))
    size = int(np.prod(shape[2:]))
    lines = math.prod(shape) // size
    present = random.random((lines, size)) < 0.2
    for place in range(1, size):
        same = random.random(lines) < 0.75
        present[same, place] = present[same, place - 1]
    density = np.linspace(0.05, 0.9, shape[0]) ** 2
    present &= random.random((lines, 1)) < np.repeat(density, lines // shape[0])[:, None]
    levels = random.normal(size=level_count).astype("f4")
    # Neighbours mostly have the same level.
    chosen = np.repeat(levels[random.integers(0, level_count, lines)], size).reshape(lines, size)
    return np.where(present, chosen, np.float32(0)).reshape(shape)


def sparse_tables(array: NDArray[Any]) -> SparseTables:
    """Save, load and compare a tensor that has to become sparse; return its tables."""
    check(array)
    data = whole_file({"w": array})
    with spq.open(data) as archive:
        record = archive._container.tensors["w"]
    assert record.encoding is Encoding.SPARSE
    part = record.parts[0]
    return read_sparse_tables(data[part.offset : part.offset + part.stored_bytes], record)


SHAPES = [
    ((24, 16, 3, 3), 144, (9, 9)),
    ((12, 8, 5, 5), 200, (5, 5)),
    ((9, 7, 7, 7), 343, (7, 7)),
    ((40, 30, 2, 2), 120, (8, 8)),
    ((20, 10, 2, 3), 60, (6, 6)),
    ((8, 6, 4, 4), 96, (8, 8)),
    ((6, 4, 11, 11), 484, (8, 8)),
    ((60, 50, 3), 150, (9, 9)),
    ((60, 75, 1, 1), 75, (8, 1)),
    ((60, 75), 75, (8, 1)),
    ((5000,), 4096, (8, 8)),
    ((900, 5), 4096, (8, 8)),
    ((3000, 2, 2), 4096, (8, 8)),
    ((7,), 7, (8, 8)),
]


def in_view(array: NDArray[np.float32], view: sparse.View) -> SparseTables:
    """Encode a tensor in one view, decode it, compare, and return its tables."""
    levels, indices = np.unique(array.reshape(-1).view("<u4"), return_inverse=True)
    zero = np.flatnonzero(levels == 0)
    codebook = Codebook(CodebookKind.FULL, np.delete(levels, zero))
    parts = sparse.encode_sparse(indices.astype(np.uint8), int(zero[0]), codebook, view)
    crc = zlib.crc32(array.tobytes())
    made = EncodedTensor(DType.F32, Encoding.SPARSE, array.shape, crc, parts)
    with spq.open(b"".join(serialise({"w": made}, {}, {}, {}))) as archive:
        archive.verify()
        assert archive.get_tensor("w").tobytes() == array.tobytes()
        record = archive._container.tensors["w"]
        return read_sparse_tables(parts[0], record)


@pytest.mark.parametrize(("shape", "row_length", "symbols"), SHAPES)
def test_every_view(shape: tuple[int, ...], row_length: int, symbols: tuple[int, int]) -> None:
    views = list(sparse.views(shape, math.prod(shape)))
    # The first one is meant for the shape; small tensors are tried in others as well.
    assert (views[0].row_length, views[0].symbol_bits, views[0].unit_columns or 8) == (
        row_length,
        *symbols,
    )
    random = np.random.Generator(np.random.PCG64(row_length))
    pairs = set()
    for level_count in (1, 2, 15, 16, 17, 200):
        for extra in (0.0, 0.4, 1.0):
            array = clustered(shape, level_count, level_count)
            # Runs of a level, which pairs code better than single indices.
            added = np.where(np.arange(array.size).reshape(shape) // 300 % 2, 3.5, 2.5)
            array = np.where(random.random(shape) < extra, added, array).astype("f4")
            array.reshape(-1)[-1] = 0.0
            array.reshape(-1)[0] = 2.5
            for view in views:
                found = in_view(array, view)
                assert (found.row_length, found.symbol_bits) == (view.row_length, view.symbol_bits)
                assert found.unit_columns == (view.unit_columns or view.symbol_bits)
                pairs.add(found.index_bits)
    assert pairs == {4, 8} or math.prod(shape) < 8


@pytest.mark.parametrize(
    ("shape", "view"), [((48, 40, 3, 3), (9, 9)), ((90, 80, 2, 2), (8, 8)), ((90, 80, 3), (9, 9))]
)
def test_kernels_are_taken_whole(shape: tuple[int, ...], view: tuple[int, int]) -> None:
    found = sparse_tables(clustered(shape, len(shape)))
    assert (found.symbol_bits, found.unit_columns) == view


def test_columns_of_matrices_are_sorted() -> None:
    random = np.random.Generator(np.random.PCG64(1))
    density = np.where(random.random(200) < 0.5, 0.01, 0.4)
    found = sparse_tables((random.random((150, 200)) < density).astype("f4"))
    assert (found.row_length, found.symbol_bits, found.unit_columns) == (200, 8, 1)
    assert found.column_class_count > 1


def test_vectors_are_flat() -> None:
    random = np.random.Generator(np.random.PCG64(5))
    values = np.where(random.random(70_000) < 0.05, random.normal(size=70_000).round(1), 0.0)
    found = sparse_tables(values.astype("f4"))
    assert (found.row_length, found.symbol_bits, found.unit_columns) == (4096, 8, 8)
    assert (found.row_class_count, found.column_class_count) == (1, 1)
    assert found.context_of_classes.tolist() == [[0]]


def test_markov_tables_and_pairs_occur(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    original = frequency_tables.markov_frequencies

    def noted(*arguments: int) -> Any:
        seen.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(frequency_tables, "markov_frequencies", noted)
    # Runs in both orders, so that neither a few explicit symbols nor independent bits will do.
    found = sparse_tables(clustered((48, 40, 3, 3), 7))
    assert any(first != after_one for first, _, after_one, *_ in seen)
    assert found.index_bits == 4
    assert found.row_class_count > 1
    seen.clear()
    random = np.random.Generator(np.random.PCG64(8))
    independent = np.where(random.random((200, 80)) < 0.1, random.normal(size=(200, 80)), 0.0)
    levels = np.round(independent * 20).astype("f4")
    assert np.unique(levels).size > 17
    assert sparse_tables(levels).index_bits == 8
    assert all(first == after_one for first, _, after_one, *_ in seen)


def test_classes_of_like_density_share_a_context() -> None:
    random = np.random.Generator(np.random.PCG64(9))
    density = np.outer(np.linspace(0.05, 0.9, 300) ** 2, np.linspace(0.05, 0.9, 400) ** 2)
    found = sparse_tables((random.random((300, 400)) < density).astype("f4") * 3)
    pairs = found.row_class_count * found.column_class_count
    contexts = int(found.context_of_classes.max()) + 1
    assert 1 < contexts < pairs
    assert found.mask_frequencies.shape[0] == contexts


@pytest.mark.parametrize("level_count", [1, 2, 8, 17])
def test_values_of_several_chunks(level_count: int) -> None:
    """An odd number of ones in a chunk leaves half a symbol."""
    array = clustered((700, 120, 3, 3), 11, level_count)
    array.reshape(-1)[:8] = 0
    for odd in range(2):
        array.reshape(-1)[0] = odd
        found = sparse_tables(array)
        assert found.rows_per_chunk < 700
        assert found.index_bits == (4 if level_count in (2, 8) else 8)


# --- density classes -----------------------------------------------------------------------


def test_columns_are_ordered_by_class() -> None:
    assert sparse._column_order(np.array([0, 0, 1, 2], dtype=np.uint8)).size == 0
    order = sparse._column_order(np.array([2, 0, 1, 0, 2], dtype=np.uint8))
    assert order.tolist() == [1, 3, 2, 0, 4]


def test_symbols_take_the_class_of_their_first_column() -> None:
    classes = np.array([3] + [1] * 9 + [0] * 7, dtype=np.uint8)
    assert sparse._symbol_classes(classes, 1, 8).tolist() == [0, 1, 3]
    assert sparse._symbol_classes(classes, 1, 5).tolist() == [0, 0, 1, 1]
    assert sparse._symbol_classes(classes, 9, 9).tolist() == classes.tolist()


def test_contexts_of_mask_symbols() -> None:
    symbols = np.array([0, 1, 1], dtype=np.uint8)
    context_of_classes = np.array([[0, 1], [2, 2], [3, 1]], dtype=np.uint8)
    rows = np.array([0, 2, 2, 0, 1], dtype=np.uint8)
    for count in range(1, 6):
        kinds, contexts = sparse._row_contexts(rows[:count], symbols, context_of_classes)
        expected = [[0, 1, 1], [3, 1, 1], [3, 1, 1], [0, 1, 1], [2, 2, 2]][:count]
        assert contexts[kinds].tolist() == expected
    _, contexts = sparse._row_contexts(rows, symbols, np.zeros((3, 2), dtype=np.uint8))
    assert contexts.size == 0


def test_a_long_row_is_not_laid_out_for_classes_without_members() -> None:
    symbols = np.zeros(1 << 20, dtype=np.uint8)
    context_of_classes = np.arange(16, dtype=np.uint8)[:, None]
    tracemalloc.start()
    try:
        row = np.array([3], dtype=np.uint8)
        kinds, contexts = sparse._row_contexts(row, symbols, context_of_classes)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (contexts[kinds] == 3).all()
    assert peak < 3 << 20
