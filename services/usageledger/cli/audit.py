"""audit verify: every input decided again and compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from usageledger.cli import terminal
from usageledger.cli.options import AsJson, Data, connection

if TYPE_CHECKING:
    from usageledger.audit.verify import AuditReport

INVALID_SHOWN = 100

app = typer.Typer(no_args_is_help=True, help="Replay the log and compare.")


@app.callback()
def audit() -> None:
    """Replay the log and compare."""


@app.command(epilog="Example: usageledger audit verify")
def verify(data: Data = None, as_json: AsJson = False) -> None:
    """Decide every input again and compare all entries, limit events and counters.

    Prints one line: CLEAN, INCOMPLETE (input records have no entry, perhaps not yet), DIFFERENT or
    NOT CLEAN. If something differs, the first place in each partition follows. The ledger is not
    clean while it or its limit events have records of a stranger that no operator has acknowledged.
    The exit code is 1 unless it is CLEAN.
    """
    from usageledger.audit.verify import verify as verify_ledger
    from usageledger.operations.audit_verdict import invalid_record_line, verdict_line

    settings = connection(data)
    with terminal.counting("ledger records", None) as progress:
        report = verify_ledger(settings.kafka, settings.redis_url, settings.prefix, progress)
    if as_json:
        terminal.print_json(_report_json(report))
    else:
        terminal.say(verdict_line(report))
        for difference in report.differences:
            typer.echo(f"usageledger: {difference}", err=True)
        for place in report.invalid_records[:INVALID_SHOWN]:
            typer.echo(f"usageledger: {invalid_record_line(place)}", err=True)
    if not report.is_clean:
        raise typer.Exit(1)


def _report_json(report: AuditReport) -> dict[str, Any]:
    from usageledger.domain.credits import format_credits
    from usageledger.operations.audit_verdict import verdict_line

    counts = report.counts
    return {
        "is_clean": report.is_clean,
        "verdict": verdict_line(report),
        "differences": report.differences,
        "invalid_records": [
            {"topic": place.topic, "partition": place.partition, "offset": place.offset}
            for place in report.invalid_records[:INVALID_SHOWN]
        ],
        "invalid_record_count": len(report.invalid_records),
        "skipped_records": report.skipped_records,
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
        "uncovered": [
            {"topic": topic, "partition": partition, "records": records}
            for (topic, partition), records in sorted(report.uncovered.items())
        ],
        "unwritten_limit_events": report.unwritten_limit_events,
    }
