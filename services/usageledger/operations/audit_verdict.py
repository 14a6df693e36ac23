"""An audit's verdict in words, for the command line and the demo."""

from __future__ import annotations

from collections.abc import Mapping
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
    """The verdict in one line.

    CLEAN with the counts, INCOMPLETE with the inputs that have no entry, or DIFFERENT or NOT CLEAN
    with the first finding.
    """
    if report.differences:
        more = len(report.differences) - 1
        uncovered = f"; {uncovered_line(report.uncovered)}" if report.uncovered else ""
        return (
            f"DIFFERENT: {report.differences[0]}"
            + (f" (and {more} more)" if more else "")
            + uncovered
        )
    if report.invalid_records:
        more = len(report.invalid_records) - 1
        return f"NOT CLEAN: {invalid_record_line(report.invalid_records[0])}" + (
            f" (and {more:,} more)" if more else ""
        )
    counts = report.counts
    skipped = f" + {counts.skipped_inputs:,} skipped" if counts.skipped_inputs else ""
    unwritten = report.unwritten_limit_events
    waiting = f" ({unwritten:,} limit events still to be written)" if unwritten else ""
    ignored = f", {report.skipped_records:,} records skipped" if report.skipped_records else ""
    verdict = f"INCOMPLETE: {uncovered_line(report.uncovered)}" if report.uncovered else "CLEAN"
    accounts = "account" if report.accounts == 1 else "accounts"
    return (
        f"{verdict}: {counts.inputs:,} inputs = {counts.accepted_inputs:,} accepted + "
        f"{counts.refused_inputs:,} refused + {counts.duplicate_inputs:,} duplicates{skipped}; "
        f"{counts.entries:,} ledger entries, {report.limit_events:,} limit events and "
        f"{report.accounts:,} {accounts} in Redis come out the same, "
        f"{Decimal(format_credits(counts.credits)):,} credits in all{ignored}"
    ) + waiting


def uncovered_line(uncovered: Mapping[tuple[str, int], int]) -> str:
    """How many input records no entry covers, and where they are: counts by topic and partition."""
    total = sum(uncovered.values())
    by_topic: dict[str, list[int]] = {}
    for topic, partition in sorted(uncovered):
        by_topic.setdefault(topic, []).append(partition)
    where = "; ".join(
        f"{topic} partition{'' if len(partitions) == 1 else 's'} {', '.join(map(str, partitions))}"
        for topic, partitions in by_topic.items()
    )
    records = "input record has" if total == 1 else "input records have"
    return f"{total:,} {records} no entry ({where})"
