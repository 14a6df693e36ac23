"""processor …: gets a partition that has stopped going again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from usageledger.cli import terminal
from usageledger.cli.options import AsJson, Data, connection

if TYPE_CHECKING:
    from usageledger.domain.entry import InputAddress

app = typer.Typer(no_args_is_help=True, help="Get a partition that has stopped going again.")

_INPUT = re.compile(r"(\d{1,9})@(\d{1,18})", re.ASCII)


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
            help="The input that the partition has stopped at, as `usageledger status` names it.",
        ),
    ],
    reason: Annotated[str, typer.Option("--reason", help="Why, for the ledger and its auditors.")],
    topic: Annotated[
        Literal["usage", "account"], typer.Option("--topic", help="The topic of that input.")
    ] = "usage",
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Skip, for good, the one input that this release's code fails on.

    The ledger records the skip in an entry and charges nothing. Any other input is refused: one
    that is decided already, one that the partition has not reached, and one that this release can
    decide. A running processor goes on by itself. The event may be sent again once the code is
    fixed.
    """
    from usageledger.operations.ledger_entries import readable_entry
    from usageledger.operations.skips import skip as skip_input

    address = _address(place, topic)
    settings = connection(data)
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


def _address(place: str, topic: Literal["usage", "account"]) -> InputAddress:
    from usageledger.domain.entry import InputAddress

    found = _INPUT.fullmatch(place)
    if found is None:
        raise typer.BadParameter(f"{place!r} is no input: write PARTITION@OFFSET, such as 3@1841")
    return InputAddress(topic=topic, partition=int(found[1]), offset=int(found[2]))
