"""Directories as streams of DEFLATE (5.5), valid and invalid, and constant tensors (5.1)."""

from collections.abc import Iterator
from dataclasses import replace

import builders as b
from builders import Header, Tensor, constant, file_of, raw, stored_block, varint
from invalid_files import Invalid
from mixed_files import mixed
from valid_files import BOOL, F32, U8, Valid, View, dense, planes, sparse, valid

DEFLATED = 1  # bit 0 of `required_features`
LONGEST_MATCH = 258
# What zlib's `compressobj(9, DEFLATED, -15, 9)` made of the records of `_norms`.
DYNAMIC_BLOCK = bytes.fromhex(
    "93cf49ac4c2d32d4cbcb2fcad5cb2bcd8d4f4a2c49ce482d8e2f294a4cce4e4d616567c8bcaf94ca"
    "000512c8ca8b4af3f232f3d2e3735313f35819191d225aa7f182148963535496580452b3e254ef36"
    "0686067b79b01a23d2ec3522c65e23bcf6be60af1805a360140c7bc0c0c1c8c4c5e3cc0026182b19"
    "1901"
)


class Bits:
    """Bits of a stream of DEFLATE, the first in the lowest place of a byte (RFC 1951, 3.1.1)."""

    def __init__(self) -> None:
        self._bits: list[int] = []

    def put(self, value: int, count: int) -> None:
        """Write an integer."""
        self._bits += [value >> place & 1 for place in range(count)]

    def code(self, value: int, count: int) -> None:
        """Write a code, which begins with its highest bit."""
        self._bits += [value >> place & 1 for place in reversed(range(count))]

    def written(self) -> bytes:
        """Return whole bytes."""
        bits = [*self._bits, *[0] * (-len(self._bits) % 8)]
        return bytes(
            sum(bit << place for place, bit in enumerate(bits[at : at + 8]))
            for at in range(0, len(bits), 8)
        )


def fixed_block(content: bytes, last: bool = True, far: int | None = None) -> bytes:
    """Return a block with fixed codes (3.2.6); matches are of 3 to 10 bytes, or of 258.

    `far` is a distance that ends the block, of a match of three bytes that is not in `content`.
    """
    bits = Bits()
    bits.put(int(last), 1)
    bits.put(1, 2)
    at = 0
    while at < len(content):
        count, distance = _match(content, at)
        if count < 3:
            _literal(bits, content[at])
            at += 1
        else:
            count = LONGEST_MATCH if count == LONGEST_MATCH else min(count, 10)
            _copy(bits, count, distance)
            at += count
    if far is not None:
        _copy(bits, 3, far)
    bits.code(0, 7)
    return bits.written()


def _match(content: bytes, at: int) -> tuple[int, int]:
    """Return length and distance of the last match of three bytes and more before a place."""
    before = content.rfind(content[at : at + 3], max(0, at - (1 << 15)), at + 2)
    if before < 0 or at + 3 > len(content):
        return 0, 0
    count, most = 3, min(LONGEST_MATCH, len(content) - at)
    while count < most and content[before + count] == content[at + count]:
        count += 1
    return count, at - before


def _literal(bits: Bits, byte: int) -> None:
    """Write a byte."""
    if byte < 144:
        bits.code(0x30 + byte, 8)
    else:
        bits.code(0x190 + byte - 144, 9)


def _copy(bits: Bits, count: int, distance: int) -> None:
    """Write a match (3.2.5)."""
    if count == LONGEST_MATCH:
        bits.code(0xC0 + 5, 8)
    else:
        bits.code(count - 2, 7)
    extra = max((distance - 1).bit_length() - 2, 0)
    bits.code(2 * extra + (distance - 1 >> extra), 5)
    bits.put(distance - 1 & (1 << extra) - 1, extra)


def plain(*tensors: Tensor) -> bytes:
    """Return records as they stand in a directory that is not deflated."""
    return b"".join(tensor.written() for tensor in tensors)


def deflated(*tensors: Tensor, stream: bytes, unpacked_bytes: int | None = None) -> bytes:
    """Return a file whose directory is a stream."""
    if unpacked_bytes is None:
        unpacked_bytes = len(plain(*tensors))
    section = varint(unpacked_bytes) + stream
    minor = b.version_minor(*tensors, least=1)
    return file_of(*tensors, header=Header(1, minor, required=DEFLATED, directory=section))


def _norms() -> list[Tensor]:
    """Tensors of two folded norms, and one whose name is long."""
    made = []
    for layer in (b"1", b"2"):
        prefix = b"layer" + layer + b".norm."
        made += [
            constant(prefix + b"num_batches_tracked", 7, (), bytes(8)),
            constant(prefix + b"running_mean", F32, (64,), bytes(4)),
            constant(prefix + b"running_var", F32, (64,), b"\0\0\x80\x3f"),
        ]
    return [*made, raw(b"x" * 1000, U8, (2,), b"\7\x08"), Tensor(b"y", b.ALIAS, target=1)]


def _of_many_encodings() -> list[Tensor]:
    """Tensors of the encodings of 1.1, with constants of a NaN with payload and of minus zero."""
    prefix = b"one.prefix.that.many.names.have."
    return [
        constant(prefix + b"a", F32, (3,), b"\1\2\xc3\x7f"),
        dense(prefix + b"b", U8, b.full([7, 9], 1), [7, 9], [1, 0, 1, 0, 1], 8),
        constant(prefix + b"c", F32, (2, 2), b"\0\0\0\x80"),
        Tensor(prefix + b"d", b.ALIAS, target=0),
        planes(prefix + b"e", F32, [0, 1, 2], [True, False, False, True], 8),
        raw(prefix + b"f", U8, (2,), b"\7\x08"),
        sparse(prefix + b"g", U8, (9,), [1], [0, 0, 1, 0, 0, 0, 1, 0, 0], View(9, 3)),
        constant(prefix + b"h", U8, (1,), b"\7"),
    ]


def valid_files() -> dict[str, Valid]:
    """Return valid files by name."""
    norms = _norms()
    records = plain(*norms)
    rest = fixed_block(records[40:])
    streams = {
        "deflated_fixed": ("one block with fixed codes", fixed_block(records)),
        "deflated_dynamic": ("one block with codes of its own", DYNAMIC_BLOCK),
        "deflated_blocks": (
            "a stored block, an empty one, and one with fixed codes",
            stored_block(records[:40]) + stored_block(b"") + rest,
        ),
    }
    older = _of_many_encodings()
    later = mixed(b"p", F32, (2, 3), [0x3F800000, 0xBF800000], [0, 1, 0, -1, 1, 0])
    newer = [*older, later]
    made = {
        name: Valid(f"a deflated directory: {purpose}", deflated(*norms, stream=stream), norms)
        for name, (purpose, stream) in streams.items()
    }
    made["deflated_mixed"] = Valid(
        "a deflated directory of the encodings of 1.1, constants between them",
        deflated(*older, stream=fixed_block(plain(*older))),
        older,
    )
    made["deflated_1_2"] = Valid(
        "a deflated directory of all encodings",
        deflated(*newer, stream=fixed_block(plain(*newer))),
        newer,
    )
    for dtype, label in enumerate(b.DTYPES):
        width = b.ITEM_BYTES[dtype]
        pattern = b.number(1 if dtype == BOOL else (1 << 8 * width) // 3, width)
        made[f"constant_{label}"] = valid(
            f"constant tensors of type {label}",
            constant(b"other", dtype, (3, 5), pattern),
            constant(b"scalar", dtype, (), pattern),
            constant(b"zero", dtype, (7,), bytes(width)),
        )
    return made


def _streams() -> Iterator[tuple[str, str, bytes]]:
    """Deflated directories that break a rule of 5.5 or of RFC 1951."""
    norms = _norms()
    records = plain(*norms)
    sound = fixed_block(records)
    yield "nothing", "no byte announced", deflated(*norms, stream=b"", unpacked_bytes=0)
    empty = file_of(header=Header(1, 1, required=DEFLATED, directory=b""))
    yield "no_section", "a section without a byte", empty
    yield "no_stream", "no stream", deflated(*norms, stream=b"")
    for name, more in (("less", -1), ("more", 1)):
        data = deflated(*norms, stream=sound, unpacked_bytes=len(records) + more)
        yield name, f"{name} bytes announced than there are", data
    yield "huge", "2**32 bytes announced", deflated(*norms, stream=sound, unpacked_bytes=1 << 32)
    yield "cut", "the last byte of the stream is missing", deflated(*norms, stream=sound[:-1])
    yield "tail", "a byte behind the stream", deflated(*norms, stream=sound + b"\0")
    again = sound + stored_block(b"", last=True)
    yield "twice", "another stream behind it", deflated(*norms, stream=again)
    endless = fixed_block(records, last=False)
    yield "endless", "no last block", deflated(*norms, stream=endless)
    yield "reserved", "a reserved type of block", deflated(*norms, stream=b"\7" + sound)
    far = fixed_block(records[:-3], far=len(records))
    yield "far", "a match before the first byte", deflated(*norms, stream=far)
    zlib_like = b"\x78\xda" + sound + b.number(0, 4)
    yield "wrapped", "a stream in zlib's wrapper", deflated(*norms, stream=zlib_like)
    # The records of these are sound.
    w = raw(b"w" * 20, U8, (1,), b"\7")
    stored = stored_block(plain(w), last=True)
    yield "longer", "a section that is no shorter", deflated(w, stream=stored)
    w = constant(b"wwwww", U8, (1,), b"\7")
    equal = deflated(w, stream=fixed_block(plain(w)))
    if len(equal) != 64 + len(plain(w)):
        raise ValueError("these records are as long as their section")
    yield "equal", "a section as long as the records", equal
    # Parts of no bytes, which the directory has no other rule against.
    head = b"\1w" + bytes([b.DENSE, U8, 1, 1]) + b.crc(b"\7") + varint(20_000)
    flood = Tensor(b"w", b.DENSE, U8, (1,), b"\7", record=head + bytes(5 * 20_000))
    data = deflated(flood, stream=fixed_block(plain(flood)))
    yield "flood", "records of more than 64 times the section", data
    backwards = fixed_block(plain(*reversed(norms)))
    yield "records", "records that are not in order", deflated(*reversed(norms), stream=backwards)


def invalid_files() -> dict[str, Invalid]:
    """Return invalid files by name."""
    made = {
        f"deflated_{name}": Invalid(purpose, "bad_directory", data)
        for name, purpose, data in _streams()
    }
    norms = _norms()
    limit = deflated(*norms, stream=fixed_block(plain(*norms)), unpacked_bytes=(1 << 32) - 1)
    made["deflated_limit"] = Invalid("more than the reader's limit", "limit_exceeded", limit)
    ones = constant(b"c", F32, (2,), b"\0\0\x80\x3f")
    empty = replace(ones, shape=(0,), elements=b"")
    head = b"\1c\5"
    for name, purpose, tensor in (
        ("empty", "no element to repeat", replace(empty, record=head + b"\1\1\0" + bytes(8))),
        ("boolean", "a boolean of 2", constant(b"c", BOOL, (2,), b"\2")),
        ("cut", "an element that is not whole", replace(ones, record=ones.written()[:-1])),
        ("tail", "a part behind the element", replace(ones, record=ones.written() + b"\0")),
    ):
        made[f"constant_{name}"] = Invalid(purpose, "bad_directory", file_of(tensor))
    wrong = replace(ones, record=head + b"\1\1\2" + bytes(4) + ones.elements[:4])
    made["constant_crc"] = Invalid("checksum of the elements", "checksum_mismatch", file_of(wrong))
    return made
