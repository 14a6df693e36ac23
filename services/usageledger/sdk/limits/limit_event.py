"""`LimitEvent`: a limit that an account has crossed, as an app reads it.

Needs the standard library alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from usageledger.ledger.limit_address import NotALimitEvent

Kind = Literal["threshold", "reached", "cleared"]

_KINDS: dict[str, Kind] = {
    "limit.threshold": "threshold",
    "limit.reached": "reached",
    "limit.cleared": "cleared",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade:
    """The lowest plan that would leave the account with credits. The allotment is in credits."""

    plan: str
    name: str
    price_cents: int
    allotment: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossedBy:
    """The event that crossed the limit, and when it occurred."""

    source: str
    id: str
    occurred_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitEvent:
    """A limit that an account has crossed. Amounts are credits; times are in UTC."""

    kind: Kind
    id: str
    """The same each time that this crossing is announced: use it to recognise a repeat."""
    account: str
    plan: str
    period_start: datetime
    period_end: datetime | None
    used: Decimal
    remaining: Decimal
    allotment: Decimal
    granted: Decimal
    threshold: Decimal | None
    """The share of ``used + remaining`` that was crossed; None for the limit itself."""
    reason: str
    """``usage``, ``renewed``, ``plan_changed``, ``granted``, ``grant_expired``, ``voided``,
    ``suspended`` or ``resumed``.
    """
    action: str | None
    """What the app should do: ``block``, ``prompt_upgrade``, or None for nothing."""
    upgrade: Upgrade | None
    """The plan that would free the account. None if no plan would, as while it is suspended."""
    suspension_reason: str | None
    """Why the account is suspended; None if it is not."""
    resets_at: datetime | None
    """When the period ends and credits come again; None on Free."""
    crossed_by: CrossedBy | None
    appended_at: datetime
    """When Kafka appended the event that crossed the limit."""


def kind_of(event: Mapping[str, Any]) -> Kind | None:
    """Return the kind of a limit event from the wire; None for a kind that this release lacks."""
    return _KINDS.get(event["type"])


def parse_limit_event(event: Mapping[str, Any]) -> LimitEvent:
    """Read a CloudEvent of a known kind. Raises NotALimitEvent."""
    try:
        return _limit_event(event)
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise NotALimitEvent(
            f"limit event {event.get('id')!r} cannot be read ({type(error).__name__}: {error})"
        ) from None


def _limit_event(event: Mapping[str, Any]) -> LimitEvent:
    data = event["data"]
    upgrade, crossed_by = data["upgrade"], data["crossed_by"]
    suspension = data.get("suspension")
    return LimitEvent(
        kind=_KINDS[event["type"]],
        id=event["id"],
        account=data["account"],
        plan=data["plan"],
        period_start=_time(data["period"]["start"]),
        period_end=_time_or_none(data["period"]["end"]),
        used=Decimal(data["used"]),
        remaining=Decimal(data["remaining"]),
        allotment=Decimal(data["allotment"]),
        granted=Decimal(data["granted"]),
        threshold=None if data["threshold"] is None else Decimal(data["threshold"]),
        reason=data["reason"],
        action=data["action"],
        upgrade=None
        if upgrade is None
        else Upgrade(
            plan=upgrade["plan"],
            name=upgrade["name"],
            price_cents=upgrade["price_cents"],
            allotment=Decimal(upgrade["allotment"]),
        ),
        suspension_reason=None if suspension is None else suspension["reason"],
        resets_at=_time_or_none(data["resets_at"]),
        crossed_by=None
        if crossed_by is None
        else CrossedBy(
            source=crossed_by["source"],
            id=crossed_by["id"],
            occurred_at=_time(crossed_by["occurred_at"]),
        ),
        appended_at=_time(event["time"]),
    )


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return time


def _time_or_none(text: str | None) -> datetime | None:
    return None if text is None else _time(text)
