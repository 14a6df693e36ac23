"""Routes: what the ledger refused, and sending it again, unchanged, once the cause is mended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from usageledger.domain.refusal import Refusal
from usageledger.gateway.access.app_keys import Caller
from usageledger.gateway.cursors import PAGE_DEFAULT, Limit
from usageledger.gateway.dependencies import Gateway, Needs, Parts
from usageledger.gateway.event_publisher import Outgoing, Sent
from usageledger.gateway.figures import EventShown
from usageledger.gateway.history_reach import complete_until, history_not_ready
from usageledger.gateway.problems import Problem, problems
from usageledger.history.reading import HistoryAbsent
from usageledger.ledger.records import Record
from usageledger.ledger.refused_input import RefusedInput
from usageledger.operations.refusals import (
    HINDRANCES,
    Hindrance,
    hindrance,
    refusal_row,
    resent_record,
)

router = APIRouter(tags=["console"])

RESENT_MAX = 100

Result = Literal["sent", "already_resolved", "not_found", "gone", "not_sendable", "unavailable"]
"""``sent``, ``unavailable``, or a `Hindrance`."""

RefusalCursor = Annotated[
    str | None,
    Query(
        pattern=r"^[0-9]{1,18}\.[0-9]{1,6}-[0-9]{1,12}$",
        description="`next_cursor` of the page before, as it is.",
    ),
]
EntryAddress = Annotated[str, Field(pattern=r"^[0-9]{1,6}-[0-9]{1,12}$")]


class RefusalShown(BaseModel):
    """One input that the ledger refused."""

    entry: str = Field(
        description="The address of the ledger entry that says so: partition, offset."
    )
    account: str | None = Field(description="The account that the record's key names.")
    reason: str = Field(description="The rule that it broke.")
    detail: str = Field(description="What was wrong, in words; empty where the reason says it all.")
    appended_at: datetime
    event: EventShown | None
    feature: str | None
    model: str | None
    is_resolved: bool = Field(description="Whether the same event has been accepted since.")
    place: str = Field(description="Where the refused record lies: topic, partition, offset.")


_EXAMPLE: dict[str, Any] = {
    "entry": "3-1042",
    "account": "acct_4821",
    "reason": "unknown_model",
    "detail": "catalog 'captions-2026-11' has no rate for model 'veo_9' of feature 'genai_video'",
    "appended_at": "2026-11-25T09:59:30.250Z",
    "event": {"source": "/render", "id": "gen_1"},
    "feature": "genai_video",
    "model": "veo_9",
    "is_resolved": False,
    "place": "usage 3-812",
}


class RefusalList(BaseModel):
    """Some of what the ledger refused."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"items": [_EXAMPLE], "next_cursor": None, "history_as_of": None}]
        }
    )

    items: list[RefusalShown]
    next_cursor: str | None
    history_as_of: datetime | None = Field(
        description="Until when the list is complete, where it is not up to date yet; null where "
        "it is."
    )


class Resending(BaseModel):
    """Which refused inputs are to be sent again."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"entries": ["3-1042"]}]}
    )

    entries: list[EntryAddress] = Field(
        min_length=1, max_length=RESENT_MAX, description="The refusals' `entry`."
    )


class Resent(BaseModel):
    """What became of one of them."""

    entry: str
    result: Result = Field(
        description="`sent`: Kafka has it, and the ledger decides anew. `unavailable`: Kafka has "
        "not said that it has it; send it again."
    )
    detail: str | None = Field(default=None, description="Why it was not sent.")


class ResendReport(BaseModel):
    """What became of each, in the order asked; one that is named twice is sent once."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"items": [{"entry": "3-1042", "result": "sent", "detail": None}]}]
        }
    )

    items: list[Resent]


@router.get("/v1/refusals", responses=problems("not_ready"))
async def list_refusals(
    gateway: Parts,
    caller: Annotated[Caller, Depends(Needs("admin"))],
    reason: Annotated[Refusal | None, Query(description="Only what was refused for this.")] = None,
    resolved: Annotated[
        bool | None, Query(description="Only what has been accepted since, or only what has not.")
    ] = None,
    cursor: RefusalCursor = None,
    limit: Limit = PAGE_DEFAULT,
) -> RefusalList:
    """What the ledger refused, the newest first: why, where it lies, and whether the same event has
    been accepted since.
    """
    heads = await gateway.accounts.heads()
    try:
        reaches = await gateway.history.reaches()
        page = await gateway.history.refusals(
            reason=None if reason is None else reason.value,
            is_resolved=resolved,
            cursor=cursor,
            limit=limit,
        )
    except HistoryAbsent as error:
        raise history_not_ready(error) from error
    return RefusalList(
        items=[RefusalShown.model_validate(refusal_row(refusal)) for refusal in page.items],
        next_cursor=page.next_cursor,
        history_as_of=complete_until(heads, reaches),
    )


@router.post("/v1/refusals/resend", responses=problems("log_unavailable", "not_ready"))
async def resend_refusals(
    asked: Resending, gateway: Parts, caller: Annotated[Caller, Depends(Needs("admin"))]
) -> ResendReport:
    """Send refused inputs again, unchanged, once the catalog knows what they use or their account
    is opened.

    Answered once Kafka has acknowledged them. Doing it twice is harmless: an event's identity
    counts once. Where Kafka has acknowledged none of them, the answer is a problem that has the
    `items` as well.
    """
    entries = list(dict.fromkeys(asked.entries))
    try:
        known = await gateway.history.refusals_at(entries)
    except HistoryAbsent as error:
        raise history_not_ready(error) from error
    hindrances: dict[str, Hindrance | None] = {
        entry: hindrance(known.get(entry)) for entry in entries
    }
    chosen = [known[entry] for entry, why in hindrances.items() if why is None]
    sent = await _send_again(gateway, chosen)
    items = [
        _hindered(entry, why) if why is not None else sent[entry]
        for entry, why in hindrances.items()
    ]
    results = {item.result for item in items}
    if "unavailable" in results and "sent" not in results:
        why_not = next(item.detail for item in items if item.result == "unavailable")
        raise Problem(
            "log_unavailable",
            f"none was sent: {why_not}. Send them again in a moment",
            headers={"Retry-After": "1"},
            items=[item.model_dump() for item in items],
        )
    return ResendReport(items=items)


async def _send_again(gateway: Gateway, chosen: Sequence[RefusedInput]) -> dict[str, Resent]:
    """Send these again; what became of each, by its entry. Raises Problem."""
    records = (
        await gateway.inspector.records([refusal.input for refusal in chosen]) if chosen else []
    )
    kept = {
        refusal.entry: _outgoing(gateway, refusal, record)
        for refusal, record in zip(chosen, records, strict=True)
        if record is not None
    }
    outcomes = await gateway.report(list(kept.values())) if kept else ()
    gone = {refusal.entry: _hindered(refusal.entry, "gone") for refusal in chosen}
    return gone | {
        entry: _resent(entry, outcome) for entry, outcome in zip(kept, outcomes, strict=True)
    }


def _outgoing(gateway: Gateway, refusal: RefusedInput, record: Record) -> Outgoing:
    accounts, topics = gateway.accounts, gateway.topics
    found = resent_record(
        refusal,
        record,
        partition_count=accounts.partition_count,
        importing=accounts.clock.is_importing(),
    )
    topic = topics.usage if found.input == "usage" else topics.account
    return Outgoing(topic, found.partition, found.key, found.value, found.timestamp_ms)


def _resent(entry: str, outcome: Sent) -> Resent:
    if outcome.offset is None:
        return Resent(entry=entry, result="unavailable", detail=outcome.why)
    return Resent(entry=entry, result="sent")


def _hindered(entry: str, why: Hindrance) -> Resent:
    return Resent(entry=entry, result=why, detail=HINDRANCES[why])
