"""processor …: gets a partition that has stopped going again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from usageledger.cli import terminal
from usageledger.cli.options import AsJson, Data, connection

if TYPE_CHECKING:
    from usageledger.runtime.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Get a partition that has stopped going again.")

_PLACE = re.compile(r"(\d{1,9})@(\d{1,18})", re.ASCII)


@app.callback()
def processor() -> None:
    """Get a partition that has stopped going again."""


@app.command(
    epilog='Example: usageledger processor skip 3@1841 --topic usage --reason "its model name '
    'breaks release 1.2, see #812"'
)
def skip(
    place: Annotated[
        str,
        typer.Argument(
            metavar="PARTITION@OFFSET",
            help="The record that the partition has stopped at, as `usageledger status` names it.",
        ),
    ],
    reason: Annotated[str, typer.Option("--reason", help="Why, for the ledger and its auditors.")],
    topic: Annotated[
        Literal["usage", "account", "ledger", "limit"],
        typer.Option("--topic", help="The topic of that record."),
    ] = "usage",
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Skip, for good, the one record that a partition has stopped at.

    With --topic ledger or limit: a record that a stranger wrote to the ledger or the limit events.
    An entry that continues the ledger, a claim that this release knows and a limit event are
    refused. Every reader then goes on, and `usageledger audit verify` reports the record no more.

    With --topic usage or account: the one input that this release's code fails on, or the whole
    batch that cannot be read.

    The ledger records the skip in an entry and charges nothing. Any other input is refused: one
    that is decided already, one that the partition has not reached, and one that this release can
    decide. A running processor goes on by itself. The event may be sent again once the code is
    fixed.
    """
    from usageledger.domain.entry import InputAddress
    from usageledger.operations.ledger_entries import readable_entry
    from usageledger.operations.skips import skip as skip_input

    partition, offset = _partition_and_offset(place)
    settings = connection(data)
    if topic == "ledger" or topic == "limit":
        _skip_record(settings, topic, partition, offset, reason, as_json=as_json)
        return
    address = InputAddress(topic=topic, partition=partition, offset=offset)
    skipped = skip_input(settings.kafka, settings.redis_url, settings.prefix, address, reason)
    if as_json:
        terminal.print_json(readable_entry(skipped))
        return
    entry = skipped.entry
    about = f" of account {entry.account}" if entry.account else ""
    terminal.say(
        f"skipped {topic} {place}{about}: ledger entry {entry.partition}-{entry.offset}; a running "
        "processor goes on within seconds"
    )
    terminal.note(f"the code fails on it with {entry.detail}")


def _skip_record(
    settings: Settings,
    topic: Literal["ledger", "limit"],
    partition: int,
    offset: int,
    reason: str,
    *,
    as_json: bool,
) -> None:
    from usageledger.operations.record_skips import RecordToSkip, skip_record

    named = RecordToSkip(topic=topic, partition=partition, offset=offset)
    at = skip_record(settings.kafka, settings.redis_url, settings.prefix, named, reason)
    if as_json:
        terminal.print_json(
            {"topic": topic, "partition": partition, "offset": offset, "skipped_by": at}
        )
        return
    terminal.say(
        f"skipped {topic} record {partition}@{offset}: ledger record {partition}@{at} says so; "
        "running services go on within seconds"
    )


def _partition_and_offset(place: str) -> tuple[int, int]:
    found = _PLACE.fullmatch(place)
    if found is None:
        raise typer.BadParameter(f"{place!r} is no record: write PARTITION@OFFSET, such as 3@1841")
    return int(found[1]), int(found[2])
