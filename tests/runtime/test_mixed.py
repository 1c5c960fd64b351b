"""Mixed predictions: kernel and twin agree, tensors come back, and damage is refused."""

import io
import math
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import spq
from spq import decode, encode, mixed
from spq._kernels import (
    BAD_STATE,
    OK,
    STREAM_TOO_LONG,
    STREAM_TOO_SHORT,
    code_signed_indices,
)
from spq._kernels.mixed import _carry, _predict
from spq.encode import encode_tensor
from spq.floats import FLOATS, conversion
from spqformat import Reason, SpqError
from spqformat.ids import (
    MAX_MIXED_ELEMENTS,
    MAX_MIXED_LEVELS,
    MIXED_INPUTS,
    MIXED_STEPS,
    DType,
    Encoding,
)
from spqformat.mixed_tables import MixedView, mixed_view
from spqformat.writer import EncodedTensor, serialise
from tests.runtime.twins import twin

GUARD = 32
KERNELS = (code_signed_indices, twin(code_signed_indices))
Signs = tuple[int, int]


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def draw(random: np.random.Generator, count: int, signs: Signs, density: float) -> NDArray[np.int8]:
    """Signed indices, small ones more often."""
    positive = random.random(count) < signs[0] / sum(signs)
    most = np.where(positive, *signs)
    size = 1 + (most * random.random(count) ** 3).astype(np.int64)
    present = random.random(count) < density
    return (np.where(positive, size, -size) * present).astype(np.int8)


class Guarded:
    """An array between guard zones."""

    def __init__(self, content: NDArray[Any]) -> None:
        self._whole = np.full(content.size + 2 * GUARD, 0x55, dtype=content.dtype)
        self.inside = self._whole[GUARD : GUARD + content.size]
        self.inside[:] = content

    def check(self) -> None:
        outside = np.concatenate([self._whole[:GUARD], self._whole[GUARD + self.inside.size :]])
        assert (outside == 0x55).all()


class Run:
    """One run of a kernel, every array between guard zones; holds what it has left.

    Parameters
    ----------
    kernel : callable
        Compiled, or its twin.
    view, signs
        The tensor.
    stream : bytes or int
        What to decode; or, to encode, the room for it.
    signed : ndarray of int8
        What to encode, or anything.
    """

    def __init__(
        self,
        kernel: Any,
        view: MixedView,
        signs: Signs,
        stream: bytes | int,
        signed: NDArray[np.int8],
    ) -> None:
        encodes = isinstance(stream, int)
        given = bytes([0xAA]) * stream if isinstance(stream, int) else stream
        constants = mixed._constants()
        before = [constant.tobytes() for constant in constants]
        counters = np.full(mixed.counter_count(view), 1 << 23, dtype=np.uint32)
        weights = np.full((2 + MIXED_STEPS) * MIXED_INPUTS, 20_480, dtype=np.int64)
        chosen = np.zeros(MIXED_INPUTS, dtype=np.uint64)
        inputs = np.zeros(MIXED_INPUTS, dtype=np.int64)
        written = (counters, weights, chosen, inputs, np.frombuffer(given, dtype=np.uint8))
        arrays = [Guarded(array) for array in (*written, np.array([-1]), signed)]
        inside = [array.inside for array in arrays]
        self.status = int(kernel(encodes, *view, *signs, *constants, *inside))
        for array in arrays:
            array.check()
        assert [constant.tobytes() for constant in constants] == before
        self.counters, self.weights = inside[0], inside[1]
        self.signed = inside[6]
        self.stream = inside[4].tobytes()
        self.stream_bytes = int(inside[5][0])
        if encodes:
            assert self.signed.tobytes() == signed.tobytes()
        else:
            assert self.stream == stream

    def left(self) -> tuple[object, ...]:
        """Return everything that the kernel has written, to be compared."""
        arrays = (self.counters, self.weights, self.signed)
        return (
            self.status,
            self.stream_bytes,
            self.stream,
            *[array.tobytes() for array in arrays],
        )


def both(view: MixedView, signs: Signs, stream: bytes | int, signed: NDArray[np.int8]) -> Run:
    """Run the kernel and its twin, which leave the same."""
    runs = [Run(kernel, view, signs, stream, signed) for kernel in KERNELS]
    assert runs[0].left() == runs[1].left()
    return runs[0]


def encoded(
    view: MixedView, signs: Signs, signed: NDArray[np.int8], kernel: Any = code_signed_indices
) -> bytes:
    """Encode with room enough."""
    run = Run(kernel, view, signs, 16 + 20 * signed.size, signed)
    assert run.status == OK
    assert set(run.stream[run.stream_bytes :]) <= {0xAA}
    return run.stream[: run.stream_bytes]


def size_of(view: MixedView) -> int:
    return math.prod(view[:3])


VIEWS = [
    *(mixed_view(shape) for shape in [(12, 20), (1, 150), (150, 1), (1, 1), (2, 2), (9, 7, 1, 1)]),
    *(mixed_view(shape) for shape in [(6, 5, 3, 3), (3, 3, 5, 5), (5, 6, 7), (4, 5, 4, 1)]),
    *(mixed_view(shape) for shape in [(1, 3, 3, 3), (3, 1, 3, 3), (3, 2, 2, 3, 4), (1, 1, 60)]),
    MixedView(4, 5, 6, 9),
]
SIGNS = [(1, 0), (0, 1), (1, 1), (3, 2), (0, 9), (17, 0), (64, 0), (1, 63), (32, 32)]


# --- kernel ----------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_kernel(view: MixedView) -> None:
    random = generator(sum(view))
    count = size_of(view)
    for number, signs in enumerate(SIGNS):
        density = (0.01, 0.1, 0.5, 0.9, 1.0)[number % 5]
        signed = draw(random, count, signs, density)
        run = both(view, signs, 16 + 20 * count, signed)
        assert run.status == OK
        stream = run.stream[: run.stream_bytes]
        again = both(view, signs, stream, np.full(count, 77, dtype=np.int8))
        assert (again.status, again.stream_bytes) == (OK, len(stream))
        assert again.signed.tobytes() == signed.tobytes()
        # Both have learnt the same.
        assert again.counters.tobytes() == run.counters.tobytes()
        assert again.weights.tobytes() == run.weights.tobytes()


@pytest.mark.parametrize("density", [0.01, 0.03, 0.1, 0.3, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("view", [mixed_view((20, 30)), mixed_view((8, 8, 3, 3))])
def test_densities(view: MixedView, density: float) -> None:
    signed = draw(generator(7), size_of(view), (3, 3), density)
    stream = encoded(view, (3, 3), signed)
    assert stream == encoded(view, (3, 3), signed, KERNELS[1])
    assert both(view, (3, 3), stream, np.zeros_like(signed)).signed.tobytes() == signed.tobytes()


@pytest.mark.parametrize("level_count", range(1, MAX_MIXED_LEVELS + 1))
def test_every_number_of_levels(level_count: int) -> None:
    random = generator(level_count)
    for positives in {0, level_count // 2, level_count}:
        signs = positives, level_count - positives
        indices = np.arange(-signs[1], signs[0] + 1, dtype=np.int8)
        signed = random.permutation(np.resize(indices, 12 * 9)).astype(np.int8)
        view = mixed_view((4, 3, 3, 3))
        stream = encoded(view, signs, signed)
        run = Run(code_signed_indices, view, signs, stream, np.zeros_like(signed))
        assert (run.status, run.signed.tolist()) == (OK, signed.tolist())


@pytest.mark.parametrize("view", [mixed_view((3, 4, 3, 3)), mixed_view((9, 10))])
def test_predictions_learn(view: MixedView) -> None:
    signed = np.zeros(size_of(view), dtype=np.int8)
    first = len(encoded(view, (1, 1), signed))
    random = draw(generator(1), signed.size, (1, 1), 0.5)
    assert first < len(encoded(view, (1, 1), random)) / 2


@pytest.mark.parametrize("view", [mixed_view((7, 9)), mixed_view((3, 4, 3, 3)), VIEWS[-1]])
def test_counters_are_all_that_is_used(view: MixedView) -> None:
    used = set()

    def predict(chosen: NDArray[np.int64], input_count: int, *others: Any) -> Any:
        used.update(chosen[:input_count].tolist())
        return twin(_predict)(chosen, input_count, *others)

    kernel = twin(code_signed_indices, _predict=predict)
    random = generator(4)
    for signs in ((9, 9), (0, 9)):
        for density in (0.5, 1.0):
            encoded(view, signs, draw(random, size_of(view), signs, density), kernel)
    encoded(view, (9, 9), np.full(size_of(view), 9, dtype=np.int8), kernel)
    assert min(used) == 0
    # The counters at the other end are those of the largest neighbours.
    far = view.row_count > 2 if view.place_count == 1 else view.kernel_width < view.place_count
    assert max(used) + 1 == mixed.counter_count(view) - (0 if far else 3)


def test_wrong_after_long_certainty() -> None:
    """Certain decisions drive weights far, and each of the others is as wrong as can be."""
    view, signs = mixed_view((40, 25)), (64, 0)
    # The twin works with NumPy's integers, which do not overflow in silence.
    signed = np.concatenate([np.full(700, 64), np.resize([0, 64, 1, 64], 300)]).astype(np.int8)
    run = both(view, signs, 1 << 16, signed)
    assert run.status == OK
    stream = run.stream[: run.stream_bytes]
    again = Run(code_signed_indices, view, signs, stream, np.zeros_like(signed))
    assert (again.status, again.signed.tobytes()) == (OK, signed.tobytes())
    assert abs(run.weights).max() > 5 * 20_480


@pytest.mark.parametrize("run_length", [1, 300, 1 << 16, 1 << 18])
@pytest.mark.parametrize("shape", [(512, 1024), (1, 1, 1 << 19), (1 << 10, 1 << 5, 4, 4)])
def test_largest_tensors_stay_within_bounds(shape: tuple[int, ...], run_length: int) -> None:
    view, signs = mixed_view(shape), (32, 32)
    signed = np.zeros(MAX_MIXED_ELEMENTS, dtype=np.int8)
    turns = np.arange(MAX_MIXED_ELEMENTS) // run_length % 4
    signed[turns == 1], signed[turns == 3] = 32, -32
    stream = encoded(view, signs, signed)
    run = Run(code_signed_indices, view, signs, stream, np.zeros_like(signed))
    assert (run.status, run.signed.tobytes()) == (OK, signed.tobytes())
    assert 0 <= run.counters.min() <= run.counters.max() < 1 << 24
    assert MIXED_INPUTS * 2047 * int(abs(run.weights).max()) < 1 << 52


# --- constants -------------------------------------------------------------------------------


def test_logistic() -> None:
    nearest = [round(2**16 / (1 + math.exp(-k / 2))) for k in range(-16, 17)]
    assert [*mixed._LOGISTIC] == nearest


def test_constants() -> None:
    constants, knots = mixed._constants(), mixed._LOGISTIC
    squashed = {}
    for logit in range(-2048, 2048):
        knot, rest = divmod(logit + 2048, 128)
        squashed[logit] = (knots[knot] * (128 - rest) + knots[knot + 1] * rest + 64) >> 7
    assert constants.squash.tolist() == [*squashed.values()]
    assert [*squashed.values()] == sorted(squashed.values())
    assert constants.stretch.shape == (4096,)
    for index, logit in enumerate(constants.stretch.tolist()):
        middle = 16 * index + 8
        assert squashed[logit] >= middle or logit == 2047
        assert logit == -2047 or squashed[logit - 1] < middle
    assert constants.rates.tolist() == [2**17 // (2 * seen + 3) for seen in range(256)]


# --- carries and room ------------------------------------------------------------------------


@pytest.mark.parametrize("zeros", range(1, 9))
def test_carry_through_full_bytes(zeros: int) -> None:
    """Just above a number that ends with bytes of zero, the sum is just below until the end."""
    view, signs = mixed_view((30, 30)), (2, 2)
    count = size_of(view)
    carries = []

    def carry(stream: NDArray[np.uint8], position: int) -> int:
        written = stream[: int(position)].tobytes()
        carries.append(len(written) - len(written.rstrip(b"\xff")))
        return int(twin(_carry)(stream, position))

    random = generator(zeros)
    head = encoded(view, signs, draw(random, count, signs, 0.5))[:20]
    wanted = head + bytes(zeros) + random.bytes(400)
    run = both(view, signs, wanted, np.zeros(count, dtype=np.int8))
    assert run.status == STREAM_TOO_LONG
    stream = encoded(view, signs, run.signed)
    assert stream[: 20 + zeros] == wanted[: 20 + zeros]
    assert encoded(view, signs, run.signed, twin(code_signed_indices, _carry=carry)) == stream
    assert max(carries) >= zeros - 1
    again = both(view, signs, stream, np.zeros(count, dtype=np.int8))
    assert (again.status, again.signed.tobytes()) == (OK, run.signed.tobytes())


def test_carry() -> None:
    for kernel in (_carry, twin(_carry)):
        for before, after in (("00", "01"), ("1fffff", "200000"), ("fffe", "ffff"), ("ff", "00")):
            number = np.frombuffer(bytearray.fromhex(before + "ff"), dtype=np.uint8)
            assert kernel(number, np.uint64(number.size - 1)) == OK
            assert number.tobytes().hex() == after + "ff"
        assert kernel(np.zeros(0, dtype=np.uint8), np.uint64(0)) == OK


@pytest.mark.parametrize("view", [mixed_view((5, 8)), mixed_view((2, 2, 3, 3))])
def test_room(view: MixedView) -> None:
    signed = draw(generator(5), size_of(view), (3, 3), 0.6)
    stream = encoded(view, (3, 3), signed)
    for room in range(len(stream)):
        assert both(view, (3, 3), room, signed).status == STREAM_TOO_SHORT
    exact = both(view, (3, 3), len(stream), signed)
    assert (exact.status, exact.stream) == (OK, stream)


# --- damaged streams -------------------------------------------------------------------------


@pytest.mark.parametrize("signs", [(2, 0), (3, 3)])
@pytest.mark.parametrize("view", [mixed_view((5, 9)), mixed_view((2, 2, 3, 3)), VIEWS[-1]])
def test_damaged_streams(view: MixedView, signs: Signs) -> None:
    random = generator(sum(signs))
    count = size_of(view)
    stream = encoded(view, signs, draw(random, count, signs, 0.5))
    damaged = [stream[:length] for length in range(len(stream))]
    damaged += [stream + bytes(extra) for extra in (1, 2, 40)]
    damaged += [bytes(length) for length in range(60)]
    damaged += [b"\xff" * length for length in (3, 4, 5, 60)]
    damaged += [b"\xff\xff\xff\xfe" + b"\xff" * length for length in range(0, 60, 4)]
    for _ in range(60):
        changed = bytearray(stream)
        changed[int(random.integers(len(changed)))] ^= 1 << int(random.integers(8))
        damaged.append(bytes(changed))
        damaged.append(random.bytes(int(random.integers(0, 2 * len(stream)))))
    seen = []
    for data in damaged:
        run = both(view, signs, data, np.zeros(count, dtype=np.int8))
        if run.status == OK:
            # The stream of other indices, then, and the only one.
            assert encoded(view, signs, run.signed) == data != stream
        seen.append(run.status)
    assert set(seen) == {OK, STREAM_TOO_SHORT, STREAM_TOO_LONG, BAD_STATE}
    assert seen.count(OK) < 5


@pytest.mark.parametrize("first", [b"\xff\xff\xff\xff", b"\xff\xff\xff\xfe"])
def test_no_value_beyond_the_range(first: bytes) -> None:
    """All decisions are zeros for the greatest value, which never becomes 0."""
    view = mixed_view((1, 1))
    run = both(view, (1, 0), first, np.ones(1, dtype=np.int8))
    assert run.status == BAD_STATE
    assert run.signed.tolist() == [1 if first[3] == 0xFF else 0]


@pytest.mark.parametrize("signs", [(1, 0), (0, 64), (2, 2)])
def test_all_decisions_are_ones_for_zeros(signs: Signs) -> None:
    """The sum never grows, so every stream of zeros is that of the greatest indices."""
    view = mixed_view((6, 7))
    greatest = signs[0] or -signs[1]
    stream = encoded(view, signs, np.full(42, greatest, dtype=np.int8))
    assert set(stream) == {0}
    run = both(view, signs, stream, np.zeros(42, dtype=np.int8))
    assert (run.status, set(run.signed.tolist())) == (OK, {greatest})


# --- tensors ---------------------------------------------------------------------------------


def saved(tensors: dict[str, Any], *, fast_load: bool = False) -> bytes:
    stream = io.BytesIO()
    spq.save(tensors, stream, fast_load=fast_load)
    return stream.getvalue()


def file_of(tensor: EncodedTensor) -> bytes:
    return b"".join(serialise({"w": tensor}, {}, {}, {}))


def few(
    patterns: NDArray[np.generic], shape: tuple[int, ...], density: float = 0.3, seed: int = 3
) -> NDArray[np.generic]:
    """Elements among some bit patterns, small ones more often; some rows are denser."""
    random = generator(seed)
    count = math.prod(shape)
    chosen = patterns[(patterns.size * random.random(count) ** 4).astype(np.int64)]
    uneven = np.repeat(random.random(shape[0]) ** 2, count // shape[0])
    return np.where(random.random(count) < 2 * density * uneven, chosen, 0).astype(patterns.dtype)


LEVELS = {
    DType.F64: np.array([0.5, 0.1, -0.25, -1e-300], dtype="f8").view("u8"),
    DType.F32: np.array([0.5, 0.1, -0.25, -1e-30], dtype="f4").view("u4"),
    DType.F16: np.array([0.5, 0.1, -0.25, -1e-7], dtype="f2").view("u2"),
    DType.BF16: np.array([0x3F00, 0x3DCD, 0xBE80, 0x8D01], dtype="u2"),
}
ODD = {
    DType.F64: [1 << 63, 0x7FF0 << 48, 0xFFF0 << 48, 1, 0x7FF0_0000_0000_0001, 0xFFFF << 40],
    DType.F32: [0x80000000, 0x7F800000, 0xFF800000, 1, 0x7F800001, 0xFFC12345, 0x807FFFFF],
    DType.F16: [0x8000, 0x7C00, 0xFC00, 1, 0x7C01, 0xFE55, 0x83FF],
    DType.BF16: [0x8000, 0x7F80, 0xFF80, 1, 0x7F81, 0xFFC1, 0x807F],
}
SHAPES = [
    *((30, 40), (1, 1300), (1300, 1)),
    *((12, 10, 3, 3), (6, 8, 5, 5), (9, 10, 13), (5, 3, 4, 4, 4)),
]


def check(bits: NDArray[np.generic], dtype: DType, shape: tuple[int, ...]) -> None:
    """Encode a tensor, which becomes mixed, decode and compare."""
    elements = bits.view(dtype.numpy).reshape(shape)
    tensor = encode_tensor(elements, dtype, fast_load=False)
    assert tensor.encoding is Encoding.MIXED
    with spq.open(file_of(tensor)) as archive:
        archive.verify()
        assert archive.info("w").encoding == "mixed"
        assert archive.info("w").dtype == dtype.label
        again = archive.get_tensor("w")
    assert (again.dtype, again.shape) == (dtype.numpy, shape)
    assert again.tobytes() == elements.tobytes()
    assert again.flags.writeable
    assert again.flags.c_contiguous


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_round_trip(dtype: DType, shape: tuple[int, ...]) -> None:
    check(few(LEVELS[dtype], shape), dtype, shape)
    check(few(LEVELS[dtype][:1], shape), dtype, shape)
    check(few(LEVELS[dtype][2:], shape), dtype, shape)


@pytest.mark.parametrize("dtype", FLOATS)
def test_odd_levels(dtype: DType) -> None:
    """NaNs keep their payloads, zeros their signs; infinities and subnormals are kept."""
    patterns = np.array(ODD[dtype], dtype=f"u{dtype.item_bytes}")
    check(few(patterns, (20, 50)), dtype, (20, 50))
    # Zero is no level of this one, negative zero is.
    check(few(patterns, (50, 30)) | patterns[0], dtype, (50, 30))


@pytest.mark.parametrize("level_count", [1, 2, 7, 33, MAX_MIXED_LEVELS])
def test_numbers_of_levels(level_count: int) -> None:
    levels = np.sort(generator(level_count).normal(size=level_count).astype("f4").view("u4"))
    bits = few(levels, (60, 70))
    bits[:level_count] = levels
    check(bits, DType.F32, (60, 70))


def test_saved_tensors() -> None:
    tensors: dict[str, Any] = {
        dtype.label: few(LEVELS[dtype], (30, 50)).view(dtype.numpy).reshape(30, 50)
        for dtype in (DType.F64, DType.F32, DType.F16)
    }
    halves = few(LEVELS[DType.BF16], (40, 9, 3, 3)).view("i2").reshape(40, 9, 3, 3)
    tensors["bf16"] = torch.from_numpy(halves).view(torch.bfloat16)
    with spq.open(saved(tensors)) as archive:
        archive.verify()
        assert {archive.info(name).encoding for name in tensors} == {"mixed"}
        assert {archive.info(name).dtype for name in tensors} == set(tensors)
        found = archive.tensors()
    assert found["bf16"].tobytes() == halves.tobytes()
    state = spq.load_state_dict(saved(tensors))
    assert torch.equal(state["bf16"].view(torch.int16), torch.from_numpy(halves))
    for name in ("f64", "f32", "f16"):
        assert found[name].dtype == tensors[name].dtype
        assert found[name].tobytes() == tensors[name].tobytes()
        assert state[name].numpy().tobytes() == tensors[name].tobytes()


@pytest.mark.parametrize("source", FLOATS)
@pytest.mark.parametrize("target", FLOATS)
def test_decoding_is_converting(source: DType, target: DType) -> None:
    patterns = np.array([*ODD[source], *LEVELS[source].tolist()], dtype=f"u{source.item_bytes}")
    bits = few(patterns, (30, 40))
    elements = bits.view(source.numpy).reshape(30, 40)
    tensor = encode_tensor(elements, source, fast_load=False)
    assert tensor.encoding is Encoding.MIXED
    with spq.open(file_of(tensor)) as archive:
        found = archive.tensors(dtypes={"w": target.label})["w"]
    assert found.dtype == target.numpy
    assert found.tobytes() == conversion(source, target)(bits).tobytes()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_state_dicts_of_another_type(dtype: torch.dtype) -> None:
    array = few(LEVELS[DType.F32], (30, 40)).view("f4").reshape(30, 40)
    state = spq.load_state_dict(saved({"w": array}), dtype=dtype)
    assert torch.equal(state["w"], torch.from_numpy(array).to(dtype))


def network() -> dict[str, NDArray[Any]]:
    """Tensors that become mixed, with others between them."""
    random = generator(6)
    tensors: dict[str, NDArray[Any]] = {}
    for number, shape in enumerate([*SHAPES, (300, 200), (64, 32, 3, 3)]):
        bits = few(LEVELS[DType.F32], shape, seed=number)
        tensors[f"{number}.weight"] = bits.view("f4").reshape(shape)
        tensors[f"{number}.bias"] = random.normal(size=shape[0]).astype("f4")
    return tensors


@pytest.mark.parametrize("threads", [None, 1, 2, 8])
def test_any_number_of_threads(threads: int | None) -> None:
    tensors = network()
    with spq.open(saved(tensors)) as archive:
        encodings = [archive.info(name).encoding for name in tensors]
        assert encodings.count("mixed") == len(tensors) // 2
        found = archive.tensors(threads)
    for name, array in tensors.items():
        assert found[name].tobytes() == array.tobytes(), name


def test_same_tensors_same_bytes() -> None:
    tensors = network()
    copies = {name: array.copy() for name, array in reversed(tensors.items())}
    assert saved(tensors) == saved(copies)


# --- when it is taken ------------------------------------------------------------------------


def encoding_of(array: NDArray[Any], *, fast_load: bool = False) -> str:
    with spq.open(saved({"w": array}, fast_load=fast_load)) as archive:
        assert archive.get_tensor("w").tobytes() == array.tobytes()
        return archive.info("w").encoding


def test_only_where_it_is_asked_for() -> None:
    tensors = network()
    plain = io.BytesIO()
    spq.save(tensors, plain)
    assert plain.getvalue() == saved(tensors, fast_load=True)
    with spq.open(plain.getvalue()) as archive:
        assert "mixed" not in {archive.info(name).encoding for name in tensors}
    assert len(saved(tensors)) < len(plain.getvalue())


def test_only_where_it_is_smaller() -> None:
    seen = []
    for seed, density in enumerate((0.01, 0.05, 0.2, 0.5, 0.5, 0.5)):
        for shape in [(2, 1), (3, 2), (2, 9), (8, 8), (5, 3, 3, 3), (40, 50), (1000, 300)]:
            levels = generator(seed).normal(size=1 + 4 * seed).astype("f4").view("u4")
            array = few(levels, shape, density, seed).view("f4").reshape(shape)
            both_files = [saved({"w": array}, fast_load=fast) for fast in (True, False)]
            with spq.open(both_files[1]) as archive:
                is_mixed = archive.info("w").encoding == "mixed"
            if is_mixed:
                assert len(both_files[1]) < len(both_files[0])
            else:
                assert both_files[0] == both_files[1]
            seen.append(is_mixed)
    assert 3 < seen.count(True) < len(seen) - 3


@pytest.mark.parametrize(("least", "is_mixed"), [(0.0, True), (0.9, False)])
def test_only_where_it_saves_enough(
    least: float, is_mixed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = next(iter(network().values()))
    static, smallest = (saved({"w": weights}, fast_load=fast) for fast in (True, False))
    assert 0.1 * len(static) < len(smallest) < len(static)
    monkeypatch.setattr(encode, "_MIXED_MIN_GAIN", least)
    assert (encoding_of(weights) == "mixed") is is_mixed


def test_small_networks_are_decoded_by_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their elements take many times the work of others; a single one leaves nothing to share."""
    started: list[int] = []
    together = decode._Crew.work_together

    def counted(crew: decode._Crew, worker_count: int) -> None:
        started.append(worker_count)
        together(crew, worker_count)

    monkeypatch.setattr(decode._Crew, "work_together", counted)
    monkeypatch.setattr(decode, "processor_count", lambda: 2)
    weights = few(generator(3).normal(size=7).astype("f4").view("u4"), (200, 100), 0.5, 1)
    matrix = weights.view("f4").reshape(200, 100)
    for count, expected in ((1, []), (2, [2])):
        tensors = {str(number): matrix + np.float32(0) for number in range(count)}
        with spq.open(saved(tensors)) as archive:
            assert {archive.info(name).encoding for name in tensors} == {"mixed"}
            archive.tensors()
        assert started == expected


def test_noise_of_a_large_tensor_is_not_mixed() -> None:
    """Static tables cost little there, and nothing can be learnt."""
    random = generator(8)
    levels = random.normal(size=16).astype("f4")
    assert encoding_of(levels[random.integers(0, 16, (700, 700))]) == "dense"


@pytest.mark.parametrize("fits", [True, False])
def test_what_does_not_fit(fits: bool) -> None:
    """The same elements, once within the limits and once beyond."""
    levels = np.arange(1, MAX_MIXED_LEVELS + (1 if fits else 2)).astype("f4") * np.float32(0.37)
    many = few(levels.view("u4"), (60, 50)).view("f4").reshape(60, 50)
    many[0] = np.resize(levels, 50)
    many[1] = np.resize(levels[50:], 50)
    assert (encoding_of(many) == "mixed") is fits
    two = few(LEVELS[DType.F32], (1024, 513)).view("f4")
    rows = MAX_MIXED_ELEMENTS // 1024 + (0 if fits else 1)
    assert (encoding_of(two.reshape(-1)[: 1024 * rows].reshape(rows, 1024)) == "mixed") is fits
    flat = few(LEVELS[DType.F32], (40, 50)).view("f4")
    assert (encoding_of(flat.reshape((40, 50) if fits else 2000)) == "mixed") is fits
    assert (encoding_of(flat.reshape(40, 50).view("f4" if fits else "i4")) == "mixed") is fits


@pytest.mark.parametrize("dtype", [dtype for dtype in DType if dtype not in FLOATS])
def test_integers_are_not_mixed(dtype: DType) -> None:
    bits = few(np.array([1], dtype=f"u{dtype.item_bytes}"), (40, 50))
    assert encoding_of(bits.view(dtype.numpy).reshape(40, 50)) != "mixed"


@pytest.mark.parametrize("shape", [(), (0,), (0, 5), (3, 0, 3, 3), (1,), (1, 1)])
def test_empty_and_single(shape: tuple[int, ...]) -> None:
    assert encoding_of(np.ones(shape, dtype="f4")) in ("raw", "constant")


# --- damaged files ---------------------------------------------------------------------------


def refusal(parts: list[bytes], shape: tuple[int, ...], elements: bytes) -> Reason | None:
    """Decode handmade parts; return the reason of the refusal, if any."""
    tensor = EncodedTensor(DType.F32, Encoding.MIXED, shape, zlib.crc32(elements), parts)
    with spq.open(file_of(tensor)) as archive:
        try:
            archive.get_tensor("w")
            archive.verify()
        except SpqError as error:
            return error.code
    return None


def test_refused_chunks() -> None:
    array = few(LEVELS[DType.F32], (9, 20)).view("f4").reshape(9, 20)
    tensor = encode_tensor(array, DType.F32, fast_load=False)
    assert tensor.encoding is Encoding.MIXED
    tables, chunk = tensor.parts
    assert refusal([tables, chunk], (9, 20), array.tobytes()) is None
    damaged = [chunk[:length] for length in range(len(chunk))]
    damaged += [chunk + b"\0", b"\0" + chunk, bytes(len(chunk)), b"\xff" * len(chunk)]
    for changed in damaged:
        assert refusal([tables, changed], (9, 20), array.tobytes()) is Reason.BAD_STREAM
    assert refusal([tables, chunk], (10, 20), array.tobytes()) is Reason.BAD_STREAM
    assert refusal([tables, chunk], (20, 9), array.tobytes()) is Reason.BAD_STREAM
    assert refusal([tables, chunk], (180,), array.tobytes()) is Reason.BAD_TABLES
    assert refusal([tables, chunk, chunk], (9, 20), array.tobytes()) is Reason.BAD_TABLES
    assert refusal([tables, chunk], (9, 20), b"other") is Reason.CHECKSUM_MISMATCH
