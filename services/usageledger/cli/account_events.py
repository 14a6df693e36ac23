"""Sending one event that a command makes, and telling what became of it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from usageledger.cli import terminal
from usageledger.cli.options import connection, now

if TYPE_CHECKING:
    from usageledger.domain.chain import SealedEntry
    from usageledger.domain.entry import Voids
    from usageledger.runtime.settings import Settings
    from usageledger.sdk.producer.events import Event

DECISION_TIMEOUT_S = 30.0

Build = Callable[..., "Event"]
"""Makes an event; given ``now`` and ``live`` beside its fields. Raises InvalidEvent."""


def send_event(
    data: Path | None,
    build: Build,
    *,
    wait: bool,
    as_json: bool,
    occurred_at: datetime | None,
    **fields: Any,
) -> None:
    """Make an event, send it, wait until Kafka has it, and with ``wait`` until it is decided; print
    its id and what became of it.

    Raises what `explained` knows; ends with code 1 where the ledger refuses the event.
    """
    from usageledger.operations.topics import is_importing

    settings = connection(data)
    importing = is_importing(settings.kafka, settings.prefix)
    event = build(occurred_at=occurred_at, now=now(), live=not importing, **fields)
    decision = _sent(settings, event, importing=importing, wait=wait)
    told = {name: event[name] for name in ("type", "source", "id", "time")} | {
        "account": event["subject"]
    }
    if as_json:
        terminal.print_json(told if decision is None else told | {"decision": _plain(decision)})
    else:
        terminal.say(f"{event['type']} for {event['subject']}: id {event['id']}")
    if decision is not None:
        _tell(decision, event, as_json)


def id_or_new(given: str | None) -> str:
    """The id that was given, or a new one."""
    return str(uuid.uuid4()) if given is None else given


def _sent(settings: Settings, event: Event, *, importing: bool, wait: bool) -> SealedEntry | None:
    from usageledger.log.reading import log_reader
    from usageledger.operations.decisions import mark, record_of, wait_for_decision
    from usageledger.operations.errors import OperatorError
    from usageledger.operations.lags import lag_reader
    from usageledger.operations.ledger_entries import ledger_partitions
    from usageledger.operations.record_sender import SendingFailed, kafka_connector, send_records

    with log_reader(settings.kafka) as reader:
        partition_count = len(ledger_partitions(reader, settings.prefix))
        since = mark(reader, settings.prefix, str(event["subject"]))
        record = record_of(event, partition_count=partition_count, importing=importing)
        try:
            send_records([record], kafka_connector(settings.kafka, settings.prefix))
        except SendingFailed as error:
            again = f"try again with --id {event['id']}: under the same id it takes effect once"
            raise OperatorError(
                f"{event['type']} was not acknowledged ({error.why}); it may have been taken all "
                f"the same, so {again}"
            ) from error
        if not wait:
            return None
        with lag_reader(settings.kafka, settings.redis_url, settings.prefix) as lags:
            decision = wait_for_decision(
                reader, settings.prefix, event, since, lags.look, DECISION_TIMEOUT_S
            )
    if decision is None:
        raise OperatorError(
            f"it was sent, but not decided within {DECISION_TIMEOUT_S:.0f} s: does the processor "
            "run? `usageledger status` says"
        )
    return decision


def _plain(decision: SealedEntry) -> dict[str, Any]:
    from usageledger.operations.ledger_entries import readable_entry

    return readable_entry(decision)


def _tell(decision: SealedEntry, event: Event, as_json: bool) -> None:
    from usageledger.domain.credits import format_credits
    from usageledger.operations.refusals import refusal_text

    entry, event_data = decision.entry, cast("dict[str, Any]", event["data"])
    if entry.kind == "refusal":
        why = entry.detail or refusal_text(str(entry.reason), event_data)
        typer.echo(
            f"usageledger: the ledger refused it ({entry.reason}){f': {why}' if why else ''}",
            err=True,
        )
        raise typer.Exit(1)
    if entry.voids is not None and entry.voids.awaits_usage:
        _warn_of_unknown_use(entry.voids)
    if not as_json:
        after = (
            ""
            if entry.after is None
            else f", {format_credits(entry.after.remaining)} credits remain"
        )
        terminal.say(
            f"decided: {entry.kind}, {format_credits(entry.credits)} credits{after} (ledger entry "
            f"{entry.partition}-{entry.offset})"
        )


def _warn_of_unknown_use(voids: Voids) -> None:
    typer.echo(
        f"usageledger: no use {voids.id!r} of source {voids.source!r} is known: nothing was given "
        "back, and should it still come, "
        "it will cost nothing. `usageledger ledger show --account …` has the ids and sources of "
        "what was charged",
        err=True,
    )
