"""Options that several commands share, and what they stand for."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from usageledger.runtime.settings import Settings


def parse_time(text: str) -> datetime:
    """An ISO 8601 time, in UTC if it names no zone. Raises typer.BadParameter."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is no time: write 2026-11-24, 2026-11-24T10:15 or 2026-11-24T10:15:30+01:00"
        ) from None


Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="The running stack's directory (default: USAGELEDGER_… variables, else .usageledger).",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; a list has one object per line.")]
TimeOption = Annotated[
    datetime | None,
    typer.Option(
        "--time",
        metavar="TIME",
        parser=parse_time,
        help="When it happened; UTC if no zone is named (default: now).",
    ),
]
Source = Annotated[
    str,
    typer.Option(
        "--source", help="The service that reports it. It is part of the event's identity."
    ),
]
Id = Annotated[
    str | None,
    typer.Option(
        "--id",
        help="The event's id; a repeat under the same id counts once (default: a new id).",
    ),
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the ledger's decision, and show it.")]

DEFAULT_SOURCE = "cli"


def connection(data: Path | None) -> Settings:
    """A ledger's settings, once its broker accepts connections.

    Raises SettingsError, OperatorError.
    """
    from usageledger.operations.reachability import require_listener
    from usageledger.runtime.settings import Settings

    settings = Settings.find(data)
    require_listener(settings.kafka)
    return settings


def stack_directory(data: Path | None) -> Path:
    """The stack's directory: the one given, else USAGELEDGER_DATA, else ``.usageledger``."""
    from usageledger.runtime.settings import DATA_DEFAULT

    return data or Path(os.environ.get("USAGELEDGER_DATA") or DATA_DEFAULT)


def now() -> datetime:
    """Now, in whole milliseconds as Kafka counts."""
    from usageledger.sdk.producer.events import utc_now

    return utc_now()
