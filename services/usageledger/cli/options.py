"""Options that several commands have, and what they stand for."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from usageledger.runtime.settings import Settings


def parse_time(text: str) -> datetime:
    """A time as people write it: ISO 8601, in UTC where no zone is named. Raises
    typer.BadParameter.
    """
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
        help="The running stack's directory. Without it: USAGELEDGER_… variables, else "
        ".usageledger.",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="JSON on stdout; a list is one object a line.")
]
TimeOption = Annotated[
    datetime | None,
    typer.Option(
        "--time",
        metavar="TIME",
        parser=parse_time,
        help="When it happened (default: now); UTC if no zone is named.",
    ),
]
Source = Annotated[
    str,
    typer.Option(
        "--source", help="The service that tells the ledger so: part of the event's identity."
    ),
]
Id = Annotated[
    str | None,
    typer.Option(
        "--id",
        help="The event's id (default: a new one). Sent again under it, the event counts once.",
    ),
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the ledger's decision and show it.")]

DEFAULT_SOURCE = "cli"


def connection(data: Path | None) -> Settings:
    """Where the ledger is, if its broker can be reached. Raises SettingsError, OperatorError."""
    from usageledger.operations.reachability import require_listener
    from usageledger.runtime.settings import Settings

    settings = Settings.find(data)
    require_listener(settings.kafka)
    return settings


def stack_directory(data: Path | None) -> Path:
    """The one-machine stack's directory: as given, else USAGELEDGER_DATA, else ``.usageledger``."""
    from usageledger.runtime.settings import DATA_DEFAULT

    return data or Path(os.environ.get("USAGELEDGER_DATA") or DATA_DEFAULT)


def now() -> datetime:
    """The wall clock, in whole milliseconds as Kafka counts."""
    from usageledger.sdk.producer.events import utc_now

    return utc_now()
