"""Invalid files with no other fault than the broken rule, and rules that have no file elsewhere."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import builders as b
from builders import Program, Tensor, file_of, programs_of, raw, varint
from invalid_files import Invalid
from valid_files import BOOL, F32, I16, U8, View, dense, planes, sparse

I32, U16 = 6, 9


def _dense(
    codebook: bytes = b.full([7], 1),
    levels: Sequence[int] = (7,),
    indices: Sequence[int] = (0,) * 8,
    table: Sequence[int] = (256,),
    dtype: int = U8,
    index_bits: int = 8,
    chunk_elements: int = 8,
    freq_log2: int = 8,
    written: bytes | None = None,
) -> bytes:
    """Return a file of a dense tensor that is right except for what is given."""
    frequencies = list(table)
    pair = (b.explicit(frequencies) if written is None else written, frequencies)
    made = dense(
        b"w", dtype, codebook, levels, indices, index_bits, chunk_elements, freq_log2, pair
    )
    return file_of(made)


def _codebooks() -> Iterator[tuple[str, str, bytes]]:
    """Levels (6.1)."""
    one, two = b.number(0x3F800000, 4), b.number(0x40000000, 4)
    pair = {"indices": (0, 1, 1, 0, 1), "table": (128, 128)}

    def coded(codebook: bytes, levels: Sequence[int], dtype: int) -> bytes:
        return _dense(codebook, levels, pair["indices"], pair["table"], dtype)

    def first_of(codebook: bytes, levels: Sequence[int], index: int) -> bytes:
        return _dense(codebook, levels, (index,) * 5, pair["table"], F32)

    yield (
        "codebook_kind",
        "a codebook of kind 4 with two levels of f32",
        coded(b"\4\2" + one + two, [0x3F800000, 0x40000000], F32),
    )
    yield (
        "codebook_dtype",
        "bfloat16 levels of i32",
        coded(b.halves(1, [1, 2]), [1 << 16, 2 << 16], I32),
    )
    yield "codebook_order", "levels not in order", coded(b.full([4, 3], 1), [4, 3], U8)
    yield "codebook_twice", "a level twice", coded(b.full([3, 3], 1), [3, 3], U8)
    yield (
        "codebook_signed_order",
        "levels in the order of numbers, not of patterns",
        coded(b.full([0xBF800000, 0x3F800000], 4), [0xBF800000, 0x3F800000], F32),
    )
    yield "codebook_boolean", "a boolean level of 2", coded(b.full([1, 2], 1), [1, 2], BOOL)
    yield (
        "codebook_float16",
        "a float16 level that is infinite",
        coded(b.halves(2, [0x3C00, 0x7C00]), [0x3F800000, 0x7F800000], F32),
    )
    for name, exponent, first in (("high", 103, 1), ("low", -127, 2)):
        levels = [(127 + exponent) << 23, (128 + exponent) << 23]
        if exponent < 0:
            levels = [1 << 23, 3 << 22]  # twice and three times 2**-127
        yield (
            f"codebook_exponent_{name}",
            f"a uniform exponent of {exponent}",
            coded(b.uniform(exponent, first, 2), levels, F32),
        )
    end = 0x4B800000  # 2**24
    yield (
        "codebook_first_high",
        "a uniform level above 2**24 that no element uses",
        first_of(b.uniform(0, 1 << 24, 2), [end, end + 1], 0),
    )
    yield (
        "codebook_first_low",
        "a uniform level below -2**24 that no element uses",
        first_of(b.uniform(0, -(1 << 24) - 1, 2), [0, end | 1 << 31], 1),
    )


def _tables() -> Iterator[tuple[str, str, bytes]]:
    """Tables of dense tensors (6.2, 6.3.1)."""
    yield "freq_log2_0", "freq_log2 0 and a total of 1", _dense(table=(1,), freq_log2=0)
    yield (
        "freq_log2_16",
        "freq_log2 16 and a total of 2**16",
        _dense(table=(1 << 16,), freq_log2=16),
    )
    yield (
        "table_sum",
        "a slot without a symbol, which no state reaches",
        _dense(b.full([3, 4], 1), [3, 4], (0, 1, 1, 0, 1), (128, 127)),
    )
    certain = b.only(256, s0=256)
    split = b"\0" + varint(256) + b"\0\0" + b"\0" + varint(253)
    yield (
        "table_zeros",
        "a run of zeros that is split",
        _dense(table=certain, index_bits=1, written=split),
    )
    two = {"codebook": b.full([7, 9], 1), "written": b""}

    def masks(written: bytes, densities: tuple[int, int, int], max_ones: int) -> bytes:
        table = b.chain(densities, min(8, max_ones), 8, 12)
        zeros = (0,) * 16
        return _dense(
            two["codebook"], (7, 9), zeros, table, U8, 1, 16, freq_log2=12, written=written
        )

    yield (
        "bernoulli_density",
        "a Bernoulli density of zero with ones",
        masks(b.bernoulli(0, 3), (0, 0, 0), 3),
    )
    yield (
        "bernoulli_no_ones",
        "a Bernoulli density without ones",
        masks(b.bernoulli(9, 0), (9, 9, 9), 0),
    )
    yield (
        "bernoulli_ones",
        "nine ones in eight places",
        masks(b.bernoulli(9000, 9), (9000,) * 3, 9),
    )
    for place in range(3):
        first, zero, one = (0 if at == place else 9000 for at in range(3))
        yield (
            f"markov_density_{place}",
            f"density {place} of a Markov table is zero",
            masks(b.markov(first, zero, one, 3), (first, zero, one), 3),
        )
    yield (
        "missing_level",
        "a frequency for a symbol of a level that is missing, which does not occur",
        _dense(
            b.full([7, 9], 1),
            (7, 9),
            table=b.only(256, s0=128, s3=128),
            index_bits=4,
        ),
    )
    yield (
        "index_bits_few",
        "three levels of indices of one bit",
        _dense(b.full([7, 8, 9], 1), (7, 8, 9), table=certain, index_bits=1),
    )
    yield "table_tail", "a byte behind the tables", _dense(written=b.explicit([256]) + b"\0")
    yield "chunk_4", "chunk_elements 4", _dense(indices=(0,) * 12, chunk_elements=4)
    yield "chunk_large", "chunk_elements 2**24 + 8", _dense(chunk_elements=(1 << 24) + 8)


def _sparse_tables() -> Iterator[tuple[str, str, bytes]]:
    """Tables of sparse tensors (6.4)."""
    marks = [at % 3 % 2 for at in range(180)]

    def made(view: View, count: int, levels: Sequence[int] = (5,), dtype: int = U8) -> bytes:
        return file_of(sparse(b"w", dtype, (count,), levels, marks[:count], view))

    zero = sparse(b"w", U8, (18,), [0, 6], [2 * mark for mark in marks[:18]], View(9, 3))
    yield "zero_level", "zero among the levels, which no element uses", file_of(zero)
    yield "row_length_7", "rows of seven", made(View(7, 7), 14)
    yield "row_length_long", "a row longer than the tensor", made(View(10, 5), 9)
    yield (
        "rows_per_chunk_large",
        "chunks of 2**24 elements and more",
        made(View(9, 3, rows_per_chunk=1 << 23), 36),
    )
    yield "symbol_bits_10", "symbols of ten places", made(View(10, 10, 10), 20)
    yield (
        "classes_17",
        "17 classes of rows",
        made(View(9, 9, 1, 17, range(17), (), bytes(17)), 153),
    )
    yield (
        "contexts_65",
        "65 contexts",
        made(View(10, 2, 2, 13, range(13), range(5), bytes(range(65))), 130),
    )
    yield "sparse_index_bits_2", "indices of two bits", made(View(9, 3, index_bits=2), 18)
    yield (
        "sparse_index_bits_few",
        "17 levels of indices of four bits",
        made(View(9, 3, index_bits=4), 18, range(1, 18)),
    )
    certain = (b.explicit([1 << 16, 0]), [[1 << 16, 0]])
    yield (
        "mask_freq_log2_16",
        "mask_freq_log2 16",
        file_of(
            sparse(b"w", U8, (9,), [5], [0] * 9, View(9, 1, freq_log2=16, mask_tables=certain))
        ),
    )
    yield (
        "mask_freq_log2_0",
        "mask_freq_log2 0",
        file_of(
            sparse(
                b"w",
                U8,
                (9,),
                [5],
                [0] * 9,
                View(9, 1, freq_log2=0, mask_tables=(b.explicit([1, 0]), [[1, 0]])),
            )
        ),
    )
    for log2 in (0, 16):
        table = (log2, b.explicit([1 << log2]), [1 << log2])
        yield (
            f"value_freq_log2_{log2}",
            f"value_freq_log2 {log2}",
            made(View(9, 3, value_table=table), 18),
        )
    good = sparse(b"w", U8, (18,), [5], marks[:18], View(9, 3))
    tailed = replace(good, parts=(good.parts[0] + b"\0", *good.parts[1:]))
    yield "sparse_tail", "a byte behind the tables of a sparse tensor", file_of(tailed)


def _planes_tables() -> Iterator[tuple[str, str, bytes]]:
    """Tables of planes (6.5.1)."""
    yield (
        "planes_chunk_4",
        "planes in chunks of four",
        file_of(planes(b"w", U8, [0] * 8, [False], 4)),
    )
    yield (
        "planes_chunk_large",
        "planes in chunks of 2**24 + 8",
        file_of(planes(b"w", U8, [0] * 8, [False], (1 << 24) + 8)),
    )
    for log2 in (0, 16):
        table = b.only(256, s7=1 << log2)
        coded = b.text(b.stream([7] * 8, [table], log2))
        head = varint(8) + bytes([1, log2]) + b.explicit(table)
        yield (
            f"planes_freq_log2_{log2}",
            f"a plane of freq_log2 {log2}",
            file_of(Tensor(b"w", b.PLANES, U8, (8,), b"\7" * 8, (head, coded))),
        )
    good = planes(b"w", I16, [1, 2, 3], [False, True], 8)
    tailed = replace(good, parts=(good.parts[0] + b"\0", *good.parts[1:]))
    yield "planes_table_tail", "a byte behind the tables of planes", file_of(tailed)


def _streams() -> Iterator[tuple[str, str, bytes]]:
    """Streams and padding (6, 7)."""
    tables = b.full([7], 1) + b"\x08\x08\x08" + b.explicit([256])

    def certain(count: int, coded: bytes) -> bytes:
        return file_of(Tensor(b"w", b.DENSE, U8, (count,), b"\7" * count, (tables, coded)))

    start = b.number(1 << 32, 8)
    yield (
        "stream_state",
        "a state of 1 that a word makes right",
        certain(2, b.number(1, 8) + bytes(4)),
    )
    yield "stream_end", "a final state of 2**32 + 1", certain(3, b.number((1 << 32) + 1, 8))
    yield "stream_word", "a word that nobody needs", certain(3, start + bytes(4))
    yield "stream_byte", "a byte behind the words", certain(3, start + b"\0")
    lanes = b.full([7], 1) + b"\x08" + varint(8192) + b"\x08" + b.explicit([256])
    wrong = start * 7 + b.number((1 << 32) + 1, 8)
    yield (
        "stream_last_lane",
        "the last of eight lanes does not end in 2**32",
        file_of(Tensor(b"w", b.DENSE, U8, (8192,), b"\7" * 8192, (lanes, wrong))),
    )
    mask, pair = [128, 128], b.only(256, s0=1, s16=1)
    head = b.full([5, 6], 1) + b"\x08\1\1\1\1\1\x08" + b.explicit(mask)
    head += b"\4\1" + b.explicit(pair)
    places = b.stream([1, 0, 0, 1, 0, 0, 0, 1], [mask], 8)
    elements = bytes([5, 0, 0, 5, 0, 0, 0, 5])
    values = b.stream([0, 16], [pair], 1)
    yield (
        "padding_values",
        "an index behind the last value",
        file_of(Tensor(b"w", b.SPARSE, U8, (8,), elements, (head, b.text(places) + values))),
    )
    right = b.stream([0, 0], [pair], 1)
    yield (
        "values_word",
        "a word behind the values",
        file_of(
            Tensor(b"w", b.SPARSE, U8, (8,), elements, (head, b.text(places) + right + bytes(4)))
        ),
    )
    yield (
        "mask_word",
        "a word behind the mask",
        file_of(
            Tensor(b"w", b.SPARSE, U8, (8,), elements, (head, b.text(places + bytes(4)) + right))
        ),
    )
    plane = varint(8) + b"\1\x08" + b.explicit(b.only(256, s7=256))
    yield (
        "plane_word",
        "a word behind a coded plane",
        file_of(Tensor(b"w", b.PLANES, U8, (3,), b"\7" * 3, (plane, b.text(start + bytes(4))))),
    )
    yield (
        "plane_boolean",
        "a boolean of 2 in a coded plane",
        file_of(
            Tensor(
                b"w",
                b.PLANES,
                BOOL,
                (3,),
                b"\2" * 3,
                (varint(8) + b"\1\x08" + b.explicit(b.only(256, s2=256)), b.text(start)),
            )
        ),
    )


def _others() -> Iterator[tuple[str, Invalid]]:
    """Rules of other sections that hide behind no other."""
    head, tail = b"\0\x08\1\1" + b.crc(b"\7"), b"\1" + b.crc(b"\7")
    long = b"\x81" + b"\x80" * 8 + b"\0w"
    yield (
        "varint_10",
        Invalid(
            "a varint of ten bytes",
            "bad_directory",
            file_of(replace(raw(b"w", U8, (1,), b"\7"), record=long + head + tail)),
        ),
    )
    for name, kind in {"utf8": b"\xff", "nul": b"a\0", "empty": b"", "long": b"k" * 1025}.items():
        yield (
            f"program_kind_{name}",
            Invalid(
                "a kind that is no name",
                "bad_program",
                file_of(programs=programs_of(Program(kind, b"1"))),
            ),
        )
    yield (
        "program_short",
        Invalid("records of three bytes", "bad_program", file_of(programs=b.number(3, 4) + b"abc")),
    )
    yield (
        "program_limit",
        Invalid(
            "programs above the reader's limit",
            "limit_exceeded",
            file_of(programs=programs_of(Program(b"onnx", b"", 1, (256 << 20) + 1))),
        ),
    )
    yield (
        "program_length",
        Invalid(
            "a length above its maximum",
            "bad_program",
            file_of(programs=programs_of(Program(b"onnx", b"", 1, (1 << 62) + 1))),
        ),
    )


def files() -> dict[str, Invalid]:
    """Return the files by name; those that begin with ``alone`` have no other fault."""
    made = {}
    groups = {
        "bad_tables": (_codebooks, _tables, _sparse_tables, _planes_tables),
        "bad_stream": (_streams,),
    }
    for reason, of_reason in groups.items():
        for group in of_reason:
            for name, purpose, data in group():
                made[f"alone_{name}"] = Invalid(purpose, reason, data)
    return made | dict(_others())
