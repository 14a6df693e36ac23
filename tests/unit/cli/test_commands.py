"""The command line without a stack: help pages, mistakes, and commands that need no ledger."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from usageledger.cli import app
from usageledger.cli.options import parse_time
from usageledger.domain.catalog_document import catalog_document, load_shipped_catalog

COMMANDS = [
    *("up", "down", "status", "send", "go-live", "wait-idle", "demo"),
    *(
        "account show",
        "account open",
        "account subscribe",
        "account change-plan",
        "account cancel",
        "account grant",
    ),
    *("account suspend", "account resume", "account set-thresholds"),
    *(
        "usage record",
        "usage void",
        "ledger show",
        "limits tail",
        "refusals list",
        "refusals resend",
    ),
    *("catalog show", "catalog lint", "catalog publish", "catalog quote", "audit verify"),
    *(
        "webhooks add",
        "webhooks list",
        "webhooks rotate",
        "webhooks disable",
        "webhooks enable",
        "webhooks remove",
    ),
    *("webhooks deliveries", "webhooks resend", "webhooks test"),
    *("keys create", "keys list", "keys rotate", "keys revoke"),
]
PRINTING_DATA = [
    command for command in COMMANDS if command not in ("down", "go-live", "wait-idle", "demo")
]


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """`service` makes the process log to its standard error, which the test runner soon closes."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory without a stack, and no settings."""
    for name in [name for name in os.environ if name.startswith("USAGELEDGER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def printed(*arguments: str) -> Any:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_page_with_an_example(command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"Example: usageledger {command}" in result.stdout


@pytest.mark.parametrize("command", PRINTING_DATA)
def test_every_command_that_prints_data_prints_json(command: str) -> None:
    assert "--json" in run(*command.split(), "--help").stdout


def test_a_help_page_wraps_to_the_width_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Line breaks of the source appeared in the middle of a terminal's lines."""
    monkeypatch.setenv("COLUMNS", "300")
    shown = [line.strip() for line in run("doctor", "--help").stdout.splitlines()]
    assert any(
        line.startswith("It looks at brokers") and line.endswith("1 otherwise.") for line in shown
    )


def test_the_help_lists_every_command() -> None:
    listed = run("--help").stdout
    assert all(command.split()[0] in listed for command in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        "account show a",
        "ledger show",
        "limits tail",
        "webhooks list",
        "keys list",
        "refusals list",
        "audit verify",
        "wait-idle",
        "go-live",
        "account subscribe a pro",
        "usage record a genai_video",
        "send -",
        "service limits",
    ],
)
def test_without_a_stack_one_line_on_stderr_says_how_to_start_one(arguments: str) -> None:
    result = run(*arguments.split())
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(
        "usageledger: no running stack in .usageledger: start one with `usageledger up`"
    )
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("named", ["", "0.5 --none", "--none --as-plan"])
def test_thresholds_are_named_in_one_way(named: str) -> None:
    result = run("account", "set-thresholds", "a", *named.split())
    assert result.exit_code == 2
    assert "name the shares, or --none, or --as-plan" in result.stderr


def test_down_without_a_stack_is_an_error() -> None:
    result = run("down")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no running stack in" in result.stderr


def test_the_status_of_a_directory_without_a_stack_is_stopped(nowhere: Path) -> None:
    assert printed("status", "--json") == {
        "state": "stopped",
        "data": str(nowhere / ".usageledger"),
        "services": [],
    }


def test_an_error_that_nobody_expected_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: Path) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("usageledger.local.daemon.read_status", broken)
    assert isinstance(run("status").exception, ZeroDivisionError)


def test_a_command_that_does_not_exist_is_a_mistake_of_the_user() -> None:
    result = run("account", "shwo", "a")
    assert result.exit_code == 2
    assert "show" in result.stderr


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-11-24", datetime(2026, 11, 24, tzinfo=UTC)),
        ("2026-11-24T10:15", datetime(2026, 11, 24, 10, 15, tzinfo=UTC)),
        ("2026-11-24T10:15:30.5+01:00", datetime(2026, 11, 24, 9, 15, 30, 500_000, tzinfo=UTC)),
        ("2026-11-24T10:15:30Z", datetime(2026, 11, 24, 10, 15, 30, tzinfo=UTC)),
    ],
)
def test_a_time_is_utc_unless_it_names_its_zone(text: str, time: datetime) -> None:
    assert parse_time(text) == time


@pytest.mark.parametrize("text", ["tomorrow", "", "2026-13-01", "0001-01-01T00:00+14:00"])
def test_a_text_that_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no time: write 2026-11-24"):
        parse_time(text)


def test_a_quote_adds_up_and_names_the_plans_that_hold_it() -> None:
    quote = printed(
        "catalog", "quote", "--json", "genai_video/veo_3=2", "prompt_to_video=12.5", "chat_message"
    )
    assert quote["credits"] == "170"
    assert [
        (line["feature"], line["model"], line["quantity"], line["credits"])
        for line in quote["lines"]
    ] == [
        ("genai_video", "veo_3", "2", "64"),
        ("prompt_to_video", None, "12.5", "104"),
        ("chat_message", None, "1", "2"),
    ]
    assert [plan["plan"] for plan in quote["fits"]] == [
        "free",
        "pro",
        "max",
        "scale",
        "scale_2x",
        "scale_4x",
    ]


def test_a_quote_beyond_every_plan_says_so() -> None:
    assert "fits on: no plan" in run("catalog", "quote", "genai_video/veo_3=1000").stdout


@pytest.mark.parametrize(
    ("use", "code", "says"),
    [
        (
            "genai_vidoe",
            1,
            "unknown_feature: catalog 'captions-2026-11' has no rate for feature 'genai_vidoe'",
        ),
        (
            "genai_video/veo_9",
            1,
            "unknown_model: catalog 'captions-2026-11' has no rate for model 'veo_9'",
        ),
        ("genai_video/veo_3=1.1234567", 2, "at most 6 places"),
        ("genai_video/veo_3=-1", 2, "is a decimal from 0"),
    ],
)
def test_a_use_that_cannot_be_quoted_is_named(use: str, code: int, says: str) -> None:
    result = run("catalog", "quote", use)
    assert result.exit_code == code
    assert says in " ".join(result.stderr.replace("│", " ").split())


def test_where_no_ledger_runs_the_shipped_catalog_is_shown_with_a_note() -> None:
    result = run("catalog", "show", "--json")
    assert json.loads(result.stdout) == catalog_document(load_shipped_catalog())
    assert "no ledger runs here" in result.stderr
    assert run("catalog", "show", "--json", "--shipped").stderr == ""


def test_a_directory_that_is_named_must_have_a_stack() -> None:
    assert run("catalog", "show", "--data", "elsewhere").exit_code == 1


def test_the_table_lists_every_plan_and_every_rate() -> None:
    shown = run("catalog", "show", "--shipped").stdout
    catalog = load_shipped_catalog()
    assert all(plan.name in shown for plan in catalog.plans)
    assert all(
        (feature if model is None else f"{feature}/{model}") in shown
        for feature, model in catalog.rates
    )


def test_the_catalog_is_shown_with_what_each_plan_announces() -> None:
    shown = [line.split() for line in run("catalog", "show", "--shipped").stdout.splitlines()]
    (pro,) = [words for words in shown if words[:1] == ["pro"]]
    assert pro[-1] == "0.8"


def test_lint_finds_what_does_not_fit_in_the_shipped_catalog() -> None:
    result = run("catalog", "lint", "--shipped", "--json")
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert ("features.genai_video.models.veo_3_audio", "model_outside_stated_range") in [
        (each["where"], each["code"]) for each in found
    ]


def test_a_catalog_that_cannot_be_used_is_refused_with_every_defect(nowhere: Path) -> None:
    document: Any = catalog_document(load_shipped_catalog())
    document["plans"][0]["credits"] = "many"
    document["thresholds"] = ["80 %"]
    (nowhere / "catalog.json").write_text(json.dumps(document), encoding="utf-8")
    result = run("catalog", "lint", "catalog.json")
    assert result.exit_code == 1
    assert "plans.free.credits: " in result.stderr
    assert "thresholds: " in result.stderr


def test_a_file_that_is_not_there_is_named() -> None:
    result = run("catalog", "lint", "nothing.json")
    assert (result.exit_code, result.stderr) == (
        1,
        "usageledger: nothing.json: No such file or directory\n",
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["refusals", "resend"], "say which: --account, --reason or --all"),
        (
            ["refusals", "list", "--reason", "bad_luck"],
            "'bad_luck' is no reason; there are wrong_partition",
        ),
        (
            ["usage", "record", "a", "genai_video", "--dimension", "p77"],
            "a dimension is NAME=VALUE, not 'p77'",
        ),
        (["account", "show", "a", "--at", "soon"], "'soon' is no time"),
        (["up", "--backend", "cloud"], "'packages', 'docker'"),
    ],
)
def test_a_senseless_option_is_refused_before_anything_is_done(
    arguments: list[str], says: str
) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.replace("│", " ").split())
