"""Valid files at the limits of the format: lanes, classes, contexts, levels and numbers."""

from collections.abc import Sequence

import builders as b
from builders import file_of, raw
from valid_files import F32, I16, U8, Valid, View, dense, planes, sparse, valid

U16 = 9


def _rare(count: int, every: int) -> list[int]:
    """Return zeros with a one now and then."""
    return [int(at % every == every // 2) for at in range(count)]


def _lanes() -> list[tuple[str, Valid]]:
    """Streams of one lane and of eight, of every kind."""
    levels, skewed = [7, 9], [250, 6]
    table = (b.explicit(skewed), skewed)

    def of(name: bytes, count: int) -> b.Tensor:
        codebook = b.full(levels, 1)
        return dense(name, U8, codebook, levels, _rare(count, 97), 8, 1 << 16, 8, table)

    masks = [[4000, 96], [3900, 196]]
    view = View(
        100,
        1,
        1,
        90,
        (),
        [int(column % 3 == 0) for column in range(100)],
        b"\0\1",
        8,
        12,
        (b"".join(map(b.explicit, masks)), masks),
    )
    rows = View(8, 8, 8, 8192, [int(row % 2) for row in range(8192)], (), b"\0\0", 8, 15)
    return [
        (
            "lanes_at_the_limit",
            valid(
                "8191, 8192, 8193 and 8199 symbols: one lane, eight, and eight of unlike length",
                of(b"a", 8191),
                of(b"b", 8192),
                of(b"c", 8193),
                of(b"d", 8199),
            ),
        ),
        (
            "lanes_of_a_mask",
            valid(
                "a mask of eight lanes under two contexts",
                sparse(b"w", U8, (90, 100), [5, 6], _rare(9000, 61), view),
            ),
        ),
        (
            "lanes_of_values",
            valid(
                "values of eight lanes",
                sparse(b"w", U8, (8200,), [5], [1] * 8200, View(8200, 8, 8)),
            ),
        ),
        (
            "lanes_of_classes",
            valid(
                "classes of 8192 rows in eight lanes, and contexts of which one serves all pairs",
                sparse(b"w", U8, (8192, 8), [5], [0] * 65536, rows),
            ),
        ),
        (
            "lanes_of_planes",
            valid(
                "planes of eight lanes, the last chunk with one",
                planes(b"w", I16, [at % 2 for at in range(8200)], [True, True], 8192),
            ),
        ),
    ]


def _tables() -> list[tuple[str, Valid]]:
    """As many classes, contexts and levels as there may be."""
    marks = [at % 3 % 2 for at in range(16 * 16)]
    wide = [257 * level for level in range(256)]
    coded: Sequence[int] = [255, 0, 128, 255, 1]
    certain = [1 << 15, *[0] * 255]
    return [
        (
            "contexts_64",
            valid(
                "16 classes of rows, 4 of units, and 64 contexts",
                sparse(
                    b"w",
                    U8,
                    (16, 16),
                    [5],
                    marks,
                    View(16, 4, 4, 16, range(16), range(4), bytes(range(64)), 8, 6),
                ),
            ),
        ),
        (
            "classes_of_columns",
            valid(
                "16 classes of columns in falling order, so that a stable sort turns them round",
                sparse(
                    b"w",
                    U8,
                    (16, 16),
                    [5],
                    marks,
                    View(16, 3, 1, 5, (), [15 - at for at in range(16)], bytes([0, 1] * 8), 4),
                ),
            ),
        ),
        (
            "levels_256",
            valid(
                "256 levels, most of which no element has",
                dense(b"dense", U16, b.full(wide, 2), wide, coded, 8),
                sparse(
                    b"sparse",
                    U16,
                    (9,),
                    [256 * at + 1 for at in range(256)],
                    [256, 0, 0, 1, 0, 128, 0, 0, 2],
                    View(9, 9, 9),
                ),
            ),
        ),
        (
            "levels_16",
            valid(
                "16 levels of indices of four bits",
                sparse(b"w", U8, (17,), range(1, 17), range(17), View(17, 5, index_bits=4)),
            ),
        ),
        (
            "certain_planes",
            valid(
                "chunks without a word: only the initial state",
                dense(
                    b"d",
                    U16,
                    b.full(wide, 2),
                    wide,
                    [0] * 20,
                    8,
                    8,
                    15,
                    (b.explicit(certain), certain),
                ),
                planes(b"p", U16, [0x0102] * 20, [True, True], 8),
            ),
        ),
        (
            "uniform_limits",
            valid(
                "uniform levels at both ends of exponent and integer",
                dense(
                    b"high",
                    F32,
                    b.uniform(102, (1 << 24) - 1, 2),
                    [0x7E7FFFFF, 0x7E800000],
                    [0, 1, 1],
                    8,
                ),
                dense(
                    b"low",
                    F32,
                    b.uniform(-126, -1, 3),
                    [0x80800000, 0, 0x00800000],
                    [0, 1, 2, 2],
                    8,
                ),
                dense(
                    b"negative",
                    F32,
                    b.uniform(0, -(1 << 24), 2),
                    [0xCB800000, 0xCB7FFFFF],
                    [0, 1, 1],
                    8,
                ),
            ),
        ),
    ]


def _sections() -> list[tuple[str, Valid]]:
    """Empty programs, long values and numbers that only look wrong."""
    w = raw(b"w", U8, (1,), b"\7")
    value = "v" * 200
    return [
        (
            "empty_program",
            Valid(
                "a stored program of no byte and an empty frame",
                file_of(
                    w,
                    programs=b.programs_of(
                        b.Program(b"a", b""),
                        b.Program(b"b", b"\x28\xb5\x2f\xfd\x20\0\1\0\0", 1, 0),
                    ),
                ),
                [w],
                {},
                {"a": b"", "b": b""},
            ),
        ),
        (
            "long_value",
            Valid(
                "keys and values longer than 127 bytes",
                file_of(
                    metadata=b.metadata_of(b.text(b"k" * 1024) + b.text(value.encode())),
                ),
                [],
                {"k" * 1024: value},
            ),
        ),
        (
            "version_minor_65535",
            Valid(
                "the greatest minor version and all optional features",
                file_of(w, header=b.Header(version_minor=65535, optional=(1 << 64) - 1)),
                [w],
            ),
        ),
    ]


def files() -> dict[str, Valid]:
    """Return the files by name."""
    return dict([*_lanes(), *_tables(), *_sections()])
