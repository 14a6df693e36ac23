"""rebuild: Redis's views made anew from the ledger."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from usageledger.cli import terminal
from usageledger.cli.options import AsJson, Data, connection

if TYPE_CHECKING:
    from usageledger.processor.rebuilding import Rebuilt


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
        typer.Option("--anew", help="Begin again instead of resuming an interrupted rebuild."),
    ] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild a partition's counters in Redis from the ledger.

    The new counters are built beside the old ones, which are read until the new ones are complete.
    The processor may run meanwhile: it claims the partition again after the switch. A rebuild that
    was interrupted resumes where it stopped when the command is repeated. Holds stay as they are.
    """
    from usageledger.log.reading import log_reader
    from usageledger.operations.ledger_entries import ledger_partitions, require_partition
    from usageledger.operations.rebuilds import rebuild as rebuild_view

    if everything == bool(partitions):
        raise typer.BadParameter("say which: --partition P, or --all")
    settings = connection(data)
    with log_reader(settings.kafka) as reader:
        count = len(ledger_partitions(reader, settings.prefix))
        for partition in range(count) if everything else dict.fromkeys(partitions or ()):
            require_partition(partition, count)
            began_s = time.monotonic()
            with terminal.counting(f"partition {partition}: ledger records", None) as on_progress:
                rebuilt = rebuild_view(
                    reader,
                    settings.kafka,
                    settings.redis_url,
                    settings.prefix,
                    partition,
                    partition_count=count,
                    anew=anew,
                    on_progress=on_progress,
                )
            _print_rebuilt(partition, rebuilt, time.monotonic() - began_s, as_json)


def _print_rebuilt(partition: int, rebuilt: Rebuilt, seconds: float, as_json: bool) -> None:
    position = rebuilt.position
    if as_json:
        terminal.print_json(
            {
                "partition": partition,
                "begun_at": rebuilt.begun_at,
                "next_offset": position.next_offset,
                "hash": position.hash,
                "seconds": round(seconds, 3),
            }
        )
        return
    resumed = f", resumed from offset {rebuilt.begun_at:,}" if rebuilt.begun_at else ""
    terminal.say(
        f"partition {partition}: rebuilt up to ledger offset {position.next_offset:,} "
        f"in {seconds:.1f} s{resumed}"
    )
