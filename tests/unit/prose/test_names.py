"""Every name in backquotes in a Markdown file is the name of something that exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.prose.names import ALLOWED, problem_with, spans_of, unresolved_names
from tests.prose.texts import ROOT, files_of_prose

DOCUMENTS = [path for path in files_of_prose() if path.suffix == ".md"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_name_in_backquotes_resolves(path: Path) -> None:
    assert unresolved_names(path, path.read_text(encoding="utf-8")) == []


def test_the_readmes_are_among_the_documents() -> None:
    names = {str(path.relative_to(ROOT)) for path in DOCUMENTS}
    assert names >= {"README.md", "docs/gateway.md", "services/usageledger/domain/README.md"}


@pytest.mark.parametrize(
    "span",
    [
        "domain/no_such_file.py",
        "no/such/folder/",
        "no_such_file.py",
        "docs/*.no_such_suffix",
        "make no-such-target",
        "make test NO_SUCH_VARIABLE=1",
        "usageledger no-such-command",
        "usageledger account no-such-command",
        "usageledger up --no-such-option",
        "usageledger service no-such-service",
        "account open · no-such-command",
        "USAGELEDGER_NO_SUCH_SETTING",
        "tests/unit/prose/test_names.py::test_no_such_test",
        "tests/unit/no_such_file.py::test_no_such_test",
        "PartitionOwner.no_such_method",
        "usageledger.NoSuchName",
        "usageledger.sdk.no_such_module",
        "python -m tests.no_such_module",
        "no_such_function",
        "GET /v1/no_such_path",
        "/no_such_path",
    ],
)
def test_a_name_of_nothing_is_found(span: str) -> None:
    assert problem_with(span, ROOT / "README.md") is not None


@pytest.mark.parametrize(
    "span",
    [
        "domain/decide.py",
        "docs/*.md",
        "tests/unit/prose/",
        "make simulate SEED=7",
        ".venv/bin/usageledger demo --disaster",
        "usageledger account show ACCOUNT [--at TIME]",
        "account open · subscribe",
        "service processor · limits",
        "USAGELEDGER_GATEWAY_PORT",
        "tests/unit/prose/test_names.py::test_a_name_of_nothing_is_found",
        "PartitionOwner.run",
        "usageledger.sdk.tokens.mint_account_token",
        "usageledger.UsageMeter",
        "python -m tests.chaos.sdk_outage --outage-s 600",
        "/accounts/{account}/meter",
        "limit.reached",
        "{ul:p}:owner",
    ],
)
def test_a_name_that_exists_resolves(span: str) -> None:
    assert problem_with(span, ROOT / "README.md") is None


def test_code_blocks_are_left_to_the_tests_that_run_them() -> None:
    text = "`one`\n\n```sh\n`two`\n```\n\nand `three\nfour`\n"
    assert list(spans_of(text)) == [(1, "one"), (7, "three four")]


def test_every_allowed_span_is_still_used() -> None:
    used = {span for path in DOCUMENTS for _, span in spans_of(path.read_text(encoding="utf-8"))}
    assert set().union(*ALLOWED.values()) <= used
