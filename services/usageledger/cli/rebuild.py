"""rebuild: Redis's views made anew from the ledger."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from usageledger.cli import terminal
from usageledger.cli.options import AsJson, Data, connection


def add_to(app: typer.Typer) -> None:
    """Add this command to an app."""
    app.command("rebuild", epilog="Example: usageledger rebuild --partition 3")(rebuild)


def rebuild(
    partitions: Annotated[
        list[int] | None,
        typer.Option("--partition", min=0, help="This partition; may be repeated."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every partition, one after the other.")
    ] = False,
    anew: Annotated[
        bool,
        typer.Option("--anew", help="Do not go on with a rebuild that was cut short: begin again."),
    ] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Make the Redis view of a partition anew from the ledger, beside the old one, which readers
    see until the new one is complete.

    The processor may run: it claims the partition again when the views are switched. One that is
    cut short goes on where it stood when it is called again. Holds stay as they are.
    """
    from usageledger.log.reading import log_reader
    from usageledger.operations.errors import OperatorError
    from usageledger.operations.ledger_entries import ledger_partitions
    from usageledger.operations.rebuilds import rebuild as rebuilt_view

    if everything == bool(partitions):
        raise typer.BadParameter("say which: --partition P, or --all")
    settings = connection(data)
    with log_reader(settings.kafka) as reader:
        there = ledger_partitions(reader, settings.prefix)
        for partition in there if everything else dict.fromkeys(partitions or ()):
            if partition not in there:
                raise OperatorError(
                    f"there is no partition {partition}: the ledger has {len(there)}, numbered "
                    "from 0"
                )
            began_s = time.monotonic()
            with terminal.counting(f"partition {partition}: ledger records", None) as done:
                made = rebuilt_view(
                    reader,
                    settings.kafka,
                    settings.redis_url,
                    settings.prefix,
                    partition,
                    partition_count=len(there),
                    anew=anew,
                    on_progress=done,
                )
            seconds = time.monotonic() - began_s
            if as_json:
                found = {
                    "partition": partition,
                    "begun_at": made.begun_at,
                    "next_offset": made.position.next_offset,
                }
                terminal.print_json(
                    found | {"hash": made.position.hash, "seconds": round(seconds, 3)}
                )
                continue
            begun = f", going on from offset {made.begun_at:,}" if made.begun_at else ""
            terminal.say(
                f"partition {partition}: rebuilt up to ledger offset {made.position.next_offset:,} "
                f"in {seconds:.1f} s{begun}"
            )
