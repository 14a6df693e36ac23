"""What a subscriber makes of limit events: a view of who is blocked, and calls to an app's
handlers. Needs the standard library alone.
"""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from usageledger.ledger.limit_address import LimitAddress, NotALimitEvent
from usageledger.runtime.backoff import Backoff

Kind = Literal["threshold", "reached", "cleared"]

_KINDS: dict[str, Kind] = {
    "limit.threshold": "threshold",
    "limit.reached": "reached",
    "limit.cleared": "cleared",
}
HANDLER_RETRY = Backoff((0.1, 1.0))
"""A handler that raises is called again after each of these delays, and no more."""


class SubscriberFailed(Exception):
    """The subscriber has ended, and its view of who is blocked is no longer kept.

    ``__cause__`` says why.
    """


class HandlerFailed(SubscriberFailed):
    """An app's handler raised each time that it was called with ``event``, which is not handled.

    ``__cause__`` is what it raised last.
    """

    def __init__(self, event: LimitEvent, handler: str, attempts: int) -> None:
        super().__init__(
            f"{handler} failed {attempts} times with limit event {event.id} ({event.kind}, account "
            f"{event.account!r})"
        )
        self.event = event


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade:
    """The lowest plan that would leave the account with credits."""

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
    """A limit that an account has crossed. Amounts are credits; times are in UTC.

    ``id`` is the same each time that this crossing is announced. ``resets_at`` is when the period
    ends, None on Free.
    """

    kind: Kind
    id: str
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
    """``block``, ``prompt_upgrade`` or None."""
    upgrade: Upgrade | None
    """The plan that would free the account, None where none would: while it is suspended, say."""
    suspension_reason: str | None
    """Why the account is suspended, where it is."""
    resets_at: datetime | None
    crossed_by: CrossedBy | None
    appended_at: datetime
    """When Kafka took the event that crossed the limit."""


Handler = Callable[[LimitEvent], object]


def kind_of(event: Mapping[str, Any]) -> Kind | None:
    """The kind of a limit event as it is on the wire; None for one that a later release
    announces.
    """
    return _KINDS.get(event["type"])


def parse_limit_event(event: Mapping[str, Any]) -> LimitEvent:
    """Read a CloudEvent of a known kind. Raises NotALimitEvent."""
    try:
        return _parsed(event)
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise NotALimitEvent(
            f"limit event {event.get('id')!r} cannot be read ({type(error).__name__}: {error})"
        ) from None


def _parsed(event: Mapping[str, Any]) -> LimitEvent:
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


class BlockedView:
    """Who is blocked, and why, by the limit events seen so far.

    Thread-safe. A repeat changes nothing.

    It holds all blocked accounts of a ledger, each with its event: packed, for there can be a
    million (then 0.3 GB, where the events as they are would be 0.8 GB).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocked: dict[str, bytes] = {}
        self._last: dict[int, LimitAddress] = {}

    def apply(self, event: Mapping[str, Any], place: LimitAddress, value: bytes) -> None:
        """Note what an event says, if it is beyond the last one seen of its partition.

        ``value`` is the event as its record holds it.
        """
        with self._lock:
            if not place.is_beyond(self._last.get(place.partition)):
                return
            self._last[place.partition] = place
            kind = kind_of(event)
            if kind == "reached":
                self._blocked[event["data"]["account"]] = _packed(value)
            elif kind == "cleared":
                self._blocked.pop(event["data"]["account"], None)

    def is_blocked(self, account: str) -> bool:
        """Whether the account's limit is reached and has not been cleared since."""
        with self._lock:
            return account in self._blocked

    def why_blocked(self, account: str) -> LimitEvent | None:
        """The event by which the account came to be blocked; None if it is not.

        Raises NotALimitEvent.
        """
        with self._lock:
            packed = self._blocked.get(account)
        return None if packed is None else parse_limit_event(json.loads(_unpacked(packed)))

    def blocked(self) -> set[str]:
        """All accounts that are blocked."""
        with self._lock:
            return set(self._blocked)

    def last_place(self, partition: int) -> LimitAddress | None:
        """The last place seen of a partition."""
        with self._lock:
            return self._last.get(partition)


# What events have in common: with it, one takes a fifth of its bytes.
_TYPICAL_EVENT = (
    b'{"specversion":"1.0","type":"limit.reached","source":"/usageledger/limits","id":"0-0-0","subject":"acct_",'
    b'"time":"2026-01-01T00:00:00.000000Z","datacontenttype":"application/json","data":{"account":"acct_","plan":"pro",'
    b'"period":{"start":"2026-01-01T00:00:00Z","end":"2026-02-01T00:00:00Z"},"used":"200","remaining":"0","allotment":"200","granted":"0",'
    b'"threshold":null,"reason":"usage","action":"block","upgrade":{"plan":"max","name":"Max","price_cents":2499,"allotment":"500"},'
    b'"suspension":null,"resets_at":"2026-02-01T00:00:00Z","crossed_by":{"source":"/render","id":"gen_",'
    b'"occurred_at":"2026-01-01T00:00:00.000000Z"},"entry":{"partition":0,"offset":0,"index":0,"crossings":1}}}'
)


def _packed(value: bytes) -> bytes:
    packer = zlib.compressobj(level=1, zdict=_TYPICAL_EVENT)
    return packer.compress(value) + packer.flush()


def _unpacked(packed: bytes) -> bytes:
    return zlib.decompressobj(zdict=_TYPICAL_EVENT).decompress(packed)


class Handlers:
    """An app's functions for each kind of limit event."""

    def __init__(self, pause: Callable[[float], object]) -> None:
        self._by_kind: dict[Kind, list[Handler]] = {"threshold": [], "reached": [], "cleared": []}
        self._pause = pause

    def add(self, kind: Kind, handler: Handler) -> None:
        """Have ``handler`` called with every event of that kind, after those that were added before
        it.
        """
        self._by_kind[kind].append(handler)

    def hand_over(self, event: Mapping[str, Any]) -> None:
        """Call the handlers of an event's kind.

        Each is tried a bounded number of times; raises HandlerFailed, NotALimitEvent.
        """
        kind = kind_of(event)
        handlers = self._by_kind[kind] if kind is not None else []
        if not handlers:
            return
        parsed = parse_limit_event(event)
        for handler in handlers:
            self._call(handler, parsed)

    def _call(self, handler: Handler, event: LimitEvent) -> None:
        for delay_s in HANDLER_RETRY.delays_s:
            try:
                handler(event)
            except Exception:  # noqa: BLE001 - the last attempt raises whatever it is
                self._pause(delay_s)
            else:
                return
        try:
            handler(event)
        except Exception as error:
            name = getattr(handler, "__qualname__", repr(handler))
            raise HandlerFailed(event, name, len(HANDLER_RETRY.delays_s) + 1) from error
