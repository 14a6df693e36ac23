"""limits tail: limit events as they come."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from usageledger.cli import terminal
from usageledger.cli.options import AsJson, Data, connection

app = typer.Typer(no_args_is_help=True, help="Limit events: what apps react to.")


@app.callback()
def limits() -> None:
    """Limit events: what apps react to."""


@app.command(epilog="Example: usageledger limits tail --from-beginning --until-idle 2 --json")
def tail(
    from_beginning: Annotated[
        bool,
        typer.Option("--from-beginning", help="All that were ever written, then those to come."),
    ] = False,
    until_idle_s: Annotated[
        float | None,
        typer.Option(
            "--until-idle",
            metavar="S",
            min=0,
            help="End when none has come for so many seconds (default: never).",
        ),
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show limit events as they come, until Ctrl-C.

    With --json they are printed as the CloudEvents they are.
    """
    from usageledger.operations.limit_tail import tail as limit_events

    settings = connection(data)
    for event in limit_events(settings.kafka, settings.prefix, from_beginning, until_idle_s):
        if as_json:
            terminal.print_json(event)
        else:
            terminal.say(_line(event))


def _line(event: dict[str, Any]) -> str:
    """A limit event in a line."""
    told = event["data"]
    share = f" {told['threshold']}" if told["threshold"] else ""
    upgrade = told["upgrade"]
    offer = (
        ""
        if upgrade is None
        else f", next: {upgrade['name']} ({upgrade['allotment']} credits, "
        f"${upgrade['price_cents'] / 100:.2f})"
    )
    suspension = told.get("suspension")
    why = told["reason"] if suspension is None else f"{told['reason']}: {suspension['reason']}"
    what = f"{event['type']}{share} ({why})"
    return (
        f"{event['time']}  {told['account']}  {what}: {told['used']} used, {told['remaining']} "
        f"remain on {told['plan']}{offer}"
    )
