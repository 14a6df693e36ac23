"""The state of each partition; one that is stuck differs from one that is idle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from usageledger.counters.owner_reports import OwnerReport
from usageledger.counters.view import ViewError
from usageledger.operations.lags import LedgerLags

NO_PROGRESS_S = 10.0
"""An owner that is at one chunk, or waits for its turn, for this long makes no progress."""


@dataclass(frozen=True, slots=True)
class PartitionState:
    """One partition: how many records wait, by what they wait for, and its owner's report.

    ``report`` is None if the partition has no owner, or if Redis refused the owner's report:
    ``refusal`` then says why.
    """

    partition: int
    lag: Mapping[str, int]
    report: OwnerReport | None
    refusal: str | None = None

    @property
    def name(self) -> str:
        """``running/idle``, ``running/behind``, ``catching_up``, ``waiting_for_a_catalog``,
        ``waiting_for_redis``, ``claiming``, ``stopped``, ``no_owner``, or ``unknown`` if Redis
        refuses the owners' reports.
        """
        if self.report is None:
            return "no_owner" if self.refusal is None else "unknown"
        if self.report.state != "running":
            return self.report.state
        return "running/behind" if self.undecided else "running/idle"

    @property
    def undecided(self) -> int:
        """How many records wait to be decided."""
        return sum(records for what, records in self.lag.items() if what != "limits")

    @property
    def needs_somebody(self) -> bool:
        """Whether it stays as it is until somebody acts."""
        return self.name in ("stopped", "no_owner") or self.is_stuck

    @property
    def is_stuck(self) -> bool:
        """Whether it has something to do and has done nothing for 10 seconds."""
        return self.report is not None and self.report.no_progress_s >= NO_PROGRESS_S

    @property
    def detail(self) -> str:
        """More about the state, in a few words; often empty."""
        report = self.report
        if report is None:
            return "no processor has it" if self.refusal is None else self.refusal
        if report.stopped_because:
            return report.stopped_because
        if report.waiting_because:
            return report.waiting_because
        if report.catch_up_end is not None and report.state == "catching_up":
            return (
                f"its view stands at ledger offset {report.caught_up_to or 0:,} of "
                f"{report.catch_up_end:,}"
            )
        return f"no progress for {report.no_progress_s:.0f} s" if self.is_stuck else ""

    def plain(self) -> dict[str, Any]:
        """The state as JSON values."""
        report = self.report
        return {
            "partition": self.partition,
            "state": self.name,
            "lag": dict(self.lag),
            "no_progress_s": 0.0 if report is None else report.no_progress_s,
            "ids_reused": 0 if report is None else report.ids_reused,
            "catch_up": None
            if report is None or report.catch_up_end is None
            else [report.caught_up_to or 0, report.catch_up_end],
            "stopped_because": None if report is None else report.stopped_because,
            "waiting_because": None if report is None else report.waiting_because,
            "worker": None if report is None else report.worker,
        }


def partition_states(
    lags: LedgerLags, reports: Mapping[int, OwnerReport | None], refusal: ViewError | None = None
) -> list[PartitionState]:
    """The partitions of a ledger, in their order. ``refusal``: why Redis accepts no writes."""
    because = None if refusal is None else str(refusal)
    by_partition: dict[int, dict[str, int]] = {partition: {} for partition in sorted(reports)}
    for lag in lags.lags:
        by_partition.setdefault(lag.partition, {})[lag.what] = lag.records
    return [
        PartitionState(partition, found, reports.get(partition), because)
        for partition, found in by_partition.items()
    ]
