"""Many small ranges in few requests."""

import threading
from collections.abc import Callable, Iterable

Read = Callable[[int, int], bytes]
"""``read(offset, count)``, byte offset and byte count."""

_MOST_BLOCK_BYTES = 8 << 20
_KEPT_BLOCKS = 4


class ReadAhead:
    """Reads ranges that are announced in blocks: neighbours together, each block once.

    A block, of 8 MiB at most, is kept until a few others have been read after it, so readers ought
    to keep about to the order of the ranges. Safe to use from several threads, which then wait for
    each other.

    Parameters
    ----------
    read : callable
        What reads a block.
    ranges : iterable of tuple of int
        Offset and number of bytes of what will be read, in ascending order.
    """

    def __init__(self, read: Read, ranges: Iterable[tuple[int, int]]) -> None:
        self._read = read
        self._blocks: dict[int, tuple[int, int]] = {}
        self._kept: dict[tuple[int, int], bytes] = {}
        self._lock = threading.Lock()
        block: list[tuple[int, int]] = []
        for offset, count in ranges:
            start = block[0][0] if block else offset
            is_next = not block or sum(block[-1]) == offset
            if not is_next or offset + count - start > _MOST_BLOCK_BYTES:
                self._add(block)
                block = []
            block.append((offset, count))
        self._add(block)

    def read(self, offset: int, count: int) -> bytes:
        """Return the bytes from `offset` on; what was not announced is read by itself."""
        block = self._blocks.get(offset)
        if block is None or offset + count > sum(block):
            return self._read(offset, count)
        with self._lock:
            data = self._kept.get(block)
            if data is None:
                data = self._kept[block] = self._read(*block)
                while len(self._kept) > _KEPT_BLOCKS:
                    del self._kept[next(iter(self._kept))]
        return data[offset - block[0] : offset - block[0] + count]

    def _add(self, ranges: list[tuple[int, int]]) -> None:
        # A range by itself is read when it is asked for, and never again.
        if len(ranges) > 1:
            block = ranges[0][0], sum(ranges[-1]) - ranges[0][0]
            self._blocks.update((offset, block) for offset, _ in ranges)
