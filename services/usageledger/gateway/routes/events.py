"""Route: reporting events over HTTP, for a service without Kafka or without Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from usageledger.contracts.examples import examples
from usageledger.gateway.access.app_keys import Caller
from usageledger.gateway.access.key_bounds import KeyBounds
from usageledger.gateway.dependencies import (
    MayReport,
    TheAccounts,
    TheClock,
    ThePublisher,
    TheRateLimits,
    TheTopics,
)
from usageledger.gateway.metrics import REPORTED
from usageledger.gateway.problems import Problem, problem_response, problems
from usageledger.log.event_publisher import Publish, Sent
from usageledger.operations.event_checks import (
    INPUTS,
    Checked,
    Conditions,
    Identity,
    RefusedEvent,
    check_event,
)

router = APIRouter(tags=["events"])

EVENTS_MAX = 1_000
ONE, BATCH, EITHER = (
    "application/cloudevents+json",
    "application/cloudevents-batch+json",
    "application/json",
)

OUTSIDE = "outside_key_bounds"
AGAIN = "send it again as it is: its identity (account, source and id) counts once"

_EVENT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "A CloudEvent in structured mode. schemas/<type>.json describes its `data`.",
    "required": ["specversion", "type", "id", "source", "subject", "time", "data"],
    "properties": {
        "specversion": {"const": "1.0"},
        "type": {"enum": sorted(INPUTS)},
        "id": {
            "type": "string",
            "minLength": 1,
            "maxLength": 200,
            "description": "The same each time that this event is sent.",
        },
        "source": {
            "type": "string",
            "minLength": 1,
            "maxLength": 200,
            "description": "The service that reports, not one of its processes.",
        },
        "subject": {
            "type": "string",
            "minLength": 1,
            "maxLength": 200,
            "description": "The account.",
        },
        "time": {"type": "string", "format": "date-time", "description": "When it occurred."},
        "data": {"type": "object"},
    },
}
_BATCH_SCHEMA: dict[str, Any] = {
    "type": "array",
    "minItems": 1,
    "maxItems": EVENTS_MAX,
    "items": _EVENT_SCHEMA,
}
_USAGE, _GRANT = examples()["usage.recorded"][0], examples()["credits.granted"][0]
_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        ONE: {
            "schema": _EVENT_SCHEMA,
            "examples": {"usage": {"value": _USAGE}, "grant": {"value": _GRANT}},
        },
        BATCH: {"schema": _BATCH_SCHEMA, "examples": {"batch": {"value": [_USAGE, _GRANT]}}},
        EITHER: {
            "schema": {"anyOf": [_EVENT_SCHEMA, _BATCH_SCHEMA]},
            "examples": {"usage": {"value": _USAGE}},
        },
    },
}


class Item(BaseModel):
    """The result for one event."""

    id: str | None
    source: str | None
    subject: str | None
    result: Literal["accepted", "invalid", "unavailable"] = Field(
        description="`accepted`: Kafka has it on all its in-sync replicas. `invalid`: the ledger "
        "would refuse it, so it was not sent. `unavailable`: Kafka did not acknowledge it."
    )
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    code: str | None = Field(default=None, description="With `invalid`: the rule that it breaks.")
    detail: str | None = None
    pointer: str | None = Field(
        default=None, description="With `invalid`: the field that is wrong."
    )


class Report(BaseModel):
    """A result for each event, in the order in which they were sent."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "items": [
                        {
                            "id": "gen_01J9",
                            "source": "/render",
                            "subject": "acct_4821",
                            "result": "accepted",
                            "topic": "usage.events.v1",
                            "partition": 3,
                            "offset": 1042,
                        }
                    ]
                }
            ]
        }
    )

    items: list[Item]


_MIXED: dict[int | str, dict[str, Any]] = {
    207: {
        "model": Report,
        "description": "Some events were accepted and some were not: each has its own result.",
    }
}


@router.post(
    "/v1/events",
    response_model_exclude_none=True,
    openapi_extra={"requestBody": _BODY},
    responses={
        **_MIXED,
        **problems(
            "malformed_request", "unsupported_media_type", "invalid_event", "log_unavailable"
        ),
    },
)
async def report_events(
    request: Request,
    accounts: TheAccounts,
    topics: TheTopics,
    publish: ThePublisher,
    rate_limits: TheRateLimits,
    now: TheClock,
    caller: MayReport,
) -> Report:
    """Report one event, or a batch of up to 1,000.

    The scope `report` is enough for usage. Account events of billing and support need the
    scope `admin`. An event outside of the key's bounds is refused by itself (`outside_key_bounds`),
    and so is a request beyond the key's quota (`rate_limited`).

    The answer comes once Kafka has acknowledged the events, and has a result for each. If none was
    accepted, the answer is a problem that has the `items` as well. Sending an event again is
    harmless: its identity (account, `source` and `id`) counts once. So repeat what was
    `unavailable`, or the whole request if its answer was lost. The ledger decides an accepted event
    a fraction of a second later: its charge, a limit that it crosses, or a refusal such as
    `unknown_model`.
    """
    values = _values(await request.body(), request.headers.get("content-type", EITHER))
    rate_limits.count_events(caller, len(values))
    conditions = Conditions(
        topics=topics,
        partition_count=accounts.partition_count,
        now=now(),
        is_importing=accounts.clock.is_importing(),
        is_admin=caller.may("admin"),
    )
    checked = [
        _within(caller.bounds, check_event(_with_actor(value, caller), conditions))
        for value in values
    ]
    items = await _publish(checked, publish)
    for item in items:
        REPORTED.labels(item.result).inc()
    # The answer is the model, or another status with the same content.
    return _answer(items, is_single=len(values) == 1)  # type: ignore[return-value]


def _with_actor(value: bytes, caller: Caller) -> bytes:
    """The event with its caller as the actor, whatever it said. Other members keep their bytes."""
    try:
        members = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        return value  # no object: the check says so
    members["actor"] = msgspec.Raw(msgspec.json.encode(caller.holder))
    return msgspec.json.encode(members)


def _within(bounds: KeyBounds, checked: Checked | RefusedEvent) -> Checked | RefusedEvent:
    """The event, or its refusal because it is outside of the caller's bounds."""
    if isinstance(checked, RefusedEvent):
        return checked
    identity = checked.identity
    if not bounds.includes_source(checked.source):
        detail = bounds.why_source_is_outside(checked.source)
        return RefusedEvent(identity, OUTSIDE, detail, "source")
    if not bounds.includes_account(checked.account):
        detail = bounds.why_account_is_outside(checked.account)
        return RefusedEvent(identity, OUTSIDE, detail, "subject")
    return checked


async def _publish(checked: Sequence[Checked | RefusedEvent], publish: Publish) -> list[Item]:
    records = [one.record for one in checked if isinstance(one, Checked)]
    sent = iter(await publish(records) if records else ())
    return [
        _item_sent(one, next(sent)) if isinstance(one, Checked) else _item_refused(one)
        for one in checked
    ]


def _item_sent(checked: Checked, sent: Sent) -> Item:
    record = checked.record
    item = _item(checked.identity, "accepted" if sent.offset is not None else "unavailable")
    if sent.offset is None:
        return item.model_copy(
            update={"detail": f"{sent.why}. Kafka may have it all the same: {AGAIN}"}
        )
    return item.model_copy(
        update={"topic": record.topic, "partition": record.partition, "offset": sent.offset}
    )


def _item_refused(refused: RefusedEvent) -> Item:
    why = {"code": refused.code, "detail": refused.detail, "pointer": refused.pointer or None}
    return _item(refused.identity, "invalid").model_copy(update=why)


def _item(identity: Identity, result: Literal["accepted", "invalid", "unavailable"]) -> Item:
    return Item(id=identity.id, source=identity.source, subject=identity.subject, result=result)


def _answer(items: Sequence[Item], *, is_single: bool) -> JSONResponse:
    content = [item.model_dump(exclude_none=True) for item in items]
    results = {item.result for item in items}
    if results == {"accepted"}:
        return JSONResponse({"items": content})
    if "accepted" in results:
        return JSONResponse({"items": content}, 207)
    first = next(item for item in items if item.result != "accepted")
    if "unavailable" in results:
        unknown = next(item for item in items if item.result == "unavailable")
        return problem_response(
            "log_unavailable", str(unknown.detail), headers={"Retry-After": "1"}, items=content
        )
    if first.code == "forbidden" and is_single:
        return problem_response("forbidden", str(first.detail), scope="admin", items=content)
    if all(item.code == OUTSIDE for item in items):
        return problem_response(OUTSIDE, str(first.detail), items=content)
    where = f"{first.pointer}: " if first.pointer else ""
    detail = (
        f"{where}{first.detail}"
        if is_single
        else f"none of the {len(items)} events can be accepted; the first: {where}{first.detail}"
    )
    return problem_response("invalid_event", detail, items=content)


def _values(body: bytes, content_type: str) -> list[bytes]:
    """The bytes of each event in a body, as they were sent. Raises Problem."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in (ONE, BATCH, EITHER):
        raise Problem(
            "unsupported_media_type", f"send {ONE}, {BATCH} or {EITHER}, not {kind[:100]!r}"
        )
    try:
        is_batch = kind == BATCH or (kind == EITHER and body.lstrip()[:1] == b"[")
        values = (
            [bytes(raw) for raw in msgspec.json.decode(body, type=list[msgspec.Raw])]
            if is_batch
            else [body]
        )
        for value in values:
            msgspec.json.decode(value)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise Problem(
            "malformed_request",
            f"the body is not JSON ({error}): send one event, or an array of events",
        ) from None
    if not 1 <= len(values) <= EVENTS_MAX:
        raise Problem(
            "too_large" if values else "malformed_request",
            f"a batch has 1 to {EVENTS_MAX} events, not {len(values)}",
        )
    return values
