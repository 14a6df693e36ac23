"""The prose linter finds each habit that it names, and lets plain English pass."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.prose.__main__ import findings
from tests.prose.english import (
    RULES,
    Rule,
    bare_quantities,
    headless_clauses,
    long_sentences,
    vague_words,
)
from tests.prose.texts import ROOT, Passage, files_of_prose, passages_of


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        (headless_clauses, "What a reader sees of a partition."),
        (headless_clauses, "Who asks twice gets the same answer."),
        (headless_clauses, "It is the same for who asks twice."),
        (headless_clauses, "A lock is no help; who sleeps through it writes."),
        (headless_clauses, "It may come twice: what was sent is charged once."),
        (bare_quantities, "A worker keeps so many."),
        (bare_quantities, "Of a damaged file, the rest is no longer such."),
        (bare_quantities, "Nobody knows why it is so."),
        (vague_words, "The app is told at once."),
        (vague_words, "The balance is reckoned here."),
        (long_sentences, "A " + "very " * 24 + "long sentence."),
    ],
)
def test_a_habit_that_makes_readers_read_twice_is_found(rule: Rule, sentence: str) -> None:
    assert len(list(rule(sentence))) == 1


@pytest.mark.parametrize(
    "sentence",
    [
        "Whoever asks twice gets the same answer.",
        "The worker, which slept through its lease, wakes up and writes.",
        "Which addresses may a webhook be sent to?",
        "Who may do what?",
        "What it guarantees",
        "The log says what it lacks.",
        "An event such as this one is refused.",
        "So many events arrive that a chunk fills at once.",
        "A " + "very " * 22 + "long sentence.",
    ],
)
def test_plain_english_passes(sentence: str) -> None:
    assert [found for rule in RULES for found in rule(sentence)] == []


PYTHON = '''"""The module.

Its second paragraph
goes on here.
"""

TEXT = "# not a comment"  # A trailing comment.
LONG = """
# not a comment either
"""


def run() -> None:
    """Run it."""
    # A comment of
    # two lines.
    #
    # Another paragraph.
    return None  # noqa: RET501
'''


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "a.py",
            PYTHON,
            [
                "The module.",
                "Its second paragraph goes on here.",
                "Run it.",
                "A trailing comment.",
                "A comment of two lines.",
                "Another paragraph.",
            ],
        ),
        (
            "a.md",
            "# Title\n\nOne\nline, `code` and [a link](x.md).\n\n```sh\nmake x\n```\n\n- An item\n"
            "- another\n\n| cell | other |\n|---|---|\n",
            ["Title", "One line, ¤ and a link.", "An item", "another", "cell", "other"],
        ),
        ("a.lua", "-- One\n-- comment.\nlocal x = 1\n", ["One comment."]),
        ("a.js", "/** One\n * comment. */\nx();\n// Another.\n", ["One comment.", "Another."]),
        ("a.sh", "#!/bin/sh\n# A comment.\necho\n", ["A comment."]),
    ],
)
def test_prose_is_found_in_every_kind_of_file(name: str, text: str, expected: list[str]) -> None:
    assert [passage.text for passage in passages_of(Path(name), text)] == expected


def test_scenario_lines_of_docstrings_are_no_prose_and_the_words_around_them_are() -> None:
    text = (
        'def f():\n    """Charge it.\n\n    +1s use chat_action 1 id=g  => usage 1 200+0-1=199\n'
        '    2026-01-31T10:00  grant 1 => grant 1\n    A word => another.\n    """\n'
    )
    found = [passage.text for passage in passages_of(Path("a.py"), text)]
    assert found == ["Charge it.", "A word => another."]


def test_the_keys_and_arguments_of_a_lua_script_are_no_prose_and_the_rest_is() -> None:
    text = (
        "-- Holds it.\n--\n-- KEYS: head,\n--   accounts\n-- ARGV[1]: an id\n-- Reply: its sum.\n"
        "--\n-- A why.\n\n-- Of KEYS: a comment.\n"
    )
    found = [passage.text for passage in passages_of(Path("a.lua"), text)]
    assert found == ["Holds it.", "Reply: its sum.", "A why.", "Of KEYS: a comment."]
    not_lua = [passage.text for passage in passages_of(Path("a.sh"), "# KEYS: a comment.\n")]
    assert not_lua == ["KEYS: a comment."]


def test_the_tags_of_jsdoc_and_indented_commands_are_no_prose() -> None:
    script = "/**\n * Adds credits.\n * @param {string} one which\n *   goes on\n */\nadd();\n"
    assert [passage.text for passage in passages_of(Path("a.js"), script)] == ["Adds credits."]
    shell = "# Starts it.\n#\n#   start.sh DIRECTORY    so many words\n# Run as root.\n"
    found = [passage.text for passage in passages_of(Path("a.sh"), shell)]
    assert found == ["Starts it.", "Run as root."]


def test_a_passage_is_split_into_sentences() -> None:
    passage = Passage(Path("a.md"), 1, "One, e.g. this. Two? (Three.) Four is “five”. Six.")
    assert passage.sentences() == ["One, e·g· this.", "Two?", "(Three.", "Four is “five”.", "Six."]


def test_a_finding_names_its_line_and_its_rule() -> None:
    text = "# Fine\n\nNothing to see.\n\nWho reads this stumbles.\n"
    assert [found[:2] for found in findings(Path("a.md"), text)] == [(5, "headless_clauses")]


def test_the_files_of_prose_include_every_language() -> None:
    suffixes = {path.suffix or path.name for path in files_of_prose()}
    assert suffixes >= {".py", ".md", ".lua", ".js", ".sh", ".toml", "Makefile", "run"}


def test_the_linter_fails_on_a_finding(tmp_path: Path) -> None:
    """`make lint` relies on its exit code."""
    folder = tmp_path / "docs"
    folder.mkdir()
    for text, expected in (("All is fine here.\n", 0), ("Who reads this stumbles.\n", 1)):
        (folder / "page.md").write_text(text, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "tests.prose", "--root", str(tmp_path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert done.returncode == expected, done.stdout + done.stderr
