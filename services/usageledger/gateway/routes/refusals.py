"""Routes: what the ledger refused, and sending it again, unchanged, once the cause is mended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from usageledger.history.reading import HistoryAbsent, RefusalListed
from usageledger.ledger.partitioning import partition_of
from usageledger.ledger.records import Record

router = APIRouter(tags=["console"])

RESENT_MAX = 100

Result = Literal["sent", "already_resolved", "not_found", "gone", "not_sendable", "unavailable"]
RefusalCursor = Annotated[
    str | None,
    Query(
        pattern=r"^[0-9]{1,18}\.[0-9]{1,6}-[0-9]{1,12}$",
        description="`next_cursor` of the page before, as it is.",
    ),
]
EntryAddress = Annotated[str, Field(pattern=r"^[0-9]{1,6}-[0-9]{1,12}$")]

_WHY: Mapping[Result, str] = {
    "already_resolved": "the same event has been accepted since",
    "not_found": "the history knows no refusal of that address",
    "gone": "the record no longer lies in its topic",
    "not_sendable": "a catalog is published anew instead, under another version",
}


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
        items=[_shown(refusal) for refusal in page.items],
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
    results = {entry: _hindered(known.get(entry)) for entry in entries}
    chosen = [known[entry] for entry, hindrance in results.items() if hindrance is None]
    sent = await _send_again(gateway, chosen)
    items = [_resent(entry, results[entry], sent) for entry in entries]
    if any(item.result == "unavailable" for item in items) and all(
        item.result != "sent" for item in items
    ):
        told = next(item.detail for item in items if item.result == "unavailable")
        shown = [item.model_dump() for item in items]
        raise Problem(
            "log_unavailable",
            f"none was sent: {told}. Send them again in a moment",
            headers={"Retry-After": "1"},
            items=shown,
        )
    return ResendReport(items=items)


def _hindered(refusal: RefusalListed | None) -> Result | None:
    """Why a refusal is not to be sent again; None where it is."""
    if refusal is None:
        return "not_found"
    if refusal.is_resolved:
        return "already_resolved"
    return "not_sendable" if refusal.input.topic == "catalog" else None


async def _send_again(gateway: Gateway, chosen: Sequence[RefusalListed]) -> dict[str, Sent | None]:
    """What became of each by its entry; None for one whose record is gone. Raises Problem."""
    records = (
        await gateway.inspector.records([refusal.input for refusal in chosen]) if chosen else []
    )
    there = [
        (refusal, record)
        for refusal, record in zip(chosen, records, strict=True)
        if record is not None
    ]
    outgoing = [_outgoing(gateway, refusal, record) for refusal, record in there]
    outcomes = await gateway.report(outgoing) if outgoing else ()
    found: dict[str, Sent | None] = {refusal.entry: None for refusal in chosen}
    return found | {
        refusal.entry: outcome for (refusal, _), outcome in zip(there, outcomes, strict=True)
    }


def _outgoing(gateway: Gateway, refusal: RefusalListed, record: Record) -> Outgoing:
    """The record as it is sent again: to the partition that its key belongs to, and into an import
    under its own time.
    """
    accounts, topics = gateway.accounts, gateway.topics
    return Outgoing(
        topic=topics.usage if refusal.input.topic == "usage" else topics.account,
        partition=0 if record.key is None else partition_of(record.key, accounts.partition_count),
        key=record.key,
        value=record.value or b"",
        timestamp_ms=record.timestamp_ms if accounts.clock.is_importing() else None,
    )


def _resent(entry: str, hindrance: Result | None, sent: Mapping[str, Sent | None]) -> Resent:
    if hindrance is None:
        outcome = sent[entry]
        if outcome is not None and outcome.offset is None:
            return Resent(entry=entry, result="unavailable", detail=outcome.why)
        hindrance = "gone" if outcome is None else "sent"
    return Resent(entry=entry, result=hindrance, detail=_WHY.get(hindrance))


def _shown(refusal: RefusalListed) -> RefusalShown:
    where = refusal.input
    return RefusalShown(
        entry=refusal.entry,
        account=refusal.account or None,
        reason=refusal.reason,
        detail=refusal.detail,
        appended_at=refusal.appended_at,
        event=None
        if refusal.event is None
        else EventShown(source=refusal.event[0], id=refusal.event[1]),
        feature=refusal.feature,
        model=refusal.model,
        is_resolved=refusal.is_resolved,
        place=f"{where.topic} {where.partition}-{where.offset}",
    )
