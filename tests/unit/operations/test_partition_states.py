"""The state of a partition, from its lags and its owner's report."""

from __future__ import annotations

import pytest

from usageledger.counters.owner_reports import OwnerReport
from usageledger.counters.view import ViewError
from usageledger.operations.lags import Lag, LedgerLags
from usageledger.operations.partition_states import PartitionState, partition_states


def state(report: OwnerReport | None, *, usage: int = 0, limits: int = 0) -> PartitionState:
    (found,) = partition_states(
        LedgerLags((Lag("usage", 0, usage), Lag("limits", 0, limits)), {}), {0: report}
    )
    return found


def report(state: str = "running", **rest: object) -> OwnerReport:
    # `rest` has fields of the report, by name.
    return OwnerReport(worker="host/1", state=state, **rest)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "name", "needs_somebody", "detail"),
    [
        (state(report()), "running/idle", False, ""),
        (state(report(), limits=5), "running/idle", False, ""),
        (state(report(), usage=7), "running/behind", False, ""),
        (
            state(report(no_progress_s=42.0), usage=7),
            "running/behind",
            True,
            "no progress for 42 s",
        ),
        (state(report("waiting_for_a_catalog"), usage=7), "waiting_for_a_catalog", False, ""),
        (
            state(report("catching_up", caught_up_to=5, catch_up_end=2000)),
            "catching_up",
            False,
            "its view stands at ledger offset 5 of 2,000",
        ),
        (
            state(report("stopped", stopped_because="it was truncated"), usage=7),
            "stopped",
            True,
            "it was truncated",
        ),
        (
            state(report("waiting_for_redis", waiting_because="Redis is full"), usage=7),
            "waiting_for_redis",
            False,
            "Redis is full",
        ),
        (state(None, usage=7), "no_owner", True, "no processor has it"),
        (state(None), "no_owner", True, "no processor has it"),
    ],
)
def test_a_stuck_partition_differs_from_an_idle_one(
    found: PartitionState, name: str, needs_somebody: bool, detail: str
) -> None:
    assert (found.name, found.needs_somebody, found.detail) == (name, needs_somebody, detail)
    assert found.plain()["state"] == name


def test_a_partition_whose_report_redis_refused_is_not_called_unowned() -> None:
    """A full Redis refuses the owners' reports: `doctor` said that a processor must be started."""
    refusal = ViewError("Redis is full: raise its maxmemory", cause="full")
    lags = LedgerLags((Lag("usage", 0, 7),), {})
    (found,) = partition_states(lags, {0: None}, refusal)
    assert (found.name, found.needs_somebody, found.detail) == ("unknown", False, str(refusal))
