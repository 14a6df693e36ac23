"""From a record's bytes to an event, or to the reason why they are none.

Decoding is deterministic: an audit decodes the same bytes to the same result. Nothing raises on bad
input, whatever the bytes. The accepted shapes are those of `contracts.messages`; a contract test
keeps the two equal.

A refusal's detail is in its entry, whose bytes an audit compares. To reword a message, here or in
the functions that parse fields, is therefore a change of the rules: see `domain.claim`.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec

from usageledger.domain.bounds import EVENT_BYTES_MAX, YEAR_MAX, YEAR_MIN
from usageledger.domain.catalog import Catalog
from usageledger.domain.catalog_document import read_catalog
from usageledger.domain.credits import parse_credits
from usageledger.domain.entry import InputRun
from usageledger.domain.events import (
    AccountCancelled,
    AccountEvent,
    AccountOpened,
    AccountResumed,
    AccountSubscribed,
    AccountSuspended,
    CreditsGranted,
    Event,
    PlanChanged,
    ThresholdsSet,
    UsageRecorded,
    UsageVoided,
)
from usageledger.domain.quantity import check_name, parse_quantity
from usageledger.domain.refusal import Refusal
from usageledger.domain.thresholds import parse_thresholds
from usageledger.ledger.partitioning import partition_of
from usageledger.ledger.records import Record

DETAIL_LENGTH_MAX = 300
# A parser's own limit on nesting depends on its stack. This one is lower, and the same everywhere.
BRACKETS_MAX = 500


class Malformed(NamedTuple):
    """A record that is no event: the rule it breaks, and what is wrong in words.

    ``account`` is the one that the record's key names, or "" if it names none. With ``run`` it is
    several records in a row.
    """

    refusal: Refusal
    detail: str
    account: str
    run: InputRun | None = None


_ZonedTime = Annotated[datetime, msgspec.Meta(tz=True)]
_Amount = str | int


class _UsageData(msgspec.Struct):
    feature: str
    quantity: _Amount
    model: str | None = None
    hold_id: str | None = None
    dimensions: dict[str, str] | None = None


class _OpenedData(msgspec.Struct):
    plan: str
    anchor: _ZonedTime | None = None
    time_zone: str | None = None
    used: _Amount | None = None
    free_used: _Amount | None = None
    as_of: _ZonedTime | None = None


class _SubscribedData(msgspec.Struct):
    plan: str
    time_zone: str | None = None
    anchor: _ZonedTime | None = None


class _PlanChangedData(msgspec.Struct):
    plan: str


class _CancelledData(msgspec.Struct):
    effective: Literal["period_end", "now"] = "period_end"


class _SuspendedData(msgspec.Struct):
    reason: str
    note: str | None = None


class _ResumedData(msgspec.Struct):
    reason: str | None = None
    note: str | None = None


class _ThresholdsSetData(msgspec.Struct):
    thresholds: tuple[str, ...] | None


class _GrantedData(msgspec.Struct):
    credits: _Amount
    reason: str = ""
    expires_at: _ZonedTime | None = None


class _VoidedData(msgspec.Struct):
    source: str
    id: str
    reason: str = ""


class _Envelope(msgspec.Struct):
    specversion: Literal["1.0"]
    type: str
    id: str
    source: str


class _EventEnvelope(_Envelope):
    subject: str
    time: _ZonedTime
    recordedtime: _ZonedTime | None = None
    actor: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"")


class _UsageEnvelope(_Envelope):
    type: Literal["usage.recorded"]
    subject: str
    time: _ZonedTime
    data: _UsageData
    recordedtime: _ZonedTime | None = None
    actor: str | None = None


class _CatalogEnvelope(_Envelope):
    type: Literal["catalog.published"]
    data: msgspec.Raw


_catalog_envelope = msgspec.json.Decoder(_CatalogEnvelope)
_any_envelope = msgspec.json.Decoder(_Envelope)
_event_envelope = msgspec.json.Decoder(_EventEnvelope)
_usage_envelope = msgspec.json.Decoder(_UsageEnvelope)
_anything = msgspec.json.Decoder()


def decode_usage(record: Record, partition: int, partition_count: int) -> UsageRecorded | Malformed:
    """Decode a record of ``usage.events``."""
    return _decode(record, partition, partition_count, _usage_event, {"usage.recorded"})


def decode_account(
    record: Record, partition: int, partition_count: int
) -> AccountEvent | Malformed:
    """Decode a record of ``account.events``."""
    return _decode(record, partition, partition_count, _account_event, _ACCOUNT_EVENTS.keys())


def decode_catalog(record: Record) -> Catalog | Malformed:
    """Decode a record of the catalog topic."""
    value = record.value
    if not value:
        return Malformed(Refusal.EMPTY_RECORD, "the record has no value", "")
    try:
        envelope = _catalog_envelope.decode(value)
        return read_catalog(bytes(envelope.data))
    except (ValueError, OverflowError, RecursionError) as error:
        refusal, detail = _first_broken_rule(value, error, {"catalog.published"})
        return Malformed(refusal, detail[:DETAIL_LENGTH_MAX], "")


class _Wrong(ValueError):
    """A decoded event has something wrong. The message becomes the refusal's detail."""


_AnEvent = TypeVar("_AnEvent", bound=Event)


def _decode(
    record: Record,
    partition: int,
    partition_count: int,
    decode: Callable[[bytes], _AnEvent],
    types: Container[str],
) -> _AnEvent | Malformed:
    key, value = record.key, record.value
    if key is not None and (belongs_in := partition_of(key, partition_count)) != partition:
        return _malformed(
            key,
            Refusal.WRONG_PARTITION,
            f"a key that belongs in partition {belongs_in} of {partition_count}",
        )
    if not value:
        return _malformed(key, Refusal.EMPTY_RECORD, "the record has no value")
    if len(value) > EVENT_BYTES_MAX:
        return _malformed(
            key,
            Refusal.RECORD_TOO_LARGE,
            f"{len(value)} bytes; an event has at most {EVENT_BYTES_MAX}",
        )
    if value.count(b"[") + value.count(b"{") > BRACKETS_MAX:
        return _malformed(
            key, Refusal.NOT_JSON, f"over {BRACKETS_MAX} brackets: nested too deeply to be an event"
        )
    try:
        event = decode(value)
    except (ValueError, OverflowError, RecursionError) as error:  # msgspec's errors are ValueErrors
        return _malformed(key, *_first_broken_rule(value, error, types))
    if key != event.account.encode():
        return _malformed(
            key, Refusal.WRONG_KEY, f"the record's key is not the event's subject {event.account!r}"
        )
    return event


def _malformed(key: bytes | None, refusal: Refusal, detail: str) -> Malformed:
    return Malformed(refusal, detail[:DETAIL_LENGTH_MAX], account_named_by(key))


def account_named_by(key: bytes | None) -> str:
    """The account that a record's key names, or "" if it names none."""
    try:
        return check_name("key", (key or b"").decode())
    except ValueError:
        return ""


def _usage_event(value: bytes) -> UsageRecorded:
    envelope = _usage_envelope.decode(value)
    data = envelope.data
    return UsageRecorded(
        account=check_name("subject", envelope.subject),
        source=check_name("source", envelope.source),
        id=check_name("id", envelope.id),
        occurred_at=envelope.time.astimezone(UTC),
        recorded_at=envelope.recordedtime,
        actor=None if envelope.actor is None else check_name("actor", envelope.actor),
        feature=check_name("data.feature", data.feature),
        model=None if data.model is None else check_name("data.model", data.model),
        quantity=parse_quantity(data.quantity),
        hold_id=None if data.hold_id is None else check_name("data.hold_id", data.hold_id),
        dimensions=data.dimensions,
    )


def _account_event(value: bytes) -> AccountEvent:
    envelope = _event_envelope.decode(value)
    build = _ACCOUNT_EVENTS.get(envelope.type)
    if build is None:
        raise _Wrong(f"{envelope.type!r} is no account event")
    if not envelope.data:
        raise _Wrong("data is missing")
    return build(
        envelope.data,
        {
            "account": check_name("subject", envelope.subject),
            "source": check_name("source", envelope.source),
            "id": check_name("id", envelope.id),
            "occurred_at": envelope.time.astimezone(UTC),
            "actor": None if envelope.actor is None else check_name("actor", envelope.actor),
        },
    )


def _build_opened(raw: msgspec.Raw, header: dict[str, Any]) -> AccountOpened:
    data = msgspec.json.decode(raw, type=_OpenedData)
    return AccountOpened(
        **header,
        plan=check_name("data.plan", data.plan),
        anchor=_cycle_time("data.anchor", data.anchor),
        time_zone=data.time_zone or "UTC",
        used=_credits_used("data.used", data.used),
        free_used=_credits_used("data.free_used", data.free_used),
        as_of=_cycle_time("data.as_of", data.as_of),
    )


def _build_subscribed(raw: msgspec.Raw, header: dict[str, Any]) -> AccountSubscribed:
    data = msgspec.json.decode(raw, type=_SubscribedData)
    return AccountSubscribed(
        **header,
        plan=check_name("data.plan", data.plan),
        time_zone=data.time_zone or "UTC",
        anchor=_cycle_time("data.anchor", data.anchor),
    )


def _build_plan_changed(raw: msgspec.Raw, header: dict[str, Any]) -> PlanChanged:
    return PlanChanged(
        **header, plan=check_name("data.plan", msgspec.json.decode(raw, type=_PlanChangedData).plan)
    )


def _build_cancelled(raw: msgspec.Raw, header: dict[str, Any]) -> AccountCancelled:
    return AccountCancelled(
        **header, effective=msgspec.json.decode(raw, type=_CancelledData).effective
    )


def _build_suspended(raw: msgspec.Raw, header: dict[str, Any]) -> AccountSuspended:
    data = msgspec.json.decode(raw, type=_SuspendedData)
    return AccountSuspended(**header, reason=check_name("data.reason", data.reason), note=data.note)


def _build_resumed(raw: msgspec.Raw, header: dict[str, Any]) -> AccountResumed:
    data = msgspec.json.decode(raw, type=_ResumedData)
    return AccountResumed(
        **header,
        reason=None if data.reason is None else check_name("data.reason", data.reason),
        note=data.note,
    )


def _build_thresholds_set(raw: msgspec.Raw, header: dict[str, Any]) -> ThresholdsSet:
    written = msgspec.json.decode(raw, type=_ThresholdsSetData).thresholds
    return ThresholdsSet(
        **header, thresholds=None if written is None else parse_thresholds(written)
    )


def _build_granted(raw: msgspec.Raw, header: dict[str, Any]) -> CreditsGranted:
    data = msgspec.json.decode(raw, type=_GrantedData)
    credits = parse_credits(data.credits)
    if credits <= 0:
        raise _Wrong(f"data.credits is more than 0, not {data.credits}")
    return CreditsGranted(
        **header,
        credits=credits,
        reason=data.reason,
        expires_at=_cycle_time("data.expires_at", data.expires_at),
    )


def _build_voided(raw: msgspec.Raw, header: dict[str, Any]) -> UsageVoided:
    data = msgspec.json.decode(raw, type=_VoidedData)
    return UsageVoided(
        **header,
        usage_source=check_name("data.source", data.source),
        usage_id=check_name("data.id", data.id),
        reason=data.reason,
    )


_ACCOUNT_EVENTS: dict[str, Callable[[msgspec.Raw, dict[str, Any]], AccountEvent]] = {
    "account.opened": _build_opened,
    "account.subscribed": _build_subscribed,
    "account.plan_changed": _build_plan_changed,
    "account.cancelled": _build_cancelled,
    "account.suspended": _build_suspended,
    "account.resumed": _build_resumed,
    "account.thresholds_set": _build_thresholds_set,
    "credits.granted": _build_granted,
    "usage.voided": _build_voided,
}


def _cycle_time(field: str, time: datetime | None) -> datetime | None:
    """Turn a time into UTC, after checking that it is in the years that a cycle may have."""
    if time is not None and not YEAR_MIN <= time.year <= YEAR_MAX:
        raise _Wrong(f"{field} lies in the years {YEAR_MIN} to {YEAR_MAX}, not in {time.year}")
    return None if time is None else time.astimezone(UTC)


def _credits_used(field: str, value: _Amount | None) -> int:
    credits = 0 if value is None else parse_credits(value)
    if credits < 0:
        raise _Wrong(f"{field} is at least 0, not {value}")
    return credits


def _first_broken_rule(
    value: bytes, error: Exception, types: Container[str]
) -> tuple[Refusal, str]:
    """The first rule that the bytes break, and what is wrong. They are known to break one."""
    try:
        decoded = _anything.decode(value)
    except (ValueError, OverflowError, RecursionError) as not_json:
        return Refusal.NOT_JSON, f"{not_json}"
    if not isinstance(decoded, dict):
        return Refusal.NOT_A_CLOUDEVENT, "a CloudEvent in structured mode is a JSON object"
    try:
        envelope = _any_envelope.decode(value)
    except ValueError as not_a_cloudevent:
        return Refusal.NOT_A_CLOUDEVENT, f"{not_a_cloudevent}"
    if envelope.type not in types:
        return Refusal.UNKNOWN_TYPE, f"type {envelope.type!r} does not belong on this topic"
    return (
        Refusal.INVALID_EVENT,
        f"event {envelope.id[:100]!r} of {envelope.source[:60]!r}: {error}",
    )
