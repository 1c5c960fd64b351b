"""The fuzz targets: each takes bytes and raises when a promise is broken."""

import atexit
import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import io
import itertools
import math
import os
import resource
import shutil
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

import spq
import spq._kernels
from spqformat import Limits, Reason, SpqError
from spqformat.codebook import Codebook, read_codebook, write_codebook
from spqformat.cursor import Cursor
from spqformat.dense_tables import read_dense_tables
from spqformat.frequency_tables import read_tables, write_explicit
from spqformat.ids import (
    MAX_FREQ_LOG2,
    MAX_LEVELS,
    MAX_MIXED_LEVELS,
    CodebookKind,
    DType,
    Encoding,
    TableKind,
)
from spqformat.mixed_tables import MixedTables, read_mixed_tables
from spqformat.model import Part, TensorRecord
from spqformat.plane_tables import read_planes_tables
from spqformat.sparse_tables import read_sparse_tables
from tests.fuzz import corpus
from tests.fuzz.mutate import Draw, Mutator, read

ROOT = Path(__file__).parents[2]
SCRATCH = Path(tempfile.mkdtemp(prefix="spq-fuzz-"))
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)
Outcome = dict[str, object]


def load_reference() -> Any:
    """Import the reference decoder by its path: `spec` is no package."""
    name = "spq_fuzz_reference_decoder"
    location = importlib.util.spec_from_file_location(name, ROOT / "spec" / "reference_decoder.py")
    assert location is not None
    assert location.loader is not None
    module = importlib.util.module_from_spec(location)
    sys.modules[name] = module
    location.loader.exec_module(module)
    return module


reference = load_reference()


def outcome(file: Any, limits: Limits) -> Outcome:
    """Use everything that a file offers; only `SpqError` may leave."""
    try:
        archive = spq.open(file, limits)
    except SpqError as error:
        return {"refused": str(error.code)}
    found: Outcome = {"metadata": dict(archive.metadata), "aliases": dict(archive.aliases)}
    with archive:
        for name in archive.keys():  # noqa: SIM118 - an archive is no mapping
            if name in archive.aliases:
                continue
            info = archive.info(name)
            found[f"info {name}"] = (info.dtype, info.encoding, info.shape)
            try:
                array = archive.get_tensor(name)
            except SpqError as error:
                found[f"tensor {name}"] = str(error.code)
                continue
            assert array.shape == info.shape
            assert array.nbytes == info.decoded_bytes
            assert array.flags.writeable
            found[f"tensor {name}"] = array.tobytes()
        for kind in archive.program_kinds:
            try:
                found[f"program {kind}"] = archive.program(kind)
            except SpqError as error:
                found[f"program {kind}"] = str(error.code)
        try:
            archive.verify()
            found["verified"] = "ok"
        except SpqError as error:
            found["verified"] = str(error.code)
        found["all"] = _all(archive, 1)
    return found


def _all(archive: spq.Archive, threads: int) -> str:
    """Decode all tensors together; return the reason of a refusal or a checksum of all."""
    try:
        tensors = archive.tensors(threads)
    except SpqError as error:
        return str(error.code)
    assert sum(array.nbytes for array in tensors.values()) == archive.decoded_bytes
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].tobytes(), crc)
    return f"{crc:08x}"


# --- F1: only SpqError leaves, in bounded time and memory ------------------------------------

F1_LIMITS = Limits(max_decoded_bytes=1 << 20, max_program_bytes=1 << 20)
MOST_SECONDS = 1.0
MOST_MORE_BYTES = F1_LIMITS.max_decoded_bytes + (64 << 20)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def parse(data: bytes) -> None:
    """Open and decode: `SpqError` alone leaves, and neither time nor memory runs away."""
    peak, start = _peak_bytes(), time.thread_time()
    found = outcome(data, F1_LIMITS)
    seconds, more = time.thread_time() - start, _peak_bytes() - peak
    assert seconds < MOST_SECONDS, f"took {seconds:.1f} s"
    assert more < MOST_MORE_BYTES, f"took {more} bytes"
    if "refused" not in found:
        with spq.open(data, F1_LIMITS) as archive:
            assert _all(archive, 3) == found["all"], "the number of threads shows"


# --- F2: accepted tables keep their invariants -----------------------------------------------

TABLES_HEAD_BYTES = 8
_READERS: tuple[Callable[[bytes, TensorRecord], object], ...] = (
    read_dense_tables,
    read_sparse_tables,
    read_planes_tables,
    read_mixed_tables,
)


def tables(data: bytes) -> None:
    """Read tables behind a head of eight bytes: what is read, of what tensor, and the rest."""
    if len(data) < TABLES_HEAD_BYTES:
        return
    kind, dtype_id, freq_log2, last_symbol, chunks = data[:5]
    dtype = DType(dtype_id % len(DType))
    element_count = 1 + int.from_bytes(data[5:8], "little")
    body = data[TABLES_HEAD_BYTES:]
    with contextlib.suppress(SpqError):
        kind %= len(_READERS) + 2
        cursor = Cursor(body, "tables", 0, Reason.BAD_TABLES)
        if kind == len(_READERS):
            codebook = read_codebook(cursor, dtype)
            _check_codebook(codebook, dtype)
            used = body[: len(body) - cursor.remaining_bytes]
            assert write_codebook(codebook) == used, "two forms of one codebook"
        elif kind > len(_READERS):
            freq_log2 = 1 + freq_log2 % MAX_FREQ_LOG2
            alphabet = 1 + last_symbol + 256 * (chunks & 1)
            frequencies = read_tables(cursor, 1, alphabet, freq_log2)[0]
            assert frequencies.shape == (alphabet,)
            _check_frequencies(frequencies, freq_log2)
            used = body[: len(body) - cursor.remaining_bytes]
            if used[0] == TableKind.EXPLICIT:
                assert write_explicit(frequencies) == used, "two forms of one table"
        else:
            parts = (Part(0, 0, 0),) * (1 + chunks)
            # Tables of mixed tensors alone depend on the shape.
            ones = (1,) * (freq_log2 % 4)
            shape = (*ones, element_count) if chunks & 1 else (element_count, *ones)
            record = TensorRecord("w", dtype, Encoding.DENSE, shape, 0, parts)
            found = _READERS[kind](body, record)
            _check_tables(found, dtype)
            if isinstance(found, MixedTables):
                _check_signs(found, dtype)


def _check_tables(found: Any, dtype: DType) -> None:
    """Check all codebooks and frequencies in a record of tables, whatever its encoding."""
    for field in dataclasses.fields(found):
        value = getattr(found, field.name)
        if isinstance(value, Codebook):
            _check_codebook(value, dtype)
        elif field.name.endswith("frequencies"):
            freq_log2 = getattr(found, field.name.removesuffix("frequencies") + "freq_log2")
            _check_frequencies(value, freq_log2)
        elif field.name == "chunk_elements":
            assert value > 0
            assert value % 8 == 0
        else:
            for item in value if isinstance(value, tuple | list) else [value]:
                if dataclasses.is_dataclass(item):
                    _check_tables(item, dtype)


def _check_signs(found: MixedTables, dtype: DType) -> None:
    """Check that levels are of the sign that they are counted for, and none of them is zero."""
    levels = [level.item() for level in found.codebook.levels]
    assert 1 <= len(levels) <= MAX_MIXED_LEVELS
    assert min(levels) > 0
    sign = 1 << (8 * dtype.item_bytes - 1)
    assert [level < sign for level in levels] == (
        [True] * found.positive_count + [False] * found.negative_count
    )


def _check_codebook(codebook: Codebook, dtype: DType) -> None:
    levels = codebook.levels
    assert 1 <= levels.size <= MAX_LEVELS
    assert levels.dtype == np.dtype(f"u{dtype.item_bytes}")
    order = levels.view(np.float32) if codebook.kind is CodebookKind.UNIFORM else levels
    values = [item.item() for item in order]
    assert all(low < high for low, high in itertools.pairwise(values))


def _check_frequencies(frequencies: NDArray[np.uint32], freq_log2: int) -> None:
    assert 1 <= freq_log2 <= MAX_FREQ_LOG2
    for row in np.atleast_2d(frequencies):
        assert sum(row.tolist()) == 1 << freq_log2


# --- F3: the runtime and the reference decoder agree -----------------------------------------

F3_LIMITS = Limits(max_decoded_bytes=1 << 15, max_program_bytes=1 << 20)


def agreement(data: bytes) -> None:
    """Decode with both: equal results or equal reasons."""
    ours, theirs = outcome(data, F3_LIMITS), _reference_outcome(data)
    ours.pop("all", None)
    for key, value in theirs.items():
        # The reference decoder does not look into zstd.
        if key.startswith("zstd "):
            kind = "program " + key.removeprefix("zstd ")
            if "bad_program" == ours[kind] == ours["verified"]:
                ours["verified"] = theirs["verified"]
            if ours[kind] == "bad_program" or isinstance(ours[kind], bytes):
                ours[kind] = theirs[kind]
            ours[key] = value
    differing = [key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)]
    told = {key: (_short(ours.get(key)), _short(theirs.get(key))) for key in sorted(differing)}
    assert not told, f"runtime and reference differ: {told}"


def _short(value: object) -> object:
    return f"{len(value)} bytes" if isinstance(value, bytes) else value


def _reference_outcome(data: bytes) -> Outcome:
    limits = reference.Limits(**dataclasses.asdict(F3_LIMITS))
    try:
        container = reference.read_container(data, limits)
    except reference.Refusal as refusal:
        return {"refused": refusal.code}
    found: Outcome = {"metadata": container.metadata, "aliases": container.aliases}
    verified = []
    for name, record in container.tensors.items():
        found[f"info {name}"] = (record.dtype, record.encoding, record.shape)
        try:
            elements = found[f"tensor {name}"] = reference.decode_tensor(data, record)
            reference.check_decoded(record, elements)
        except reference.Refusal as refusal:
            found.setdefault(f"tensor {name}", refusal.code)
            verified.append(refusal.code)
    for kind, record in container.programs.items():
        if record.codec != "stored":
            found[f"zstd {kind}"] = True
        try:
            found[f"program {kind}"] = reference.read_part(data, record.part)
        except reference.Refusal as refusal:
            found[f"program {kind}"] = refusal.code
            verified.append(refusal.code)
    found["verified"] = verified[0] if verified else "ok"
    return found


# --- F4: kernels stay inside their buffers ---------------------------------------------------

F4_LIMITS = Limits(max_decoded_bytes=1 << 17, max_program_bytes=1 << 20)
GUARD_BYTES = 64
FILLS = (0xAA, 0x55)
calls_of_kernels: dict[str, int] = {}


def guards(data: bytes) -> None:
    """Decode with guard zones round every buffer: nothing beyond is written, or read with effect.

    Memory that nobody has written is filled with two different bytes in turn, which must not show.
    """
    plain = outcome(data, F4_LIMITS)
    for fill in FILLS:
        assert _guarded_outcome(data, fill) == plain, f"memory of {fill:#x} shows"


def _guarded_outcome(data: bytes, fill: int) -> Outcome:
    empty = np.empty

    def filled(shape: Any, dtype: Any = float, **options: Any) -> NDArray[Any]:
        array = empty(shape, dtype=dtype, **options)
        array.reshape(-1).view(np.uint8)[...] = fill
        return cast("NDArray[Any]", array)

    with contextlib.ExitStack() as stack:
        for name, function in vars(spq._kernels).items():
            if callable(function) and hasattr(function, "py_func") and not name.startswith("_"):
                stack.enter_context(patch.object(spq._kernels, name, _guarded(function, fill)))
        stack.enter_context(patch.object(np, "empty", filled))
        return outcome(data, F4_LIMITS)


def _guarded(kernel: Any, fill: int) -> Callable[..., Any]:
    """Return a kernel that works on copies of its arrays, each between two guard zones."""
    name = kernel.py_func.__name__

    def call(*arguments: Any) -> Any:
        calls_of_kernels[name] = calls_of_kernels.get(name, 0) + 1
        copies = [_between_guards(argument, fill) for argument in arguments]
        result = kernel(*(copy for copy, _ in copies))
        for argument, (copy, whole) in zip(arguments, copies, strict=True):
            if whole is None:
                continue
            outside = (whole[:GUARD_BYTES], whole[GUARD_BYTES + argument.nbytes :])
            assert all((zone == fill).all() for zone in outside), f"{name} writes outside"
            if argument.flags.writeable:
                argument[...] = copy
            else:
                assert copy.tobytes() == argument.tobytes(), f"{name} writes to its input"
        return result

    return call


def _between_guards(argument: Any, fill: int) -> tuple[Any, NDArray[np.uint8] | None]:
    """Return a copy of an array and the memory round it; other arguments as they are."""
    if not isinstance(argument, np.ndarray) or not argument.flags.c_contiguous:
        return argument, None
    whole = np.full(argument.nbytes + 2 * GUARD_BYTES, fill, dtype=np.uint8)
    inside = whole[GUARD_BYTES : GUARD_BYTES + argument.nbytes]
    copy = inside.view(argument.dtype).reshape(argument.shape)
    copy[...] = argument
    copy.flags.writeable = argument.flags.writeable
    return copy, whole


# --- F5: what goes in comes out --------------------------------------------------------------


def round_trip(data: bytes) -> None:
    """Make tensors and options of the bytes; save, compare, save again, cut."""
    draw = Draw(int.from_bytes(hashlib.sha256(data).digest()[:8], "little"))
    tensors = {f"t{number}": _tensor(draw) for number in range(draw.below(4))}
    if tensors and draw.below(2):
        tensors["tied"] = next(iter(tensors.values()))
    metadata = {
        f"k{number}": draw.raw_bytes(draw.below(9)).hex() for number in range(draw.below(3))
    }
    programs = {f"p{number}": draw.raw_bytes(draw.below(60)) for number in range(draw.below(3))}
    options = {"metadata": metadata, "programs": programs, "fast_load": draw.below(2) == 0}
    saved = corpus.saved(tensors, **options)
    again = corpus.saved(dict(reversed(tensors.items())), **options)
    assert saved == again, "two encodings of the same tensors"
    most = 64 + sum(90 + 9 * array.ndim + array.nbytes for array in tensors.values())
    most += sum(len(text) + 90 for text in (*metadata.values(), *programs.values()))
    assert len(saved) <= most, f"{len(saved)} bytes where {most} suffice"
    with spq.open(saved) as archive:
        archive.verify()
        assert dict(archive.metadata) == metadata
        assert {kind: archive.program(kind) for kind in archive.program_kinds} == programs
        together = archive.tensors(1 + draw.below(3))
        for name, array in tensors.items():
            back = archive.get_tensor(name)
            assert (back.dtype, back.shape) == (array.dtype, array.shape)
            assert back.tobytes() == array.tobytes()
            stored = archive.aliases.get(name, name)
            assert together[stored].tobytes() == array.tobytes()
    assert outcome(saved[:-1], Limits()) == {"refused": "truncated"}


def _tensor(draw: Draw) -> NDArray[Any]:
    dtype = draw.one_of([dtype for dtype in DType if dtype is not DType.BF16])
    width = dtype.item_bytes
    shape = [draw.one_of((1, 2, 3, 7, 8, 9, 20, 33, 64)) for _ in range(draw.below(4))]
    if draw.below(12) == 0:
        shape.append(0)
    elif draw.below(8) == 0:
        shape = [1 + draw.below(6000)]
    count = math.prod(shape)
    level_count = draw.one_of((1, 2, 3, 4, 5, 15, 16, 17, 100, 256, 257, 1000))
    levels = np.frombuffer(draw.raw_bytes(width * level_count), dtype=f"<u{width}").copy()
    if dtype is DType.BOOL:
        levels &= 1
    if dtype is DType.F32 and draw.below(3) == 0:
        step = 2.0 ** (draw.below(200) - 110)
        first = draw.below(level_count + 1)
        levels = ((np.arange(level_count) - first) * step).astype("<f4").view("<u4")
    if draw.below(3) == 0:
        levels[0] = 0
    chosen = np.frombuffer(draw.raw_bytes(2 * count), dtype="<u2") % level_count
    elements = levels[chosen]
    kept = np.frombuffer(draw.raw_bytes(count), dtype=np.uint8)
    elements[kept >= draw.one_of((256, 256, 200, 60, 20, 3, 0))] = 0
    if len(shape) > 1 and draw.below(2):
        density = np.frombuffer(draw.raw_bytes(shape[0]), dtype=np.uint8)
        grid = elements.reshape(shape[0], -1)
        grid[kept.reshape(grid.shape) > density[:, None]] = 0
    array: NDArray[Any] = elements.view(dtype.numpy).reshape(shape)
    return array


# --- F6: the source of the bytes does not matter ---------------------------------------------


class OneByteReads(io.BytesIO):
    """A file that gives one byte at a time."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(1 if size is None or size else 0)


def sources(data: bytes) -> None:
    """Read from memory, a path, and files that give little at a time: equal outcomes."""
    plain = outcome(data, F4_LIMITS)
    path = SCRATCH / "source.spq"
    path.write_bytes(data)
    strided = np.frombuffer(data, dtype=np.uint8).repeat(2).data[::2]
    for file in (path, io.BytesIO(data), OneByteReads(data), bytearray(data), strided):
        assert outcome(file, F4_LIMITS) == plain, f"{type(file).__name__} gives something else"


# --- F7: nothing in a .pt is executed --------------------------------------------------------

CANARY = "spq-fuzz-canary"


class Call:
    """Pickled as a call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._call


@functools.cache
def checkpoints() -> dict[str, bytes]:
    """Return .pt files in both containers, sound and with calls that leave a canary."""
    import torch

    state: dict[str, Any] = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3).half()}
    contents: dict[str, dict[Any, Any]] = {
        "sound": state,
        "system": {**state, "c": Call(os.system, f"touch {CANARY}")},
        "touch": {**state, "c": Call(Path.touch, Path(CANARY))},
        "key": {**state, Call(exec, f"open({CANARY!r}, 'w').close()"): torch.ones(1)},
    }
    found = {}
    for name, content in contents.items():
        for zipped in (False, True):
            stream = io.BytesIO()
            torch.save(content, stream, _use_new_zipfile_serialization=zipped)
            found[f"{name}, {'zip' if zipped else 'legacy'}"] = stream.getvalue()
    return found


def checkpoint(data: bytes) -> None:
    """Read a .pt in an empty folder: refused or read, and no canary in the folder."""
    from spqtools.reading.ingest import ingest

    with tempfile.TemporaryDirectory(dir=SCRATCH) as folder, contextlib.chdir(folder):
        path = Path("model.pt")
        path.write_bytes(data)
        start = time.thread_time()
        with contextlib.suppress(SpqError, OSError):
            ingest(path)
        assert time.thread_time() - start < 10 * MOST_SECONDS, "took too long"
        assert os.listdir(folder) == ["model.pt"], "a file has been executed"


def _zip_changed(data: bytes, draw: Draw) -> bytes:
    """Change the pickle or another entry of a zip and write it with right checksums."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    pickles = [name for name in entries if name.endswith("data.pkl")]
    name = draw.one_of(pickles if draw.below(4) else sorted(entries))
    entries[name] = draw.changed(entries[name])
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for entry, content in entries.items():
            # A name alone would get the present time, and equal seeds unequal inputs.
            archive.writestr(zipfile.ZipInfo(entry), content)
    return stream.getvalue()


# --- inputs ----------------------------------------------------------------------------------


def mutants(seed: int) -> Iterator[bytes]:
    """Yield mutants of all files of the corpus, and the files themselves."""
    seeds = corpus.all_files()
    yield from seeds.values()
    mutators = [Mutator(data, seed * 1000 + number) for number, data in enumerate(seeds.values())]
    while True:
        for mutator in mutators:
            yield mutator.mutant()


def changed_tables(seed: int) -> Iterator[bytes]:
    """Yield tables of the corpus, changed, and codebooks and frequencies cut out of them."""
    draw = Draw(seed)
    whole: list[bytes] = []
    kinds = {Encoding.DENSE: 0, Encoding.SPARSE: 1, Encoding.PLANES: 2, Encoding.MIXED: 3}
    for data in corpus.all_files().values():
        for record in read(data).tensors.values():
            if record.encoding not in kinds:
                continue
            part = record.parts[0]
            head = bytes([kinds[record.encoding], record.dtype, 0, 0, len(record.parts) - 1])
            head += (record.element_count - 1).to_bytes(3, "little")
            whole.append(head + data[part.offset : part.offset + part.stored_bytes])
    yield from whole
    while True:
        data = draw.one_of(whole)
        head, body = data[:TABLES_HEAD_BYTES], data[TABLES_HEAD_BYTES:]
        choice = draw.below(4)
        if choice == 0:
            head = bytes([len(_READERS)]) + head[1:]
        elif choice == 1:
            body = body[draw.below(len(body)) :]
            symbols = draw.one_of((0, 1, 3, 15, 127, 255))
            head = bytes([len(_READERS) + 1, 0, draw.below(256), symbols, draw.below(3), 0, 0, 0])
        yield head + draw.changed(body)


def noise(seed: int) -> Iterator[bytes]:
    """Yield bytes that stand for choices."""
    draw = Draw(seed)
    while True:
        yield draw.raw_bytes(16)


def changed_checkpoints(seed: int) -> Iterator[bytes]:
    """Yield changed .pt files."""
    draw = Draw(seed)
    seeds = checkpoints()
    yield from seeds.values()
    while True:
        data = draw.one_of(list(seeds.values()))
        if data[:2] == b"PK" and draw.below(4):
            yield _zip_changed(data, draw)
        else:
            yield draw.changed(data)


@dataclasses.dataclass(frozen=True)
class Target:
    """A promise, and how it is tested.

    Parameters
    ----------
    one_input : callable
        Raises when the promise is broken for an input.
    inputs : callable
        Returns an endless iterator of inputs for a seed.
    per_change : int
        How many inputs each change is tested with.
    """

    one_input: Callable[[bytes], None]
    inputs: Callable[[int], Iterator[bytes]]
    per_change: int


TARGETS = {
    "F1": Target(parse, mutants, 6000),
    "F2": Target(tables, changed_tables, 20000),
    "F3": Target(agreement, mutants, 5000),
    "F4": Target(guards, mutants, 4000),
    "F5": Target(round_trip, noise, 400),
    "F6": Target(sources, mutants, 1000),
    "F7": Target(checkpoint, changed_checkpoints, 200),
}
