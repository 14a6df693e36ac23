"""Each code block of the READMEs and docs uses only commands and names that exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.prose.samples import (
    blocks_of,
    command_table_problems,
    python_problems,
    shell_problems,
)
from tests.prose.texts import ROOT, files_of_prose

DOCUMENTS = [path for path in files_of_prose() if path.suffix == ".md"]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_code_block_uses_only_what_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert python_problems(text) + shell_problems(text) == []


def test_every_command_in_the_readmes_table_exists() -> None:
    assert command_table_problems(README) == []


def test_the_readme_has_samples_in_python_and_shell() -> None:
    assert len(blocks_of(README, "python")) >= 4
    assert len(blocks_of(README, "sh")) >= 2


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("from usageledger import UsageMeter\n", "from usageledger import UsageMetre\n"),
        ("from usageledger import UsageMeter\n", "from usage_ledger import UsageMeter\n"),
        ("import usageledger.testing\n", "import usageledger.no_such_module\n"),
        ("meter.record(", "meter.recrod("),
        ('source="render"', 'sauce="render"'),
        ("quantity=1", "amount=1"),
        ('feature="genai_video", ', ""),
        ("@subscriber.on_reached", "@subscriber.on_reach"),
        ("gate.held(", "gate.hold_for("),
        ("meter.record(", "meter.record(("),
    ],
)
def test_a_python_sample_that_would_fail_is_found(right: str, wrong: str) -> None:
    text = "```python\nimport usageledger.testing\n```\n" + README
    assert python_problems(text) == []
    assert right in text
    assert python_problems(text.replace(right, wrong)) != []


@pytest.mark.parametrize(
    "line",
    [
        "usageledger no-such-command",
        ".venv/bin/usageledger up --no-such-option",
        "USAGELEDGER_PREFIX=a usageledger account no-such-command",
        "usageledger up \\\n  --no-such-option",
        "make no-such-target  # a comment",
    ],
)
def test_a_shell_sample_that_would_fail_is_found(line: str) -> None:
    assert len(shell_problems(f"```sh\n{line}\n```\n")) == 1


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("`down`", "`dawn`"), ("[--at TIME]", "[--when TIME]"), (" · suspend", " · suspnd")],
)
def test_a_wrong_command_in_the_table_is_found(right: str, wrong: str) -> None:
    assert right in README
    assert len(command_table_problems(README.replace(right, wrong))) == 1


def test_a_readme_without_its_table_of_commands_is_found() -> None:
    assert command_table_problems("# A title\n") != []
    assert command_table_problems("## The command line\n\nWords.\n\n## Next\n") != []
