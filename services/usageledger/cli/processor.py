"""processor …: what an operator does about a partition that has stopped."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from usageledger.cli import terminal
from usageledger.cli.options import AsJson, Data, connection

if TYPE_CHECKING:
    from usageledger.domain.entry import InputAddress

app = typer.Typer(no_args_is_help=True, help="What to do about a partition that has stopped.")

_PLACE = re.compile(r"(\d{1,9})@(\d{1,18})", re.ASCII)


@app.callback()
def processor() -> None:
    """What to do about a partition that has stopped."""


@app.command(
    epilog='Example: usageledger processor skip 3@1841 --topic usage --reason "its model name '
    'breaks release 1.2, see #812"'
)
def skip(
    place: Annotated[
        str,
        typer.Argument(
            metavar="PARTITION@OFFSET",
            help="The input that the partition has stopped at, as its log names it.",
        ),
    ],
    reason: Annotated[
        str, typer.Option("--reason", help="Why, for the ledger: whoever audits it reads this.")
    ],
    topic: Annotated[
        Literal["usage", "account"], typer.Option("--topic", help="Which input it lies in.")
    ] = "usage",
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Leave out the one input on which the code fails, for good: the ledger says so in an entry of
    its own, and charges nothing for it.

    Refused for any other input: for one that was decided, for one that the partition has not come
    to, and for one that this release decides without a fault. A processor that runs goes on by
    itself. The event may be sent again once the code is mended.
    """
    from usageledger.operations.ledger_entries import readable_entry
    from usageledger.operations.skips import skip as skipped_input

    address = _address(place, topic)
    settings = connection(data)
    skipped = skipped_input(settings.kafka, settings.redis_url, settings.prefix, address, reason)
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


def _address(place: str, topic: Literal["usage", "account"]) -> InputAddress:
    from usageledger.domain.entry import InputAddress

    found = _PLACE.fullmatch(place)
    if found is None:
        raise typer.BadParameter(f"{place!r} is no place: write PARTITION@OFFSET, such as 3@1841")
    return InputAddress(topic=topic, partition=int(found[1]), offset=int(found[2]))
