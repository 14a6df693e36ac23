"""audit verify: everything decided again, and compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from usageledger.cli import terminal
from usageledger.cli.options import AsJson, Data, connection

if TYPE_CHECKING:
    from usageledger.audit.verify import AuditReport

app = typer.Typer(no_args_is_help=True, help="Replay the log, and compare.")


@app.callback()
def audit() -> None:
    """Replay the log, and compare."""


@app.command(epilog="Example: usageledger audit verify")
def verify(data: Data = None, as_json: AsJson = False) -> None:
    """Decide every input again, in the ledger's order, and compare every entry, the limit events
    and Redis.

    One line of verdict. Where something differs, the first place of each partition is told, and the
    exit code is 1.
    """
    from usageledger.audit.verify import verify as audited

    settings = connection(data)
    with terminal.counting("ledger records", None) as done:
        report = audited(settings.kafka, settings.redis_url, settings.prefix, done)
    if as_json:
        terminal.print_json(_plain(report))
    else:
        terminal.say(report.verdict)
        for difference in report.differences:
            typer.echo(f"usageledger: {difference}", err=True)
    if not report.is_clean:
        raise typer.Exit(1)


def _plain(report: AuditReport) -> dict[str, Any]:
    from usageledger.domain.credits import format_credits

    counts = report.counts
    return {
        "is_clean": report.is_clean,
        "verdict": report.verdict,
        "differences": report.differences,
        "inputs": counts.inputs,
        "accepted": counts.accepted_inputs,
        "refused": counts.refused_inputs,
        "duplicates": counts.duplicate_inputs,
        "skipped": counts.skipped_inputs,
        "refused_by_reason": dict(sorted(counts.refused.items())),
        "entries": counts.entries,
        "entries_by_kind": dict(sorted(counts.by_kind.items())),
        "credits": format_credits(counts.credits),
        "limit_events": report.limit_events,
        "accounts": report.accounts,
        "undecided_inputs": report.undecided_inputs,
        "unwritten_limit_events": report.unwritten_limit_events,
    }
