"""Looks into a packed file: what it says about itself and what its tensors hold."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import spq
from spqformat import Limits
from spqtools.report import JSON_FORMAT, TensorRow, escape, table, tensor_table


@dataclass(frozen=True)
class Inspection:
    """What a packed file holds.

    Parameters
    ----------
    file_bytes : int
        Length of the file.
    program_bytes : dict of str to int
        Length of each stored program by kind, as the reader gets it.
    metadata : dict of str to str
        The flat string map.
    aliases : dict of str to str
        Tied names and the stored tensor that each stands for.
    tensors : tuple of TensorRow
        The stored tensors.
    """

    file_bytes: int
    program_bytes: dict[str, int]
    metadata: dict[str, str]
    aliases: dict[str, str]
    tensors: tuple[TensorRow, ...]

    @property
    def weights(self) -> int:
        """Number of elements of all stored tensors."""
        return sum(row.weights for row in self.tensors)

    @property
    def zeros(self) -> int:
        """Number of zeros among them."""
        return sum(row.zeros for row in self.tensors)

    @property
    def float_bytes(self) -> int:
        """Bytes that the elements take as float32."""
        return 4 * self.weights

    @property
    def ratio(self) -> float:
        """How many times smaller the file is than its elements as float32."""
        return self.float_bytes / self.file_bytes

    @property
    def bits_per_weight(self) -> float:
        """Bits of the whole file per element."""
        return 8 * self.file_bytes / max(self.weights, 1)

    @property
    def sparsity(self) -> float:
        """Fraction of zeros."""
        return self.zeros / max(self.weights, 1)


def inspect_file(file: Path | bytes, limits: Limits | None = None) -> Inspection:
    """Read a packed file, tensor after tensor.

    Parameters
    ----------
    file : Path or bytes
        The packed file.
    limits : Limits, optional
        What reading may take.

    Returns
    -------
    Inspection
        What it holds.

    Raises
    ------
    SpqError
        Every reason of `spq.open` and of decoding.
    OSError
        The file could not be read.
    """
    with spq.open(file, limits) as archive:
        names = archive.keys()
        return Inspection(
            file_bytes=archive.file_bytes,
            program_bytes={
                kind: len(archive.program(kind) or b"") for kind in archive.program_kinds
            },
            metadata=dict(archive.metadata),
            aliases=dict(archive.aliases),
            tensors=tuple(_row(archive, name) for name in names if name not in archive.aliases),
        )


def inspection_json(inspection: Inspection) -> str:
    """Render an inspection for programs, as one JSON object in ASCII.

    Parameters
    ----------
    inspection : Inspection
        What the file holds.

    Returns
    -------
    str
        The JSON text.
    """
    content = {
        "format": JSON_FORMAT,
        **asdict(inspection),
        "weights": inspection.weights,
        "sparsity": inspection.sparsity,
        "float_bytes": inspection.float_bytes,
        "ratio": inspection.ratio,
        "bits_per_weight": inspection.bits_per_weight,
    }
    return json.dumps(content, indent=2, sort_keys=True)


def inspection_text(inspection: Inspection) -> str:
    """Render an inspection for people; every text from the file is escaped.

    Parameters
    ----------
    inspection : Inspection
        What the file holds.

    Returns
    -------
    str
        Lines of text without a final line break.
    """
    summary = [
        ["file", f"{inspection.file_bytes:,} bytes"],
        ["as float32", f"{inspection.float_bytes:,} bytes"],
        ["ratio", f"{inspection.ratio:.1f}x"],
        ["bits per weight", f"{inspection.bits_per_weight:.3f}"],
        ["sparsity", f"{inspection.sparsity:.2%}"],
        *(
            [f"{escape(kind)} program", f"{length:,} bytes unpacked"]
            for kind, length in inspection.program_bytes.items()
        ),
    ]
    facts = [[escape(key), escape(value)] for key, value in inspection.metadata.items()]
    ties = [[escape(name), f"= {escape(other)}"] for name, other in inspection.aliases.items()]
    blocks = [
        table(summary, text_columns=2),
        table(facts, text_columns=2),
        tensor_table(inspection.tensors),
        table(ties, text_columns=2),
    ]
    return "\n\n".join(block for block in blocks if block)


def _row(archive: spq.Archive, name: str) -> TensorRow:
    """Decode one tensor and describe it."""
    info = archive.info(name)
    values = archive.get_tensor(name).reshape(-1)
    nonzero = values[values != 0]
    # NaNs differ from each other, so that levels are counted as bit patterns.
    patterns = nonzero.view(f"u{nonzero.itemsize}")
    return TensorRow(
        name=name,
        dtype=info.dtype,
        shape=info.shape,
        encoding=info.encoding,
        stored_bytes=info.stored_bytes,
        zeros=values.size - nonzero.size,
        levels=None if info.encoding in ("raw", "planes") else int(np.unique(patterns).size),
    )
