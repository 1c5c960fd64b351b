"""A reader that forgets one rule of the text is found out by a vector."""

import ast
import copy
import sys
import types
from typing import Any

import pytest

from tests.conformance.test_reference_decoder import SPEC
from tests.conformance.test_vectors import INVALID, read

SOURCE = (SPEC / "reference_decoder.py").read_text(encoding="utf-8")
TREE = ast.parse(SOURCE)
# In the order of `decoded_bytes`: most rules are missed before a long file is read.
FILES = dict(
    sorted(
        ((name, read("invalid", name)) for name in INVALID),
        key=lambda file: int.from_bytes(file[1][40:48], "little"),
    )
)
NO_MAXIMUM = 1 << 70
# A file that breaks one of these breaks another rule as well, with the same reason.
IMPLIED = {
    # "the tensors fill the data section"
    'read_directory: cursor.require(offset <= header.file_bytes, "a tensor ends within the file")',
    "read_programs: stored_bytes = cursor.varint(MAX_FILE_BYTES)",
    "read_record: stored_bytes = cursor.varint(MAX_FILE_BYTES)",
    # "the dimensions but zeros multiply to at most 2**48"
    "read_record: shape = tuple(cursor.varint(MAX_ELEMENTS) for _ in range(rank))",
    # "a field ends within its section"
    "read_record: part_count = cursor.varint(cursor.remaining_bytes // 5)",
    "read_metadata: value = cursor.take(cursor.varint(cursor.remaining_bytes))",
    "read_classes: stream = cursor.take(cursor.varint(cursor.remaining_bytes))",
    "decode_sparse: mask_stream = stored.take(stored.varint(stored.remaining_bytes))",
    "decode_planes: stored.take(stored.varint(stored.remaining_bytes) if coder else count)",
    # "the frequencies add up to their total": without a level, no symbol may have a frequency.
    'read_codebook: cursor.require(level_count > 0, "a codebook has a level")',
    "read_frequencies: frequency = cursor.varint(left)",
    # "an index reaches every level"
    "read_codebook: level_count = cursor.varint(MAX_LEVELS)",
    # "rows_per_chunk is in its range"
    "decode_sparse: rows_per_chunk = cursor.varint(MAX_ELEMENTS)",
    # "a value ends at zero": a value that is not below the range stays there.
    '__init__: self._cursor.require(self._value < self._range, "a value is below the range")',
}


def calls(node: ast.AST, *names: str) -> bool:
    """Return whether a node is a call of a method of one of these names."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    return node.func.attr in names and bool(node.args or node.func.attr == "finish")


def is_rule(node: ast.AST) -> bool:
    """Return whether a node gives a maximum, or does nothing but refuse files."""
    if isinstance(node, ast.Expr):
        return calls(node.value, "require", "finish")
    refuses = isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise)
    return refuses or calls(node, "varint", "signed_varint")


def place_of(node: Any) -> tuple[int, int]:
    """Return line and column."""
    return node.lineno, node.col_offset


# By function and line; without the body of `require`, which is all rules at once.
RULES = {
    f"{function.name}: {SOURCE.splitlines()[node.lineno - 1].strip()}": place_of(node)  # type: ignore[attr-defined]
    for function in ast.walk(TREE)
    if isinstance(function, ast.FunctionDef) and function.name != "require"
    for node in ast.walk(function)
    if is_rule(node)
}


class Forget(ast.NodeTransformer):
    """Takes one rule out of a tree."""

    def __init__(self, place: tuple[int, int]) -> None:
        self._place = place

    def visit(self, node: ast.AST) -> Any:
        if is_rule(node) and place_of(node) == self._place:
            if not isinstance(node, ast.Call):
                return ast.copy_location(ast.Pass(), node)
            node.args = [ast.copy_location(ast.Constant(NO_MAXIMUM), node)]
        return self.generic_visit(node)


def outcome(reader: Any, data: bytes) -> str:
    try:
        reader.decode_file(data)
    except reader.Refusal as refusal:
        return str(refusal.code)
    except Exception as error:
        return type(error).__name__
    return "accepted"


def finds_out(reader: Any, name: str) -> bool:
    # The frames of programs are not looked into.
    known = "accepted" if name.startswith("program_frame") else INVALID[name]["reason"]
    return outcome(reader, FILES[name]) != known


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_is_needed(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = types.ModuleType("spq_forgetful_decoder")
    monkeypatch.setitem(sys.modules, reader.__name__, reader)
    tree = Forget(RULES[rule]).visit(copy.deepcopy(TREE))
    exec(compile(tree, reader.__name__, "exec"), reader.__dict__)  # noqa: S102 - our own source
    assert any(finds_out(reader, name) for name in FILES) == (rule not in IMPLIED)


def test_rules_that_others_imply_are_there() -> None:
    assert RULES.keys() >= IMPLIED
