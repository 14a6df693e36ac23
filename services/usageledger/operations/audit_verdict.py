"""An audit's verdict in words, for the command line and the demo."""

from __future__ import annotations

from decimal import Decimal

from usageledger.audit.verify import AuditReport
from usageledger.domain.credits import format_credits


def verdict_line(report: AuditReport) -> str:
    """The verdict in one line: CLEAN with the counts, or DIFFERENT with the first difference."""
    if report.differences:
        more = len(report.differences) - 1
        return f"DIFFERENT: {report.differences[0]}" + (f" (and {more} more)" if more else "")
    counts = report.counts
    skipped = f" + {counts.skipped_inputs:,} skipped" if counts.skipped_inputs else ""
    waiting = ", ".join(
        f"{count:,} {what}"
        for count, what in (
            (report.undecided_inputs, "inputs still to be decided"),
            (report.unwritten_limit_events, "limit events still to be written"),
        )
        if count
    )
    accounts = "account" if report.accounts == 1 else "accounts"
    return (
        f"CLEAN: {counts.inputs:,} inputs = {counts.accepted_inputs:,} accepted + "
        f"{counts.refused_inputs:,} refused + {counts.duplicate_inputs:,} duplicates{skipped}; "
        f"{counts.entries:,} ledger entries, {report.limit_events:,} limit events and "
        f"{report.accounts:,} {accounts} in Redis come out the same, "
        f"{Decimal(format_credits(counts.credits)):,} credits in all"
    ) + (f" ({waiting})" if waiting else "")
