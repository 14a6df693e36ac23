"""The input events as producers write them: CloudEvents 1.0 in structured JSON.

An event that is known to be wrong is refused here. `UsageMeter`, `AccountClient`, the in-memory
meter and the command line all build their events with these functions. Needs the standard library
alone.
"""

from __future__ import annotations

import hashlib
import json
import zoneinfo
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal, TypeVar

from usageledger.domain.bounds import (
    CLOCK_AHEAD_MAX,
    EVENT_BYTES_MAX,
    LATENESS_MAX,
    YEAR_MAX,
    YEAR_MIN,
)
from usageledger.domain.credits import format_credits, parse_credits
from usageledger.domain.quantity import check_name, format_quantity, parse_quantity
from usageledger.domain.thresholds import parse_thresholds
from usageledger.ledger.timestamps import milliseconds
from usageledger.log.topics import Topics

Event = dict[str, object]
"""One CloudEvent, ready for `encode`."""

Quantity = str | int | Decimal
Credits = str | int
Share = str | Decimal

# The only field that can make an event too long, by event type. In the others it is the reason.
_LONG_TEXTS = {
    "usage.recorded": "dimensions",
    "account.suspended": "note",
    "account.resumed": "note",
}

_T = TypeVar("_T")

_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class InvalidEvent(ValueError):
    """The ledger would refuse this event, so nothing was recorded.

    ``field`` names the argument that is wrong; the message says why.
    """

    def __init__(self, field: str, why: str) -> None:
        super().__init__(why)
        self.field = field


def usage_recorded(
    *,
    source: str,
    account: str,
    id: str,
    feature: str,
    model: str | None = None,
    quantity: Quantity = 1,
    occurred_at: datetime | None = None,
    hold_id: str | None = None,
    dimensions: Mapping[str, str] | None = None,
    now: datetime,
    live: bool = True,
) -> Event:
    """Build a usage event. ``now`` is when it is recorded, and the default of ``occurred_at``.

    ``live=False`` allows any ``occurred_at``, for a ledger in import mode. Raises InvalidEvent.
    """
    return {
        **_envelope("usage.recorded", source, account, id, occurred_at, now, live),
        "data": {
            "feature": _checked_name("feature", feature),
            "model": None if model is None else _checked_name("model", model),
            "quantity": format_quantity(_parsed_decimal("quantity", parse_quantity, quantity)),
            "hold_id": None if hold_id is None else _checked_name("hold_id", hold_id),
            "dimensions": _checked_dimensions(dimensions),
        },
    }


def usage_voided(
    *,
    source: str,
    account: str,
    usage_source: str,
    usage_id: str,
    reason: str,
    occurred_at: datetime | None = None,
    now: datetime,
    live: bool = True,
) -> Event:
    """Build a void of one usage event.

    Its id is derived from the usage's identity, so a repeat is the same void. Raises InvalidEvent.
    """
    _checked_name("account", account)
    data = {
        "source": _checked_name("source", usage_source),
        "id": _checked_name("id", usage_id),
        "reason": _checked_reason(reason),
    }
    identity = json.dumps([account, usage_source, usage_id]).encode()
    void_id = f"void_{hashlib.sha256(identity).hexdigest()[:32]}"
    return {
        **_envelope("usage.voided", source, account, void_id, occurred_at, now, live),
        "data": data,
    }


def account_opened(
    *,
    source: str,
    account: str,
    id: str,
    plan: str,
    anchor: datetime | None = None,
    time_zone: str | None = None,
    used: Credits | None = None,
    free_used: Credits | None = None,
    as_of: datetime | None = None,
    occurred_at: datetime | None = None,
    now: datetime,
    live: bool = True,
) -> Event:
    """Build the first event of an account that is brought in during its billing cycle.

    ``used`` and ``free_used`` are credits as decimals, at the time ``as_of``. Raises InvalidEvent.
    """
    data = {
        "plan": _checked_name("plan", plan),
        "anchor": _time_text("anchor", anchor),
        "time_zone": _checked_time_zone(time_zone),
        "used": None if used is None else _credits_text("used", used, least=0),
        "free_used": None if free_used is None else _credits_text("free_used", free_used, least=0),
        "as_of": _time_text("as_of", as_of),
    }
    return {
        **_envelope("account.opened", source, account, id, occurred_at, now, live),
        "data": _without_none(data),
    }


def account_subscribed(
    *,
    source: str,
    account: str,
    id: str,
    plan: str,
    time_zone: str | None = None,
    anchor: datetime | None = None,
    occurred_at: datetime | None = None,
    now: datetime,
    live: bool = True,
) -> Event:
    """Build the start of a subscription.

    Without ``anchor`` its cycle starts at the event's time; without ``time_zone`` it runs in UTC.
    Raises InvalidEvent.
    """
    data = {
        "plan": _checked_name("plan", plan),
        "time_zone": _checked_time_zone(time_zone),
        "anchor": _time_text("anchor", anchor),
    }
    return {
        **_envelope("account.subscribed", source, account, id, occurred_at, now, live),
        "data": _without_none(data),
    }


def account_plan_changed(
    *,
    source: str,
    account: str,
    id: str,
    plan: str,
    occurred_at: datetime | None = None,
    now: datetime,
    live: bool = True,
) -> Event:
    """Build a change of plan. Raises InvalidEvent."""
    return {
        **_envelope("account.plan_changed", source, account, id, occurred_at, now, live),
        "data": {"plan": _checked_name("plan", plan)},
    }


def account_cancelled(
    *,
    source: str,
    account: str,
    id: str,
    effective: Literal["period_end", "now"] = "period_end",
    occurred_at: datetime | None = None,
    now: datetime,
    live: bool = True,
) -> Event:
    """Build a cancellation, at the end of the period or at once. Raises InvalidEvent."""
    if effective not in ("period_end", "now"):
        raise InvalidEvent("effective", f"effective is 'period_end' or 'now', not {effective!r}")
    return {
        **_envelope("account.cancelled", source, account, id, occurred_at, now, live),
        "data": {"effective": effective},
    }


def account_suspended(
    *,
    source: str,
    account: str,
    id: str,
    reason: str,
    note: str | None = None,
    occurred_at: datetime | None = None,
    now: datetime,
    live: bool = True,
) -> Event:
    """Build a suspension.

    ``reason`` is a name such as ``payment_failed``, and limit events carry it. Raises InvalidEvent.
    """
    data = {"reason": _checked_name("reason", reason), "note": _checked_note(note)}
    return {
        **_envelope("account.suspended", source, account, id, occurred_at, now, live),
        "data": _without_none(data),
    }


def account_resumed(
    *,
    source: str,
    account: str,
    id: str,
    reason: str | None = None,
    note: str | None = None,
    occurred_at: datetime | None = None,
    now: datetime,
    live: bool = True,
) -> Event:
    """Build the end of a suspension. Raises InvalidEvent."""
    data = {
        "reason": None if reason is None else _checked_name("reason", reason),
        "note": _checked_note(note),
    }
    return {
        **_envelope("account.resumed", source, account, id, occurred_at, now, live),
        "data": _without_none(data),
    }


def account_thresholds_set(
    *,
    source: str,
    account: str,
    id: str,
    thresholds: Sequence[Share] | None,
    occurred_at: datetime | None = None,
    now: datetime,
    live: bool = True,
) -> Event:
    """Build an account's own thresholds: none if empty, its plan's again if None.

    Raises InvalidEvent.
    """
    shares = None if thresholds is None else _share_texts(thresholds)
    return {
        **_envelope("account.thresholds_set", source, account, id, occurred_at, now, live),
        "data": {"thresholds": shares},
    }


def credits_granted(
    *,
    source: str,
    account: str,
    id: str,
    credits: Credits,
    reason: str,
    expires_at: datetime | None = None,
    occurred_at: datetime | None = None,
    now: datetime,
    live: bool = True,
) -> Event:
    """Build a grant of ``credits`` (a decimal above 0). Raises InvalidEvent."""
    if expires_at is not None and _checked_aware("expires_at", expires_at) <= _checked_aware(
        "occurred_at", occurred_at or now
    ):
        raise InvalidEvent(
            "expires_at", f"expires_at is after the grant itself, unlike {expires_at.isoformat()}"
        )
    data = {
        "credits": _credits_text("credits", credits, least=1),
        "reason": _checked_reason(reason),
        "expires_at": _time_text("expires_at", expires_at),
    }
    return {
        **_envelope("credits.granted", source, account, id, occurred_at, now, live),
        "data": _without_none(data),
    }


def encode(event: Event) -> bytes:
    """Return an event as the bytes of its record.

    Raises InvalidEvent if the event is longer than a record may be.
    """
    value = _encoder.encode(event).encode()
    if len(value) > EVENT_BYTES_MAX:
        field = _LONG_TEXTS.get(str(event["type"]), "reason")
        raise InvalidEvent(
            field,
            f"an event has at most {EVENT_BYTES_MAX} bytes, not {len(value)}: its {field} must be "
            "shorter",
        )
    return value


def record_key(event: Event) -> bytes:
    """Return the key of an event's record: Kafka hashes it to the account's partition."""
    return str(event["subject"]).encode()


def timestamp_ms(event: Event) -> int:
    """Return the event's own time (ms since 1970), which dates its record in import mode.

    A time before 1970 becomes 1970, as in the ledger.
    """
    return max(0, milliseconds(datetime.fromisoformat(str(event["time"]))))


def topic_of(event: Event, topics: Topics) -> str:
    """Return the topic that an event belongs to."""
    return topics.usage if event["type"] == "usage.recorded" else topics.account


def utc_now() -> datetime:
    """Return the current time in whole milliseconds, Kafka's precision."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def format_time(moment: datetime) -> str:
    """Return an aware datetime as RFC 3339 text in UTC, with 0, 3 or 6 decimals as it needs."""
    moment = moment.astimezone(UTC)
    places = (
        "seconds"
        if not moment.microsecond
        else "microseconds"
        if moment.microsecond % 1000
        else "milliseconds"
    )
    return f"{moment.replace(tzinfo=None).isoformat(timespec=places)}Z"


def _envelope(
    type: str,
    source: str,
    account: str,
    id: str,
    occurred_at: datetime | None,
    now: datetime,
    live: bool,
) -> Event:
    recorded_time = time = format_time(now)
    if occurred_at is not None:
        time = format_time(_checked_aware("occurred_at", occurred_at))
        if live:
            _check_window(occurred_at, now)
    return {
        "specversion": "1.0",
        "type": type,
        "id": _checked_name("id", id),
        "source": _checked_name("source", source),
        "subject": _checked_name("account", account),
        "time": time,
        "recordedtime": recorded_time,
        "datacontenttype": "application/json",
    }


def _check_window(occurred_at: datetime, now: datetime) -> None:
    bound = (
        "5 minutes ahead of"
        if occurred_at > now + CLOCK_AHEAD_MAX
        else "35 days before"
        if occurred_at < now - LATENESS_MAX
        else None
    )
    if bound is not None:
        why = (
            f"occurred_at is at most {bound} now ({format_time(now)}), unlike "
            f"{format_time(occurred_at)}"
        )
        raise InvalidEvent("occurred_at", why)


def _checked_name(field: str, value: str) -> str:
    try:
        return check_name(field, value)
    except ValueError as error:
        raise InvalidEvent(field, str(error)) from None


def _parsed_decimal(field: str, parse: Callable[[_T], Decimal], value: _T) -> Decimal:
    try:
        return parse(value)
    except ValueError as error:
        raise InvalidEvent(field, str(error)) from None


def _credits_text(field: str, value: Credits, *, least: int) -> str:
    """Return the canonical decimal of credits that are at least ``least`` micro-credits."""
    try:
        microcredits = parse_credits(value)
    except ValueError as error:
        raise InvalidEvent(field, f"{field}: {error}") from None
    if microcredits < least:
        raise InvalidEvent(
            field, f"{field} is {'more than 0' if least else 'at least 0'}, not {value!r}"
        )
    return format_credits(microcredits)


def _checked_aware(field: str, moment: datetime) -> datetime:
    if not isinstance(moment, datetime):
        raise InvalidEvent(field, f"{field} is a datetime, not {type(moment).__name__}")
    if moment.utcoffset() is None:
        raise InvalidEvent(
            field,
            f"{field} needs a time zone, such as datetime.now(UTC); {moment.isoformat()} has none",
        )
    return moment


def _time_text(field: str, moment: datetime | None) -> str | None:
    if moment is None:
        return None
    if not YEAR_MIN <= _checked_aware(field, moment).astimezone(UTC).year <= YEAR_MAX:
        raise InvalidEvent(
            field,
            f"{field} is in the years {YEAR_MIN} to {YEAR_MAX}, unlike {moment.isoformat()}",
        )
    return format_time(moment)


def _checked_reason(reason: str) -> str:
    """Return a reason: any text that is not blank, from a person or an exception."""
    return _checked_text("reason", reason)


def _checked_note(note: str | None) -> str | None:
    return None if note is None else _checked_text("note", note)


def _checked_text(field: str, text: str) -> str:
    if not isinstance(text, str):
        raise InvalidEvent(field, f"{field} is a string, not {type(text).__name__}")
    if not text.strip():
        raise InvalidEvent(field, f"{field} must not be blank")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidEvent(field, f"{field} is not valid Unicode") from None
    return text


def _share_texts(thresholds: Sequence[Share]) -> list[str]:
    if isinstance(thresholds, str) or not isinstance(thresholds, Sequence):
        raise InvalidEvent(
            "thresholds",
            f"thresholds is a list of shares such as ['0.5', '0.9'], not {thresholds!r}",
        )
    try:
        return [format_quantity(share) for share in parse_thresholds(thresholds)]
    except ValueError as error:
        raise InvalidEvent("thresholds", str(error)) from None


def _checked_time_zone(name: str | None) -> str | None:
    if name is None:
        return None
    try:
        zoneinfo.ZoneInfo(_checked_name("time_zone", name))
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError) as error:
        if isinstance(error, InvalidEvent):
            raise
        # An image without time zone data cannot tell that this zone is wrong: it has no zones.
        if zoneinfo.available_timezones():
            raise InvalidEvent(
                "time_zone", f"time_zone is an IANA name such as 'Europe/Berlin', not {name!r}"
            ) from None
    return name


def _checked_dimensions(dimensions: Mapping[str, str] | None) -> dict[str, str]:
    if dimensions is None:
        return {}
    if not isinstance(dimensions, Mapping):
        raise InvalidEvent(
            "dimensions",
            f"dimensions is a mapping of strings to strings, not {type(dimensions).__name__}",
        )
    for key, value in dimensions.items():
        _checked_name("dimensions", key)
        if not isinstance(value, str):
            raise InvalidEvent(
                "dimensions", f"dimensions[{key!r}] is a string, not {type(value).__name__}"
            )
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidEvent("dimensions", f"dimensions[{key!r}] is not valid Unicode") from None
    return dict(dimensions)


def _without_none(data: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in data.items() if value is not None}
