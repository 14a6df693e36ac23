"""The ledger's inputs: usage events and account events, decoded and well-formed.

`decide` decides them.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from decimal import Decimal
from typing import Literal

import msgspec

from usageledger.domain.quantity import format_quantity

EffectiveWhen = Literal["period_end", "now"]


class Event(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The fields of every event.

    Account + source + id is its identity. ``occurred_at`` is the CloudEvents ``time``. ``actor`` is
    who sent it, as far as that is known: it is neither identity nor content.
    """

    account: str
    source: str
    id: str
    occurred_at: datetime
    actor: str | None = None


class UsageRecorded(Event, frozen=True, kw_only=True):
    """One reported use of a feature. ``quantity`` is in the rate's units."""

    feature: str
    model: str | None = None
    quantity: Decimal
    hold_id: str | None = None
    recorded_at: datetime | None = None
    dimensions: dict[str, str] | None = None


class AccountOpened(Event, frozen=True, kw_only=True):
    """An account is brought in mid-cycle, without its history.

    ``used`` and ``free_used`` are the micro-credits that it had used by ``as_of``.
    """

    plan: str
    anchor: datetime | None = None
    time_zone: str = "UTC"
    used: int = 0
    free_used: int = 0
    as_of: datetime | None = None


class AccountSubscribed(Event, frozen=True, kw_only=True):
    """A paid subscription begins. Without an ``anchor``, the event's own time is the anchor."""

    plan: str
    time_zone: str | None = None
    anchor: datetime | None = None


class PlanChanged(Event, frozen=True, kw_only=True):
    """The account moves to another plan."""

    plan: str


class AccountCancelled(Event, frozen=True, kw_only=True):
    """The subscription ends, at the period's end or at once."""

    effective: EffectiveWhen = "period_end"


class CreditsGranted(Event, frozen=True, kw_only=True):
    """Support or a promotion adds micro-credits, which are usable before ``expires_at``."""

    credits: int
    reason: str
    expires_at: datetime | None = None


class UsageVoided(Event, frozen=True, kw_only=True):
    """A usage event of this account, earlier or still to arrive, is to cost nothing."""

    usage_source: str
    usage_id: str
    reason: str


class AccountSuspended(Event, frozen=True, kw_only=True):
    """The account is blocked whatever it has left: a payment failed, or a fraud is suspected."""

    reason: str
    note: str | None = None


class AccountResumed(Event, frozen=True, kw_only=True):
    """The account's suspension ends."""

    reason: str | None = None
    note: str | None = None


class ThresholdsSet(Event, frozen=True, kw_only=True):
    """The account gets thresholds of its own, none (an empty tuple), or its plan's again (None)."""

    thresholds: tuple[Decimal, ...] | None


AccountEvent = (
    AccountOpened
    | AccountSubscribed
    | PlanChanged
    | AccountCancelled
    | AccountSuspended
    | AccountResumed
    | ThresholdsSet
    | CreditsGranted
    | UsageVoided
)
AnyEvent = UsageRecorded | AccountEvent

EVENT_TYPES: dict[type[Event], str] = {
    UsageRecorded: "usage.recorded",
    AccountOpened: "account.opened",
    AccountSubscribed: "account.subscribed",
    PlanChanged: "account.plan_changed",
    AccountCancelled: "account.cancelled",
    AccountSuspended: "account.suspended",
    AccountResumed: "account.resumed",
    ThresholdsSet: "account.thresholds_set",
    CreditsGranted: "credits.granted",
    UsageVoided: "usage.voided",
}

_json = msgspec.json.Encoder(decimal_format="string")


def content_digest(event: AnyEvent) -> str:
    """A digest (32 hex digits) of an event's content. A repeat of the event has the same.

    The event's identity, its times and the worker's dimensions are not part of the content.
    """
    if type(event) is UsageRecorded:
        content: list[object] = [event.feature, event.model, format_quantity(event.quantity)]
    else:
        said = msgspec.to_builtins(event, str_keys=True)
        content = [
            said[name] for name in event.__struct_fields__ if name not in Event.__struct_fields__
        ]
    return hashlib.sha256(_json.encode([EVENT_TYPES[type(event)], *content])).hexdigest()[:32]
