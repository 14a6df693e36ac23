"""reshard: a new ledger with another number of partitions, filled from an old one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from usageledger.cli import terminal
from usageledger.cli.options import AsJson, Data, connection

if TYPE_CHECKING:
    from usageledger.operations.resharding.running import ReshardReport

DIFFERENCES_SHOWN = 100


def add_to(app: typer.Typer) -> None:
    """Add this command to an app."""
    app.command("reshard", epilog="Example: usageledger reshard --to-prefix v2 --partitions 128")(
        reshard
    )


def reshard(
    to_prefix: Annotated[
        str, typer.Option("--to-prefix", metavar="P", help="The name of the new ledger.")
    ],
    partitions: Annotated[
        int,
        typer.Option(
            "--partitions", metavar="N", min=1, help="How many partitions the new ledger gets."
        ),
    ],
    replication_factor: Annotated[
        int,
        typer.Option(
            "--replication-factor",
            metavar="R",
            help="Copies of each of its topics (-1: the broker's default).",
        ),
    ] = -1,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Fill a new ledger from this one, and compare every account of the two.

    The inputs that this ledger has decided are decided again, in their order and with their dates.
    Then every account is compared, and open holds are copied. If all are the same, the inputs that
    this ledger has not decided follow, such as those on partitions that were added later. This
    ledger is only read. Stop its services and whatever reports to it before. The exit code is 1
    if anything differs.
    """
    from usageledger.operations.resharding.servers import reshard as fill

    settings = connection(data)
    with terminal.counting("inputs", None) as done:
        report = fill(
            settings.kafka,
            settings.redis_url,
            settings.prefix,
            to_prefix,
            partitions,
            replication_factor=replication_factor,
            on_progress=lambda count: done(count, None),
        )
    if as_json:
        terminal.print_json(_as_json(report))
    else:
        _print(report, to_prefix)
    if report.differences:
        raise typer.Exit(1)


def _as_json(report: ReshardReport) -> dict[str, object]:
    return {
        "old_partitions": report.old_partitions,
        "new_partitions": report.new_partitions,
        "accounts": report.accounts,
        "holds": report.holds,
        "catalogs": report.catalogs,
        "copied": report.copied,
        "left_out": dict(report.left_out),
        "uncovered": report.uncovered,
        "too_large": report.too_large,
        "differences": [each._asdict() for each in report.differences],
    }


def _print(report: ReshardReport, to_prefix: str) -> None:
    terminal.say(
        f"copied from {report.old_partitions} partitions into {report.new_partitions}: "
        f"inputs {report.copied:,}, catalogs {report.catalogs}"
    )
    for why, records in sorted(report.left_out.items()):
        terminal.say(f"left out, {why}: records {records:,}")
    if report.differences:
        _print_differences(report, to_prefix)
        return
    terminal.say(
        f"the same in both ledgers: accounts {report.accounts:,}, open holds {report.holds:,}"
    )
    terminal.say(f"not decided by the old ledger, and sent afterwards: inputs {report.uncovered:,}")
    if report.too_large:
        terminal.warn(f"{report.too_large:,} of them are too large for a topic and were left out")
    terminal.say(
        "next: 1. stop the old ledger's services, and whatever still reports to it\n"
        f"      2. USAGELEDGER_PREFIX={to_prefix} usageledger go-live\n"
        f"      3. start the services with USAGELEDGER_PREFIX={to_prefix}, and wait-idle\n"
        "      4. give this prefix to UsageMeter, AccountClient, UsageGate and LimitSubscriber"
    )


def _print_differences(report: ReshardReport, to_prefix: str) -> None:
    shown = report.differences[:DIFFERENCES_SHOWN]
    terminal.print_table(("account", "what", "old", "new"), shown)
    more = len(report.differences) - len(shown)
    if more:
        terminal.note(f"and {more:,} more; --json shows all")
    terminal.warn(
        "the two ledgers differ, so stay with the old one: nothing else was sent to "
        f"{to_prefix!r}. `usageledger audit verify` says whether the old one is sound; repeat "
        "with another --to-prefix"
    )
