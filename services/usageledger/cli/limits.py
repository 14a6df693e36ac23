"""limits tail: limit events as they arrive."""

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
        typer.Option("--from-beginning", help="Start with the first event."),
    ] = False,
    until_idle_s: Annotated[
        float | None,
        typer.Option(
            "--until-idle",
            metavar="S",
            min=0,
            help="End when none has come for this many seconds (default: never).",
        ),
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show limit events as they arrive, until Ctrl-C. With --json, as CloudEvents."""
    from usageledger.operations.limit_tail import tail as limit_events

    settings = connection(data)
    for event in limit_events(settings.kafka, settings.prefix, from_beginning, until_idle_s):
        if as_json:
            terminal.print_json(event)
        else:
            terminal.say(_event_line(event))


def _event_line(event: dict[str, Any]) -> str:
    """A limit event in one line."""
    data = event["data"]
    share = f" {data['threshold']}" if data["threshold"] else ""
    upgrade = data["upgrade"]
    offer = (
        ""
        if upgrade is None
        else f", next: {upgrade['name']} ({upgrade['allotment']} credits, "
        f"${upgrade['price_cents'] / 100:.2f})"
    )
    suspension = data.get("suspension")
    why = data["reason"] if suspension is None else f"{data['reason']}: {suspension['reason']}"
    what = f"{event['type']}{share} ({why})"
    return (
        f"{event['time']}  {data['account']}  {what}: {data['used']} used, {data['remaining']} "
        f"remain on {data['plan']}{offer}"
    )
