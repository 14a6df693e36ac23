"""ledger show: the ledger's entries, as they are in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, assert_never

import typer

from usageledger.cli import terminal
from usageledger.cli.options import AsJson, Data, connection

if TYPE_CHECKING:
    from decimal import Decimal

    from usageledger.domain.chain import SealedEntry
    from usageledger.domain.entry import LedgerEntry

SHOWN = 100

app = typer.Typer(no_args_is_help=True, help="The ledger's entries.")


@app.callback()
def ledger() -> None:
    """The ledger's entries."""


@app.command(epilog="Example: usageledger ledger show --account acct_4821")
def show(
    account: Annotated[
        str | None, typer.Option("--account", help="Only entries of this account.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            metavar="N",
            min=0,
            help=f"Show the newest N, or all for 0 (default: {SHOWN}; with --json: 0).",
        ),
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show ledger entries, the newest last.

    With --limit 0 they come partition after partition, each in its order. Amounts are credits.
    """
    from usageledger.log.reading import log_reader
    from usageledger.operations.ledger_entries import ledger_entries, newest, readable_entry

    count = (0 if as_json else SHOWN) if limit is None else limit
    settings = connection(data)
    with log_reader(settings.kafka) as reader:
        entries = ledger_entries(reader, settings.prefix, account)
        if as_json:
            for sealed in newest(entries, count) if count else entries:
                terminal.print_json(readable_entry(sealed))
            return
        shown = newest(entries, count) if count else list(entries)
    columns = ("entry", "time", "account", "kind", "what", "credits", "remaining")
    terminal.print_table(
        columns, [_entry_row(sealed) for sealed in shown], right=("credits", "remaining")
    )
    if count and len(shown) == count:
        terminal.note(f"the newest {count}; --limit 0 shows all")


def _entry_row(sealed: SealedEntry) -> tuple[str, ...]:
    from usageledger.domain.credits import format_credits

    entry = sealed.entry
    remaining = "" if entry.after is None else format_credits(entry.after.remaining)
    credits = format_credits(entry.credits) if entry.kind in ("usage", "void") else ""
    return (
        f"{entry.partition}-{entry.offset}",
        terminal.time_text(entry.appended_at),
        entry.account,
        entry.kind,
        entry_summary(entry),
        credits,
        remaining,
    )


def entry_summary(entry: LedgerEntry) -> str:
    """The content of an entry in a few words."""
    from usageledger.domain.credits import format_credits
    from usageledger.domain.quantity import format_quantity

    match entry.kind:
        case "usage":
            assert entry.quantity is not None, "a use has a quantity"
            model = f"/{entry.model}" if entry.model else ""
            late = " (late)" if entry.is_late else ""
            late = " (late, counts now)" if entry.counts_after_its_period else late
            voided = " (voided before)" if entry.is_void_on_arrival else ""
            return f"{entry.feature}{model} × {format_quantity(entry.quantity)}{late}{voided}"
        case "refusal":
            return f"{entry.reason}{f': {entry.detail}' if entry.detail else ''}"
        case "renewal" | "plan_change" | "account_opened":
            assert entry.plan_change is not None, "it says what changes of the plan"
            next_plan = entry.plan_change.next_plan
            later = f", {next_plan} from the next renewal" if next_plan else ""
            return f"{entry.plan_change.plan}{later}"
        case "grant" | "grant_expired":
            assert entry.grant is not None, "it names a grant"
            why = f": {entry.grant.reason}" if entry.grant.reason else ""
            return f"{format_credits(entry.grant.credits)} credits{why}"
        case "void":
            assert entry.voids is not None, "a void names what it voids"
            return f"{entry.voids.source} {entry.voids.id}: {entry.voids.reason}"
        case "duplicate" if entry.event is not None:
            return f"{entry.event.source} {entry.event.id}"
        case "suspension" | "resumption":
            assert entry.suspension is not None, "it says why"
            return ": ".join(filter(None, (entry.suspension.reason, entry.suspension.note)))
        case "thresholds_set":
            shares = entry.thresholds
            return "those of the plan" if shares is None else _shares_text(shares)
        case "skip":
            return entry.reason or ""
        case "duplicate" | "catalog_adopted":
            return entry.catalog_version or entry.reason or ""
        case _:
            assert_never(entry.kind)


def _shares_text(shares: tuple[Decimal, ...]) -> str:
    from usageledger.domain.quantity import format_quantity

    return ", ".join(map(format_quantity, shares)) or "none"
