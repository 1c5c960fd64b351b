"""What goes in comes out, bit for bit, whatever the elements and however many threads decode."""

import io
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import spq
from spq.decode import byte_classes, column_order, mask_contexts
from spq.encode import encode_tensor
from spqformat.ids import DType

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
    assert check(normal) == "raw"
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
        "raw": random.normal(size=1000),
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


# --- density classes -----------------------------------------------------------------------


def test_columns_are_ordered_by_class() -> None:
    assert column_order(np.array([0, 0, 1, 2], dtype=np.uint8)) is None
    order = column_order(np.array([2, 0, 1, 0, 2], dtype=np.uint8))
    assert order is not None
    assert order.tolist() == [1, 3, 2, 0, 4]


def test_bytes_take_the_class_of_their_first_column() -> None:
    classes = np.array([3] + [1] * 9 + [0] * 7, dtype=np.uint8)
    assert byte_classes(classes).tolist() == [0, 1, 3]


def test_contexts_of_mask_bytes() -> None:
    rows, bytes_ = np.array([0, 2], dtype=np.uint8), np.array([0, 1, 1], dtype=np.uint8)
    contexts = mask_contexts(rows, bytes_, 2)
    assert contexts is not None
    assert contexts.tolist() == [0, 1, 1, 4, 5, 5]
    assert mask_contexts(np.zeros(2, dtype=np.uint8), np.zeros(3, dtype=np.uint8), 1) is None
