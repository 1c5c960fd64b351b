"""Invalid files for every reading place of a rule: the same fault in another section or table."""

from collections.abc import Iterator
from dataclasses import replace

import builders as b
from builders import Header, Program, Tensor, file_of, metadata_of, programs_of, raw, text, varint
from invalid_files import SOUND, Invalid
from valid_files import BOOL, F32, I16, U8, View, dense, planes, sparse

Fault = tuple[str, str, bytes]
"""Name, purpose and bytes of a file."""

W = raw(b"w", U8, (1,), b"\7")
PAIR = b.full([3, 4], 1)
FOUR = [0, 1, 1, 0]
START = b.number(1 << 32, 8)


def _header() -> Iterator[Fault]:
    """The magic (3.5)."""
    yield "magic_part", "six bytes, not all of the magic", b"\x93SPQ\n\n"


def _checksums() -> Iterator[Fault]:
    """Checksums of every kind of bytes (3.5, 5.4)."""
    changed = bytearray(SOUND)
    changed[65] ^= 1
    yield "directory_crc", "a name changed under the checksum of the header", bytes(changed)
    coded = {
        "dense": dense(b"w", U8, PAIR, [3, 4], FOUR * 4, 8, 8),
        "planes": planes(b"w", U8, FOUR * 4, [True], 8),
        "sparse": sparse(b"w", U8, (2, 8), [5], FOUR * 4, View(8, 4)),
    }
    for name, tensor in coded.items():
        wrong = bytes(byte ^ 1 for byte in tensor.elements)
        yield (
            f"decoded_crc_{name}",
            "checksum of the elements",
            file_of(replace(tensor, elements=wrong)),
        )
        data = bytearray(file_of(tensor))
        at = len(data) - sum(map(len, tensor.parts))
        for label, part in zip(("tables", "chunk", "last_chunk"), tensor.parts, strict=True):
            damaged = bytearray(data)
            damaged[at + len(part) - 1] ^= 1
            at += len(part)
            yield f"part_crc_{name}_{label}", "checksum of a part", bytes(damaged)


def _directory() -> Iterator[Fault]:
    """Records (5)."""
    crc = b.crc(b"\7")

    def record(written: bytes, parts: tuple[bytes, ...] = (b"\7",)) -> bytes:
        return file_of(replace(W, record=written, parts=parts))

    part = b"\1" + crc
    yield "directory_tail", "a byte behind the last record", record(W.written() + b"\0")
    yield "encoding_private", "a private encoding", record(b"\1w\xc0\x08\1\1" + crc + part)
    yield "dtype_private", "a private element type", record(b"\1w\0\xff\1\1" + crc + part)
    yield (
        "shape_varint",
        "a dimension not in its shortest form",
        record(b"\1w\0\x08\1\x81\0" + crc + part),
    )
    yield (
        "part_varint",
        "a length not in its shortest form",
        record(b"\1w\0\x08\1\1" + crc + b"\x81\0" + crc),
    )
    long = varint((1 << 48) + 1)
    nothing = b.crc(b"") + b"\0" + b.crc(b"")
    yield (
        "dimension",
        "a dimension above its maximum beside one of 0",
        file_of(replace(W, elements=b"", parts=(b"",), record=b"\1w\0\x08\2\0" + long + nothing)),
    )
    yield "record_cut", "a record that ends in its shape", record(b"\1w\0\x08\2\1")
    yield "record_no_crc", "a record that ends in its checksum", record(b"\1w\0\x08\1\1" + crc[:3])
    yield (
        "part_cut",
        "a record that ends in its part",
        record(b"\1w\0\x08\1\1" + crc + b"\1" + crc[:3]),
    )
    made = dense(b"w", U8, PAIR, [3, 4], FOUR, 8)
    tables, chunk = (varint(len(stored)) + b.crc(stored) for stored in made.parts)
    head = b"\1w\2\x08\1\4" + b.crc(made.elements)
    for name, purpose, tail in (
        ("none", "no part of a coded tensor", b"\0"),
        ("many", "more parts than the directory has bytes for", b"\3" + tables + chunk),
        ("long", "a part that passes the file", b"\2" + tables + varint(1 << 40) + b.crc(b"")),
    ):
        yield f"parts_{name}", purpose, file_of(replace(made, record=head + tail))
    yield (
        "raw_short",
        "fewer bytes than elements",
        file_of(replace(W, shape=(2,), elements=b"\7\7", parts=(b"\7",))),
    )
    tied = (Tensor(b"a", b.ALIAS, target=1), W)
    yield (
        "decoded_bytes_of_ties",
        "decoded_bytes that count a tied name",
        file_of(*tied, header=Header(changes={"decoded_bytes": 2})),
    )
    yield (
        "alias_varint",
        "a target not in its shortest form",
        file_of(replace(tied[0], record=b"\1a\1\x81\0"), W),
    )
    for encoding in (b.SPARSE, b.PLANES):
        yield (
            f"coded_nothing_{encoding}",
            "a coded tensor without elements",
            file_of(Tensor(b"w", encoding, U8, (0,), b"", (b"\0", b"\0"))),
        )


def _metadata() -> Iterator[Fault]:
    """The map of strings (4.1)."""
    for count in (1, 2):
        yield (
            f"metadata_{count}",
            "a section without room for a checksum",
            file_of(metadata=bytes(count)),
        )
    for name, purpose, body in (
        ("key_nul", "NUL in a key", text(b"a\0") + text(b"")),
        ("key_overlong", "an overlong form in a key", text(b"\xc0\xaf") + text(b"")),
        ("value_varint", "a length not in its shortest form", text(b"a") + b"\x81\0v"),
        ("value_surrogate", "a surrogate in a value", text(b"a") + text(b"\xed\xa0\x80")),
        ("value_above", "a character above U+10FFFF", text(b"a") + text(b"\xf4\x90\x80\x80")),
    ):
        yield f"metadata_{name}", purpose, file_of(metadata=metadata_of(body))


def _programs() -> Iterator[Fault]:
    """Records of programs (4.2)."""
    program = Program(b"a", b"1")
    crc = b.crc(b"1")

    def records(written: bytes) -> bytes:
        return file_of(programs=programs_of(program, records=written))

    yield (
        "program_codec_next",
        "the first codec that is not assigned",
        file_of(programs=programs_of(replace(program, codec=3))),
    )
    yield "program_varint", "a length not in its shortest form", records(b"\1a\0\x81\0\1" + crc)
    yield (
        "program_stored_varint",
        "a stored length not in its shortest form",
        records(b"\1a\0\1\x81\0" + crc),
    )
    yield "program_cut", "a record that ends in its checksum", records(b"\1a\0\1\1" + crc[:3])
    yield "program_no_length", "a section of three bytes", file_of(programs=b"\4\0\0")
    yield (
        "program_gap_first",
        "a byte between records and programs",
        file_of(programs=programs_of(program)[:-1] + b"\0" + b"1"),
    )


def _limits() -> Iterator[Fault]:
    """Sums that pass a limit of every reader with the defaults of 9.2."""
    half = (128 << 20) + 1
    both = (Program(b"a", b"", 1, half), Program(b"b", b"", 1, half))
    yield (
        "programs_limit",
        "two programs that pass the limit together",
        file_of(programs=programs_of(*both)),
    )


def _tables() -> Iterator[Fault]:
    """Codebooks and tables of frequencies (6.1, 6.2) where others read them."""

    def made(written: bytes, frequencies: list[int], levels: int = 2, index_bits: int = 8) -> bytes:
        """Return a tensor of the first of a few levels."""
        patterns = list(range(3, 3 + levels))
        table = (written, frequencies)
        return file_of(
            dense(b"w", U8, b.full(patterns, 1), patterns, [0] * 8, index_bits, 8, 8, table)
        )

    first = [256, 0]
    yield (
        "table_kind_4",
        "a table of kind 4 that goes on like kind 0",
        made(b"\4" + b.explicit(first)[1:], first),
    )
    yield (
        "table_run_long",
        "a run of zeros past the alphabet",
        made(b"\0" + varint(256) + b"\0\1", first),
    )
    yield "table_varint", "a frequency not in its shortest form", made(b"\0\x80\x82\0\0\0", first)
    yield (
        "table_run_varint",
        "a number of zeros not in its shortest form",
        made(b"\0" + varint(256) + b"\0\x80\0", first),
    )
    yield "table_varint_4", "a frequency of four bytes", made(b"\0\x80\x80\x80\1", first)
    yield "table_varint_10", "a frequency of ten bytes", made(b"\0" + b"\x80" * 9 + b"\1", first)
    yield (
        "table_cut_run",
        "a table that ends in a run of zeros",
        made(b"\0" + varint(256) + b"\0", first),
    )
    yield "table_one_mask", "a Bernoulli table of one symbol", made(b.bernoulli(0, 0), [256], 1)
    yield (
        "table_cut_mask",
        "a Markov table that ends in its densities",
        made(b"\3" + bytes(5), first),
    )
    yield "table_none", "no table", made(b"", first)
    yield (
        "missing_level_1",
        "a second index of a level that is missing",
        made(b.explicit(b.only(256, s0=128, s2=128)), b.only(256, s0=128, s2=128), 1, 1),
    )
    yield (
        "missing_level_2",
        "a fourth index of a level that is missing",
        made(b.explicit(b.only(256, s0=128, s192=128)), b.only(256, s0=128, s192=128), 3, 2),
    )
    yield (
        "missing_level_flat",
        "a flat table with symbols of levels that are missing",
        made(b.FLAT, [1] * 256, 15, 4),
    )
    # Indices of three bits, if there were any, would be two in a symbol and bits that are zero.
    odd = dense(
        b"w",
        U8,
        PAIR,
        [3, 4],
        [0] * 2,
        8,
        8,
        8,
        (b.explicit(b.only(256, s0=256)), b.only(256, s0=256)),
    )
    yield (
        "index_bits_3",
        "indices of three bits",
        file_of(
            replace(odd, parts=(odd.parts[0].replace(PAIR + b"\x08", PAIR + b"\3"), odd.parts[1]))
        ),
    )

    def levels(codebook: bytes, patterns: list[int]) -> bytes:
        return file_of(dense(b"w", F32, codebook, patterns, FOUR, 8))

    one, two = 0x3F800000, 0x40000000
    yield (
        "codebook_nan",
        "a float16 level that is no number",
        levels(b.halves(2, [0x3C00, 0x7E00]), [one, 0x7FC00000]),
    )
    yield (
        "codebook_float16_order",
        "float16 levels not in order",
        levels(b.halves(2, [0x4000, 0x3C00]), [two, one]),
    )
    yield (
        "codebook_float16_twice",
        "a float16 level twice",
        levels(b.halves(2, [0x3C00, 0x3C00]), [one, one]),
    )
    yield (
        "codebook_bfloat16_order",
        "bfloat16 levels not in order",
        levels(b.halves(1, [0xBF80, 0x3F80]), [one | 1 << 31, one]),
    )
    yield (
        "codebook_cut",
        "a codebook that ends in a level",
        file_of(Tensor(b"w", b.DENSE, F32, (8,), bytes(32), (b"\0\2" + bytes(7), START))),
    )
    yield (
        "codebook_varint",
        "a level count not in its shortest form",
        levels(b"\1\x82\0\x80\x3f\0\x40", [one, two]),
    )
    yield (
        "codebook_uniform_varint",
        "an exponent not in its shortest form",
        levels(b"\3\2\x80\0\2", [one, two]),
    )
    for name, tensor in {
        "dense": dense(b"w", U8, PAIR, [3, 4], FOUR * 4, 8, 8),
        "planes": planes(b"w", U8, FOUR * 4, [True], 8),
        "sparse": sparse(b"w", U8, (2, 8), [5], FOUR * 4, View(8, 4)),
    }.items():
        tables, chunk, last = tensor.parts
        yield (
            f"chunks_more_{name}",
            "a chunk too many",
            file_of(replace(tensor, parts=(tables, chunk, last, last))),
        )
        yield (
            f"chunks_fewer_{name}",
            "a chunk too few",
            file_of(replace(tensor, parts=(tables, chunk))),
        )
        yield f"tables_none_{name}", "no tables", file_of(replace(tensor, parts=(b"", chunk, last)))


def _sparse_tables() -> Iterator[Fault]:
    """Tables of sparse tensors (6.4) and of planes (6.5)."""

    def made(view: View, levels: list[int] | None = None, dtype: int = U8) -> bytes:
        return file_of(sparse(b"w", dtype, (36,), levels or [1], FOUR * 9, view))

    classes = [0, 1, 0, 1]
    zero = 0x3F800000
    yield (
        "sparse_uniform_zero",
        "a uniform level of zero",
        file_of(
            sparse(
                b"w",
                F32,
                (9,),
                [zero | 1 << 31, 0],
                [0, 1] * 4 + [0],
                View(9, 3, codebook=b.uniform(0, -1, 2)),
            )
        ),
    )
    yield "sparse_boolean", "a boolean level of 2", made(View(9, 3), [1, 2], BOOL)
    yield (
        "sparse_bfloat16",
        "bfloat16 levels of i16",
        file_of(
            sparse(b"w", I16, (9,), [1], FOUR * 2 + [0], View(9, 3, codebook=b.halves(1, [1])))
        ),
    )
    for log2 in (0, 16):
        table = [1, 0] if log2 == 0 else [1 << 15, 1 << 15]
        rows = [0] * 4 if log2 == 0 else classes
        view = View(
            9, 3, row_classes=rows, contexts=b"\0\0", row_table=(log2, b.explicit(table), table)
        )
        yield f"class_freq_log2_{log2}", f"classes of freq_log2 {log2}", made(view)
    first = View(
        9, 3, row_classes=[0] * 4, contexts=b"\0\0", row_table=(6, b.explicit([63, 0]), [64, 0])
    )
    yield "class_sum", "frequencies of classes that do not add up", made(first)
    yield (
        "class_kind",
        "a table of classes of kind 4",
        made(replace(first, row_table=(6, b"\4" + b.explicit([64, 0])[1:], [64, 0]))),
    )
    yield (
        "mask_kind",
        "a table of masks of kind 4",
        made(
            View(9, 3, mask_tables=(b"\4" + b.explicit([2048] + [0] * 6 + [2048])[1:], [[512] * 8]))
        ),
    )
    yield (
        "mask_sum",
        "frequencies of masks that do not add up",
        made(View(9, 3, mask_tables=(b.explicit([511] + [512] * 7), [[512] * 8]))),
    )
    yield (
        "mask_density",
        "a Bernoulli density of zero with ones",
        file_of(
            sparse(
                b"w",
                U8,
                (36,),
                [1],
                [0] * 36,
                View(9, 3, mask_tables=(b.bernoulli(0, 3), [b.only(8, s0=4096)])),
            )
        ),
    )
    two = View(9, 3, row_classes=classes, contexts=b"\0\1", mask_tables=(b.FLAT, [[512] * 8] * 2))
    yield "mask_table_missing", "one table of masks for two contexts", made(two)
    yield (
        "mask_table_more",
        "two tables of masks for one context",
        made(replace(two, contexts=b"\0\0", mask_tables=(b.FLAT * 2, [[512] * 8] * 2))),
    )
    yield (
        "value_sum",
        "frequencies of values that do not add up",
        made(View(9, 3, value_table=(7, b.explicit([127]), [128]))),
    )
    yield (
        "value_level",
        "a symbol of values for a level that is missing",
        made(
            View(
                9,
                3,
                index_bits=4,
                value_table=(7, b.explicit(b.only(256, s0=64, s1=64)), b.only(256, s0=128)),
            )
        ),
    )
    chunked = View(9, 3, rows_per_chunk=2, row_classes=classes, contexts=b"\0\0")
    tensor = sparse(b"w", U8, (36,), [1], FOUR * 9, chunked)
    stream = b.stream(classes, [[32, 32]], 6)

    def classed(written: bytes) -> bytes:
        tables = tensor.parts[0]
        if tables.count(text(stream)) != 1:
            raise AssertionError(tables)
        return file_of(
            replace(tensor, parts=(tables.replace(text(stream), written), *tensor.parts[1:]))
        )

    yield "class_stream_past", "classes past the tables", classed(varint(200) + stream)
    yield "class_stream_varint", "a length not in its shortest form", classed(b"\x88\0" + stream)
    head, flat = varint(8) + b"\1\x08", b.only(256, s7=256)
    for name, purpose, tables in (
        ("kind", "a table of a plane of kind 4", head + b"\4" + b.explicit(flat)[1:]),
        (
            "sum",
            "frequencies of a plane that do not add up",
            head + b.explicit(b.only(256, s7=255)),
        ),
        ("none", "a plane of which the tables say nothing", varint(8)),
        ("chunk_0", "planes in chunks of nothing", b"\0\0"),
        ("chunk_varint", "a chunk size not in its shortest form", b"\x88\0\0"),
        (
            "mode_2",
            "a plane of mode 2 that goes on like mode 1",
            varint(8) + b"\2\x08" + b.explicit(flat),
        ),
    ):
        chunk = b"\7" * 8 if name.startswith("chunk") else text(START)
        yield (
            f"planes_{name}",
            purpose,
            file_of(Tensor(b"w", b.PLANES, U8, (8,), b"\7" * 8, (tables, chunk))),
        )


def _streams() -> Iterator[Fault]:
    """Streams in every place that has one (7.2)."""
    low = b.number(1, 8)
    mask, single = b.only(2, s0=256), b.full([5], 1)
    head = single + b"\x08\1\1\1\1\1\x08" + b.explicit(mask) + b"\x08\1" + b.explicit([2])

    def masked(chunk: bytes) -> bytes:
        return file_of(Tensor(b"w", b.SPARSE, U8, (8,), bytes(8), (head, chunk)))

    bad = {
        "none": ("a stream of no bytes", b""),
        "half": ("a stream that ends in its state", START[:4]),
        "low": ("a state below 2**32", START[:4] + bytes(4)),
        "end": ("another final state", b.number((1 << 32) + 1, 8)),
        "tail": ("a byte behind the words", START + b"\0"),
    }
    for name, (purpose, stream) in bad.items():
        yield f"mask_stream_{name}", f"{purpose}, of a mask", masked(text(stream) + START)
        yield f"value_stream_{name}", f"{purpose}, of values", masked(text(START) + stream)
        plane = varint(8) + b"\1\x08" + b.explicit(b.only(256, s7=256))
        coded = Tensor(b"w", b.PLANES, U8, (8,), b"\7" * 8, (plane, text(stream)))
        yield f"plane_stream_{name}", f"{purpose}, of a plane", file_of(coded)
        for place, label in enumerate(("rows", "units")):
            one, two = b"\1", b"\2\x08" + b.explicit([256, 0]) + text(stream)
            both = (two + one, one + two)[place]
            tables = single + b"\x08\1\1\1" + both + b"\0\0\x08" + b.explicit(mask)
            tables += b"\x08\1" + b.explicit([2])
            tensor = Tensor(b"w", b.SPARSE, U8, (8,), bytes(8), (tables, text(START) + START))
            yield (
                f"class_stream_{label}_{name}",
                f"{purpose}, of classes of {label}",
                file_of(tensor),
            )
    yield (
        "mask_stream_varint",
        "a length not in its shortest form",
        masked(b"\x88\0" + START + START),
    )
    yield "mask_stream_past", "a mask past its part", masked(b"\x11" + START + START)
    yield "mask_stream_missing", "a chunk of no bytes", masked(b"")
    plane = varint(8) + b"\0"
    yield (
        "plane_short",
        "a stored plane that is cut off",
        file_of(Tensor(b"w", b.PLANES, U8, (8,), bytes(8), (plane, bytes(7)))),
    )
    yield (
        "plane_tail",
        "a byte behind a stored plane",
        file_of(Tensor(b"w", b.PLANES, U8, (8,), bytes(8), (plane, bytes(9)))),
    )
    lanes = b.full([7], 1) + b"\x08" + varint(8192) + b"\x08" + b.explicit([256])
    lanes_of_8207 = b.full([7], 1) + b"\x08" + varint(8208) + b"\x08" + b.explicit([256])
    for name, purpose, coded_lanes in (
        ("seven", "seven states of eight lanes", START * 7),
        ("low", "a state below 2**32 in the last lane", START * 7 + low),
        ("first", "another final state in the first lane", b.number((1 << 32) + 1, 8) + START * 7),
        ("tail", "a word behind eight states", START * 8 + bytes(4)),
    ):
        yield (
            f"lanes_{name}",
            purpose,
            file_of(Tensor(b"w", b.DENSE, U8, (8192,), b"\7" * 8192, (lanes, coded_lanes))),
        )
    # As many words as the lanes would take if there were two more symbols for each.
    yield (
        "lanes_tail_long",
        "sixteen words behind eight states, and symbols for one turn and a part",
        file_of(
            Tensor(b"w", b.DENSE, U8, (8207,), b"\7" * 8207, (lanes_of_8207, START * 8 + bytes(64)))
        ),
    )
    rows = View(
        row_length=8,
        symbol_bits=8,
        unit_columns=8,
        rows_per_chunk=8207,
        row_classes=[0] * 8207,
        row_table=(6, b.explicit([64, 0]), [64, 0]),
        contexts=b"\0\1",
        mask_tables=((b.explicit(b.only(256, s0=4096))) * 2, [b.only(256, s0=4096)] * 2),
    )
    tensor = sparse(b"w", U8, (8207, 8), [5], [0] * 65656, rows)
    long = text(START * 8 + bytes(64)) + START
    yield (
        "lanes_tail_mask",
        "sixteen words behind eight states of a mask with contexts",
        file_of(replace(tensor, parts=(tensor.parts[0], long))),
    )
    yield (
        "lanes_too_many",
        "eight states for 8191 symbols",
        file_of(Tensor(b"w", b.DENSE, U8, (8191,), b"\7" * 8191, (lanes, START * 8))),
    )


def _ones() -> Iterator[Fault]:
    """Ones outside the tensor (6.4.3), where a reader that forgets them writes somewhere else."""
    mask = [16] * 8

    def masked(rows: list[list[int]], count: int, in_order: bool) -> bytes:
        """Return a file of rows of eight places in symbols of three, all in one chunk."""
        classes = [1, 1, 1, 1, 0, 0, 0, 0]
        stream = b.stream(classes, [[4, 4]], 3)
        units = b"\2\3" + b.explicit([4, 4]) + text(stream) + b"\0\0" if in_order else b"\1"
        tables = b.full([5], 1) + b"\x08" + varint(len(rows)) + b"\3\1\1" + units
        tables += b"\7" + b.explicit(mask) + b"\x08\1" + b.explicit([2])
        coded = b.stream([symbol for row in rows for symbol in row], [mask], 7)
        parts = (tables, text(coded) + START)
        return file_of(Tensor(b"w", b.SPARSE, U8, (count,), bytes(count), parts))

    none = [0, 0, 0]
    for in_order, label in ((False, "in_place"), (True, "in_order")):
        behind = [[0, 0, 4], none]
        yield (
            f"padding_row_{label}",
            "a one behind a row, where the next begins",
            masked(behind, 16, in_order),
        )
        many = [[0, 0, 4], *[none] * 19]
        yield (
            f"padding_row_{label}_early",
            "a one behind a row, many rows before the last",
            masked(many, 160, in_order),
        )
        # In order, place 4 is column 0, and place 0 is column 4.
        last = [none, [0, 1, 0] if not in_order else [1, 0, 0]]
        yield (
            f"padding_short_{label}",
            "a one behind the last element, in a short row",
            masked(last, 11, in_order),
        )


def files() -> dict[str, Invalid]:
    """Return the files by name."""
    groups = {
        "bad_magic": (_header,),
        "checksum_mismatch": (_checksums,),
        "bad_directory": (_directory,),
        "bad_metadata": (_metadata,),
        "bad_program": (_programs,),
        "limit_exceeded": (_limits,),
        "bad_tables": (_tables, _sparse_tables),
        "bad_stream": (_streams, _ones),
    }
    return {
        name: Invalid(purpose, reason, data)
        for reason, of_reason in groups.items()
        for group in of_reason
        for name, purpose, data in group()
    }
