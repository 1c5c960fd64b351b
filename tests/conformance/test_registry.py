"""The registry of the specification and the constants of the code are the same."""

import hashlib
import re
from enum import IntEnum
from pathlib import Path

import pytest

import spq
from spqformat import Limits, Reason, ids, zstd

SPEC = Path(__file__).parents[2] / "spec"
FILE_REASONS = 13


def table(title: str) -> list[list[str]]:
    """Return the rows of the table under a heading, without its head."""
    text = (SPEC / "registry.md").read_text(encoding="utf-8")
    match = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert match is not None, title
    rows = [line.strip("|").split("|") for line in match[1].splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in row] for row in rows[2:]]


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        ("Element types", ids.DType),
        ("Encodings", ids.Encoding),
        ("Codebook kinds", ids.CodebookKind),
        ("Table kinds", ids.TableKind),
        ("Plane modes", ids.PlaneMode),
        ("Program codecs", ids.ProgramCodec),
    ],
)
def test_ids(title: str, kind: type[IntEnum]) -> None:
    registered = {int(row[0]): row[1] for row in table(title)}
    assert registered == {int(member): member.name.lower() for member in kind}
    assert max(registered) < 192


def test_program_dictionary() -> None:
    ((codec, path, length, digest),) = table("Program dictionaries")
    content = SPEC.parent.joinpath(path).read_bytes()
    assert int(codec) == ids.ProgramCodec.ZSTD_DICTIONARY
    assert len(content) == int(length)
    assert hashlib.sha256(content).hexdigest() == digest
    assert zstd.dictionary().as_bytes() == content


def test_widths_of_element_types() -> None:
    assert {row[1]: int(row[2]) for row in table("Element types")} == {
        dtype.label: dtype.item_bytes for dtype in ids.DType
    }


def test_features() -> None:
    assert sum(1 << int(row[0]) for row in table("Required features")) == (
        ids.KNOWN_REQUIRED_FEATURES
    )
    assert table("Optional features") == []


def test_constants() -> None:
    constants = {
        name: value
        for name, value in vars(ids).items()
        if name.isupper() and not name.startswith("_") and type(value) is int
    }
    del constants["KNOWN_REQUIRED_FEATURES"]
    assert {row[0]: int(row[1]) for row in table("Constants")} == constants


def test_limits() -> None:
    assert {row[0]: int(row[1]) for row in table("Limits of a reader")} == vars(Limits())


def test_reasons() -> None:
    about_the_file = [row[0] for row in table("Reasons about the file")]
    others = [row[0] for row in table("Other reasons")]
    assert len(about_the_file) == FILE_REASONS
    assert about_the_file + others == [str(reason) for reason in Reason]


def test_program_kinds() -> None:
    assert [row[0] for row in table("Program kinds")] == ["torch", "onnx"]


def test_text_has_the_magic_and_every_reason_about_the_file() -> None:
    text = (SPEC / "SPQ-1.md").read_text(encoding="utf-8")
    assert f"`{ids.MAGIC.hex(' ').upper()}`" in text
    for (reason,) in table("Reasons about the file"):
        assert f"| `{reason}` |" in text


def test_text_has_the_ids_of_element_types_and_encodings() -> None:
    text = (SPEC / "SPQ-1.md").read_text(encoding="utf-8")
    for dtype in ids.DType:
        assert f"| {int(dtype)} | {dtype.label} | {dtype.item_bytes} |" in text
    for encoding in ids.Encoding:
        assert f"| {int(encoding)} | {encoding.name.lower()} |" in text


def test_sections_that_comments_cite_exist() -> None:
    text = (SPEC / "SPQ-1.md").read_text(encoding="utf-8")
    sections = set(re.findall(r"^#+ (\d+(?:\.\d+)*) ", text, re.M))
    folders = [Path(module.__file__ or "").parent for module in (ids, spq)]
    paths = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    source = "".join(path.read_text(encoding="utf-8") for path in paths)
    cited = set(re.findall(r"\bspec (\d+(?:\.\d+)*)", source))
    assert {"2.2", "6.2.3", "7.2", "10.1"} <= cited
    assert cited <= sections
