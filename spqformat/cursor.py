"""Bounded reading and writing of the integers of the format; no other module slices sections."""

from spqformat.errors import Reason, SpqError

_VARINT_MAX_BYTES = 9  # 63 bits


class Cursor:
    """Reads a section from front to back and refuses to pass its end.

    Parameters
    ----------
    data : bytes
        The whole section.
    section : str
        Name for error messages.
    base_offset : int
        Byte offset of the section in the file.
    fault : Reason
        Reason code for a section whose contents break a rule.
    unpacked : bool
        Whether `data` came out of a stream, so that its positions are not positions in the file;
        refusals then name the section's beginning.
    """

    def __init__(
        self, data: bytes, section: str, base_offset: int, fault: Reason, *, unpacked: bool = False
    ) -> None:
        self._data = data
        self._section = section
        self._base_offset = base_offset
        self._fault = fault
        self._unpacked = unpacked
        self._position = 0

    @property
    def remaining_bytes(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._position

    def refuse(self, message: str) -> SpqError:
        """Return the error for a broken rule at the current position."""
        return SpqError(
            self._fault,
            message,
            offset=self._base_offset + (0 if self._unpacked else self._position),
            section=self._section,
        )

    def take(self, count: int) -> bytes:
        """Read exactly `count` bytes."""
        if count > self.remaining_bytes:
            raise self.refuse(
                f"{count} bytes are announced where {self.remaining_bytes} are left; "
                "the file is damaged"
            )
        start = self._position
        self._position += count
        return self._data[start : self._position]

    def rest(self) -> bytes:
        """Return what is left without reading it."""
        return self._data[self._position :]

    def u8(self) -> int:
        """Read one byte."""
        return self.take(1)[0]

    def u16(self) -> int:
        """Read a two-byte unsigned integer."""
        return int.from_bytes(self.take(2), "little")

    def u32(self) -> int:
        """Read a four-byte unsigned integer."""
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        """Read an eight-byte unsigned integer."""
        return int.from_bytes(self.take(8), "little")

    def varint(self, maximum: int) -> int:
        """Read an unsigned LEB128 integer in its shortest form, at most `maximum` (spec 2.2)."""
        value = 0
        for index in range(_VARINT_MAX_BYTES):
            byte = self.u8()
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                if byte == 0 and index > 0:
                    raise self.refuse("an integer is not in its shortest form")
                if value > maximum:
                    raise self.refuse(f"an integer is {value} where at most {maximum} is allowed")
                return value
        raise self.refuse("an integer has more than 63 bits")

    def signed_varint(self, magnitude: int) -> int:
        """Read a zigzag integer whose absolute value is at most `magnitude` (spec 2.2)."""
        folded = self.varint(2 * magnitude)
        return -(folded + 1) // 2 if folded & 1 else folded // 2

    def finish(self) -> None:
        """Refuse bytes that no rule accounts for."""
        if self.remaining_bytes:
            raise self.refuse(f"{self.remaining_bytes} bytes are left over")


def varint(value: int) -> bytes:
    """Write an unsigned LEB128 integer in its shortest form."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def signed_varint(value: int) -> bytes:
    """Write a zigzag integer."""
    return varint(-2 * value - 1 if value < 0 else 2 * value)
