"""Random changes with repaired checksums: only `SpqError` leaves, and plain Python agrees.

Without the repairs, every mutant would die at its first checksum and the rules behind it would
never be asked.
"""

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

import spq
from spqformat import Limits, SpqError

SECTIONS = ("header", "directory", "metadata", "programs", "part")
LIMITS = Limits(max_decoded_bytes=1 << 22)
INTERESTING = (0, 1, 2, 3, 4, 7, 8, 12, 15, 16, 17, 32, 64, 127, 128, 200, 254, 255)


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


class Mutator:
    """Changes one place of a sound file and makes all checksums and lengths fit again."""

    def __init__(self, data: bytes, seed: int) -> None:
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._header = data[:60]
        sizes = [int.from_bytes(data[place : place + 4], "little") for place in (48, 52, 56)]
        starts = [64, 64 + sizes[0], 64 + sizes[0] + sizes[1], 64 + sum(sizes)]
        self._directory, self._metadata, self._programs = (
            data[start : start + size] for start, size in zip(starts, sizes, strict=False)
        )
        self._data_start = starts[3]
        self._data = data[starts[3] :]
        with spq.open(data) as archive:
            records = archive._container.tensors.values()
            self._parts = [part for record in records for part in record.parts if part.stored_bytes]

    def _draw(self, count: int) -> int:
        return int(self._random.integers(count))

    def _change(self, section: bytes) -> bytes:
        """Return a section with one to three bytes changed, dropped, added or copied."""
        changed = bytearray(section)
        for _ in range(1 + self._draw(3)):
            place = self._draw(max(len(changed), 1))
            action = self._draw(6)
            if action == 0 and changed:
                del changed[place]
            elif action == 1:
                changed.insert(place, self._draw(256))
            elif action == 2 and len(changed) > 8:
                other = self._draw(len(changed) - 4)
                changed[place : place + 4] = changed[other : other + 4]
            elif changed:
                old = changed[place]
                changed[place] = (
                    old ^ 1 << self._draw(8),
                    INTERESTING[self._draw(len(INTERESTING))],
                    (old + self._draw(5) - 2) % 256,
                )[action % 3]
        return bytes(changed)

    def mutant(self) -> bytes:
        header, directory = bytearray(self._header), self._directory
        metadata, programs, data = self._metadata, self._programs, self._data
        section = SECTIONS[self._draw(len(SECTIONS))]
        if section == "header":
            place = 8 + self._draw(52)
            header[place] = INTERESTING[self._draw(len(INTERESTING))]
        elif section == "metadata" and metadata:
            body = self._change(metadata[:-4])
            metadata = body + u32(zlib.crc32(body))
        elif section == "programs" and programs:
            size = int.from_bytes(programs[:4], "little")
            body = self._change(programs[4:size])
            programs = u32(len(body) + 4) + body + u32(zlib.crc32(body)) + programs[4 + size :]
        elif section == "part":
            part = self._parts[self._draw(len(self._parts))]
            start = part.offset - self._data_start
            changed = self._change(data[start : start + part.stored_bytes])
            changed = (changed + bytes(part.stored_bytes))[: part.stored_bytes]
            data = data[:start] + changed + data[start + part.stored_bytes :]
            directory = directory.replace(u32(part.stored_crc32), u32(zlib.crc32(changed)))
        else:
            directory = self._change(directory)
        if section != "header":
            for place, changed in ((48, directory), (52, metadata), (56, programs)):
                header[place : place + 4] = u32(len(changed))
            total = 64 + len(directory) + len(metadata) + len(programs) + len(data)
            header[32:40] = total.to_bytes(8, "little")
        crc = zlib.crc32(directory, zlib.crc32(header))
        return bytes(header) + u32(crc) + directory + metadata + programs + data


def outcome(data: bytes) -> str:
    """Use everything that a file offers; return what came of it."""
    try:
        with spq.open(data, LIMITS) as archive:
            tensors = archive.tensors()
            for name in archive.keys():  # noqa: SIM118 - an archive is no mapping
                info = archive.info(name)
                array = archive.get_tensor(name)
                assert array.shape == info.shape
                assert array.nbytes == info.decoded_bytes
            crc = 0
            for name in sorted(tensors):
                crc = zlib.crc32(tensors[name].tobytes(), crc)
            assert sum(array.nbytes for array in tensors.values()) == archive.decoded_bytes
            archive.verify()
    except SpqError as error:
        return f"{error.code}"
    return f"sound {crc:08x}"


@pytest.mark.parametrize("name", ["dense", "sparse", "programs"])
def test_only_spq_errors_leave(victims: dict[str, bytes], name: str) -> None:
    mutator = Mutator(victims[name], 10)
    seen: dict[str, int] = {}
    for _ in range(1500):
        code = outcome(mutator.mutant()).split()[0]
        seen[code] = seen.get(code, 0) + 1
    # The mutants get past the checksums to the rules behind them.
    assert seen["bad_directory"] > 100
    assert sum(seen.get(code, 0) for code in ("bad_tables", "bad_stream")) > 100
    assert seen["checksum_mismatch"] < 500


CHILD = """
import json, sys
sys.path.insert(0, {folder!r})
import importlib
tests = importlib.import_module("test_mutants")
data = open({corpus!r}, "rb").read()
outcomes = []
while data:
    size = int.from_bytes(data[:4], "little")
    outcomes.append(tests.outcome(data[4:4 + size]))
    data = data[4 + size:]
print(json.dumps(outcomes))
"""


def test_plain_python_agrees(victims: dict[str, bytes], tmp_path: Path) -> None:
    """An index out of bounds, which compiled code would not notice, is an error there."""
    mutants = [
        mutator.mutant()
        for mutator in (Mutator(data, 11) for data in victims.values())
        for _ in range(120)
    ]
    corpus = tmp_path / "mutants"
    corpus.write_bytes(b"".join(u32(len(data)) + data for data in mutants))
    script = CHILD.format(folder=str(Path(__file__).parent), corpus=str(corpus))
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout) == [outcome(data) for data in mutants]
