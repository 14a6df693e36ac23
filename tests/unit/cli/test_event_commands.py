"""The options that every command which sends an event has in common."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from usageledger.cli import app

ACCOUNT_COMMANDS = [
    "open",
    "subscribe",
    "change-plan",
    "cancel",
    "suspend",
    "resume",
    "set-thresholds",
    "grant",
]
COMMANDS = [f"account {name}" for name in ACCOUNT_COMMANDS] + ["usage record", "usage void"]


def help_of(command: str) -> str:
    result = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_sends_an_event_has_the_shared_options(command: str) -> None:
    shown = help_of(command)
    assert [
        option
        for option in ("--source", "--time", "--wait", "--data", "--json")
        if option not in shown
    ] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_an_event_can_be_given_an_id_unless_its_content_makes_it(command: str) -> None:
    """A void's id follows from the use that it voids. Another id would void it twice."""
    assert ("--id" in help_of(command)) == (command != "usage void")
