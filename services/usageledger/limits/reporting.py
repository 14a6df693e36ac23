"""The readiness and the figures of the limits consumer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from usageledger.limits.announcer import PartitionHealth
from usageledger.runtime.telemetry import Figure, Report


def report_of(
    health: Mapping[int, PartitionHealth], ends: Mapping[int, int], announced_count: int
) -> Report:
    """The report of a consumer with these partitions.

    ``ends`` is where each is known to end. ``announced_count`` is how many limit events this
    process has written. A consumer without partitions is not ready, even if other consumers
    have them all.
    """
    held_up = tuple(
        f"partition {each}: {found.state}: {found.detail}"
        for each, found in health.items()
        if found.state != "announcing"
    )
    reached = {
        partition: found.next_offset
        for partition, found in health.items()
        if found.next_offset is not None
    }
    lag = sum(
        max(0, end - reached[partition]) for partition, end in ends.items() if partition in reached
    )
    return Report(
        unready=held_up if health else ("no partition is assigned to it",),
        figures=(
            Figure(
                "partitions",
                "Partitions that it has, by state",
                Counter(found.state for found in health.values()),
                label="state",
            ),
            Figure(
                "announced",
                "Limit events that it has written",
                {"": announced_count},
                is_total=True,
            ),
            Figure("lag_records", "Ledger records known to wait for their announcement", {"": lag}),
            Figure(
                "announced_offset",
                "Up to where a ledger partition is announced",
                {str(partition): offset for partition, offset in reached.items()},
                label="partition",
            ),
        ),
    )
