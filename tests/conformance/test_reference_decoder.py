"""The reference decoder and the runtime agree on good files and on bad ones."""

import importlib.util
import io
import re
import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from numpy.typing import NDArray

import spq
from spq import mixed, rans
from spq.encode import encode_tensor
from spq.frequencies import normalise
from spq.mixed import encode_mixed
from spq.planes import split_planes
from spqformat.codebook import Codebook, uniform_codebook
from spqformat.cursor import varint
from spqformat.dense_tables import dense_alphabet, read_dense_tables, write_dense_head
from spqformat.frequency_tables import (
    flat_frequencies,
    markov_frequencies,
    write_bernoulli,
    write_explicit,
    write_flat,
    write_markov,
)
from spqformat.ids import (
    MAX_MIXED_ELEMENTS,
    MAX_MIXED_LEVELS,
    CodebookKind,
    DType,
    Encoding,
    TableKind,
)
from spqformat.mixed_tables import read_mixed_tables, write_mixed_tables
from spqformat.plane_tables import (
    read_planes_tables,
    sign_last,
    write_coded_plane,
    write_planes_tables,
    write_stored_plane,
)
from spqformat.reader import read_container
from spqformat.sparse_tables import (
    read_sparse_tables,
    write_classes,
    write_contexts,
    write_one_class,
    write_sparse_shape,
)
from spqformat.writer import EncodedTensor, serialise

SPEC = Path(__file__).parents[2] / "spec"
SEED = 20
Array = NDArray[Any]


def load_reference() -> Any:
    """Import the decoder by its path: `spec` is no package."""
    name = "spq_reference_decoder"
    location = importlib.util.spec_from_file_location(name, SPEC / "reference_decoder.py")
    assert location is not None
    assert location.loader is not None
    module = importlib.util.module_from_spec(location)
    sys.modules[name] = module
    location.loader.exec_module(module)
    return module


reference = load_reference()


# --- good files ------------------------------------------------------------------------------


def saved(tensors: Mapping[str, Array], **extras: Any) -> bytes:
    stream = io.BytesIO()
    spq.save(tensors, stream, **extras)
    return stream.getvalue()


def piece(data: bytes, offset: int, count: int) -> bytes:
    return data[offset : offset + count]


def patterns(random: np.random.Generator, dtype: DType, count: int) -> Array:
    """Draw distinct bit patterns, zero among them, strictly ascending."""
    if dtype is DType.BOOL:
        return np.arange(min(count, 2), dtype=np.uint8)
    width = dtype.item_bytes
    drawn = random.integers(1, 1 << (8 * width), 4 * count, dtype=f"u{width}")
    if width == 1:
        drawn = random.permutation(np.arange(1, 256, dtype=np.uint8))
    return np.unique(np.append(np.unique(drawn)[: count - 1], drawn.dtype.type(0)))


def tensor(random: np.random.Generator, dtype: DType, levels: Array, share: float) -> Array:
    """Draw a matrix, `share` of it not zero."""
    zero = int(np.flatnonzero(levels == 0)[0])
    chosen = random.integers(0, levels.size, 2500)
    chosen[random.random(2500) >= share] = zero
    return levels[chosen].view(dtype.numpy).reshape(25, 100)


def clustered(random: np.random.Generator) -> Array:
    """Draw a sparse matrix whose rows and columns differ in density."""
    density = np.outer(np.linspace(0.02, 1, 60) ** 2, np.linspace(0.02, 1, 83) ** 2)
    values = random.choice(np.array([-0.75, -0.25, 0.1, 0.5], dtype="f4"), (60, 83))
    return np.where(random.random((60, 83)) < density, values, np.float32(0))


KERNELS = ((12, 8, 3, 3), (10, 6, 5, 5), (6, 5, 7, 7), (20, 20, 2, 2), (40, 30, 1, 1), (30, 20, 3))


def kernels(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Draw a convolution's weight in which places of a kernel are alike, and so are values."""
    size = int(np.prod(shape[2:]))
    kept = random.random((shape[0] * shape[1], size)) < 0.3
    for place in range(1, size):
        same = random.random(kept.shape[0]) < 0.7
        kept[same, place] = kept[same, place - 1]
    kept &= random.random((kept.shape[0], 1)) < 0.5
    values = np.repeat(random.choice(np.array([-0.3, 0.1, 0.7], dtype="f4"), kept.shape[0]), size)
    return np.where(kept.reshape(-1), values, np.float32(0)).reshape(shape)


VIEWS = ((6, 5, 3, 3), (4, 3, 5, 5), (9, 8), (1, 70), (80, 1), (6, 8, 1, 1), (7, 6, 3), (2,) * 6)


def stepped(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Draw a small weight of either sign, near zero more often."""
    steps = np.rint(random.normal(0, 2, shape))
    return np.asarray(steps * 0.0625, dtype=random.choice(np.array(["f2", "f4", "f8"])))


def awkward_floats() -> Array:
    """Return NaNs with payloads, infinities, both zeros and subnormals."""
    bits = [
        0x7FC00001,
        0xFFC00000,
        0x7F800001,
        0x7F800000,
        0xFF800000,
        0,
        0x80000000,
        1,
        0x807FFFFF,
    ]
    return np.array(bits * 20, dtype=np.uint32).view(np.float32)


def saved_plain(programs: dict[str, bytes]) -> bytes:
    """Save programs without the dictionary, as other writers may."""
    with patch("spqformat.zstd.blocks_of", return_value=None):
        return saved({}, programs=programs)


def good_files() -> dict[str, bytes]:
    random = np.random.Generator(np.random.PCG64(SEED))
    shared = np.arange(24, dtype="f4").reshape(2, 3, 4)
    files = {
        "nothing": saved({}),
        "metadata": saved({}, metadata={"licence": "Apache-2.0", "é": "", "a": "\n\x1b[0m"}),
        "programs": saved(
            {"w": np.ones(3, dtype="i8")},
            programs={"torch": b"{" + b" " * 500 + b"}", "onnx": b"\x08\x0a", "x-none": b""},
        ),
        "plain zstd program": saved_plain(programs={"torch": b"{" + b" " * 500 + b"}"}),
        "stored program": saved({}, programs={"onnx": random.bytes(90)}, metadata={"a": "b"}),
        "shapes": saved(
            {
                "scalar": np.array(2.5),
                "empty": np.empty((3, 0, 2), dtype="i2"),
                "deep": np.zeros((1,) * 32, dtype="u1"),
                "ärger": np.array([True]),
                "one": np.array([[7]], dtype="u4"),
            }
        ),
        "ties": saved({"b": shared, "a": shared, "c": shared, "d": shared.copy(), "e": shared[0]}),
        "awkward": saved({"floats": awkward_floats(), "halves": awkward_floats().view("f2")}),
        "clustered": saved({"w": clustered(random), "b": clustered(random)[:, 0].copy()}),
        "kernels": saved({str(shape): kernels(random, shape) for shape in KERNELS}),
        "mixed": saved({str(shape): stepped(random, shape) for shape in VIEWS}, fast_load=False),
    }
    short: dict[str, Array] = {
        "uniform": (random.integers(-7, 9, 6000) * np.float32(0.0625)).astype("f4"),
        "binary": random.choice(np.array([-1, 1], dtype="f4"), 6000),
        "four": (random.integers(-1, 3, 6000) * np.float32(0.0625)).astype("f4"),
        "bf16": random.choice(np.array([0.1, 3e38, np.inf]).astype("f4"), 6000),
        "f16": random.choice(np.array([1 / 3, -0.0, 6e-8], dtype="f2").astype("f4"), 6000),
        "full": random.choice(np.array([0.1, 0.2, 0.3], dtype="f4"), 6000),
    }
    short["bf16"].view("u4")[:] &= 0xFFFF0000
    for name in tuple(short):
        masked = short[name].reshape(60, 100).copy()
        # Columns of unlike density: dense indices would cost more.
        masked[random.random((60, 100)) > random.choice([0.02, 0.6], 100)] = 0
        short[f"sparse {name}"] = masked
    files["codebooks"] = saved(short)
    for dtype in DType:
        encoded = {}
        for count in (1, 2, 3, 13, 200):
            levels = patterns(random, dtype, count)
            for share in (0.03, 0.4, 1.0):
                elements = tensor(random, dtype, levels, share)
                encoded[f"{count} levels, {share}"] = encode_tensor(elements, dtype)
        raw = np.frombuffer(random.bytes(8 * 300), dtype=f"u{dtype.item_bytes}")
        raw = raw & 1 if dtype is DType.BOOL else raw
        encoded["raw"] = encode_tensor(raw.view(dtype.numpy), dtype)
        files[dtype.label] = b"".join(serialise(encoded, {}, {}, {}))
    # More than the elements of one chunk.
    signs = random.choice(np.array([-0.5, 0.5], dtype="f4"), 600_000)
    thinned = np.where(random.random(600_000) < 0.03, signs, np.float32(0))
    files["chunks"] = saved({"binary": signs, "sparse": thinned})
    weights = random.normal(0, 0.05, 530_000)
    files["planes"] = saved(
        {
            "halves": weights.astype("f2"),
            "singles": weights[:3000].astype("f4"),
            "doubles": weights[:3000],
            "integers": random.integers(0, 5000, 3000),
        }
    )
    return files


# --- files that the encoder does not write ---------------------------------------------------


def written_table(
    random: np.random.Generator, counts: NDArray[np.int64], freq_log2: int
) -> tuple[NDArray[np.uint32], bytes]:
    """Draw a kind of table that gives a frequency to each counted symbol."""
    alphabet = counts.size
    kinds = [TableKind.EXPLICIT]
    if alphabet & (alphabet - 1) == 0 and alphabet <= 1 << freq_log2:
        kinds.append(TableKind.FLAT)
    if masks := alphabet in [1 << bits for bits in range(1, 10)]:
        ones = np.bitwise_count(np.flatnonzero(counts))
        least = max(1, int(ones.max(initial=0)))
        max_ones = int(random.integers(least, alphabet.bit_length()))
        first, after_zero, after_one = (int(random.integers(1, 65536)) for _ in range(3))
        rest = (max_ones, alphabet.bit_length() - 1, freq_log2)
        chain = markov_frequencies(first, after_zero, after_one, *rest)
        independent = markov_frequencies(first, first, first, *rest)
        if chain is not None:
            kinds.append(TableKind.MARKOV)
        if independent is not None:
            kinds.append(TableKind.BERNOULLI)
    kind = kinds[random.integers(len(kinds))]
    if kind is TableKind.FLAT:
        return flat_frequencies(alphabet, freq_log2), write_flat()
    if masks and kind is TableKind.BERNOULLI:
        assert independent is not None
        return independent, write_bernoulli(first, max_ones)
    if masks and kind is TableKind.MARKOV:
        assert chain is not None
        return chain, write_markov(first, after_zero, after_one, max_ones)
    if not counts.any():
        counts = np.eye(1, alphabet, int(random.integers(alphabet)), dtype=np.int64)[0]
    frequencies = normalise(counts, freq_log2)
    return frequencies, write_explicit(frequencies)


def codebook_of(random: np.random.Generator, dtype: DType, sparse: bool) -> Codebook:
    """Draw a codebook of any kind; one for a sparse tensor has no zero."""
    count = int(random.choice([1, 2, 3, 4, 9, 16, 40, 256]))
    kind = random.choice(list(CodebookKind)) if dtype is DType.F32 else CodebookKind.FULL
    if kind == CodebookKind.UNIFORM:
        first = int(random.integers(1, 1 << 24)) if sparse else int(random.integers(-300, 300))
        exponent = int(random.choice([-126, -3, 0, 102]))
        return uniform_codebook(exponent, min(first, (1 << 24) - count + 1), count)
    if kind == CodebookKind.FLOAT16:
        halves = np.unique(random.integers(1, 1 << 16, count, dtype=np.uint16)).view(np.float16)
        levels: Array = np.unique(halves.astype(np.float32).view(np.uint32))
        levels = levels[np.isfinite(levels.view(np.float32))]
        levels = levels if levels.size else np.array([0x3F800000], dtype=np.uint32)
    elif kind == CodebookKind.BFLOAT16:
        levels = np.unique(random.integers(1, 1 << 16, count, dtype=np.uint32)) << np.uint32(16)
    else:
        levels = patterns(random, dtype, count + 1)
        levels = levels[levels != 0] if sparse or levels.size > 256 else levels
    return Codebook(CodebookKind(int(kind)), levels[:256])


def handmade_dense(random: np.random.Generator) -> tuple[EncodedTensor, bytes]:
    dtype = DType(int(random.integers(len(DType))))
    codebook = codebook_of(random, dtype, sparse=False)
    fitting = [bits for bits in (1, 2, 4, 8) if codebook.level_count <= 1 << bits]
    index_bits = int(random.choice(fitting))
    chunk_elements = 8 * int(random.integers(1, 600))
    count = int(random.integers(1, 3 * chunk_elements))
    indices = random.integers(0, codebook.level_count, count, dtype=np.uint8)
    per_symbol = 8 // index_bits
    padded = np.zeros(-(-count // per_symbol) * per_symbol, dtype=np.uint8)
    padded[:count] = indices
    places = np.arange(per_symbol, dtype=np.uint8) * np.uint8(index_bits)
    symbols = np.bitwise_or.reduce(padded.reshape(-1, per_symbol) << places, axis=1)
    alphabet = codebook.level_count if index_bits == 8 else 256
    counts = np.bincount(symbols, minlength=alphabet)
    freq_log2 = int(random.integers(8, 16))
    frequencies, table = written_table(random, counts, freq_log2)
    if index_bits < 8:
        # Another table would give a frequency to symbols whose indices have no level.
        frequencies = normalise(counts, freq_log2)
        table = write_explicit(frequencies)
    coder = rans.build_tables(frequencies[None, :], freq_log2)
    parts = [write_dense_head(codebook, index_bits, chunk_elements) + bytes([freq_log2]) + table]
    step = chunk_elements // per_symbol
    chunks = (symbols[first : first + step] for first in range(0, symbols.size, step))
    parts += [rans.encode(chunk, coder, rans.NO_CONTEXTS) for chunk in chunks]
    elements = codebook.levels[indices].tobytes()
    return EncodedTensor(dtype, Encoding.DENSE, (count,), zlib.crc32(elements), parts), elements


def handmade_classes(
    random: np.random.Generator, class_count: int, count: int
) -> tuple[NDArray[np.uint8], bytes]:
    if class_count == 1:
        return np.zeros(count, dtype=np.uint8), write_one_class()
    classes = random.integers(0, class_count, count, dtype=np.uint8)
    freq_log2 = int(random.integers(4, 16))
    counts = np.bincount(classes, minlength=class_count)
    frequencies, table = written_table(random, counts, freq_log2)
    coder = rans.build_tables(frequencies[None, :], freq_log2)
    stream = rans.encode(classes, coder, rans.NO_CONTEXTS)
    return classes, write_classes(class_count, freq_log2, table, stream)


def handmade_contexts(random: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw a context for each pair of classes, numbered as they appear."""
    drawn = random.integers(0, random.integers(1, 65), shape[0] * shape[1])
    numbers: dict[int, int] = {}
    return np.array(
        [numbers.setdefault(int(context), len(numbers)) for context in drawn], dtype=np.uint8
    ).reshape(shape)


def handmade_values(
    random: np.random.Generator, index_bits: int, level_count: int, chunks: list[Array]
) -> tuple[bytes, list[bytes]]:
    """Return what the tables say about values, and the stream of each chunk."""
    if index_bits == 4:
        padded = [np.append(chunk, np.zeros(chunk.size % 2, dtype=np.uint8)) for chunk in chunks]
        chunks = [chunk[0::2] | (chunk[1::2] << 4) for chunk in padded]
    alphabet = dense_alphabet(index_bits, level_count)
    counts = np.bincount(np.concatenate(chunks), minlength=alphabet)
    freq_log2 = int(random.integers(8, 16))
    frequencies, table = written_table(random, counts, freq_log2)
    if index_bits == 4 and level_count < 16:
        # Another table would give a frequency to symbols whose indices have no level.
        frequencies = normalise(np.maximum(counts, np.arange(alphabet) == 0), freq_log2)
        table = write_explicit(frequencies)
    coder = rans.build_tables(frequencies[None, :], freq_log2)
    return bytes([index_bits, freq_log2]) + table, [
        rans.encode(chunk, coder, rans.NO_CONTEXTS) for chunk in chunks
    ]


def handmade_sparse(random: np.random.Generator) -> tuple[EncodedTensor, bytes]:
    dtype = DType(int(random.integers(len(DType))))
    codebook = codebook_of(random, dtype, sparse=True)
    count = int(random.choice([1, 5, 8, 100, 3000, 20000]))
    row_length = int(random.integers(min(8, count), min(count, 300) + 1))
    row_count = -(-count // row_length)
    symbol_bits = int(random.integers(1, 10))
    unit_columns = int(random.choice([1, symbol_bits]))
    class_counts = random.choice(
        np.array([(1, 1), (1, 16), (16, 1), (3, 5), (16, 16), (8, 8), (2, 2)])
    ).tolist()
    row_classes, row_bytes = handmade_classes(random, class_counts[0], row_count)
    unit_count = -(-row_length // unit_columns)
    unit_classes, unit_bytes = handmade_classes(random, class_counts[1], unit_count)
    column_classes = np.repeat(unit_classes, unit_columns)[:row_length]

    density = random.random() ** 2 * (1 + row_classes[:, None] + column_classes[None, :]) / 32
    ones = random.random((row_count, row_length)) < density
    ones.ravel()[count:] = False
    grid = np.full((row_count, row_length), -1)
    grid[ones] = random.integers(0, codebook.level_count, int(ones.sum()))
    order = np.arange(row_length)
    if unit_columns == 1:
        order = np.argsort(column_classes, kind="stable")
    coded = grid[:, order]
    row_symbols = -(-row_length // symbol_bits)
    bits = np.zeros((row_count, row_symbols * symbol_bits), dtype=np.int64)
    bits[:, :row_length] = coded >= 0
    mask = bits.reshape(row_count, row_symbols, symbol_bits) @ (1 << np.arange(symbol_bits))
    mask = mask.astype(np.uint8 if symbol_bits <= 8 else np.uint16)
    context_of_classes = handmade_contexts(random, class_counts)
    symbol_classes = column_classes[order][::symbol_bits]
    contexts = context_of_classes[row_classes[:, None], symbol_classes[None, :]]

    mask_freq_log2 = int(random.integers(9, 16))
    alphabet = 1 << symbol_bits
    mask_tables = [
        written_table(
            random, np.bincount(mask[contexts == context], minlength=alphabet), mask_freq_log2
        )
        for context in range(int(context_of_classes.max()) + 1)
    ]
    mask_coder = rans.build_tables(np.stack([table[0] for table in mask_tables]), mask_freq_log2)
    rows_per_chunk = int(random.integers(1, row_count + 20))
    starts = range(0, row_count, rows_per_chunk)
    values = [coded[first : first + rows_per_chunk] for first in starts]
    index_bits = int(random.choice([4, 8])) if codebook.level_count <= 16 else 8
    value_tables, value_streams = handmade_values(
        random,
        index_bits,
        codebook.level_count,
        [chunk[chunk >= 0].astype(np.uint8) for chunk in values],
    )
    parts = [
        write_sparse_shape(codebook, row_length, rows_per_chunk, symbol_bits, unit_columns)
        + row_bytes
        + unit_bytes
        + write_contexts(context_of_classes)
        + bytes([mask_freq_log2])
        + b"".join(table[1] for table in mask_tables)
        + value_tables
    ]
    for first, value_stream in zip(starts, value_streams, strict=True):
        rows = slice(first, first + rows_per_chunk)
        mask_stream = rans.encode(mask[rows].ravel(), mask_coder, contexts[rows].ravel())
        parts.append(varint(len(mask_stream)) + mask_stream + value_stream)
    levels = np.append(codebook.levels, codebook.levels.dtype.type(0))
    elements = levels[grid.ravel()[:count]].tobytes()
    return EncodedTensor(dtype, Encoding.SPARSE, (count,), zlib.crc32(elements), parts), elements


def handmade_planes(
    random: np.random.Generator, dtype: DType | None = None
) -> tuple[EncodedTensor, bytes]:
    dtype = DType(int(random.integers(len(DType)))) if dtype is None else dtype
    chunk_elements = 8 * int(random.integers(1, 400))
    count = int(random.integers(1, 3 * chunk_elements))
    width = dtype.item_bytes
    # Some planes of each kind: constant, of few bytes, of all bytes.
    planes = np.zeros((width, count), dtype=np.uint8)
    for plane in planes:
        plane[:] = random.integers(256) & random.integers(0, random.choice([1, 5, 256]), count)
    if dtype is DType.BOOL:
        planes &= np.uint8(1)
    elements = np.zeros(count, dtype=f"u{width}")
    for place, plane in enumerate(planes):
        elements |= plane.astype(elements.dtype) << elements.dtype.type(8 * place)
    if sign_last(dtype):
        one, top = elements.dtype.type(1), elements.dtype.type(8 * width - 1)
        elements = (elements >> one) | (elements << top)
    assert np.array_equal(split_planes(elements, sign_last(dtype)), planes)
    tables, pieces = [], []
    for plane in planes:
        chunks = np.split(plane, range(chunk_elements, count, chunk_elements))
        if random.random() < 0.4:
            tables.append(write_stored_plane())
            pieces.append([chunk.tobytes() for chunk in chunks])
            continue
        freq_log2 = int(random.integers(8, 16))
        counts = np.bincount(plane, minlength=256)
        frequencies, table = written_table(random, counts, freq_log2)
        coder = rans.build_tables(frequencies[None, :], freq_log2)
        tables.append(write_coded_plane(freq_log2, table))
        streams = [rans.encode(chunk, coder, rans.NO_CONTEXTS) for chunk in chunks]
        pieces.append([varint(len(stream)) + stream for stream in streams])
    parts = [write_planes_tables(chunk_elements, tables)]
    parts += [b"".join(chunk) for chunk in zip(*pieces, strict=True)]
    stored = elements.tobytes()
    return EncodedTensor(dtype, Encoding.PLANES, (count,), zlib.crc32(stored), parts), stored


def mixed_codebook(random: np.random.Generator, dtype: DType) -> Codebook:
    """Draw a codebook of at most 64 levels, none of them zero and no uniform one."""
    codebook = codebook_of(random, dtype, sparse=True)
    while codebook.kind is CodebookKind.UNIFORM:
        codebook = codebook_of(random, dtype, sparse=True)
    count = min(codebook.level_count, int(random.integers(1, MAX_MIXED_LEVELS + 1)))
    kept = np.sort(random.choice(codebook.levels.size, count, replace=False))
    return Codebook(codebook.kind, codebook.levels[kept])


def handmade_mixed(random: np.random.Generator) -> tuple[EncodedTensor, bytes]:
    """Draw a mixed tensor; draws again where the encoder finds it too long."""
    shapes = [(1, 1), (1, 40), (40, 1), (6, 9), (3, 4, 3), (3, 2, 3, 3), (2, 1, 5, 5), (4, 5, 1, 1)]
    while True:
        dtype = DType(int(random.integers(4)))
        codebook = mixed_codebook(random, dtype)
        rank = int(random.integers(2, 6))
        shape = tuple(random.integers(1, 5, rank).tolist())
        if random.random() < 0.5:
            shape = shapes[random.integers(len(shapes))]
        count = int(np.prod(shape))
        share, most = random.random() * 1.2, int(random.integers(codebook.level_count)) + 1
        indices = random.integers(1, most + 1, count, dtype=np.uint8)
        indices[random.random(count) > share] = 0
        parts = encode_mixed(indices, 0, codebook, shape)
        if parts is not None:
            break
    levels = np.append(codebook.levels.dtype.type(0), codebook.levels)
    elements = levels[indices].tobytes()
    return EncodedTensor(dtype, Encoding.MIXED, shape, zlib.crc32(elements), parts), elements


# --- comparison ------------------------------------------------------------------------------

Outcome = dict[str, object]


def runtime_outcome(data: bytes) -> Outcome:
    """Return the reason of a refusal, or what each tensor and program gave."""
    try:
        archive = spq.open(data)
    except spq.SpqError as error:
        return {"refused": str(error.code)}
    outcome: Outcome = {"metadata": dict(archive.metadata), "aliases": dict(archive.aliases)}
    for name in sorted(set(archive.keys()) - set(archive.aliases)):
        info = archive.info(name)
        outcome[f"info {name}"] = (info.dtype, info.encoding, info.shape)
        try:
            outcome[f"tensor {name}"] = archive.get_tensor(name).tobytes()
        except spq.SpqError as error:
            outcome[f"tensor {name}"] = str(error.code)
    for kind in archive.program_kinds:
        try:
            outcome[f"program {kind}"] = archive.program(kind)
        except spq.SpqError as error:
            outcome[f"program {kind}"] = str(error.code)
    try:
        archive.verify()
        outcome["verified"] = "ok"
    except spq.SpqError as error:
        outcome["verified"] = str(error.code)
    return outcome


def reference_outcome(data: bytes) -> Outcome:
    """Return the same as `runtime_outcome`, from the reference decoder."""
    try:
        container = reference.read_container(data, reference.Limits())
    except reference.Refusal as refusal:
        return {"refused": refusal.code}
    outcome: Outcome = {"metadata": container.metadata, "aliases": container.aliases}
    for name, record in container.tensors.items():
        outcome[f"info {name}"] = (record.dtype, record.encoding, record.shape)
        try:
            outcome[f"tensor {name}"] = reference.decode_tensor(data, record)
        except reference.Refusal as refusal:
            outcome[f"tensor {name}"] = refusal.code
    for kind, record in container.programs.items():
        try:
            outcome[f"program {kind}"] = reference.read_part(data, record.part)
        except reference.Refusal as refusal:
            outcome[f"program {kind}"] = refusal.code
    try:
        reference.decode_file(data)
        outcome["verified"] = "ok"
    except reference.Refusal as refusal:
        outcome["verified"] = refusal.code
    return outcome


def assert_agreement(data: bytes) -> Outcome:
    """Compare both decoders; the reference decoder does not look into zstd programs."""
    ours, theirs = runtime_outcome(data), reference_outcome(data)
    if "refused" not in theirs:
        for kind, record in reference.read_container(data, reference.Limits()).programs.items():
            if record.codec != "stored" and theirs[f"program {kind}"] != "checksum_mismatch":
                ours[f"program {kind}"] = theirs[f"program {kind}"]
                if (ours["verified"], theirs["verified"]) == ("bad_program", "ok"):
                    ours["verified"] = "ok"
    assert ours == theirs, data.hex()
    return ours


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return good_files()


def test_good_files_decode_alike(files: dict[str, bytes]) -> None:
    for data in files.values():
        assert assert_agreement(data)["verified"] == "ok"


def test_every_choice_of_the_encoder_is_reached(files: dict[str, bytes]) -> None:
    seen: set[object] = set()
    for data in files.values():
        container = read_container(partial(piece, data), len(data), spq.Limits())
        seen.add(("deflated", bool(data[16])))
        for record in container.tensors.values():
            seen |= {("dtype", record.dtype), ("encoding", record.encoding)}
            if record.encoding is Encoding.CONSTANT:
                continue
            part = record.parts[0]
            first = piece(data, part.offset, part.stored_bytes)
            if record.encoding is Encoding.DENSE:
                dense = read_dense_tables(first, record)
                seen |= {("dense", dense.codebook.kind), ("bits", dense.index_bits)}
                seen.add(("dense chunks", len(record.parts) > 2))
            if record.encoding is Encoding.SPARSE:
                sparse = read_sparse_tables(first, record)
                seen |= {("sparse", sparse.codebook.kind)}
                seen.add(("classes", sparse.row_class_count > 1, sparse.column_class_count > 1))
                seen.add(("sparse chunks", len(record.parts) > 2))
                seen.add(("view", sparse.symbol_bits, sparse.unit_columns))
                seen.add(("index bits", sparse.index_bits))
                seen.add(("contexts", int(sparse.context_of_classes.max()) > 0))
            if record.encoding is Encoding.MIXED:
                tables = read_mixed_tables(first, record)
                signs = tables.positive_count > 0, tables.negative_count > 0
                seen |= {("mixed", *signs), ("kernel", tables.view.place_count > 1)}
            if record.encoding is Encoding.PLANES:
                planes = read_planes_tables(first, record).planes
                seen |= {("plane coded", plane is not None) for plane in planes}
                seen.add(("planes chunks", len(record.parts) > 2))
    wanted: set[object] = {("dtype", dtype) for dtype in DType}
    wanted |= {("encoding", encoding) for encoding in Encoding if encoding is not Encoding.ALIAS}
    wanted |= {("bits", bits) for bits in (1, 2, 4, 8)}
    wanted |= {("dense", kind) for kind in CodebookKind}
    wanted |= {("sparse", kind) for kind in CodebookKind if kind is not CodebookKind.UNIFORM}
    wanted |= {("classes", False, False), ("classes", True, True)}
    wanted |= {("dense chunks", True), ("sparse chunks", True), ("planes chunks", True)}
    wanted |= {("plane coded", False), ("plane coded", True)}
    wanted |= {("mixed", True, True), ("kernel", False), ("kernel", True)}
    wanted |= {("deflated", False), ("deflated", True)}
    wanted |= {("view", bits, bits) for bits in (5, 7, 8, 9)} | {("view", 8, 1)}
    wanted |= {("index bits", 4), ("index bits", 8), ("contexts", True), ("contexts", False)}
    assert wanted <= seen


def test_handmade_files_decode_alike() -> None:
    random = np.random.Generator(np.random.PCG64(SEED + 1))
    for _ in range(60):
        made = {
            "dense": handmade_dense(random),
            "mixed": handmade_mixed(random),
            "planes": handmade_planes(random),
            "sparse": handmade_sparse(random),
        }
        encoded = {name: tensor for name, (tensor, _) in made.items()}
        data = b"".join(serialise(encoded, {"tied": "dense", "also": "sparse"}, {}, {}))
        outcome = assert_agreement(data)
        assert outcome["verified"] == "ok"
        for name, (_, elements) in made.items():
            assert outcome[f"tensor {name}"] == elements


@pytest.mark.parametrize("dtype", DType)
def test_planes_of_every_element_type_decode_alike(dtype: DType) -> None:
    random = np.random.Generator(np.random.PCG64(SEED + 5))
    for _ in range(8):
        made, elements = handmade_planes(random, dtype)
        outcome = assert_agreement(b"".join(serialise({"w": made}, {}, {}, {})))
        assert outcome["verified"] == "ok"
        assert outcome["tensor w"] == elements


# --- bad files -------------------------------------------------------------------------------


def two_rows(
    view: tuple[int, int], columns: Array, mask: Array, values: list[int], shape: tuple[int, ...]
) -> bytes:
    """Return a file of rows of ten elements, whose levels are coded in pairs."""
    codebook = Codebook(CodebookKind.FULL, np.array([7, 9], dtype=np.uint8))
    alphabet = 1 << view[0]
    classes = flat_frequencies(2, 1)[None, :]
    stream = rans.encode(columns, rans.build_tables(classes, 1), rans.NO_CONTEXTS)
    pairs = np.zeros(256, dtype=np.uint32)
    pairs[[0x00, 0x01, 0x10, 0x11]] = 1
    tables = [
        write_sparse_shape(codebook, 10, 2, *view),
        write_one_class(),
        write_classes(2, 1, write_flat(), stream),
        write_contexts(np.zeros((1, 2), dtype=np.uint8)),
        bytes([9]) + write_flat() + bytes([4, 2]) + write_explicit(pairs),
    ]
    mask_coder = rans.build_tables(flat_frequencies(alphabet, 9)[None, :], 9)
    mask_stream = rans.encode(mask, mask_coder, rans.NO_CONTEXTS)
    value_coder = rans.build_tables(pairs[None, :], 2)
    value_stream = rans.encode(np.array(values, dtype=np.uint8), value_coder, rans.NO_CONTEXTS)
    parts = [b"".join(tables), varint(len(mask_stream)) + mask_stream + value_stream]
    made = EncodedTensor(DType.U8, Encoding.SPARSE, shape, 0, parts)
    return b"".join(serialise({"w": made}, {}, {}, {}))


@pytest.mark.parametrize("symbol_bits", range(1, 10))
@pytest.mark.parametrize("sorted_columns", [False, True])
def test_ones_outside_a_sparse_tensor_are_refused_alike(
    symbol_bits: int, sorted_columns: bool
) -> None:
    unit_columns = 1 if sorted_columns else symbol_bits
    columns = (np.arange(-(-10 // unit_columns)) % 3 == 0).astype(np.uint8)
    order = np.argsort(columns, kind="stable") if unit_columns == 1 else np.arange(10)
    row_symbols = -(-10 // symbol_bits)
    for symbol in range(2 * row_symbols):
        for bit in range(symbol_bits):
            mask = np.zeros(2 * row_symbols, dtype=np.uint8 if symbol_bits < 9 else np.uint16)
            mask[symbol] = 1 << bit
            data = two_rows((symbol_bits, unit_columns), columns, mask, [1], (15,))
            outcome = assert_agreement(data)["tensor w"]
            place = symbol % row_symbols * symbol_bits + bit
            position = symbol // row_symbols * 10 + int(order[place]) if place < 10 else 15
            expected = bytes(9 * (index == position) for index in range(15))
            assert outcome == ("bad_stream" if position >= 15 else expected)


@pytest.mark.parametrize("ones", [0, 1, 2, 3])
@pytest.mark.parametrize("last", [0x00, 0x01, 0x10, 0x11])
def test_padding_of_values_is_refused_alike(ones: int, last: int) -> None:
    mask = np.array([(1 << ones) - 1, 0, 0, 0], dtype=np.uint8)
    values = [0x10, last][-((ones + 1) // 2) :] if ones else []
    data = two_rows((8, 8), np.zeros(2, dtype=np.uint8), mask, values, (20,))
    outcome = assert_agreement(data)["tensor w"]
    if ones % 2 and last >> 4:
        assert outcome == "bad_stream"
    else:
        levels = [(7, 9)[value >> shift & 1] for value in values for shift in (0, 4)]
        assert outcome == bytes(levels[:ones]) + bytes(20 - ones)
    # One symbol too many or too few.
    for wrong in ([*values, 0], values[1:]):
        if wrong != values:
            data = two_rows((8, 8), np.zeros(2, dtype=np.uint8), mask, wrong, (20,))
            assert_agreement(data)


def damaged_mixed(random: np.random.Generator, made: EncodedTensor) -> EncodedTensor:
    """Return a mixed tensor whose parts or fields are changed, under right checksums of parts."""
    tables, stream = made.parts
    places = np.arange(len(stream))
    kind = int(random.integers(11))
    if kind == 0:
        stream = stream[: int(random.choice(places))]
    elif kind == 1:
        stream += random.bytes(int(random.integers(1, 4)))
    elif kind == 2:
        stream = random.bytes(len(stream))
    elif kind == 3:
        stream = b"\xff" * 4 + stream[4:]
    elif kind == 4:
        tables += b"\0"
    elif kind == 5:
        return replace(made, dtype=DType(int(random.integers(len(DType)))))
    elif kind == 6:
        return replace(made, parts=[tables, *[stream] * 2])
    elif kind == 7:
        # As many elements in another view: other counters, often another end.
        shapes = [made.shape[::-1], (int(np.prod(made.shape)),), (1, *made.shape), (*made.shape, 1)]
        return replace(made, shape=shapes[random.integers(len(shapes))])
    elif kind == 8:
        return replace(made, decoded_crc32=made.decoded_crc32 ^ 1)
    else:
        changed = bytearray(stream)
        place = len(stream) - 1 if kind == 9 else int(random.choice(places))
        changed[place] = (changed[place] + int(random.choice([1, 255]))) % 256
        stream = bytes(changed)
    return replace(made, parts=[tables, stream])


def test_damaged_mixed_tensors_are_judged_alike() -> None:
    random = np.random.Generator(np.random.PCG64(SEED + 6))
    reasons = set()
    for _ in range(200):
        made, elements = handmade_mixed(random)
        outcome = assert_agreement(
            b"".join(serialise({"w": damaged_mixed(random, made)}, {}, {}, {}))
        )
        if outcome["verified"] == "ok":
            assert outcome["tensor w"] == elements
        reasons.add(outcome["verified"])
    assert reasons >= {"ok", "bad_tables", "bad_stream", "checksum_mismatch"}


@pytest.mark.parametrize("level_count", [1, 2, 63, 64, 65, 256])
@pytest.mark.parametrize("with_zero", [False, True])
def test_levels_of_mixed_tensors_are_judged_alike(level_count: int, with_zero: bool) -> None:
    patterns = np.arange(1 - with_zero, level_count + 1 - with_zero, dtype=np.uint16)
    codebook = Codebook(CodebookKind.FULL, patterns)
    # All elements are zero, which takes no level.
    sound = Codebook(CodebookKind.FULL, np.array([1], dtype=np.uint16))
    parts = encode_mixed(np.zeros(12, dtype=np.uint8), 0, sound, (3, 4))
    assert parts is not None
    tables = write_mixed_tables(codebook)
    made = EncodedTensor(
        DType.F16, Encoding.MIXED, (3, 4), zlib.crc32(bytes(24)), [tables, parts[1]]
    )
    outcome = assert_agreement(b"".join(serialise({"w": made}, {}, {}, {})))
    accepted = level_count <= MAX_MIXED_LEVELS and not with_zero
    assert outcome["verified"] == ("ok" if accepted else "bad_tables")


@pytest.mark.parametrize("count", [MAX_MIXED_ELEMENTS, MAX_MIXED_ELEMENTS + 1])
def test_most_elements_of_mixed_tensors_are_judged_alike(count: int) -> None:
    tables = write_mixed_tables(Codebook(CodebookKind.FULL, np.array([1], dtype=np.uint16)))
    made = EncodedTensor(DType.F16, Encoding.MIXED, (1, count), 0, [tables, b""])
    outcome = assert_agreement(b"".join(serialise({"w": made}, {}, {}, {})))
    assert outcome["verified"] == ("bad_tables" if count > MAX_MIXED_ELEMENTS else "bad_stream")


def checksum_places(data: bytes) -> list[tuple[int, int, int]]:
    """Return start and end of what each checksum covers and where it stands, the header's last."""
    container = reference.read_container(data, reference.Limits())
    header, places = container.header, []
    cursor = reference.Cursor(data[64 : 64 + header.directory_bytes], "")
    parts = iter([part for record in container.tensors.values() for part in record.parts])

    def place(part: Any, section: Any, end: int) -> tuple[int, int, int]:
        """Return the place of a part's checksum, which was just read."""
        return part.offset, part.offset + part.stored_bytes, end - section.remaining_bytes - 4

    for _ in range(header.tensor_count):
        name = cursor.take(cursor.varint(1024)).decode()
        if cursor.integer(1) == Encoding.ALIAS:
            cursor.varint(1 << 32)
            continue
        record = container.tensors[name]
        cursor.take(2)
        for _ in record.shape:
            cursor.varint(1 << 48)
        cursor.take(4 + len(record.element))
        if record.encoding not in ("raw", "constant"):
            cursor.varint(1 << 32)
        for _ in record.parts:
            cursor.varint(1 << 62)
            cursor.take(4)
            places.append(place(next(parts), cursor, 64 + header.directory_bytes))
    start = 64 + header.directory_bytes
    if header.metadata_bytes:
        end = start + header.metadata_bytes
        places.append((start, end - 4, end - 4))
    start += header.metadata_bytes
    if header.program_bytes:
        end = start + 4 + int.from_bytes(data[start : start + 4], "little")
        cursor = reference.Cursor(data[start + 4 : end - 4], "")
        for record in container.programs.values():
            cursor.take(cursor.varint(1024) + 1)
            cursor.varint(1 << 62)
            cursor.varint(1 << 62)
            cursor.take(4)
            places.append(place(record.part, cursor, end - 4))
        places.append((start + 4, end - 4, end - 4))
    return places


def repaired(data: bytearray, places: list[tuple[int, int, int]], directory_bytes: int) -> bytes:
    """Put right every checksum of a file whose layout was known before it was damaged."""
    for start, end, place in places:
        data[place : place + 4] = zlib.crc32(data[start:end]).to_bytes(4, "little")
    crc = zlib.crc32(data[64 : 64 + directory_bytes], zlib.crc32(data[:60]))
    data[60:64] = crc.to_bytes(4, "little")
    return bytes(data)


def short(
    make: Callable[[np.random.Generator], tuple[EncodedTensor, bytes]], random: np.random.Generator
) -> EncodedTensor:
    """Make tensors until one has several chunks and few bytes."""
    made, _ = make(random)
    while len(made.parts) < 3 or made.stored_bytes > 500 or made.shape > (1000,):
        made, _ = make(random)
    return made


def small_files(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return files with something of everything, short enough to break at each byte."""
    random = np.random.Generator(np.random.PCG64(SEED + 2))
    levels = np.array([0.5, -1.5, 0.1, 3.0], dtype="f4")
    mask = random.random((12, 16)) < np.linspace(0.05, 0.9, 16)
    pruned = np.where(mask, random.choice(levels, (12, 16)), np.float32(0))
    steps = (random.integers(-1, 3, 200) / 4).astype("f4")
    small = {
        "stored program": files["stored program"],
        "nothing": files["nothing"],
        "constant": saved({"b": np.zeros(5), "a": np.ones((2, 3), "f4"), "c": np.array(True)}),
        "raw": saved({"b": np.arange(5.0), "a": np.empty((0, 3)), "c": np.array(True)}),
        "dense": saved({"w": steps, "x": random.integers(0, 5, 300).astype("u2")}),
        "sparse": saved({"w": pruned}, metadata={"k": "v"}),
        "kernels": saved({"w": kernels(random, (6, 6, 3, 3))}),
        "mixed": saved(
            {"w": stepped(random, (4, 3, 3, 3)), "x": stepped(random, (6, 9))}, fast_load=False
        ),
        "planes": saved({"w": random.normal(size=150).astype("f4"), "x": np.arange(60) * 3}),
    }
    dense, sparse = short(handmade_dense, random), short(handmade_sparse, random)
    encoded = {"d": dense, "p": short(handmade_planes, random), "s": sparse}
    small["handmade"] = b"".join(serialise(encoded, {"t": "s"}, {}, {}))
    return small


def test_truncated_files_are_refused_alike(files: dict[str, bytes]) -> None:
    for data in small_files(files).values():
        for count in range(len(data)):
            expected = "truncated" if count else "bad_magic"
            assert assert_agreement(data[:count]) == {"refused": expected}
        assert assert_agreement(data + b"\0") == {"refused": "trailing_bytes"}


def test_flipped_bytes_are_found_alike(files: dict[str, bytes]) -> None:
    random = np.random.Generator(np.random.PCG64(SEED + 3))
    for data in small_files(files).values():
        for place in range(len(data)):
            damaged = bytearray(data)
            damaged[place] ^= 1 << int(random.integers(8))
            outcome = assert_agreement(bytes(damaged))
            assert "refused" in outcome or outcome["verified"] != "ok"


def test_flipped_bytes_under_right_checksums_are_judged_alike(files: dict[str, bytes]) -> None:
    with patch("spqformat.writer.deflated", return_value=None):  # checksums stand where they are
        judge_flipped_bytes(small_files(files))


def judge_flipped_bytes(sound: dict[str, bytes]) -> None:
    random = np.random.Generator(np.random.PCG64(SEED + 4))
    reasons: set[object] = set()
    for data in sound.values():
        places = checksum_places(data)
        directory_bytes = int.from_bytes(data[48:52], "little")
        assert repaired(bytearray(data), places, directory_bytes) == data
        for _ in range(400):
            damaged = bytearray(data)
            for _ in range(int(random.integers(1, 4))):
                place = int(random.integers(8, len(data)))
                value = random.choice([0, 1, 2, 4, 8, 15, 127, 128, 255, damaged[place] ^ 1])
                damaged[place] = int(random.choice([int(value), (damaged[place] + 1) & 0xFF]))
            outcome = assert_agreement(repaired(damaged, places, directory_bytes))
            reasons |= {outcome.get("refused"), outcome.get("verified")}
            reasons |= {value for value in outcome.values() if isinstance(value, str)}
    assert reasons >= {
        *("unsupported_version", "unsupported_feature", "truncated"),
        *("checksum_mismatch", "bad_header", "bad_directory", "bad_metadata", "bad_program"),
        *("bad_tables", "bad_stream", "limit_exceeded"),
    }


def test_damaged_zstd_program_is_found_by_its_checksum(files: dict[str, bytes]) -> None:
    damaged = bytearray(files["programs"])
    programs = reference.read_container(bytes(damaged), reference.Limits()).programs
    damaged[programs["torch"].part.offset] ^= 1
    assert assert_agreement(bytes(damaged))["verified"] == "checksum_mismatch"


# --- limits, the program and the text --------------------------------------------------------


def test_limits_are_the_same() -> None:
    assert vars(reference.Limits()) == vars(spq.Limits())


@pytest.mark.parametrize("name", sorted(vars(spq.Limits())))
def test_each_limit_is_enforced_alike(name: str, files: dict[str, bytes]) -> None:
    programs = {"onnx": b"\x08\x0a"}
    data = saved({"w": np.arange(300.0)}, metadata={"a": "b"}, programs=programs)
    container = reference.read_container(data, reference.Limits())
    used = {
        "max_decoded_bytes": 2400,
        "max_tensors": 1,
        "max_directory_bytes": container.header.directory_bytes,
        "max_metadata_bytes": container.header.metadata_bytes,
        "max_program_bytes": container.header.program_bytes,
    }
    spq.open(data, spq.Limits(**{name: used[name]}))
    reference.decode_file(data, reference.Limits(**{name: used[name]}))
    with pytest.raises(spq.SpqError) as ours:
        spq.open(data, spq.Limits(**{name: used[name] - 1}))
    with pytest.raises(reference.Refusal) as theirs:
        reference.decode_file(data, reference.Limits(**{name: used[name] - 1}))
    assert ours.value.code == theirs.value.code == "limit_exceeded"


def test_main_prints_what_a_file_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weight = np.array([[1.5, -2.0, 0.25]], dtype="f4")
    path = tmp_path / "small.spq"
    tensors = {"w\x1b": weight, "tied": weight, "s": np.array(7, dtype="i2")}
    path.write_bytes(saved(tensors, programs={"onnx": b"\x08\x0a"}))
    assert reference.main([str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"'s' i16 scalar constant crc32 {zlib.crc32(bytes([7, 0])):08x}",
        f"'tied' f32 1x3 raw crc32 {zlib.crc32(weight.tobytes()):08x}",
        "'w\\x1b' is 'tied'",
        f"program 'onnx' stored 2 crc32 {zlib.crc32(bytes([8, 10])):08x}",
    ]
    path.write_bytes(path.read_bytes()[:-1])
    assert reference.main([str(path)]) == 1
    assert "[truncated]" in capsys.readouterr().err
    assert reference.main([]) == 2


def dumps() -> dict[str, bytes]:
    """Return the annotated hex dumps of the specification by the number of their section."""
    text = (SPEC / "SPQ-1.md").read_text(encoding="utf-8")
    found = {}
    for section in re.split(r"^### ", text, flags=re.M):
        block = re.search(r"^```hexdump\n(.*?)^```", section, re.M | re.S)
        if block is not None:
            found[section.split()[0]] = bytearray()
            for offset, line in re.findall(r"^(\w{4})  ((?:\w\w ?)+)(?: |$)", block[1], re.M):
                assert int(offset, 16) == len(found[section.split()[0]])
                found[section.split()[0]] += bytes.fromhex(line)
    return {number: bytes(data) for number, data in found.items()}


def test_hex_dumps_of_the_text() -> None:
    sparse = np.zeros((2, 10), dtype="i1")
    sparse[[0, 1], 2], sparse[0, 7] = 3, -1
    kernels = np.zeros((2, 2, 2, 2), dtype="i2")
    kernels[:, 0, 0], kernels[1, 0, 1, 0] = 5, -2
    expected: dict[str, dict[str, Array]] = {
        "15.1": {},
        "15.2": {"w": np.array([1, -1], dtype="i2")},
        "15.3": {"d": np.array([-0.5, 0.5, 0.5, 0, 0.5], dtype="f4")},
        "15.4": {"s": sparse},
        "15.5": {"p": np.array([0x3F80, 0xBFC0, 0x3FE0], dtype="u2")},
        "15.6": {"k": kernels},
        "15.7": {"c": np.ones((2, 3), dtype="f4")},
        "15.8": {"m": np.array([[0.5, 0, 1], [0, -0.5, 0]], dtype="f4")},
    }
    files = dumps()
    assert files.keys() == expected.keys()
    for number, tensors in expected.items():
        outcome = assert_agreement(files[number])
        assert outcome["verified"] == "ok"
        for name, array in tensors.items():
            assert outcome[f"tensor {name}"] == array.tobytes()
            assert spq.open(files[number]).info(name).shape == array.shape
    # The encoder has no choice in these.
    for number in ("15.1", "15.2", "15.7"):
        assert files[number] == saved(expected[number])


def test_streams_of_the_text() -> None:
    text = (SPEC / "SPQ-1.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d ]+) \| (\d+) \| (none|[\d ]+) \| `([0-9a-f ]+)` \|$", text, re.M)
    assert len(rows) == 5
    for frequencies, freq_log2, symbols, stream in rows:
        wanted = [] if symbols == "none" else [int(symbol) for symbol in symbols.split()]
        table = [int(frequency) for frequency in frequencies.split()]
        coder = reference.Coder([table], int(freq_log2))
        assert coder.decode(bytes.fromhex(stream), [0] * len(wanted)) == wanted
        tables = rans.build_tables(np.array([table], dtype=np.uint32), int(freq_log2))
        encoded = rans.encode(np.array(wanted, dtype=np.uint8), tables, rans.NO_CONTEXTS)
        assert encoded == bytes.fromhex(stream)
    with pytest.raises(reference.Refusal):
        reference.Coder([[2]], 1).decode(b"", [])


def test_logistic_function_of_the_text() -> None:
    text = (SPEC / "SPQ-1.md").read_text(encoding="utf-8")
    section = text[text.index("#### 7.5.1") : text.index("#### 7.5.2")]
    (block,) = re.findall(r"^((?:\d+, )+\d+,\n(?:[\d,\n ]+))\.$", section, re.M)
    numbers = tuple(int(number) for number in block.replace("\n", " ").split(","))
    assert numbers == reference.LOGISTIC == mixed._LOGISTIC
    exact = 2**16 / (1 + np.exp(-np.arange(-16, 17) / 2))
    assert np.abs(numbers - exact).max() <= 0.5
