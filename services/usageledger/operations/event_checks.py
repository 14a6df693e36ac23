"""Whether the ledger would accept an event, as far as that is known before it is decided."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from pydantic import ValidationError

from usageledger.contracts.messages import MESSAGES, InputEvent
from usageledger.domain.bounds import CLOCK_AHEAD_MAX, EVENT_BYTES_MAX, LATENESS_MAX
from usageledger.domain.refusal import Refusal
from usageledger.ledger.decoding import Malformed, decode_account, decode_usage
from usageledger.ledger.partitioning import partition_of
from usageledger.ledger.records import Record
from usageledger.ledger.timestamps import milliseconds
from usageledger.log.event_publisher import Outgoing
from usageledger.log.topics import Topics

USAGE_TYPE = "usage.recorded"
INPUTS: Mapping[str, type[InputEvent]] = {
    type_: model for type_, model in MESSAGES.items() if issubclass(model, InputEvent)
}
"""The events that can be reported, by type."""

_anything = msgspec.json.Decoder()


class Identity(NamedTuple):
    """The identity of an event. A part is None if the event has no such text."""

    id: str | None = None
    source: str | None = None
    subject: str | None = None


class RefusedEvent(NamedTuple):
    """The ledger would refuse the event: the rule, the words, and the field that is wrong."""

    identity: Identity
    code: str
    detail: str
    pointer: str = ""


class Checked(NamedTuple):
    """An event that can be sent. ``account`` and ``source`` are those that the ledger reads."""

    identity: Identity
    record: Outgoing
    account: str
    source: str


class Conditions(NamedTuple):
    """The ledger's settings and the caller's rights, which an event is checked against.

    ``is_importing``: an event may have any time, and its record gets that time.
    """

    topics: Topics
    partition_count: int
    now: datetime
    is_importing: bool
    is_admin: bool


def check_event(value: bytes, conditions: Conditions) -> Checked | RefusedEvent:
    """Check one event, JSON as it was sent. Its record has the same bytes."""
    if len(value) > EVENT_BYTES_MAX:
        return RefusedEvent(
            Identity(),
            Refusal.RECORD_TOO_LARGE.value,
            f"{len(value)} bytes; an event has at most {EVENT_BYTES_MAX}",
        )
    document = _anything.decode(value)
    if not isinstance(document, dict):
        return RefusedEvent(
            Identity(),
            Refusal.NOT_A_CLOUDEVENT.value,
            "an event is a JSON object, a CloudEvent in structured mode",
        )
    identity = Identity(*(_text_or_none(document.get(name)) for name in Identity._fields))
    type_ = document.get("type")
    model = INPUTS.get(type_) if isinstance(type_, str) else None
    if model is None:
        return RefusedEvent(
            identity, Refusal.UNKNOWN_TYPE.value, f"type is one of {', '.join(INPUTS)}", "type"
        )
    if type_ != USAGE_TYPE and not conditions.is_admin:
        return RefusedEvent(
            identity, "forbidden", f"{type_} needs a key with the scope 'admin'", "type"
        )
    try:
        event = model.model_validate_json(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return RefusedEvent(
            identity,
            Refusal.INVALID_EVENT.value,
            _message(first),
            "/".join(str(part) for part in first["loc"]),
        )
    return _time_refusal(event, identity, conditions) or _as_record(
        event, identity, value, conditions
    )


def _time_refusal(
    event: InputEvent, identity: Identity, conditions: Conditions
) -> RefusedEvent | None:
    if conditions.is_importing:
        return None
    if event.time > conditions.now + CLOCK_AHEAD_MAX:
        return RefusedEvent(
            identity,
            Refusal.DATED_IN_THE_FUTURE.value,
            "time is at most 5 minutes ahead of now",
            "time",
        )
    if event.time < conditions.now - LATENESS_MAX:
        return RefusedEvent(
            identity, Refusal.TOO_OLD.value, "time is at most 35 days before now", "time"
        )
    return None


def _as_record(
    event: InputEvent, identity: Identity, value: bytes, conditions: Conditions
) -> Checked | RefusedEvent:
    """The record, if the ledger's own decoder reads it.

    So nothing is accepted here that the ledger refuses as malformed.
    """
    key = event.subject.encode()
    partition = partition_of(key, conditions.partition_count)
    is_usage = isinstance(event, INPUTS[USAGE_TYPE])
    decode = decode_usage if is_usage else decode_account
    decoded = decode(Record(0, 0, key, value), partition, conditions.partition_count)
    if isinstance(decoded, Malformed):
        return RefusedEvent(identity, decoded.refusal.value, decoded.detail)
    topic = conditions.topics.usage if is_usage else conditions.topics.account
    timestamp_ms = max(0, milliseconds(event.time)) if conditions.is_importing else None
    record = Outgoing(topic, partition, key, value, timestamp_ms)
    return Checked(identity, record, decoded.account, decoded.source)


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _message(error: Any) -> str:
    return str(error["msg"]).removeprefix("Value error, ")
