"""What a run of the compressor has achieved, as a table for people and as JSON for programs."""

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod

from spqtools.progress import seconds_text

JSON_FORMAT = 1


@dataclass(frozen=True)
class TensorRow:
    """One stored tensor of a packed file.

    Parameters
    ----------
    name : str
        Its name in the state dict.
    dtype : str
        Name of its type, ``"f32"``.
    shape : tuple of int
        Its shape.
    encoding : str
        How the file stores it.
    stored_bytes : int
        Bytes of its own in the file, without its share of the directory.
    zeros : int
        Number of elements that are zero.
    levels : int or None
        Number of distinct values other than zero; None where the tensor is stored value by value.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    encoding: str
    stored_bytes: int
    zeros: int
    levels: int | None

    @property
    def weights(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class Accuracy:
    """Share of right answers before and after packing.

    Parameters
    ----------
    before, after : float
        Per cent of right answers of the model given and of the packed file loaded again.
    samples : int
        Number of labelled samples counted.
    data : str
        Which samples these are, in words.
    """

    before: float
    after: float
    samples: int
    data: str


@dataclass(frozen=True)
class Report:
    """The outcome of one packing.

    Parameters
    ----------
    model, output : str
        The file read and the file written.
    bytes_before : int
        float32 bytes of parameters and buffers, tied ones counted once.
    bytes_after : int
        Bytes of the whole file written, programs and metadata among them.
    weights : int
        Number of elements of parameters and buffers.
    sparsity : float
        Fraction of zeros over all of them.
    divergence : float or None
        Distance of the packed model's outputs from the original's; None without calibration.
    divergence_kind : str or None
        What the number measures.
    accuracy : Accuracy or None
        None without labels.
    missed : str or None
        By how much the goal was missed, when time ended the search.
    seconds : float
        Wall time of the whole run.
    tensors : tuple of TensorRow
        The stored tensors, by name.
    notes : tuple of str
        Facts that the reader should know.
    """

    model: str
    output: str
    bytes_before: int
    bytes_after: int
    weights: int
    sparsity: float
    divergence: float | None
    divergence_kind: str | None
    accuracy: Accuracy | None
    missed: str | None
    seconds: float
    tensors: tuple[TensorRow, ...]
    notes: tuple[str, ...]

    @property
    def ratio(self) -> float:
        """How many times smaller the file is than the float32 bytes."""
        return self.bytes_before / self.bytes_after

    @property
    def bits_per_weight(self) -> float:
        """Bits of the whole file per weight."""
        return 8 * self.bytes_after / max(self.weights, 1)


def report_json(report: Report) -> str:
    """Render a report for programs.

    Parameters
    ----------
    report : Report
        The report.

    Returns
    -------
    str
        One JSON object in ASCII, so that no name can steer a terminal.
    """
    content = {
        "format": JSON_FORMAT,
        **asdict(report),
        "ratio": report.ratio,
        "bits_per_weight": report.bits_per_weight,
    }
    return json.dumps(content, indent=2, sort_keys=True, allow_nan=False)


def report_text(report: Report) -> str:
    """Render a report for people: what came of it first, the tensors after it.

    Parameters
    ----------
    report : Report
        The report.

    Returns
    -------
    str
        Lines of text without a final line break; names are escaped.
    """
    rows = [
        ["bytes before (float32)", f"{report.bytes_before:,}"],
        ["bytes after (whole file)", f"{report.bytes_after:,}"],
        ["  of these, tensors", f"{sum(row.stored_bytes for row in report.tensors):,}"],
        ["ratio", f"{report.ratio:.1f}x"],
        ["bits per weight", f"{report.bits_per_weight:.3f}"],
        ["sparsity", f"{report.sparsity:.2%}"],
    ]
    remarks = list(report.notes)
    if report.missed is not None:
        rows.append(["GOAL MISSED", report.missed])
    if report.divergence is not None:
        rows.append([f"divergence ({report.divergence_kind})", f"{report.divergence:.3g}"])
    if report.accuracy is not None:
        accuracy = report.accuracy
        rows.append(["accuracy before", f"{accuracy.before:.2f} %"])
        rows.append(["accuracy after", f"{accuracy.after:.2f} %"])
        remarks.append(f"accuracy on {accuracy.samples:,} {accuracy.data}")
    rows.append(["time", seconds_text(report.seconds)])
    blocks = [
        f"{escape(report.model)} -> {escape(report.output)}",
        table(rows),
        tensor_table(report.tensors),
        *(escape(remark) for remark in remarks),
    ]
    return "\n\n".join(blocks)


def tensor_table(tensors: Sequence[TensorRow]) -> str:
    """Render the stored tensors, one a line.

    Parameters
    ----------
    tensors : Sequence of TensorRow
        The rows in the order wanted.

    Returns
    -------
    str
        Lines of text; names are escaped.
    """
    rows = [
        [
            escape(row.name),
            row.dtype,
            "x".join(map(str, row.shape)) or "scalar",
            row.encoding,
            f"{row.stored_bytes:,}",
            f"{8 * row.stored_bytes / max(row.weights, 1):.3f}",
            f"{row.zeros / max(row.weights, 1):.1%}",
            "" if row.levels is None else str(row.levels),
        ]
        for row in tensors
    ]
    heads = ["tensor", "type", "shape", "encoding", "bytes", "bits/weight", "zeros", "levels"]
    return table(rows, heads, text_columns=4)


def table(
    rows: Sequence[Sequence[str]], heads: Sequence[str] | None = None, text_columns: int = 1
) -> str:
    """Align cells in columns.

    Parameters
    ----------
    rows : Sequence of rows of str
        The cells; all rows have the same length.
    heads : Sequence of str, optional
        Column heads.
    text_columns : int
        So many columns at the left stand flush left, the others flush right.

    Returns
    -------
    str
        Lines of text without a final line break.
    """
    lines = [*([heads] if heads else []), *rows]
    if not lines:
        return ""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    if heads:
        lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < text_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def escape(text: str) -> str:
    r"""Make text from a file harmless to print on a terminal.

    Parameters
    ----------
    text : str
        Text from outside: a tensor's name, a metadata value.

    Returns
    -------
    str
        The text with control, format (bidirectional overrides among them), surrogate, private and
        unassigned characters and line separators written as ``\xNN`` or ``\uNNNN``, and the
        backslash doubled so that no two texts look alike.
    """
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if character == "\\" or unicodedata.category(character) in _UNPRINTABLE
        else character
        for character in text
    )


_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
