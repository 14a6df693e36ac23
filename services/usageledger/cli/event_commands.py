"""Commands that send one event: the options they share, and what became of the event."""

from __future__ import annotations

import dataclasses
import inspect
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypedDict, get_type_hints

import typer

from usageledger.cli import terminal
from usageledger.cli.options import (
    DEFAULT_SOURCE,
    AsJson,
    Data,
    Id,
    Source,
    TimeOption,
    Wait,
    connection,
    now,
)

if TYPE_CHECKING:
    from usageledger.domain.chain import SealedEntry
    from usageledger.domain.entry import Voids
    from usageledger.log.reading import LogReader
    from usageledger.operations.decisions import Mark, SentEvent
    from usageledger.runtime.settings import Settings
    from usageledger.sdk.producer.account_client import AccountClient

DECISION_TIMEOUT_S = 30.0

P = ParamSpec("P")


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedOptions:
    """The options of every command that sends an event, with their defaults."""

    id: Id = None
    source: Source = DEFAULT_SOURCE
    time: TimeOption = None
    wait: Wait = False
    data: Data = None
    as_json: AsJson = False


class IdAndTime(TypedDict):
    """An event's id and time, as arguments."""

    id: str
    occurred_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """The client, ids and times that a command sends its event with. ``recorded_at`` is now."""

    settings: Settings
    client: AccountClient
    importing: bool
    source: str
    recorded_at: datetime
    id_and_time: IdAndTime


def event_command(
    app: typer.Typer,
    event_type: str,
    *,
    example: str,
    name: str | None = None,
    has_id: bool = True,
    check: Callable[..., None] | None = None,
) -> Callable[[Callable[Concatenate[Sending, P], str]], Callable[Concatenate[Sending, P], str]]:
    """Make a function a command that sends an event of this type, with the shared options added.

    The function gets a `Sending` and the command's own arguments, one of which is ``account``. It
    sends the event and returns the event's id. ``has_id=False`` leaves out --id, for an event
    whose id follows from its content. ``check`` gets the own arguments before anything is done, and
    raises BadParameter if they do not fit together.
    """

    def add(send: Callable[Concatenate[Sending, P], str]) -> Callable[Concatenate[Sending, P], str]:
        def command(**arguments: Any) -> None:
            given = {option: arguments.pop(option) for option in _SHARED if option in arguments}
            if check is not None:
                check(**arguments)
            _EventCommand(event_type, has_id, send).run(SharedOptions(**given), arguments)

        own = list(inspect.signature(send, eval_str=True).parameters.values())[1:]
        shared = [parameter for option, parameter in _SHARED.items() if has_id or option != "id"]
        command.__name__, command.__doc__ = send.__name__, send.__doc__
        # typer reads a command's parameters from its signature.
        vars(command)["__signature__"] = inspect.Signature([*own, *shared])
        app.command(name, epilog=f"Example: usageledger {example}")(command)
        return send

    return add


def _parameters_of(options: type[SharedOptions]) -> dict[str, inspect.Parameter]:
    hints = get_type_hints(options, include_extras=True)
    return {
        field.name: inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(options)
    }


_SHARED = _parameters_of(SharedOptions)


@dataclass(frozen=True, slots=True)
class _EventCommand:
    event_type: str
    has_id: bool
    send: Callable[..., str]

    def run(self, options: SharedOptions, arguments: Mapping[str, Any]) -> None:
        """Send the event, print its id and, with --wait, what the ledger made of it.

        Raises what `explained` knows. Exits with code 1 where the ledger refuses the event.
        """
        from usageledger.log.reading import log_reader
        from usageledger.operations.decisions import mark

        settings = connection(options.data)
        account = _account_name(arguments["account"])
        with log_reader(settings.kafka) as reader:
            since = mark(reader, settings.prefix, account)
            event = self._acknowledged_event(settings, options, arguments)
            decision = _decision(reader, settings, event, since) if options.wait else None
        _print_event(event, decision, as_json=options.as_json)
        if decision is not None:
            _print_decision(decision, arguments, as_json=options.as_json)

    def _acknowledged_event(
        self, settings: Settings, options: SharedOptions, arguments: Mapping[str, Any]
    ) -> SentEvent:
        """Send the event; return it once Kafka has it. Raises InvalidEvent, OperatorError."""
        from usageledger.operations.actors import system_user
        from usageledger.operations.decisions import SentEvent
        from usageledger.operations.errors import OperatorError
        from usageledger.operations.record_sender import SendingFailed
        from usageledger.operations.topics import is_importing
        from usageledger.sdk.producer.account_client import AccountClient, CommandFailed
        from usageledger.sdk.producer.events import format_time

        importing = is_importing(settings.kafka, settings.prefix)
        recorded_at = now()
        occurred_at = options.time or recorded_at
        id = str(uuid.uuid4()) if options.id is None else options.id
        try:
            with AccountClient(
                source=options.source,
                kafka=settings.kafka,
                prefix=settings.prefix,
                actor=f"user:{system_user()}",
                importing=importing,
                clock=lambda: recorded_at,
            ) as client:
                sending = Sending(
                    settings=settings,
                    client=client,
                    importing=importing,
                    source=options.source,
                    recorded_at=recorded_at,
                    id_and_time={"id": id, "occurred_at": occurred_at},
                )
                sent_id = self.send(sending, **arguments)
        except (CommandFailed, SendingFailed) as error:
            again = f"repeat the command with --id {id}" if self.has_id else "repeat the command"
            raise OperatorError(
                f"the event may not have been sent: {error}. Kafka may have it all the same, so "
                f"{again}: it takes effect once"
            ) from error
        return SentEvent(
            type=self.event_type,
            source=options.source,
            id=sent_id,
            time=format_time(occurred_at),
            account=arguments["account"],
        )


def _account_name(text: str) -> str:
    from usageledger.domain.quantity import check_name
    from usageledger.sdk.producer.events import InvalidEvent

    try:
        return check_name("account", text)
    except ValueError as error:
        raise InvalidEvent("account", str(error)) from None


def _decision(reader: LogReader, settings: Settings, event: SentEvent, since: Mark) -> SealedEntry:
    """The ledger's decision on the event. Raises OperatorError if it does not come in time."""
    from usageledger.operations.decisions import wait_for_decision
    from usageledger.operations.errors import OperatorError
    from usageledger.operations.lags import lag_reader

    with lag_reader(settings.kafka, settings.redis_url, settings.prefix) as lags:
        decision = wait_for_decision(
            reader, settings.prefix, event, since, lags.look, DECISION_TIMEOUT_S
        )
    if decision is None:
        raise OperatorError(
            f"the event was sent, but not decided within {DECISION_TIMEOUT_S:.0f} s: see "
            "`usageledger status` for whether the processor runs"
        )
    return decision


def _print_event(event: SentEvent, decision: SealedEntry | None, *, as_json: bool) -> None:
    from usageledger.operations.ledger_entries import readable_entry

    if not as_json:
        terminal.say(f"{event.type} for {event.account}: id {event.id}")
        return
    decided = {} if decision is None else {"decision": readable_entry(decision)}
    terminal.print_json(dataclasses.asdict(event) | decided)


def _print_decision(decision: SealedEntry, event_data: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the ledger's decision. Exits with code 1 if the event was refused."""
    from usageledger.domain.credits import format_credits
    from usageledger.operations.refusals import refusal_text

    entry = decision.entry
    if entry.kind == "refusal":
        why = entry.detail or refusal_text(str(entry.reason), event_data)
        typer.echo(
            f"usageledger: the ledger refused it ({entry.reason}){f': {why}' if why else ''}",
            err=True,
        )
        raise typer.Exit(1)
    if entry.voids is not None and entry.voids.awaits_usage:
        _warn_of_unknown_usage(entry.voids)
    if as_json:
        return
    remaining = (
        "" if entry.after is None else f", {format_credits(entry.after.remaining)} credits remain"
    )
    terminal.say(
        f"decided: {entry.kind}, {format_credits(entry.credits)} credits{remaining} "
        f"(ledger entry {entry.partition}-{entry.offset})"
    )


def _warn_of_unknown_usage(voids: Voids) -> None:
    typer.echo(
        f"usageledger: no usage {voids.id!r} of source {voids.source!r} is known, so nothing was "
        "given back. If that usage still arrives, it will cost nothing. `usageledger ledger show "
        "--account …` lists the ids and sources that were charged",
        err=True,
    )
