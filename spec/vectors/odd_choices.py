"""Valid files of choices that no encoder of this project makes."""

import struct
from collections.abc import Iterator

import builders as b
from builders import Tensor, file_of, raw
from valid_files import (
    CURVE,
    F32,
    I16,
    MINUS_ZERO,
    U8,
    WAVE,
    Table,
    Valid,
    View,
    dense,
    planes,
    sparse,
    valid,
)

F64 = 0
ONE = 0x3F800000
CHAIN = (9000, 7000, 40000)
NIBBLES = list(range(16))


def _binary32(integer: int, exponent: int) -> int:
    """Return the bit pattern of an integer times a power of two."""
    return int.from_bytes(struct.pack("<f", integer * 2.0**exponent), "little")


def _directory() -> Iterator[tuple[str, Valid]]:
    """Names, ties and shapes (5)."""
    names = ["B", "a", "a\t", "aa", "e\u0301", "\u00e9", "\uffee", "\U0001f600"]
    tensors = [raw(name.encode(), U8, (1,), bytes([at])) for at, name in enumerate(names)]
    yield (
        "names_in_order",
        valid("names in the order of their bytes, equal only when normalised", *tensors),
    )
    ties = [Tensor(b"%03d" % at, b.ALIAS, target=130) for at in range(130)]
    tied = raw(b"w", U8, (1,), b"\7")
    yield "many_ties", valid("a target whose number takes two bytes", *ties, tied)
    yield (
        "long_dimension",
        valid(
            "dimensions of 2**48 beside one of 0, and shapes of one element",
            raw(b"a", F64, (0, 1 << 48), b""),
            raw(b"b", F64, (1 << 48, 0, 0), b""),
            raw(b"c", U8, (1, 1, 1), b"\1"),
        ),
    )
    entries = {"\1\n": "\x1b[31m", "/../a": "\u202e", "\U0001f600": ""}
    body = b"".join(b.text(key.encode()) + b.text(value.encode()) for key, value in entries.items())
    yield (
        "metadata_control",
        Valid(
            "characters that steer terminals, and no tensor",
            file_of(metadata=b.metadata_of(body)),
            metadata=entries,
        ),
    )


def _codebooks() -> Iterator[tuple[str, Valid]]:
    """Levels of every kind (6.1)."""
    bf = [0x0000, 0x0001, 0x7F80, 0x7F81, 0x8000, 0xFF80, 0xFFFF]
    halves = [0x0000, 0x0001, 0x03FF, 0x7BFF, 0x8000, 0xFBFF]
    of_halves = [0, 0x33800000, 0x387FC000, 0x477FE000, MINUS_ZERO, 0xC77FE000]
    low = [_binary32(at - (1 << 24), -126) for at in range(256)]
    few = [0, 5, 1, 4, 2, 3, 0]
    yield (
        "codebook_values",
        valid(
            "bfloat16 levels that are no numbers, float16 subnormals, 256 uniform levels",
            dense(b"bfloat16", F32, b.halves(1, bf), [p << 16 for p in bf], [*few, 6], 4),
            dense(b"float16", F32, b.halves(2, halves), of_halves, few, 4),
            dense(b"uniform", F32, b.uniform(-126, -(1 << 24), 256), low, [255, 0, 1], 8),
        ),
    )
    row = [0, 0, 1, 0, 2, 0, 1, 0, 0]
    uniform = [0xC0000000, 0xBF800000]
    yield (
        "codebooks_of_sparse",
        valid(
            "short codebooks of sparse tensors, minus zero among the levels",
            sparse(
                b"bfloat16",
                F32,
                (9,),
                [p << 16 for p in bf[1:]],
                [6, *row[1:]],
                View(9, 3, codebook=b.halves(1, bf[1:])),
            ),
            sparse(
                b"float16",
                F32,
                (9,),
                of_halves[1:],
                [4, *row[1:]],
                View(9, 3, codebook=b.halves(2, halves[1:])),
            ),
            sparse(
                b"uniform",
                F32,
                (9,),
                uniform,
                row,
                View(9, 3, codebook=b.uniform(0, -2, 2), index_bits=4),
            ),
        ),
    )


def _tables() -> Iterator[tuple[str, Valid]]:
    """Kinds of tables where they are unusual (6.2)."""
    bits = [int(at % 7 == 0 or at % 3 == 0) for at in range(50)]
    bernoulli: Table = (10, b.bernoulli(9000, 8), b.chain((9000,) * 3, 8, 8, 10))
    markov: Table = (13, b.markov(*CHAIN, 8), b.chain(CHAIN, 8, 8, 13))
    flat: Table = (9, b.FLAT, [2] * 256)
    pair, sixteen = b.full([3, 9], 1), b.full(NIBBLES, 1)
    yield (
        "tables_anywhere",
        valid(
            "flat, Bernoulli and Markov tables of indices and planes; a flat one of one symbol",
            dense(b"a", U8, pair, [3, 9], bits, 1, 1 << 16, 10, bernoulli[1:]),
            dense(b"b", U8, sixteen, NIBBLES, WAVE[:9], 4, 1 << 16, 13, markov[1:]),
            dense(b"c", U8, sixteen, NIBBLES, WAVE[:9], 4, 1 << 16, 9, flat[1:]),
            dense(b"d", U8, b.full([7], 1), [7], [0] * 9, 8, 16, 1, (b.FLAT, [2])),
            dense(
                b"e",
                U8,
                pair,
                [3, 9],
                bits,
                8,
                16,
                8,
                (b.markov(*CHAIN, 1), b.chain(CHAIN, 1, 1, 8)),
            ),
            planes(b"f", U8, WAVE[:9], [True], 16, markov),
            planes(b"g", I16, WAVE[:9], [True, True], 16, flat),
        ),
    )
    # 5 classes of units, of which none has 3; 64 contexts, of which the last serves 17 pairs.
    pairs = [min(at, 63) for at in range(80)]
    kinds = b.markov(9000, 500, 30000, 2) + b.FLAT
    view = View(
        row_length=10,
        symbol_bits=2,
        unit_columns=2,
        rows_per_chunk=3,
        row_classes=[(5 * at) % 16 for at in range(15)],
        unit_classes=[4, 2, 0, 4, 1],
        contexts=bytes(pairs),
        freq_log2=5,
        mask_tables=(kinds * 32, [b.chain((9000, 500, 30000), 2, 2, 5), [8] * 4] * 32),
        value_table=(15, b.FLAT, [1 << 15]),
        row_table=(8, b.bernoulli(20000, 4), b.chain((20000,) * 3, 4, 4, 8)),
        unit_table=(7, b.explicit([60, 4, 30, 4, 30]), [60, 4, 30, 4, 30]),
    )
    fifths = [int(at % 5 == 0 or at % 11 == 0) for at in range(150)]
    yield (
        "classes_without_members",
        valid(
            "a Bernoulli table of 16 classes, classes and contexts that nothing has",
            sparse(b"w", I16, (150,), [0xFFFF], fifths, view),
        ),
    )
    # Seven symbols are equally frequent, and 4096 is no multiple of seven: the first has the rest.
    half = (1 << 15,) * 3
    written = b.bernoulli(half[0], 2) + b.markov(*half, 2)
    view = View(
        row_length=9,
        symbol_bits=3,
        unit_columns=3,
        rows_per_chunk=4,
        row_classes=[0, 1, 1, 0],
        contexts=b"\0\1",
        mask_tables=(written, [b.chain(half, 2, 3, 12)] * 2),
    )
    yield (
        "equal_frequencies",
        valid(
            "tables in which the first of several most frequent symbols takes what is left",
            sparse(b"w", U8, (36,), [5], [int(at % 3 == 1) for at in range(36)], view),
        ),
    )
    view = View(8, 3, mask_tables=(b.markov(1, 2, 3, 0), [b.only(8, s0=4096)]))
    yield (
        "markov_without_ones",
        valid("a Markov table of no ones", sparse(b"w", F32, (16,), [ONE], [0] * 16, view)),
    )


def _lanes() -> Iterator[tuple[str, Valid]]:
    """Contexts that change from lane to lane (7.2)."""
    # Squares modulo a prime have no period that lanes could share. Rows of class 0 are empty.
    classes = [int((row * row) % 37 < 6) for row in range(8200)]
    rows = [
        [row_class * int(at % 8 == row % 8) for at in range(8)]
        for row, row_class in enumerate(classes)
    ]
    view = View(
        row_length=8,
        symbol_bits=8,
        unit_columns=8,
        rows_per_chunk=8200,
        row_classes=classes,
        contexts=b"\0\1",
    )
    yield (
        "contexts_of_lanes",
        valid(
            "a mask of eight lanes whose contexts have no pattern",
            sparse(b"w", U8, (8200, 8), [5], [index for row in rows for index in row], view),
        ),
    )


def _rows() -> Iterator[tuple[str, Valid]]:
    """Rows that are short or few (6.4)."""
    levels, five = [1, 5, 9], [0, 3, 0, 1, 2]
    yield (
        "few_elements",
        valid(
            "fewer elements than a symbol has places, and than a chunk may have rows",
            sparse(b"w", U8, (5,), levels, five, View(5, 9, 9, 1000, index_bits=4)),
            sparse(b"x", U8, (5,), levels, five, View(5, 9, 1, 1000)),
        ),
    )
    # The last row has 10 of 16 columns; those of class 0 are the odd ones.
    in_order = View(16, 4, 1, 4, (), [1 - at % 2 for at in range(16)], b"\0\1")
    in_place = View(16, 4, 4, 4, (), [1, 0, 1, 0], b"\0\1", 4)
    yield (
        "short_row_in_order",
        valid(
            "a short last row of columns in order and in place",
            sparse(b"order", U8, (90,), levels, CURVE, in_order),
            sparse(b"place", U8, (90,), levels, CURVE, in_place),
        ),
    )


def files() -> dict[str, Valid]:
    """Return the files by name."""
    groups = (_directory, _codebooks, _tables, _lanes, _rows)
    return {name: file for group in groups for name, file in group()}
