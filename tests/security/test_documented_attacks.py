"""Each row of `docs/security.md` names a test that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "security.md"


def missing_tests(page: str) -> list[str]:
    """The rows, and the tests that rows name, which are not there."""
    rows = [line for line in page.splitlines() if line.startswith("| ") and "---" not in line]
    named = [(row, re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)) for row in rows]
    without = [row for row, tests in named if not tests and not row.startswith("| attack")]
    return without + [
        f"{path}::{name}"
        for _, tests in named
        for path, name in tests
        if name not in _functions_in(ROOT / path)
    ]


def _functions_in(path: Path) -> set[str]:
    if not path.exists():
        return set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, functions)}


def test_every_attack_in_the_docs_has_a_test() -> None:
    assert missing_tests(PAGE.read_text(encoding="utf-8")) == []


def test_a_row_without_a_test_and_a_test_that_is_gone_are_found() -> None:
    page = "| an attack | nothing |  |\n| b | c | `tests/security/test_none.py::test_gone` |\n"
    assert missing_tests(page) == [
        "| an attack | nothing |  |",
        "tests/security/test_none.py::test_gone",
    ]
