"""Route: how far the services are behind, and what each partition is doing."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from usageledger.gateway.access.app_keys import Caller
from usageledger.gateway.dependencies import Gateway, Needs, Parts
from usageledger.gateway.inspector import Look
from usageledger.gateway.problems import problems
from usageledger.history.reading import HistoryAbsent
from usageledger.operations.partition_states import PartitionState

router = APIRouter(tags=["console"])


class ServiceLag(BaseModel):
    """How far a service is behind."""

    name: str = Field(description="`processor`, `limits` or `history`.")
    records: int = Field(
        description="Records that it has not handled yet: 0 says that it is up to date."
    )


class PartitionShown(BaseModel):
    """One partition of the ledger, and what it is doing."""

    partition: int
    state: str = Field(
        description="`running/idle`, `running/behind`, `catching_up`, `waiting_for_a_catalog`, "
        "`claiming`, `stopped` or `no_owner`."
    )
    undecided: int = Field(description="Records that wait to be decided.")
    lag: dict[str, int] = Field(
        description="Records that wait, by what they are: `usage`, `account`, `catalog`, or "
        "`limits` to announce."
    )
    detail: str = Field(
        description="Why it does not go on, or how far it is; empty where there is nothing to say."
    )
    needs_somebody: bool = Field(description="Whether it will not go on by itself.")
    worker: str | None = Field(description="The processor that has it.")


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
    """How a ledger is doing."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"at": "2026-11-25T10:00:00Z", "services": _SERVICES, "partitions": [_PARTITION]}
            ]
        }
    )

    at: datetime = Field(description="When this was so: a second ago at most.")
    services: list[ServiceLag]
    partitions: list[PartitionShown]


@router.get("/v1/lag", responses=problems("log_unavailable"))
async def read_lag(gateway: Parts, caller: Annotated[Caller, Depends(Needs("admin"))]) -> LagReport:
    """How far the services are behind, and what each partition is doing: what `usageledger status`
    shows.
    """
    look = await gateway.inspector.look()
    services = {
        "processor": look.lags.records("usage", "account", "catalog"),
        "limits": look.lags.records("limits"),
        # Asked after the look, so that 0 says that all of it has been folded.
        "history": await _unfolded(gateway, look),
    }
    return LagReport(
        at=look.at,
        services=[ServiceLag(name=name, records=records) for name, records in services.items()],
        partitions=[_shown(partition) for partition in look.partitions],
    )


async def _unfolded(gateway: Gateway, look: Look) -> int:
    """Records of the ledger that the history does not have: all of them where there is no history
    yet.
    """
    try:
        reaches = await gateway.history.reaches()
    except HistoryAbsent:
        reaches = {}
    return look.lags.beyond(
        gateway.topics.ledger,
        {partition: reach.next_offset for partition, reach in reaches.items()},
    )


def _shown(partition: PartitionState) -> PartitionShown:
    return PartitionShown(
        partition=partition.partition,
        state=partition.name,
        undecided=partition.undecided,
        lag=dict(partition.lag),
        detail=partition.detail,
        needs_somebody=partition.needs_somebody,
        worker=None if partition.report is None else partition.report.worker,
    )
