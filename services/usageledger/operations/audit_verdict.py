"""An audit's verdict in words, for the command line and the demo."""

from __future__ import annotations

from decimal import Decimal

from usageledger.audit.verify import AuditReport
from usageledger.domain.credits import format_credits
from usageledger.domain.record_skip import SkippedPlace
from usageledger.ledger.reader_rule import skip_command


def invalid_record_line(place: SkippedPlace) -> str:
    """The next steps for one record that our services did not write."""
    return (
        f"{place.topic} record {place.partition}@{place.offset} was not written by this ledger's "
        f"services, and every reader ignores it: find out who may write to that topic, then "
        f"acknowledge it: {skip_command(place)}"
    )


def verdict_line(report: AuditReport) -> str:
    """The verdict in one line: CLEAN and counts, or DIFFERENT or NOT CLEAN and a finding."""
    if report.differences:
        more = len(report.differences) - 1
        return f"DIFFERENT: {report.differences[0]}" + (f" (and {more} more)" if more else "")
    if report.invalid_records:
        more = len(report.invalid_records) - 1
        return f"NOT CLEAN: {invalid_record_line(report.invalid_records[0])}" + (
            f" (and {more:,} more)" if more else ""
        )
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
    ignored = f", {report.skipped_records:,} records skipped" if report.skipped_records else ""
    accounts = "account" if report.accounts == 1 else "accounts"
    return (
        f"CLEAN: {counts.inputs:,} inputs = {counts.accepted_inputs:,} accepted + "
        f"{counts.refused_inputs:,} refused + {counts.duplicate_inputs:,} duplicates{skipped}; "
        f"{counts.entries:,} ledger entries, {report.limit_events:,} limit events and "
        f"{report.accounts:,} {accounts} in Redis come out the same, "
        f"{Decimal(format_credits(counts.credits)):,} credits in all{ignored}"
    ) + (f" ({waiting})" if waiting else "")
