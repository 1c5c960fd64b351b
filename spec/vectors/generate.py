"""Writes the vectors, or compares them with what is committed.

    python spec/vectors/generate.py [--check]

Needs Python's standard library alone. The files follow from the text of SPQ-1 by way of `builders`;
neither the encoder nor a decoder takes part.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TypeVar

import directories
import invalid_files
import limit_files
import lone_faults
import mixed_files
import odd_choices
import other_faults
import program_frames
import valid_files

File = TypeVar("File")
HERE = Path(__file__).parent


def _joined(*groups: dict[str, File]) -> dict[str, File]:
    """Join files whose names must all be different."""
    joined: dict[str, File] = {}
    for group in groups:
        if twice := joined.keys() & group.keys():
            raise ValueError(f"names that are there twice: {sorted(twice)}")
        joined |= group
    return joined


def contents() -> dict[Path, bytes]:
    """Return all files of the vectors."""
    valid = _joined(
        valid_files.files(),
        limit_files.files(),
        odd_choices.files(),
        program_frames.valid_files(),
        directories.valid_files(),
        mixed_files.valid_files(),
    )
    invalid = _joined(
        invalid_files.files(),
        lone_faults.files(),
        other_faults.files(),
        program_frames.invalid_files(),
        directories.invalid_files(),
        mixed_files.invalid_files(),
    )
    made = {HERE / "valid" / f"{name}.spq": file.data for name, file in valid.items()}
    made |= {HERE / "invalid" / f"{name}.spq": file.data for name, file in invalid.items()}
    manifests: dict[str, dict[str, object]] = {
        "valid.json": {name: valid_files.expectation(file) for name, file in valid.items()},
        "invalid.json": {
            name: {"purpose": file.purpose, "reason": file.reason} for name, file in invalid.items()
        },
    }
    for name, manifest in manifests.items():
        made[HERE / name] = (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()
    return made


def main() -> int:
    """Write or compare; the exit status is 1 when something differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only")
    check = parser.parse_args().check
    made = contents()
    kept = {*HERE.glob("valid*/*.spq"), *HERE.glob("invalid*/*.spq")}
    different = [path for path in kept if path not in made]
    different += [
        path for path, data in made.items() if not path.exists() or path.read_bytes() != data
    ]
    if check:
        for path in sorted(different):
            print(f"{path.relative_to(HERE)} is not what the generator makes")
        return int(bool(different))
    for path in different:
        path.unlink(missing_ok=True)
    for path, data in made.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
