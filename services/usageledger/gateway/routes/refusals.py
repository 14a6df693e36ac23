"""Routes: the inputs that the ledger refused, and sending them again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from usageledger.accounts.reader import Accounts
from usageledger.domain.refusal import Refusal
from usageledger.gateway.cursors import CURSOR_DESCRIPTION, PAGE_DEFAULT, HistoryAsOf, Limit
from usageledger.gateway.dependencies import (
    MayAdminister,
    TheAccounts,
    TheHistory,
    TheInspector,
    ThePublisher,
    TheTopics,
)
from usageledger.gateway.figures import EventShown
from usageledger.gateway.history_reach import complete_until, history_not_ready
from usageledger.gateway.problems import Problem, problems
from usageledger.history.reading import HistoryAbsent
from usageledger.ledger.records import Record
from usageledger.ledger.refused_input import RefusedInput
from usageledger.log.event_publisher import Outgoing, Sent
from usageledger.log.topics import Topics
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
        description=CURSOR_DESCRIPTION,
    ),
]
EntryAddress = Annotated[str, Field(pattern=r"^[0-9]{1,6}-[0-9]{1,12}$")]


class RefusalShown(BaseModel):
    """One input that the ledger refused."""

    entry: str = Field(description="The address of the refusal in the ledger: partition-offset.")
    account: str | None = Field(
        description="The account that the record's key names; null if it has no key."
    )
    reason: str = Field(description="The rule that it broke.")
    detail: str = Field(
        description="What was wrong and what to do, in words; empty if the reason says it all."
    )
    appended_at: datetime
    event: EventShown | None
    feature: str | None
    model: str | None
    is_resolved: bool = Field(description="Whether the same event has been accepted since.")
    place: str = Field(
        description="The address of the refused record: topic, partition-offset. With several "
        "`records`, the first one's."
    )
    records: int = Field(
        default=1, ge=1, description="How many malformed records in a row this refusal is of."
    )
    reasons: dict[str, int] | None = Field(
        default=None,
        description="Of several `records`: how many of them broke each rule. Null for one record.",
    )


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
    "records": 1,
    "reasons": None,
}


class RefusalList(BaseModel):
    """A page of refused inputs, the newest first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"items": [_EXAMPLE], "next_cursor": None, "history_as_of": None}]
        }
    )

    items: list[RefusalShown]
    next_cursor: str | None
    history_as_of: HistoryAsOf


class Resending(BaseModel):
    """The refused inputs to send again."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"entries": ["3-1042"]}]}
    )

    entries: list[EntryAddress] = Field(
        min_length=1, max_length=RESENT_MAX, description="The `entry` of each refusal."
    )


class Resent(BaseModel):
    """The result for one refused input."""

    entry: str
    result: Result = Field(
        description="`sent`: Kafka has it, and the ledger decides it anew. `unavailable`: Kafka "
        "has not acknowledged it; send it again."
    )
    detail: str | None = Field(default=None, description="Why it was not sent.")


class ResendReport(BaseModel):
    """A result for each input, in the order asked. One that is named twice is sent once."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"items": [{"entry": "3-1042", "result": "sent", "detail": None}]}]
        }
    )

    items: list[Resent]


@router.get("/v1/refusals", responses=problems("not_ready"))
async def list_refusals(
    accounts: TheAccounts,
    history: TheHistory,
    caller: MayAdminister,
    reason: Annotated[Refusal | None, Query(description="Only those with this reason.")] = None,
    resolved: Annotated[
        bool | None,
        Query(description="True: only events that were accepted since. False: only the others."),
    ] = None,
    cursor: RefusalCursor = None,
    limit: Limit = PAGE_DEFAULT,
) -> RefusalList:
    """The inputs that the ledger refused, the newest first.

    Each with the reason, the place of its record, and whether the same event was accepted since.
    """
    heads = await accounts.heads()
    try:
        reaches = await history.reaches()
        page = await history.refusals(
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
    asked: Resending,
    accounts: TheAccounts,
    history: TheHistory,
    inspector: TheInspector,
    publish: ThePublisher,
    topics: TheTopics,
    caller: MayAdminister,
) -> ResendReport:
    """Send refused inputs again, unchanged, once their cause is mended.

    Do it after a catalog that knows what they use was published, or after their account was opened.
    The answer comes once Kafka has acknowledged them. Sending twice is harmless: an event's
    identity counts once. If Kafka has acknowledged none of them, the answer is a problem that has
    the `items` as well.
    """
    entries = list(dict.fromkeys(asked.entries))
    try:
        known = await history.refusals_at(entries)
    except HistoryAbsent as error:
        raise history_not_ready(error) from error
    hindrances: dict[str, Hindrance | None] = {
        entry: hindrance(known.get(entry)) for entry in entries
    }
    chosen = [known[entry] for entry, why in hindrances.items() if why is None]
    found = await inspector.refused_records(chosen) if chosen else []
    outgoing = [
        (refusal.entry, _outgoing(accounts, topics, refusal, record))
        for refusal, records in zip(chosen, found, strict=True)
        for record in records
    ]
    outcomes = await publish([record for _, record in outgoing]) if outgoing else ()
    sent: dict[str, Sent] = {}
    for (entry, _), outcome in zip(outgoing, outcomes, strict=True):
        # A run counts as sent once all of its records are.
        if entry not in sent or outcome.offset is None:
            sent[entry] = outcome
    items = [
        _resent(entry, sent[entry]) if entry in sent else _hindered(entry, why or "gone")
        for entry, why in hindrances.items()
    ]
    _require_some_sent(items)
    return ResendReport(items=items)


def _require_some_sent(items: Sequence[Resent]) -> None:
    """Raises Problem if Kafka has acknowledged none, but might have."""
    results = {item.result for item in items}
    if "unavailable" in results and "sent" not in results:
        why = next(item.detail for item in items if item.result == "unavailable")
        raise Problem(
            "log_unavailable",
            f"none was sent: {why}. Send them again in a moment",
            headers={"Retry-After": "1"},
            items=[item.model_dump() for item in items],
        )


def _outgoing(
    accounts: Accounts, topics: Topics, refusal: RefusedInput, record: Record
) -> Outgoing:
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
