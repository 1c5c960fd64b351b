"""Mixed tensors (6.6), valid and invalid."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import builders as b
from builders import Tensor, file_of, mixed_stream, number
from invalid_files import Invalid
from valid_files import BF16, F16, F32, I8, ODD, Valid, elements_of, valid

F64 = 0
CARRIES_FROM = 4  # a seed whose stream has a carry that runs through a byte 255


def mixed(
    name: bytes,
    dtype: int,
    shape: tuple[int, ...],
    levels: Sequence[int],
    signed: Sequence[int],
    codebook: bytes | None = None,
) -> Tensor:
    """Return a mixed tensor of signed indices; the codebook is a full one unless it is given."""
    width = b.ITEM_BYTES[dtype]
    positive = [level for level in levels if level >> (8 * width - 1) == 0]
    negative = list(levels[len(positive) :])
    stream = mixed_stream(shape, signed, len(positive), len(negative)).written()
    # From behind, the first of the negative levels is the last.
    elements = elements_of([0, *positive, *reversed(negative)], signed, width)
    tables = b.full(levels, width) if codebook is None else codebook
    return Tensor(name, b.MIXED, dtype, shape, elements, (tables, stream))


def noise(seed: int, count: int) -> list[int]:
    """Return numbers below 2**31 that look random."""
    numbers = []
    for _ in range(count):
        seed = (seed * 0x5851F42D4C957F2D + 0x14057B7EF767814F) % (1 << 64)
        numbers.append(seed >> 33)
    return numbers


def drawn(seed: int, shape: tuple[int, ...], positive: int, negative: int) -> list[int]:
    """Return signed indices, a third of them not zero, small ones more often."""
    count = math.prod(shape)
    numbers = noise(seed, 2 * count)
    signed = []
    for value, sign in zip(numbers[::2], numbers[1::2], strict=True):
        is_positive = negative == 0 or (positive > 0 and sign % 5 < 3)
        most = positive if is_positive else negative
        size = min(value % most, value // 7 % most) + 1
        signed.append(0 if value % 11 > 3 else size if is_positive else -size)
    return signed


def ascending(dtype: int, positive: int, negative: int) -> list[int]:
    """Return levels: multiples of small numbers of either sign."""
    bits = 8 * b.ITEM_BYTES[dtype]
    steps = [(0x30 << (bits - 8)) + (at << (bits - 12)) for at in range(max(positive, negative))]
    return steps[:positive] + [step | 1 << (bits - 1) for step in steps[:negative]]


def tensor_of(
    name: str, shape: tuple[int, ...], positive: int, negative: int, dtype: int = F32
) -> Tensor:
    """Return a tensor of some levels of either sign."""
    signed = drawn(len(name) + sum(shape), shape, positive, negative)
    return mixed(name.encode(), dtype, shape, ascending(dtype, positive, negative), signed)


def _example() -> Tensor:
    """The tensor of 15.8."""
    levels = [0x3F00, 0x3F80, 0xBF00]
    patterns = [level << 16 for level in levels]
    return mixed(b"m", F32, (2, 3), patterns, [1, 0, 2, 0, -1, 0], b.halves(1, levels))


def _carry() -> Tensor:
    """Return a tensor in whose stream a carry runs through a byte 255."""
    shape = (3, 3, 3, 3)
    signed = drawn(CARRIES_FROM, shape, 3, 3)
    if max(mixed_stream(shape, signed, 3, 3).carries, default=0) == 0:
        raise ValueError("no carry runs through a byte 255")
    return mixed(b"w", F16, shape, ascending(F16, 3, 3), signed)


def _certain() -> Tensor:
    """Return a tensor in which one weight is left, at the end, against all predictions."""
    signed = [0] * 699 + [1]
    if 32 not in mixed_stream((1, 700), signed, 1, 0).probabilities:
        raise ValueError("no decision has the least probability")
    return mixed(b"w", F32, (1, 700), [0x3F800000], signed)


def _long() -> Tensor:
    """Return a tensor of two rows that begin with zeros and with ones; counters see their most."""
    tail = noise(9, 150)
    rows = [[0] * 500 + [int(value % 3 == 0) for value in tail], [1] * 500]
    rows[1] += [value % 5 % 3 for value in tail]
    return mixed(b"w", F16, (2, 650), [0x3C00, 0x4000], rows[0] + rows[1])


def _of_shapes() -> Iterator[Tensor]:
    """Views: kernels of one and of several places, of more and of fewer dimensions."""
    shapes = [(1, 1), (1, 23), (4, 5, 1, 1), (4, 5, 3), (5, 6), (2, 2, 2, 2, 3), (21, 1)]
    shapes += [(1, 1, 17), (3, 1, 1, 4, 1), (2, 3, *(1,) * 28, 2, 2)]
    for index, shape in enumerate(shapes):
        yield tensor_of(f"{index}{len(shape) * '.'}", shape, 3, 2)


def _of_codebooks() -> Iterator[Tensor]:
    """Codebooks of all kinds that are allowed."""
    shape = (3, 4, 2)
    bf, half = [0x3F80, 0x4000, 0x8000], [(0x3C00, 0x3F800000), (0x8001, 0xB3800000)]
    patterns = [level << 16 for level in bf]
    yield mixed(b"bfloat16", F32, shape, patterns, drawn(1, shape, 2, 1), b.halves(1, bf))
    halves = b.halves(2, [level for level, _ in half])
    patterns = [pattern for _, pattern in half]
    yield mixed(b"float16", F32, shape, patterns, drawn(2, shape, 1, 1), halves)
    yield mixed(b"full", F32, shape, patterns, drawn(3, shape, 1, 1))


def valid_files() -> dict[str, Valid]:
    """Return valid files by name."""
    odd = sorted(ODD)
    one = mixed(b"one", F32, (3, 3, 3), [0x3F800000], [0] * 13 + [1] + [0] * 13)
    made = {
        "example_15_8": valid("a mixed tensor, 15.8", _example()),
        "mixed_3x3": valid("kernels of 3 x 3", tensor_of("w", (6, 5, 3, 3), 3, 4)),
        "mixed_5x5": valid("kernels of 5 x 5", tensor_of("w", (3, 3, 5, 5), 5, 1)),
        "mixed_shapes": valid("views of all kinds", *_of_shapes()),
        "mixed_signs": valid(
            "levels of one sign or both, -0.0 among them, and one level",
            tensor_of("both", (4, 5, 3), 1, 1),
            mixed(b"minus", F16, (4, 9), [0x8000, 0x9000, 0xBC00], drawn(1, (4, 9), 0, 3)),
            mixed(b"minus zero", F32, (4, 9), [0x80000000], drawn(2, (4, 9), 0, 1)),
            tensor_of("one", (4, 5, 3), 1, 0),
            tensor_of("plus", (4, 5, 3), 4, 0),
        ),
        "mixed_64_levels": valid(
            "as many levels as there may be, of one sign or both",
            tensor_of("both", (3, 3, 2, 2), 31, 33, F16),
            tensor_of("minus", (3, 3, 2, 2), 0, 64, F16),
            mixed(b"plus", F16, (2, 2), ascending(F16, 64, 0), [64, 63, 0, 64]),
        ),
        "mixed_zeros": valid(
            "every element, none or all but one are zero",
            mixed(b"all", F32, (3, 3, 3), [0x3F800000], [0] * 27),
            mixed(b"no", F16, (4, 5), [0x3C00, 0xBC00], [1, -1, -1, 1, 1] * 4),
            one,
        ),
        "mixed_odd_floats": valid(
            "NaNs with payload, infinity, minus zero and a subnormal",
            mixed(b"w", F32, (4, 5, 3), odd, drawn(3, (4, 5, 3), 4, 2)),
        ),
        "mixed_codebooks": valid("codebooks of three kinds", *_of_codebooks()),
        "mixed_carry": valid("a carry through a byte 255", _carry()),
        "mixed_long": valid("counters that see more than they count", _long()),
        "mixed_certain": valid("a decision of the least probability", _certain()),
    }
    for dtype in (F64, F32, F16, BF16):
        label = b.DTYPES[dtype]
        tensors = (
            tensor_of("kernels", (3, 2, 3, 3), 2, 3, dtype),
            tensor_of("w", (4, 6), 2, 2, dtype),
        )
        made[f"mixed_{label}"] = valid(f"mixed tensors of type {label}", *tensors)
    return made


def _alone() -> Iterator[tuple[str, str, str, Tensor]]:
    """Tensors that are right but for one rule."""
    signed = [1, 0, -1, 0, 0, 2]
    good = mixed(b"w", F16, (2, 3), [0x3800, 0x3C00, 0xB800], signed)
    tables, stream = good.parts
    i8 = mixed(b"w", I8, (2, 3), [1, 2, 0xFF], signed)
    yield "dtype", "a mixed tensor of type i8", "bad_tables", i8
    many = mixed(b"w", F16, (2, 3), ascending(F16, 65, 0), [1, 0, 65, 0, 0, 2])
    yield "levels", "65 levels", "bad_tables", many
    quarters = [0x3E800000, 0x3F000000, 0x3F400000]
    uniform = mixed(b"w", F32, (2, 3), quarters, [1, 0, 3, 0, 0, 2], b.uniform(-2, 1, 3))
    yield "uniform", "a uniform codebook of a mixed tensor", "bad_tables", uniform
    zero = mixed(b"w", F16, (2, 3), [0, 0x3C00, 0xB800], [2, 0, -1, 0, 0, 2])
    yield "zero", "zero among the levels, which no element uses", "bad_tables", zero
    tailed = replace(good, parts=(tables + b"\0", stream))
    yield "tail", "a byte behind the tables of a mixed tensor", "bad_tables", tailed
    chunks = replace(good, parts=(tables, stream, b""))
    yield "chunks", "two chunks of a mixed tensor", "bad_tables", chunks
    longer = replace(good, parts=(tables, stream + b"\0"))
    yield "byte", "a byte behind the last decision", "bad_stream", longer
    end = number(int.from_bytes(stream, "big") + 1, len(stream))[::-1]
    yield "end", "a final value of 1", "bad_stream", replace(good, parts=(tables, end))


def _broken() -> Iterator[tuple[str, str, str, Tensor]]:
    """Tensors that break a rule, and others with it."""
    signed = [1, 0, -1, 0, 0, 2]
    good = mixed(b"w", F16, (2, 3), [0x3800, 0x3C00, 0xB800], signed)
    tables, stream = good.parts
    vector = replace(mixed(b"w", F16, (1, 6), [0x3800, 0x3C00, 0xB800], signed), shape=(6,))
    yield "rank_1", "a mixed tensor of one dimension", "bad_tables", vector
    count = (1 << 19) + 1
    large = replace(good, shape=(1, count), elements=bytes(2 * count), parts=(tables, b""))
    yield "elements", "a mixed tensor of 2**19 + 1 elements", "bad_tables", large
    cut = replace(good, parts=(tables, stream[:-1]))
    yield "cut", "the last byte of a mixed stream is missing", "bad_stream", cut
    three = replace(good, parts=(tables, stream[:3]))
    yield "three_bytes", "a mixed stream of three bytes", "bad_stream", three
    whole = replace(good, parts=(tables, b"\xff" * 4 + stream[4:]))
    yield "value", "a first value that is the range", "bad_stream", whole
    record = good.written()
    for place, part in enumerate((tables, stream)):
        wrong = replace(good, record=record.replace(b.crc(part), b.crc(part + b"\0")))
        yield f"stored_{place}", f"checksum of part {place}", "checksum_mismatch", wrong
    wrong = replace(good, record=record.replace(b.crc(good.elements), bytes(4)))
    yield "decoded", "checksum of mixed elements", "checksum_mismatch", wrong
    no_chunk = replace(good, parts=(tables,))
    yield "no_chunk", "a mixed tensor without a chunk", "bad_directory", no_chunk
    empty = replace(good, shape=(2, 0), elements=b"")
    yield "empty", "a mixed tensor without elements", "bad_directory", empty


def invalid_files() -> dict[str, Invalid]:
    """Return invalid files by name; those that begin with ``alone`` have no other fault."""
    groups = {"alone_mixed": _alone(), "mixed": _broken()}
    return {
        f"{prefix}_{name}": Invalid(purpose, reason, file_of(tensor))
        for prefix, group in groups.items()
        for name, purpose, reason, tensor in group
    }
