"""Valid files: every encoding, element type, codebook, table and edge of the format."""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import builders as b
from builders import Tensor, constant, file_of, raw, varint

F32, F16, BF16, I8, I16, U8, BOOL = 1, 2, 3, 4, 5, 8, 12

Table = tuple[int, bytes, list[int]]
"""A table: `freq_log2`, as it is written, and its frequencies."""


@dataclass(frozen=True)
class Valid:
    """A file with what a reader has to find in it."""

    purpose: str
    data: bytes
    tensors: Sequence[Tensor] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    programs: dict[str, bytes] = field(default_factory=dict)


def valid(purpose: str, *tensors: Tensor) -> Valid:
    """Return a file of tensors alone."""
    return Valid(purpose, file_of(*tensors), tensors)


def floats(*values: float) -> bytes:
    """Return binary32 elements."""
    return struct.pack(f"<{len(values)}f", *values)


def elements_of(levels: Sequence[int], indices: Sequence[int], width: int) -> bytes:
    """Return the elements that indices stand for."""
    return b"".join(b.number(levels[index], width) for index in indices)


def pack(indices: Sequence[int], index_bits: int) -> list[int]:
    """Put indices into symbols, the first in the lowest bits (6.3.1)."""
    per_symbol = 8 // index_bits
    padded = [*indices, *[0] * (-len(indices) % per_symbol)]
    return [
        sum(
            index << (index_bits * place)
            for place, index in enumerate(padded[at : at + per_symbol])
        )
        for at in range(0, len(padded), per_symbol)
    ]


def spread(symbols: Sequence[int], alphabet: int, freq_log2: int) -> list[int]:
    """Return frequencies that give each occurring symbol a share and the first the rest."""
    used = sorted(set(symbols)) or [0]
    table = [0] * alphabet
    for symbol in used:
        table[symbol] = (1 << freq_log2) // len(used)
    table[used[0]] += (1 << freq_log2) - sum(table)
    return table


def dense(
    name: bytes,
    dtype: int,
    codebook: bytes,
    levels: Sequence[int],
    indices: Sequence[int],
    index_bits: int,
    chunk_elements: int = 1 << 16,
    freq_log2: int = 8,
    table: tuple[bytes, list[int]] | None = None,
) -> Tensor:
    """Return a dense tensor of one dimension (6.3)."""
    chunks = [
        pack(indices[at : at + chunk_elements], index_bits)
        for at in range(0, len(indices), chunk_elements)
    ]
    alphabet = len(levels) if index_bits == 8 else 256
    frequencies = spread([symbol for chunk in chunks for symbol in chunk], alphabet, freq_log2)
    written = b.explicit(frequencies)
    if table is not None:
        written, frequencies = table
    tables = codebook + bytes([index_bits]) + varint(chunk_elements) + bytes([freq_log2]) + written
    parts = [b.stream(chunk, [frequencies], freq_log2) for chunk in chunks]
    elements = elements_of(levels, indices, b.ITEM_BYTES[dtype])
    return Tensor(name, b.DENSE, dtype, (len(indices),), elements, (tables, *parts))


def classes_of(classes: Sequence[int], table: Table | None = None) -> bytes:
    """Write the density classes of rows or units (6.4.2), as many as the table has."""
    if table is None and not any(classes):
        return b"\1"
    if table is None:
        frequencies = spread(classes, max(classes) + 1, 6)
        table = (6, b.explicit(frequencies), frequencies)
    freq_log2, written, frequencies = table
    coded = b.stream(classes, [frequencies], freq_log2)
    return bytes([len(frequencies), freq_log2]) + written + varint(len(coded)) + coded


@dataclass(frozen=True)
class View:
    """How a sparse tensor is looked at (6.4.1)."""

    row_length: int
    symbol_bits: int
    unit_columns: int = 1
    rows_per_chunk: int = 1
    row_classes: Sequence[int] = ()
    unit_classes: Sequence[int] = ()
    contexts: bytes = b""
    index_bits: int = 8
    freq_log2: int = 12
    mask_tables: tuple[bytes, list[list[int]]] | None = None
    value_table: Table | None = None
    row_table: Table | None = None
    unit_table: Table | None = None
    codebook: bytes | None = None  # in place of the full one


def sparse(
    name: bytes,
    dtype: int,
    shape: tuple[int, ...],
    levels: Sequence[int],
    indices: Sequence[int],
    view: View,
) -> Tensor:
    """Return a sparse tensor; index 0 is zero, index ``i`` is level ``i - 1`` (6.4)."""
    length, bits = view.row_length, view.symbol_bits
    row_count, unit_count = -(-len(indices) // length), -(-length // view.unit_columns)
    row_classes = list(view.row_classes) or [0] * row_count
    unit_classes = list(view.unit_classes) or [0] * unit_count
    order = list(range(length))
    if view.unit_columns == 1:
        order.sort(key=lambda column: unit_classes[column])
    unit_class_count = len(view.unit_table[2]) if view.unit_table else max(unit_classes) + 1
    rows: list[tuple[list[int], list[int], list[int]]] = []
    for row in range(row_count):
        line = list(indices[row * length : (row + 1) * length])
        line += [0] * (length - len(line))
        placed = [line[column] for column in order]
        symbols, contexts = [], []
        for first in range(0, length, bits):
            places = placed[first : first + bits]
            symbols.append(sum(1 << bit for bit, index in enumerate(places) if index))
            pair = row_classes[row] * unit_class_count
            pair += unit_classes[order[first] // view.unit_columns]
            contexts.append(view.contexts[pair] if view.contexts else 0)
        rows.append((symbols, contexts, [index - 1 for index in placed if index]))
    chunks = [
        rows[at : at + view.rows_per_chunk] for at in range(0, row_count, view.rows_per_chunk)
    ]
    context_count = max(view.contexts, default=0) + 1
    written, frequencies = view.mask_tables or (b"", [])
    if not frequencies:
        for context in range(context_count):
            seen = [s for row in rows for s, c in zip(row[0], row[1], strict=True) if c == context]
            frequencies.append(spread(seen, 1 << bits, view.freq_log2))
            written += b.explicit(frequencies[-1])
    packed = [pack([v for row in chunk for v in row[2]], view.index_bits) for chunk in chunks]
    alphabet = len(levels) if view.index_bits == 8 else 256
    value_log2 = 7
    values = spread([value for chunk in packed for value in chunk], alphabet, value_log2)
    value_table = b.explicit(values)
    if view.value_table is not None:
        value_log2, value_table, values = view.value_table
    width = b.ITEM_BYTES[dtype]
    tables = b.full(levels, width) if view.codebook is None else view.codebook
    tables += varint(length) + varint(view.rows_per_chunk) + bytes([bits, view.unit_columns])
    tables += classes_of(row_classes, view.row_table) + classes_of(unit_classes, view.unit_table)
    tables += view.contexts + bytes([view.freq_log2]) + written
    tables += bytes([view.index_bits, value_log2]) + value_table
    parts = []
    for chunk, symbols_of_values in zip(chunks, packed, strict=True):
        mask = b.stream(
            [symbol for row in chunk for symbol in row[0]],
            frequencies,
            view.freq_log2,
            [context for row in chunk for context in row[1]],
        )
        parts.append(varint(len(mask)) + mask + b.stream(symbols_of_values, [values], value_log2))
    elements = elements_of([0, *levels], indices, width)
    return Tensor(name, b.SPARSE, dtype, shape, elements, (tables, *parts))


def planes(
    name: bytes,
    dtype: int,
    patterns: Sequence[int],
    coded: Sequence[bool],
    chunk: int,
    table: Table | None = None,
    mode: int = 1,
) -> Tensor:
    """Return a tensor in planes of bytes (6.5); `table` is that of each coded plane."""
    width = b.ITEM_BYTES[dtype]
    bits = 8 * width
    turned = list(patterns)
    if dtype <= BF16:
        turned = [(p << 1 | p >> (bits - 1)) & ((1 << bits) - 1) for p in patterns]
    bytes_of = [[p >> (8 * plane) & 0xFF for p in turned] for plane in range(width)]
    tables = varint(chunk)
    spreads = [spread(plane, 256, 10) for plane in bytes_of]
    own = [table or (10, b.explicit(frequencies), frequencies) for frequencies in spreads]
    for is_coded, (freq_log2, written, _) in zip(coded, own, strict=True):
        tables += bytes([mode, freq_log2]) + written if is_coded else b"\0"
    parts = []
    for at in range(0, len(patterns), chunk):
        part = b""
        for plane, (freq_log2, _, frequencies) in enumerate(own):
            piece = bytes_of[plane][at : at + chunk]
            if coded[plane]:
                stream = b.stream(piece, [frequencies], freq_log2)
                part += varint(len(stream)) + stream
            else:
                part += bytes(piece)
        parts.append(part)
    elements = b"".join(b.number(pattern, width) for pattern in patterns)
    return Tensor(name, b.PLANES, dtype, (len(patterns),), elements, (tables, *parts))


def zstd_block(content: bytes) -> bytes:
    """Return a last block that is raw (RFC 8878, 3.1.1.2)."""
    return b.number(1 | len(content) << 3, 3) + content


def zstd_frame(content: bytes) -> bytes:
    """Return a frame of one raw block with its content size (RFC 8878, 3.1.1)."""
    return b"\x28\xb5\x2f\xfd\x20" + bytes([len(content)]) + zstd_block(content)


NAN, INF, MINUS_ZERO, SUBNORMAL = 0x7FA12345, 0x7F800000, 0x80000000, 0x00000001
ODD = [SUBNORMAL, 0x3F800000, INF, NAN, MINUS_ZERO, 0xFFC00001]
WAVE = [(7 * at + at // 5) % 11 for at in range(90)]
CURVE = [(at % 5 and 0) or 1 + at % 3 for at in range(90)]


def _of_types() -> list[tuple[str, Valid]]:
    """A raw tensor, a dense one and planes of each element type."""
    made = []
    for dtype, label in enumerate(b.DTYPES):
        width = b.ITEM_BYTES[dtype]
        top = 1 << (8 * width)
        patterns = [0, 1] if dtype == BOOL else [0, 1, top // 2, top - 1, top // 3]
        elements = b"".join(b.number(pattern, width) for pattern in patterns)
        levels = sorted(patterns)
        tensors = (
            dense(b"dense", dtype, b.full(levels, width), levels, [1, 0, 1, len(levels) - 1], 8),
            planes(b"planes", dtype, [*patterns, 0, 1, 0], [True] * width, 8),
            raw(b"raw", dtype, (len(patterns),), elements),
            sparse(b"sparse", dtype, (9,), [1], [0, 0, 1, 0, 0, 0, 1, 0, 0], View(9, 3)),
        )
        made.append(
            (f"type_{label}", valid(f"elements of type {label} in all encodings", *tensors))
        )
    return made


def _examples() -> list[tuple[str, Valid]]:
    """The files of section 15."""
    dense_table = b.only(256, s2=2, s104=2)
    d = dense(
        b"d",
        F32,
        b.uniform(-1, -1, 3),
        [0xBF000000, 0, 0x3F000000],
        [0, 2, 2, 1, 2],
        2,
        8,
        2,
        (b.explicit(dense_table), dense_table),
    )
    ones = b.only(256, s1=2, s3=2)
    s = sparse(
        b"s",
        I8,
        (2, 10),
        [3, 0xFF],
        [0, 0, 1, 0, 0, 0, 0, 2, 0, 0] + [0, 0, 1] + [0] * 7,
        View(
            10,
            8,
            1,
            2,
            (),
            [0, 0, 1, 0, 0, 0, 0, 1, 0, 0],
            b"\0\1",
            8,
            2,
            (b.bernoulli(0, 0) + b.explicit(ones), [b.only(256, s0=4), ones]),
            (1, b.FLAT, [1, 1]),
        ),
    )
    # The classes of the columns have a total of four there.
    tables, chunk = s.parts
    coded = b.stream([0, 0, 1, 0, 0, 0, 0, 1, 0, 0], [[3, 1]], 2)
    ours = classes_of([0, 0, 1, 0, 0, 0, 0, 1, 0, 0])
    theirs = b"\2\2" + b.explicit([3, 1]) + varint(len(coded)) + coded
    s = Tensor(
        s.name, s.encoding, s.dtype, s.shape, s.elements, (tables.replace(ours, theirs), chunk)
    )
    plane = b.only(256, s127=2)
    stream = b.stream([127] * 3, [plane], 1)
    p_elements = b"".join(b.number(pattern, 2) for pattern in (0x3F80, 0xBFC0, 0x3FE0))
    p = Tensor(
        b"p",
        b.PLANES,
        BF16,
        (3,),
        p_elements,
        (
            varint(8) + b"\0\1\1" + b.explicit(plane),
            b"\x00\x81\xc0" + varint(len(stream)) + stream,
        ),
    )
    pair = b.only(256, s0=3, s1=1)
    k = sparse(
        b"k",
        I16,
        (2, 2, 2, 2),
        [5, 0xFFFE],
        [1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 0],
        View(
            8,
            4,
            4,
            2,
            (),
            (),
            b"",
            4,
            6,
            (
                b.markov(1 << 15, 1 << 14, 1 << 15, 4),
                [b.chain((1 << 15, 1 << 14, 1 << 15), 4, 4, 6)],
            ),
            (2, b.explicit(pair), pair),
        ),
    )
    return [
        ("example_15_1", valid("the smallest file, 15.1")),
        ("example_15_2", valid("one small tensor, 15.2", raw(b"w", I16, (2,), b"\1\0\xff\xff"))),
        ("example_15_3", valid("a dense tensor, 15.3", d)),
        ("example_15_4", valid("a sparse tensor, 15.4", s)),
        ("example_15_5", valid("a tensor in planes, 15.5", p)),
        ("example_15_6", valid("a sparse tensor of kernels, 15.6", k)),
        ("example_15_7", valid("a constant tensor, 15.7", constant(b"c", F32, (2, 3), floats(1)))),
    ]


def _edges() -> list[tuple[str, Valid]]:
    """Names, ties, shapes and values at their limits."""
    two = b"\1\0\2\0"
    odd = b"".join(b.number(pattern, 4) for pattern in ODD)
    ordered = sorted(ODD)
    return [
        (
            "empty_tensors",
            valid(
                "tensors without elements",
                raw(b"a", F32, (0,), b""),
                raw(b"b", 0, (3, 0, 1 << 40), b""),
            ),
        ),
        ("scalar", valid("a scalar", raw(b"s", F32, (), floats(2.5)))),
        (
            "names",
            valid(
                "names of 1, 8 and 1024 bytes and beyond ASCII",
                raw(b"a", U8, (1,), b"\7"),
                raw(b"b" * 8, U8, (1,), b"\1"),
                raw(b"c" * 1024, U8, (1,), b"\2"),
                raw("ä/..\\ \u202e".encode(), U8, (1,), b"\3"),
            ),
        ),
        (
            "ties",
            valid(
                "names tied to a tensor before and behind",
                Tensor(b"a", b.ALIAS, target=1),
                raw(b"b", I16, (2,), two),
                Tensor(b"c", b.ALIAS, target=1),
            ),
        ),
        (
            "odd_floats",
            valid(
                "NaNs with payload, infinity, minus zero and a subnormal in all encodings",
                dense(b"dense", F32, b.full(ordered, 4), ordered, [5, 0, 1, 2, 3, 4, 4], 4),
                planes(b"planes", F32, ODD, [False, True, False, True], 8),
                raw(b"raw", F32, (6,), odd),
                sparse(b"sparse", F32, (8,), ordered, [0, 1, 2, 3, 0, 4, 5, 6], View(8, 8)),
            ),
        ),
        ("rank_32", valid("as many dimensions as there may be", raw(b"r", U8, (1,) * 32, b"\x09"))),
    ]


def _codebooks() -> list[tuple[str, Valid]]:
    """Every codebook, width of an index and kind of table."""
    levels = [0, 1, 2, 3]
    bf = [0x3F80, 0x4000, 0xBF80]
    half = [(0x3C00, 0x3F800000), (0x3555, 0x3EAAA000), (0x8000, 0x80000000), (0x0001, 0x33800000)]
    half.sort(key=lambda pair: pair[1])
    long = [at % 3 for at in range(70)]
    many = [(at * at) % 7 for at in range(8300)]
    return [
        (
            "codebooks",
            valid(
                "codebooks of all kinds",
                dense(b"bfloat16", F32, b.halves(1, bf), [p << 16 for p in bf], long, 8),
                dense(
                    b"float16",
                    F32,
                    b.halves(2, [h for h, _ in half]),
                    [p for _, p in half],
                    long,
                    2,
                ),
                dense(b"full", U8, b.full(levels, 1), levels, long, 2),
                dense(
                    b"uniform",
                    F32,
                    b.uniform(-2, -1, 4),
                    [0xBE800000, 0, 0x3E800000, 0x3F000000],
                    long,
                    2,
                ),
            ),
        ),
        (
            "index_bits",
            valid(
                "indices of 1, 2, 4 and 8 bits with padding, and levels that no element has",
                dense(b"1", U8, b.full([3, 9], 1), [3, 9], [at % 2 for at in range(13)], 1),
                dense(b"2", U8, b.full([3, 9, 11], 1), [3, 9, 11], long, 2),
                dense(b"4", U8, b.full(list(range(16)), 1), list(range(16)), WAVE[:33], 4),
                dense(b"8", U8, b.full(list(range(200)), 1), list(range(200)), WAVE, 8),
            ),
        ),
        (
            "chunks",
            valid(
                "chunks of eight elements and a short last one",
                dense(b"d", U8, b.full(levels, 1), levels, [at % 4 for at in range(21)], 4, 8),
                planes(b"p", I16, [300 * at for at in range(21)], [True, False], 8),
            ),
        ),
        (
            "certain",
            valid(
                "one symbol of frequency 2**15, and a flat table of total 2",
                dense(
                    b"c",
                    U8,
                    b.full([7], 1),
                    [7],
                    [0] * 40,
                    8,
                    16,
                    15,
                    (b.explicit([1 << 15]), [1 << 15]),
                ),
                dense(
                    b"f", U8, b.full([7, 8], 1), [7, 8], [0, 1, 1, 0, 1], 8, 16, 1, (b.FLAT, [1, 1])
                ),
            ),
        ),
        (
            "eight_lanes",
            valid(
                "a stream of more than 8192 symbols",
                dense(b"w", U8, b.full(list(range(7)), 1), list(range(7)), many, 8),
            ),
        ),
    ]


def _masks() -> list[tuple[str, Valid]]:
    """Views, classes, contexts and tables of sparse tensors."""
    levels = [1, 5, 9]
    made = []
    for bits in range(1, 10):
        for unit in sorted({1, bits}):
            units = -(-18 // unit)
            view = View(
                18,
                bits,
                unit,
                2,
                [0, 1, 0, 2, 1],
                [at % 2 for at in range(units)],
                b"\0\1\1\2\2\0",
                4 if bits % 2 else 8,
                12,
            )
            made.append(
                (
                    f"mask_{bits}_{unit}",
                    valid(
                        f"masks of {bits} places, units of {unit}, classes and chunks",
                        sparse(b"w", U8, (5, 18), levels, CURVE, view),
                    ),
                )
            )
    nine = b.chain((9000, 7000, 30000), 4, 9, 12)
    tables = [b.chain((3000,) * 3, 9, 9, 12), nine]
    written = b.bernoulli(3000, 9) + b.markov(9000, 7000, 30000, 4)
    made += [
        (
            "mask_tables",
            valid(
                "a Bernoulli and a Markov table",
                sparse(
                    b"w",
                    F32,
                    (10, 9),
                    [0x3F800000],
                    [int(at % 7 == 0) for at in range(90)],
                    View(
                        9,
                        9,
                        9,
                        10,
                        [at % 2 for at in range(10)],
                        (),
                        b"\0\1",
                        8,
                        12,
                        (written, tables),
                    ),
                ),
            ),
        ),
        (
            "all_zero",
            valid(
                "no element is left: a table of density zero and an empty stream",
                sparse(
                    b"w",
                    F32,
                    (4, 8),
                    [0x3F800000],
                    [0] * 32,
                    View(
                        8, 8, 8, 4, (), (), b"", 4, 12, (b.bernoulli(0, 0), [b.only(256, s0=4096)])
                    ),
                ),
            ),
        ),
        (
            "no_zero",
            valid(
                "no element is zero", sparse(b"w", U8, (3, 8), levels, [1, 2, 3] * 8, View(8, 8))
            ),
        ),
        (
            "one_weight",
            valid("a single element", sparse(b"w", F32, (1,), [MINUS_ZERO], [1], View(1, 1))),
        ),
        (
            "short_row",
            valid(
                "rows that ignore the shape, the last one short",
                sparse(b"w", I16, (3, 30), levels, CURVE, View(40, 8, 1, 2)),
            ),
        ),
    ]
    return made


def _sections() -> list[tuple[str, Valid]]:
    """Metadata, programs and what readers have to ignore."""
    w = raw(b"w", U8, (1,), b"\7")
    onnx, unknown, torch = b"not looked at by tensor readers", b"\0\1\2", b"nor is this"
    body = b.text(b"key") + b.text("värde".encode()) + b.text(b"zero") + b.text(b"")
    programs = b.programs_of(
        b.Program(b"future", unknown),
        b.Program(b"onnx", zstd_frame(onnx), 1, len(onnx)),
        b.Program(b"torch", zstd_block(torch), 2, len(torch)),
    )
    return [
        (
            "metadata",
            Valid(
                "metadata with an empty value",
                file_of(w, metadata=b.metadata_of(body)),
                [w],
                {"key": "värde", "zero": ""},
            ),
        ),
        (
            "programs",
            Valid(
                "programs of all codecs, one of an unknown kind",
                file_of(w, programs=programs),
                [w],
                {},
                {"future": unknown, "onnx": onnx, "torch": torch},
            ),
        ),
        (
            "optional_feature",
            Valid(
                "optional features that nobody knows",
                file_of(w, header=b.Header(optional=1 << 63 | 1)),
                [w],
            ),
        ),
        (
            "version_minor",
            Valid("a minor version to come", file_of(w, header=b.Header(version_minor=7)), [w]),
        ),
    ]


def files() -> dict[str, Valid]:
    """Return all valid files by name."""
    made = [*_examples(), *_of_types(), *_edges(), *_codebooks(), *_masks(), *_sections()]
    return dict(made)


def expectation(file: Valid) -> dict[str, object]:
    """Return what a reader has to find."""
    tensors: dict[str, object] = {}
    for tensor in file.tensors:
        name = tensor.name.decode()
        if tensor.encoding == b.ALIAS:
            tensors[name] = {"tied": file.tensors[tensor.target].name.decode()}
            continue
        width = b.ITEM_BYTES[tensor.dtype]
        first = [
            tensor.elements[at : at + width][::-1].hex()
            for at in range(0, len(tensor.elements), width)
        ]
        tensors[name] = {
            "dtype": b.DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "crc32": zlib.crc32(tensor.elements),
            "first": first[:4],
        }
    programs = {kind: zlib.crc32(program) for kind, program in file.programs.items()}
    return {
        "purpose": file.purpose,
        "tensors": tensors,
        "metadata": file.metadata,
        "programs": programs,
    }
