"""The writer has one form for each content, and what it writes is read."""

import itertools
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spqformat import Limits, Reason, SpqError, writer, zstd
from spqformat.ids import DType, Encoding, ProgramCodec
from spqformat.model import Container
from spqformat.reader import decode_program, read_container
from spqformat.writer import EncodedTensor, serialise

quick = settings(deadline=None, derandomize=True, database=None, max_examples=60)


def read(data: bytes) -> Container:
    return read_container(lambda offset, count: data[offset : offset + count], len(data), Limits())


def tensor(data: bytes = b"\x2a", shape: tuple[int, ...] = (1,)) -> EncodedTensor:
    return EncodedTensor(DType.U8, Encoding.RAW, shape, zlib.crc32(data), [data])


def written(
    tensors: dict[str, EncodedTensor] | None = None,
    aliases: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
    programs: dict[str, bytes] | None = None,
) -> bytes:
    return b"".join(serialise(tensors or {}, aliases or {}, metadata or {}, programs or {}))


def test_smallest_file() -> None:
    assert written() == bytes.fromhex(
        "93 53 50 51 0d 0a 1a 0a"  # magic
        "01 00 00 00"  # version 1.0
        "00 00 00 00"  # no tensor
        "00 00 00 00 00 00 00 00"  # required features
        "00 00 00 00 00 00 00 00"  # optional features
        "40 00 00 00 00 00 00 00"  # 64 bytes
        "00 00 00 00 00 00 00 00"  # nothing decoded
        "00 00 00 00 00 00 00 00 00 00 00 00"  # directory, metadata, programs
        "0d c4 4e 53"  # checksum of what stands before
    )


def test_small_file_with_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "deflated", lambda _: None)
    assert written({"b": tensor()}, {"c": "b"}, {"k": "v"}, {"p": b"x"}) == bytes.fromhex(
        "93 53 50 51 0d 0a 1a 0a 01 00 00 00"
        "02 00 00 00"  # two names
        "00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00"
        "6e 00 00 00 00 00 00 00"  # 110 bytes
        "01 00 00 00 00 00 00 00"  # one decoded
        "13 00 00 00 08 00 00 00 12 00 00 00"  # directory, metadata, programs
        "70 dc ec 8b"  # checksum of all that and the directory
        # "b", raw, u8, one dimension of one, decoded checksum; one byte stored, its checksum
        "01 62 00 08 01 01 5b 26 b9 09 01 5b 26 b9 09"
        "01 63 01 00"  # "c" stands for the first name
        "01 6b 01 76 f0 79 07 7d"  # "k": "v", checksum
        # 13 bytes: "p", stored as it is, one byte, one byte, its checksum; checksum of the records
        "0d 00 00 00 01 70 00 01 01 83 16 dc 8c 67 e8 da 85"
        "78"  # the program
        "2a"  # the tensor
    )


def test_order_does_not_count() -> None:
    tensors = {name: tensor(name.encode()[:1]) for name in ("b", "a", "ä", "Z", "\U0001f600")}
    metadata = {"y": "1", "x": "2", "é": "3"}
    programs = {"torch": b"t", "onnx": b"o"}
    first = written(tensors, {"t": "b", "s": "a"}, metadata, programs)
    for names in itertools.islice(itertools.permutations(tensors), 0, None, 7):
        again = written(
            {name: tensors[name] for name in names},
            {"s": "a", "t": "b"},
            dict(reversed(metadata.items())),
            dict(reversed(programs.items())),
        )
        assert again == first
    container = read(first)
    stored = [*container.tensors]
    assert stored == sorted(stored, key=lambda name: name.encode())
    assert [*container.metadata] == ["x", "y", "é"]
    assert [*container.programs] == ["onnx", "torch"]
    assert dict(container.aliases) == {"t": "b", "s": "a"}


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
values = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)


@quick
@given(
    st.dictionaries(names, st.binary(max_size=20), max_size=6),
    st.dictionaries(names, values, max_size=4),
    st.dictionaries(names, st.binary(max_size=200), max_size=3),
    st.data(),
)
def test_round_trip(
    tensors: dict[str, bytes],
    metadata: dict[str, str],
    programs: dict[str, bytes],
    data: st.DataObject,
) -> None:
    encoded = {name: tensor(value, (len(value),)) for name, value in tensors.items()}
    aliases: dict[str, str] = {}
    if tensors:
        tied = data.draw(st.sets(names, max_size=2)) - set(tensors)
        aliases = {name: data.draw(st.sampled_from(sorted(tensors))) for name in tied}
    whole = written(encoded, aliases, metadata, programs)
    container = read(whole)
    assert container.file_bytes == len(whole)
    assert container.decoded_bytes == sum(map(len, tensors.values()))
    assert dict(container.metadata) == metadata
    assert dict(container.aliases) == aliases
    found = {}
    for name, record in container.tensors.items():
        (part,) = record.parts
        found[name] = whole[part.offset : part.offset + part.stored_bytes]
        assert part.stored_crc32 == record.decoded_crc32 == zlib.crc32(found[name])
    assert found == tensors
    unpacked = {}
    for kind, program in container.programs.items():
        start = program.part.offset
        stored = whole[start : start + program.part.stored_bytes]
        unpacked[kind] = decode_program(stored, program)
    assert unpacked == programs


def test_programs_are_compressed_where_that_is_smaller() -> None:
    given = {"a": b"xyz" * 500, "b": b"xyz", "c": b"", "long": bytes(9 << 20)}
    whole = written(programs=given)
    programs = read(whole).programs
    assert programs["a"].codec is ProgramCodec.ZSTD_DICTIONARY
    assert programs["a"].part.stored_bytes < 20
    assert programs["b"].codec is programs["c"].codec is ProgramCodec.STORED
    assert programs["long"].codec is ProgramCodec.ZSTD
    for kind, record in programs.items():
        stored = whole[record.part.offset :][: record.part.stored_bytes]
        assert decode_program(stored, record) == given[kind]


def test_the_dictionary_makes_programs_smaller() -> None:
    program = zstd.dictionary().as_bytes()[-400:]
    record = read(written(programs={"torch": program})).programs["torch"]
    assert record.codec is ProgramCodec.ZSTD_DICTIONARY
    assert record.part.stored_bytes < 20


LONE_SURROGATE = "\ud800"


@pytest.mark.parametrize("name", ["", "a\0b", "\0", LONE_SURROGATE, "n" * 1025, "ä" * 513])
def test_refused_names(name: str) -> None:
    refused: list[dict[str, Any]] = [
        {"tensors": {name: tensor()}},
        {"tensors": {"b": tensor()}, "aliases": {name: "b"}},
        {"metadata": {name: "v"}},
        {"programs": {name: b""}},
    ]
    for arguments in refused:
        with pytest.raises(SpqError, match="1 to 1024 bytes") as caught:
            written(**arguments)
        assert caught.value.code is Reason.BAD_ARGUMENT


def test_the_longest_names_are_read() -> None:
    assert set(read(written({"n" * 1024: tensor(), "ä" * 512: tensor()})).tensors) == {
        "n" * 1024,
        "ä" * 512,
    }


@pytest.mark.parametrize("value", ["a\0b", f"a{LONE_SURROGATE}"])
def test_refused_metadata(value: str) -> None:
    with pytest.raises(SpqError, match="'k'") as caught:
        written(metadata={"k": value})
    assert caught.value.code is Reason.BAD_ARGUMENT


def test_long_metadata_is_read() -> None:
    assert read(written(metadata={"k": "v" * 70_000})).metadata["k"] == "v" * 70_000


@pytest.mark.parametrize("shape", [(1,) * 33, (0, (1 << 48) + 1)])
def test_refused_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(SpqError, match="reshape") as caught:
        written({"w": tensor(b"", shape)})
    assert caught.value.code is Reason.BAD_ARGUMENT


@pytest.mark.parametrize("shape", [(1,) * 32, (0, 1 << 48), ()])
def test_largest_shapes_are_read(shape: tuple[int, ...]) -> None:
    data = b"" if 0 in shape else b"x"
    assert read(written({"w": tensor(data, shape)})).tensors["w"].shape == shape


def test_metadata_that_readers_refuse() -> None:
    with pytest.raises(SpqError, match="metadata: ") as caught:
        written(metadata={str(number): "v" * 60_000 for number in range(20)})
    assert caught.value.code is Reason.BAD_ARGUMENT
