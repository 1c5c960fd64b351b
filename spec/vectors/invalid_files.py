"""Invalid files, each of which breaks one rule, with the reason that a reader gives."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import builders as b
from builders import Header, Program, Tensor, file_of, metadata_of, programs_of, raw, text, varint
from valid_files import BOOL, F32, I16, U8, View, dense, planes, sparse, zstd_block, zstd_frame

W = raw(b"w", U8, (1,), b"\7")
SOUND = file_of(W, metadata=metadata_of(text(b"k") + text(b"v")))


@dataclass(frozen=True)
class Invalid:
    """A file and the reason of its refusal."""

    purpose: str
    reason: str
    data: bytes


def _header() -> Iterator[tuple[str, Invalid]]:
    """The fields of the header and the order of the checks (3)."""

    def changed(**changes: int) -> bytes:
        return file_of(W, header=Header(changes=changes))

    yield "empty", Invalid("no byte", "bad_magic", b"")
    yield "magic", Invalid("another magic", "bad_magic", b"\x94" + SOUND[1:])
    yield (
        "line_ends",
        Invalid("the magic after a text transfer", "bad_magic", SOUND.replace(b"\r\n", b"\n", 1)),
    )
    yield "cut_magic", Invalid("part of the magic", "truncated", SOUND[:5])
    yield "cut_header", Invalid("part of the header", "truncated", SOUND[:63])
    yield "cut_directory", Invalid("part of the directory", "truncated", SOUND[:70])
    yield "cut_data", Invalid("the last byte is missing", "truncated", SOUND[:-1])
    yield "trailing", Invalid("a byte behind the end", "trailing_bytes", SOUND + b"\0")
    yield (
        "version",
        Invalid("another major version", "unsupported_version", file_of(W, header=Header(2))),
    )
    yield (
        "version_0",
        Invalid("major version 0", "unsupported_version", file_of(W, header=Header(0))),
    )
    for bit in (47, 63):
        data = file_of(W, header=Header(required=1 << bit))
        yield f"feature_{bit}", Invalid("a required feature", "unsupported_feature", data)
    yield (
        "sections",
        Invalid("the sections pass the file", "bad_header", changed(program_bytes=1 << 20)),
    )
    yield (
        "file_bytes",
        Invalid("file_bytes above its maximum", "bad_header", changed(file_bytes=1 << 63)),
    )
    yield (
        "decoded_limit",
        Invalid("more than the reader's limit", "limit_exceeded", changed(decoded_bytes=1 << 60)),
    )
    yield (
        "count_limit",
        Invalid(
            "more tensors than the reader's limit", "limit_exceeded", changed(tensor_count=1 << 31)
        ),
    )
    yield (
        "decoded_bytes",
        Invalid("decoded_bytes of other tensors", "bad_directory", changed(decoded_bytes=2)),
    )
    yield "tensor_count", Invalid("a record is missing", "bad_directory", changed(tensor_count=2))
    yield (
        "fewer_tensors",
        Invalid("bytes behind the last record", "bad_directory", changed(tensor_count=0)),
    )
    wrong = bytearray(SOUND)
    wrong[60] ^= 1
    yield "header_crc", Invalid("checksum of the header", "checksum_mismatch", bytes(wrong))


def _metadata() -> Iterator[tuple[str, Invalid]]:
    """The map of strings (4.1)."""
    entries: dict[str, tuple[str, bytes]] = {
        "order": ("keys not in order", text(b"b") + text(b"") + text(b"a") + text(b"")),
        "twice": ("a key twice", (text(b"a") + text(b"")) * 2),
        "nul": ("NUL in a value", text(b"a") + text(b"\0")),
        "utf8": ("a value that is no UTF-8", text(b"a") + text(b"\xff")),
        "surrogate": ("a surrogate in a key", text(b"\xed\xa0\x80") + text(b"")),
        "no_key": ("an empty key", text(b"") + text(b"v")),
        "no_value": ("a key without a value", text(b"a")),
        "long_value": ("a value past the end", text(b"a") + b"\5v"),
        "long_key": ("a key of 1025 bytes", text(b"a" * 1025) + text(b"")),
        "varint": ("a length not in its shortest form", b"\x81\0a" + text(b"")),
        "body": ("no entry", b""),
    }
    for name, (purpose, body) in entries.items():
        yield (
            f"metadata_{name}",
            Invalid(purpose, "bad_metadata", file_of(W, metadata=metadata_of(body))),
        )
    yield (
        "metadata_short",
        Invalid("a section of three bytes", "bad_metadata", file_of(W, metadata=b"abc")),
    )
    yield (
        "metadata_crc",
        Invalid(
            "checksum of the metadata", "checksum_mismatch", file_of(W, metadata=b"\1a\0\0\0\0\0")
        ),
    )


def _programs() -> Iterator[tuple[str, Invalid]]:
    """Records and frames of programs (4.2)."""
    content = b"thirty-two bytes of a program..."
    frame = zstd_frame(content)
    zstd = Program(b"onnx", frame, 1, len(content))
    sized = b"\x28\xb5\x2f\xfd\x00\x58" + frame[6:]  # a window, but no content size
    broken: dict[str, tuple[str, bytes]] = {
        "order": ("kinds not in order", programs_of(Program(b"b", b"1"), Program(b"a", b"2"))),
        "twice": ("a kind twice", programs_of(Program(b"a", b"1"), Program(b"a", b"2"))),
        "none": ("no record", programs_of(records=b"")),
        "codec": ("an unknown codec", programs_of(Program(b"a", b"1", 200))),
        "stored": ("stored lengths differ", programs_of(Program(b"a", b"12", 0, 1))),
        "gap": ("bytes behind the programs", programs_of(Program(b"a", b"12")) + b"\0"),
        "past": ("programs past the section", programs_of(Program(b"a", b"12"))[:-1]),
        "records": (
            "records past the section",
            b"\xff\0\0\0" + programs_of(Program(b"a", b"1"))[4:],
        ),
        "frame_lies": (
            "another size than the record",
            programs_of(replace(zstd, decoded_bytes=31)),
        ),
        "frame_more": (
            "a frame that announces more",
            programs_of(Program(b"onnx", frame[:5] + b"\x21" + frame[6:], 1, 33)),
        ),
        "frame_no_size": ("a frame without its size", programs_of(replace(zstd, stored=sized))),
        "frame_twice": ("two frames", programs_of(replace(zstd, stored=frame * 2))),
        "frame_tail": ("bytes behind the frame", programs_of(replace(zstd, stored=frame + b"\0"))),
        "frame_cut": ("the frame is cut off", programs_of(replace(zstd, stored=frame[:-1]))),
        "frame_block_lies": (
            "blocks of another size than the record",
            programs_of(Program(b"onnx", zstd_block(content), 2, len(content) + 1)),
        ),
        "frame_block_twice": (
            "blocks behind the last one",
            programs_of(Program(b"onnx", zstd_block(content) * 2, 2, len(content))),
        ),
        "frame_bad": ("no frame", programs_of(replace(zstd, stored=b"\0" * len(frame)))),
    }
    for name, (purpose, section) in broken.items():
        yield f"program_{name}", Invalid(purpose, "bad_program", file_of(W, programs=section))
    wrong = bytearray(programs_of(Program(b"a", b"1")))
    wrong[4] ^= 2
    yield (
        "program_records_crc",
        Invalid("checksum of the records", "checksum_mismatch", file_of(W, programs=bytes(wrong))),
    )
    wrong = bytearray(programs_of(Program(b"a", b"1")))
    wrong[-1] ^= 1
    yield (
        "program_crc",
        Invalid("checksum of a program", "checksum_mismatch", file_of(W, programs=bytes(wrong))),
    )


def _directory() -> Iterator[tuple[str, Invalid]]:
    """Records of tensors (5)."""

    def record(head: bytes, parts: tuple[bytes, ...] = (b"\7",)) -> bytes:
        tail = b"".join(varint(len(part)) + b.crc(part) for part in parts)
        return file_of(replace(W, record=head + tail, parts=parts))

    crc, alias = b.crc(b"\7"), Tensor(b"a", b.ALIAS, target=1)
    yield (
        "names_order",
        Invalid("names not in order", "bad_directory", file_of(replace(W, name=b"x"), W)),
    )
    yield "names_twice", Invalid("a name twice", "bad_directory", file_of(W, W))
    for label, name in {
        "empty": b"",
        "utf8": b"\xc0\x80",
        "nul": b"a\0",
        "long": b"n" * 1025,
    }.items():
        yield (
            f"name_{label}",
            Invalid("a name that is none", "bad_directory", file_of(replace(W, name=name))),
        )
    yield (
        "name_length",
        Invalid(
            "a length not in its shortest form", "bad_directory", record(b"\x81\0w\0\x08\1\1" + crc)
        ),
    )
    yield (
        "alias_self",
        Invalid("tied to itself", "bad_directory", file_of(replace(alias, target=0), W)),
    )
    yield (
        "alias_alias",
        Invalid(
            "tied to a tie", "bad_directory", file_of(alias, Tensor(b"b", b.ALIAS, target=2), W)
        ),
    )
    yield (
        "alias_range",
        Invalid("tied to no record", "bad_directory", file_of(replace(alias, target=2), W)),
    )
    yield (
        "encoding",
        Invalid("an unknown encoding", "bad_directory", record(b"\1w\5\x08\1\1" + crc)),
    )
    yield (
        "dtype",
        Invalid("an unknown element type", "bad_directory", record(b"\1w\0\x0d\1\1" + crc)),
    )
    yield (
        "rank",
        Invalid("33 dimensions", "bad_directory", record(b"\1w\0\x08\x21" + b"\1" * 33 + crc)),
    )
    big = varint(1 << 30)
    yield (
        "product",
        Invalid("too many elements", "bad_directory", record(b"\1w\0\x08\2" + big * 2 + crc)),
    )
    yield (
        "product_of_nothing",
        Invalid(
            "too many but for a zero",
            "bad_directory",
            file_of(
                replace(
                    W,
                    elements=b"",
                    parts=(b"",),
                    record=b"\1w\0\x08\3\0" + big * 2 + b.crc(b"") + b"\0" + b.crc(b""),
                )
            ),
        ),
    )
    yield (
        "raw_size",
        Invalid("more bytes than elements", "bad_directory", file_of(replace(W, parts=(b"\7\7",)))),
    )
    yield (
        "coded_nothing",
        Invalid(
            "a dense tensor without elements",
            "bad_directory",
            file_of(
                replace(dense(b"w", U8, b.full([7], 1), [7], [0], 8), shape=(0,), elements=b"")
            ),
        ),
    )
    yield (
        "one_part",
        Invalid(
            "a coded tensor of one part",
            "bad_directory",
            file_of(Tensor(b"w", b.DENSE, U8, (1,), b"\7", (b"\0",))),
        ),
    )
    hole = file_of(W) + b"\0"
    yield (
        "parts_end",
        Invalid(
            "bytes behind the last part",
            "bad_directory",
            hole[:32]
            + b.number(len(hole), 8)
            + hole[40:60]
            + b.crc(hole[:32] + b.number(len(hole), 8) + hole[40:60] + hole[64:-2])
            + hole[64:],
        ),
    )
    stored, decoded = bytearray(SOUND), replace(W, elements=b"\7", parts=(b"\7",))
    stored[-1] ^= 1
    yield "part_crc", Invalid("checksum of a part", "checksum_mismatch", bytes(stored))
    yield (
        "decoded_crc",
        Invalid(
            "checksum of the elements",
            "checksum_mismatch",
            file_of(replace(decoded, elements=b"\6")),
        ),
    )
    yield (
        "raw_boolean",
        Invalid("a boolean of 2", "bad_stream", file_of(raw(b"w", BOOL, (1,), b"\2"))),
    )


def _rewritten(tensor: Tensor, part: int, old: bytes, new: bytes) -> bytes:
    """Replace bytes of a part, which has them once."""
    parts = list(tensor.parts)
    if parts[part].count(old) != 1:
        raise AssertionError((tensor.name, old))
    parts[part] = parts[part].replace(old, new)
    return file_of(replace(tensor, parts=tuple(parts)))


def _tables() -> Iterator[tuple[str, Invalid]]:
    """Tables of coded tensors (6)."""
    codebook = b.full([3, 4], 1)
    table = [128, 128]

    def made(
        codebook: bytes = codebook,
        index_bits: int = 8,
        chunk: int = 8,
        freq_log2: int = 8,
        written: bytes = b.explicit(table),
        dtype: int = U8,
        tail: bytes = b"",
    ) -> bytes:
        tables = (
            codebook + bytes([index_bits]) + varint(chunk) + bytes([freq_log2]) + written + tail
        )
        coded = b.stream([0, 1, 1], [table], 8)
        elements = b"\3\4\4" if dtype in (U8, BOOL) else b"\0" * 12
        return file_of(Tensor(b"w", b.DENSE, dtype, (3,), elements, (tables, coded)))

    quarter = b.explicit(b.only(256, s0=256))
    broken: dict[str, tuple[str, bytes]] = {
        "codebook_kind": ("an unknown codebook", made(b"\4\1\3")),
        "codebook_dtype": ("bfloat16 levels of u8", made(b.halves(1, [1, 2]))),
        "codebook_none": ("no level", made(b.full([], 1))),
        "codebook_order": ("levels not in order", made(b.full([4, 3], 1))),
        "codebook_twice": ("a level twice", made(b.full([3, 3], 1))),
        "codebook_many": ("257 levels", made(b"\0" + varint(257) + bytes(257))),
        "codebook_boolean": ("a boolean level of 2", made(b.full([1, 2], 1), dtype=BOOL)),
        "codebook_float16": (
            "a float16 level that is not finite",
            made(b.halves(2, [0x3C00, 0x7C00]), dtype=F32),
        ),
        "codebook_exponent": ("a uniform exponent of 103", made(b.uniform(103, 0, 2), dtype=F32)),
        "codebook_first": ("a uniform level past 2**24", made(b.uniform(0, 1 << 24, 2), dtype=F32)),
        "index_bits": ("index_bits 3", made(index_bits=3)),
        "index_bits_few": ("more levels than index_bits hold", made(b.full([3, 4, 5], 1), 1)),
        "chunk_0": ("chunk_elements 0", made(chunk=0)),
        "chunk_4": ("chunk_elements no multiple of 8", made(chunk=4)),
        "chunk_large": ("chunk_elements above its maximum", made(chunk=(1 << 24) + 8)),
        "freq_log2_0": ("freq_log2 0", made(freq_log2=0)),
        "freq_log2_16": ("freq_log2 16", made(freq_log2=16)),
        "table_kind": ("an unknown table", made(written=b"\4")),
        "table_sum": ("frequencies that do not add up", made(written=b.explicit([128, 127]))),
        "table_more": ("a frequency above what is left", made(written=b.explicit([128, 129]))),
        "table_zeros": (
            "a run of zeros that is split",
            made(index_bits=1, written=b"\0" + varint(256) + b"\0\0" + b"\0" + varint(253)),
        ),
        "table_run": ("zeros past the alphabet", made(written=b"\0\0\2")),
        "table_flat": ("a flat table of three symbols", made(b.full([3, 4, 5], 1), written=b.FLAT)),
        "table_flat_total": (
            "a flat table above its total",
            made(index_bits=1, freq_log2=7, written=b.FLAT),
        ),
        "table_mask": (
            "a Bernoulli table of three symbols",
            made(b.full([3, 4, 5], 1), written=b.bernoulli(1000, 1)),
        ),
        "table_density": (
            "a Bernoulli density of zero with ones",
            made(index_bits=1, written=b.bernoulli(0, 3)),
        ),
        "table_no_ones": (
            "a Bernoulli density without ones",
            made(index_bits=1, written=b.bernoulli(9, 0)),
        ),
        "table_ones": ("more ones than places", made(index_bits=1, written=b.bernoulli(9, 9))),
        "table_markov": (
            "a Markov density of zero",
            made(index_bits=1, written=b.markov(9, 0, 9, 3)),
        ),
        "table_share": (
            "no share for the most frequent symbol",
            made(index_bits=1, freq_log2=7, written=b.bernoulli(1 << 15, 8)),
        ),
        "missing_level": (
            "a symbol for a level that is missing",
            made(index_bits=4, written=b.explicit(b.only(256, s0=128, s3=128))),
        ),
        "cut_tables": ("tables that end early", made(written=b"\0" + varint(128))),
        "table_tail": ("bytes behind the tables", made(index_bits=4, written=quarter, tail=b"\0")),
        "plane_mode": (
            "an unknown plane mode",
            file_of(Tensor(b"w", b.PLANES, U8, (8,), bytes(8), (b"\x08\2", bytes(8)))),
        ),
        "plane_chunk": (
            "planes in no chunk",
            file_of(Tensor(b"w", b.PLANES, U8, (16,), bytes(16), (b"\x08\0", bytes(16)))),
        ),
    }
    for name, (purpose, data) in broken.items():
        yield name, Invalid(purpose, "bad_tables", data)
    chunks = dense(b"w", U8, codebook, [3, 4], [0, 1] * 8, 8, 8)
    yield (
        "chunk_count",
        Invalid("a chunk too few", "bad_tables", file_of(replace(chunks, parts=chunks.parts[:2]))),
    )


def _sparse_tables() -> Iterator[tuple[str, Invalid]]:
    """Tables of sparse tensors (6.4)."""
    view = View(9, 3, 3, 2, [0, 1, 0, 1], [0, 1, 0], b"\0\1\1\2")
    indices = [(at % 4 and 0) or 1 + at % 2 for at in range(36)]
    tensor = sparse(b"w", U8, (4, 9), [5, 6], indices, view)
    head = b.full([5, 6], 1)
    shape = head + b"\x09\2\3\3"

    def changed(old: bytes, new: bytes) -> bytes:
        return _rewritten(tensor, 0, old, new)

    classes = tensor.parts[0][len(shape) :]
    broken: dict[str, tuple[str, bytes]] = {
        "zero_level": ("zero among the levels", changed(head, b.full([0, 6], 1))),
        "row_length": ("rows of seven", changed(shape, head + b"\7\2\3\3")),
        "row_length_0": ("rows of nothing", changed(shape, head + b"\0\2\3\3")),
        "row_length_37": ("rows longer than the tensor", changed(shape, head + b"\x25\2\3\3")),
        "rows_per_chunk": ("chunks of no row", changed(shape, head + b"\x09\0\3\3")),
        "rows_many": (
            "chunks above their maximum",
            changed(shape, head + b"\x09" + varint(1 << 23) + b"\3\3"),
        ),
        "symbol_bits_0": ("symbols of no place", changed(shape, head + b"\x09\2\0\1")),
        "symbol_bits_10": ("symbols of ten places", changed(shape, head + b"\x09\2\x0a\x0a")),
        "unit_columns": ("units of two columns", changed(shape, head + b"\x09\2\3\2")),
        "classes_0": ("no class", changed(shape + classes[:1], shape + b"\0")),
        "classes_17": ("17 classes", changed(shape + classes[:1], shape + b"\x11")),
        "contexts_order": (
            "contexts not numbered in order",
            changed(b"\0\1\1\2\x0c", b"\0\2\1\2\x0c"),
        ),
        "contexts_first": ("a first context of 1", changed(b"\0\1\1\2\x0c", b"\1\1\1\2\x0c")),
        "sparse_index_bits": ("indices of two bits", changed(b"\x08\7\0", b"\2\7\0")),
        "sparse_chunks": (
            "a chunk too many",
            file_of(replace(tensor, parts=(*tensor.parts, tensor.parts[1]))),
        ),
    }
    for name, (purpose, data) in broken.items():
        yield name, Invalid(purpose, "bad_tables", data)
    length, coded = classes.index(b"\x08"), b.stream([0, 1, 0, 1], [[32, 32]], 6)
    state = bytes([*coded[:4], 0, 0, 0, 0])
    assert classes[length + 1 : length + 9] == coded
    yield (
        "class_stream",
        Invalid(
            "a bad stream of classes",
            "bad_stream",
            changed(shape + classes[: length + 9], shape + classes[: length + 1] + state),
        ),
    )


def _streams() -> Iterator[tuple[str, Invalid]]:
    """Chunks and their streams (6, 7)."""
    table = [64, 192]
    symbols = [0, 0, 1, 0] * 20
    coded = b.stream(symbols, [table], 8)
    codebook = b.full([3, 4], 1)
    tables = codebook + b"\x08" + varint(80) + b"\x08" + b.explicit(table)
    elements = bytes(3 + symbol for symbol in symbols)

    def dense_with(part: bytes) -> bytes:
        return file_of(Tensor(b"w", b.DENSE, U8, (80,), elements, (tables, part)))

    broken: dict[str, tuple[str, bytes]] = {
        "stream_none": ("no state", dense_with(b"")),
        "stream_states": ("half a state", dense_with(coded[:4])),
        "stream_short": ("a word is missing", dense_with(coded[:-4])),
        "stream_part": ("part of a word", dense_with(coded[:-2])),
        "stream_long": ("a word too many", dense_with(coded + bytes(4))),
        "stream_tail": ("a byte too many", dense_with(coded + b"\0")),
        "stream_state": ("a state below 2**32", dense_with(coded[:4] + bytes(4) + coded[8:])),
        "stream_end": (
            "another final state",
            dense_with(b.number(int.from_bytes(coded[:8], "little") + (1 << 40), 8) + coded[8:]),
        ),
    }
    padded = b.only(256, s0=128, s17=128)
    wide = b.full([3, 4], 1) + b"\4" + varint(8) + b"\x08" + b.explicit(padded)
    broken["padding_dense"] = (
        "an index behind the last element",
        file_of(Tensor(b"w", b.DENSE, U8, (3,), b"\3\3\4", (wide, b.stream([0, 17], [padded], 8)))),
    )
    mask = b.only(8, s1=2, s4=2)
    pair = b.only(256, s0=1, s16=1)

    def masked(
        symbols_of_mask: list[int], values: bytes, elements: int = 8, extra: bytes = b""
    ) -> bytes:
        head = (
            b.full([5, 6], 1) + b"\x08\1\3\1\1\1\2" + b.explicit(mask) + b"\4\1" + b.explicit(pair)
        )
        rows = [symbols_of_mask[at : at + 3] for at in range(0, len(symbols_of_mask), 3)]
        parts = []
        for row in rows:
            stream = b.stream(row, [mask], 2)
            parts.append(varint(len(stream)) + stream + values + extra)
        return file_of(Tensor(b"w", b.SPARSE, U8, (elements,), bytes(elements), (head, *parts)))

    two = b.stream([0, 0], [pair], 1)
    broken["padding_mask"] = "a one behind the last column", masked([1, 1, 4], two)
    broken["padding_tensor"] = "a one behind the last element", masked([1, 1, 1, 1, 4, 1], two, 12)
    broken["padding_values"] = (
        "an index behind the last one",
        masked([1, 1, 1], b.stream([0, 16], [pair], 1)),
    )
    broken["mask_tail"] = "bytes behind the values", masked([1, 1, 1], two, 8, bytes(4))
    broken["mask_length"] = (
        "a mask past its part",
        file_of(
            Tensor(
                b"w",
                b.SPARSE,
                U8,
                (8,),
                bytes(8),
                (
                    b.full([5, 6], 1)
                    + b"\x08\1\3\1\1\1\2"
                    + b.explicit(mask)
                    + b"\4\1"
                    + b.explicit(pair),
                    b"\x30" + two,
                ),
            )
        ),
    )
    plane = planes(b"w", I16, [1, 2, 3], [False, True], 8)
    head, chunk = plane.parts
    broken["planes_tail"] = (
        "a byte behind the planes",
        file_of(replace(plane, parts=(head, chunk + b"\0"))),
    )
    broken["planes_short"] = "a plane is cut off", file_of(replace(plane, parts=(head, chunk[:-1])))
    broken["planes_boolean"] = (
        "a boolean of 2 in a plane",
        file_of(Tensor(b"w", b.PLANES, BOOL, (8,), bytes([2] * 8), (b"\x08\0", bytes([2] * 8)))),
    )
    for name, (purpose, data) in broken.items():
        yield name, Invalid(purpose, "bad_stream", data)


def files() -> dict[str, Invalid]:
    """Return all invalid files by name."""
    groups = (_header, _metadata, _programs, _directory, _tables, _sparse_tables, _streams)
    return {name: file for group in groups for name, file in group()}
