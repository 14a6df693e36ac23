"""topics create: the topics of a new ledger, on brokers of your own."""

from __future__ import annotations

from typing import Annotated

import typer

from usageledger.cli import terminal
from usageledger.cli.options import AsJson, Data, connection

CLUSTER_PARTITIONS = 64

app = typer.Typer(no_args_is_help=True, help="The topics of a ledger.")


@app.callback()
def topics() -> None:
    """The topics of a ledger."""


@app.command(epilog="Example: usageledger topics create --partitions 64 --replication-factor 3")
def create(
    partitions: Annotated[
        int | None,
        typer.Option(
            "--partitions",
            metavar="N",
            min=1,
            help="How many partitions the topics keyed by account get. It cannot be changed later "
            f"(default: as those that exist, else {CLUSTER_PARTITIONS}).",
        ),
    ] = None,
    replication_factor: Annotated[
        int,
        typer.Option(
            "--replication-factor", metavar="R", help="Copies of each (-1: the broker's default)."
        ),
    ] = -1,
    importing: Annotated[
        bool,
        typer.Option(
            "--import", help="Import mode: events keep their own dates until `usageledger go-live`."
        ),
    ] = False,
    prefix: Annotated[
        str | None,
        typer.Option("--prefix", help="The new ledger's name (default: that of the settings)."),
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Create those of the five topics that do not exist, and report those that do.

    If an existing topic does not fit, nothing is created, and the exit code is 1.
    """
    from usageledger.log.topics import Topics
    from usageledger.operations.topics import create_topics, existing_partitions

    settings = connection(data)
    name = settings.prefix if prefix is None else prefix
    count = partitions or existing_partitions(settings.kafka, name) or CLUSTER_PARTITIONS
    created = create_topics(
        settings.kafka,
        name,
        partitions=count,
        importing=importing,
        replication_factor=replication_factor,
    )
    existing = [
        topic for topic in (*Topics(name).partitioned, Topics(name).catalog) if topic not in created
    ]
    if as_json:
        terminal.print_json({"partitions": count, "created": created, "existing": existing})
        return
    for topic in created:
        terminal.say(f"created {topic}")
    for topic in existing:
        terminal.say(f"exists  {topic}")
    terminal.say(f"{count} partitions each, and one for the catalog")
