"""Reports say the same to people and to programs, and no name can steer a terminal."""

import json

import pytest

from spqtools.report import Accuracy, Report, TensorRow, escape, report_json, report_text, table

REPORT = Report(
    model="net.pt",
    output="net.spq",
    bytes_before=40_000,
    bytes_after=1_000,
    weights=10_000,
    sparsity=0.9,
    divergence=0.0123,
    divergence_kind="KL",
    accuracy=Accuracy(before=98.5, after=98.25, samples=400, data="held-out samples"),
    missed=None,
    seconds=3.5,
    tensors=(
        TensorRow("fc.weight", "f32", (100, 100), "sparse", 650, zeros=9_000, levels=15),
        TensorRow("fc.bias\x1b[2J\u202e", "f32", (), "raw", 4, zeros=0, levels=None),
    ),
    notes=("one fact",),
)


def test_text_has_every_figure() -> None:
    text = report_text(REPORT)
    for figure in ("40,000", "1,000", "40.0x", "0.800", "90.00%", "0.0123", "98.25 %", "3.5 s"):
        assert figure in text
    assert "one fact" in text


def test_text_has_no_control_characters() -> None:
    text = report_text(REPORT)
    assert r"fc.bias\x1b[2J\u202e" in text
    assert all(character.isprintable() for character in text.replace("\n", ""))


def test_json_is_ascii_and_complete() -> None:
    text = report_json(REPORT)
    assert text.isascii()
    content = json.loads(text)
    assert set(content) == {
        "accuracy",
        "bits_per_weight",
        "bytes_after",
        "bytes_before",
        "divergence",
        "divergence_kind",
        "format",
        "missed",
        "model",
        "notes",
        "output",
        "ratio",
        "seconds",
        "sparsity",
        "tensors",
        "weights",
    }
    assert (content["format"], content["ratio"]) == (1, 40.0)
    assert content["tensors"][1]["name"] == "fc.bias\x1b[2J\u202e"


def test_what_was_not_measured_is_not_shown() -> None:
    text = report_text(
        Report(**{**vars(REPORT), "accuracy": None, "divergence": None, "divergence_kind": None})
    )
    assert "accuracy" not in text
    assert "divergence" not in text


def test_a_missed_goal_stands_in_the_table() -> None:
    assert "MISSED" not in report_text(REPORT)
    text = report_text(Report(**{**vars(REPORT), "missed": "9 bytes where 8 are allowed"}))
    (line,) = (line for line in text.splitlines() if "9 bytes where 8 are allowed" in line)
    assert line.startswith("GOAL MISSED")


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain.weight", "plain.weight"),
        ("größe", "größe"),
        ("a\nb\t", r"a\nb\t"),
        ("\x1b[31m\x7f\x9b", r"\x1b[31m\x7f\x9b"),
        ("\u202egnp\u2066\u200b\u2028", r"\u202egnp\u2066\u200b\u2028"),
        ("\ud800\ue000", r"\ud800\ue000"),
        ("\\x1b", "\\\\x1b"),
    ],
)
def test_escape(text: str, escaped: str) -> None:
    assert escape(text) == escaped


def test_table_aligns() -> None:
    assert table([["a", "1"], ["bcd", "23"]], ["n", "size"]) == (
        "n    size\n---  ----\na       1\nbcd    23"
    )
    assert table([]) == ""
