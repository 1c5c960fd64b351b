"""What the runtime makes of each vector, in a process of its own.

    python tests/conformance/vector_outcomes.py

Prints a JSON object: by name of the file, what is found with 1, 2 and 8 threads, once where that is
the same.
"""

import json
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

import spq

VECTORS = Path(__file__).parents[2] / "spec" / "vectors"
THREADS = (1, 2, 8)


def outcome(data: bytes, threads: int) -> Any:
    """Return the reason of the refusal, or what `valid.json` says of a file, but its purpose."""
    try:
        with spq.open(data) as archive:
            tensors: dict[str, Any] = {
                name: {"tied": target} for name, target in archive.aliases.items()
            }
            for name, array in archive.tensors(threads).items():
                if name in archive.aliases:
                    continue
                info = archive.info(name)
                bits = np.ascontiguousarray(array).reshape(-1).view(f"u{array.itemsize}")
                tensors[name] = {
                    "dtype": info.dtype,
                    "shape": list(info.shape),
                    "crc32": zlib.crc32(bits.tobytes()),
                    "first": [f"{int(value):0{2 * array.itemsize}x}" for value in bits[:4]],
                }
            archive.verify()
            programs = {
                kind: zlib.crc32(archive.program(kind) or b"") for kind in archive.program_kinds
            }
            return {"tensors": tensors, "metadata": dict(archive.metadata), "programs": programs}
    except spq.SpqError as error:
        return str(error.code)


def main() -> None:
    """Print the outcomes."""
    found = {}
    for path in sorted(VECTORS.glob("*valid/*.spq")):
        outcomes = [outcome(path.read_bytes(), threads) for threads in THREADS]
        same = all(other == outcomes[0] for other in outcomes)
        found[f"{path.parent.name}/{path.stem}"] = outcomes[0] if same else outcomes
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
