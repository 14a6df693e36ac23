"""Route: how far the services are behind, and what each partition is doing."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from usageledger.gateway.dependencies import MayAdminister, TheHistory, TheInspector, TheTopics
from usageledger.gateway.problems import problems
from usageledger.history.reading import HistoryAbsent, HistoryReader
from usageledger.operations.partition_states import PartitionState

router = APIRouter(tags=["console"])


class ServiceLag(BaseModel):
    """How far a service is behind."""

    name: str = Field(description="`processor`, `limits` or `history`.")
    records: int = Field(description="Records that it has not handled yet; 0 if it is up to date.")


class PartitionShown(BaseModel):
    """One partition of the ledger."""

    partition: int
    state: str = Field(
        description="`running/idle`, `running/behind`, `catching_up`, `waiting_for_a_catalog`, "
        "`waiting_for_redis`, `claiming`, `stopped`, `no_owner`, or `unknown` if Redis refuses the "
        "owners' reports."
    )
    undecided: int = Field(description="How many records wait to be decided.")
    lag: dict[str, int] = Field(
        description="How many records wait: `usage`, `account` and `catalog` to be decided, "
        "`limits` to be announced."
    )
    detail: str = Field(
        description="Why the partition makes no progress, or how far it is; often empty."
    )
    needs_somebody: bool = Field(description="Whether an operator has to act before it goes on.")
    worker: str | None = Field(description="The processor that owns it.")


_PARTITION: dict[str, Any] = {
    "partition": 0,
    "state": "running/behind",
    "undecided": 12,
    "lag": {"usage": 12, "account": 0, "catalog": 0, "limits": 3},
    "detail": "",
    "needs_somebody": False,
    "worker": "ledger-1/4711",
}
_SERVICES: list[Any] = [
    {"name": "processor", "records": 12},
    {"name": "limits", "records": 3},
    {"name": "history", "records": 0},
]


class LagReport(BaseModel):
    """How far a ledger's services are behind."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"at": "2026-11-25T10:00:00Z", "services": _SERVICES, "partitions": [_PARTITION]}
            ]
        }
    )

    at: datetime = Field(description="When this was read: a second ago at most.")
    services: list[ServiceLag]
    partitions: list[PartitionShown]


@router.get("/v1/lag", responses=problems("log_unavailable"))
async def read_lag(
    inspector: TheInspector, history: TheHistory, topics: TheTopics, caller: MayAdminister
) -> LagReport:
    """How far the services are behind, and what each partition is doing.

    `usageledger status` shows the same.
    """
    found = await inspector.progress()
    services = {
        "processor": found.lags.records("usage", "account", "catalog"),
        "limits": found.lags.records("limits"),
        # Read after the ledger's ends, so that 0 means that all of the ledger has been folded.
        "history": found.lags.beyond(topics.ledger, await _folded_offsets(history)),
    }
    return LagReport(
        at=found.at,
        services=[ServiceLag(name=name, records=records) for name, records in services.items()],
        partitions=[_partition_shown(partition) for partition in found.partitions],
    )


async def _folded_offsets(history: HistoryReader) -> dict[int, int]:
    """Up to which offset the history has each partition; empty if there is no history yet."""
    try:
        reaches = await history.reaches()
    except HistoryAbsent:
        return {}
    return {partition: reach.next_offset for partition, reach in reaches.items()}


def _partition_shown(partition: PartitionState) -> PartitionShown:
    return PartitionShown(
        partition=partition.partition,
        state=partition.name,
        undecided=partition.undecided,
        lag=dict(partition.lag),
        detail=partition.detail,
        needs_somebody=partition.needs_somebody,
        worker=None if partition.report is None else partition.report.worker,
    )
