"""How an app reads a limit event."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from tests.notation import Partition
from usageledger.contracts.examples import examples
from usageledger.ledger.limit_address import NotALimitEvent, read_limit_event
from usageledger.ledger.limit_events import limit_events
from usageledger.sdk.limits.limit_event import Upgrade, parse_limit_event

REACHED: dict[str, Any] = examples()["limit.reached"][0]
CLEARED: dict[str, Any] = examples()["limit.cleared"][0]
THRESHOLD: dict[str, Any] = examples()["limit.threshold"][0]


def test_a_limit_event_has_decimals_and_aware_times() -> None:
    event = parse_limit_event(REACHED)
    assert (event.kind, event.id, event.account, event.plan) == (
        "reached",
        "3-1042-1",
        "acct_4821",
        "pro",
    )
    assert (event.used, event.remaining, event.allotment, event.granted) == (
        Decimal(220),
        Decimal(-20),
        Decimal(200),
        Decimal(0),
    )
    assert event.period_start == datetime(2026, 11, 3, 9, tzinfo=UTC)
    assert event.period_end == event.resets_at == datetime(2026, 12, 3, 9, tzinfo=UTC)
    assert (event.action, event.reason, event.threshold) == ("block", "usage", None)
    assert event.upgrade == Upgrade(
        plan="max", name="Max", price_cents=2499, allotment=Decimal(500)
    )
    assert event.crossed_by is not None and event.crossed_by.occurred_at == datetime(
        2026, 11, 22, 10, 15, 30, 250_000, tzinfo=UTC
    )
    assert event.appended_at == datetime(2026, 11, 22, 10, 15, 30, 900_000, tzinfo=UTC)
    assert parse_limit_event(THRESHOLD).threshold == Decimal("0.8")
    assert parse_limit_event(CLEARED).upgrade is None


@pytest.mark.peer_defect("Flexprice")
def test_a_limit_event_names_what_crossed_the_limit_and_when_that_occurred() -> None:
    """Flexprice gives the time at which it noticed. Here a use that was spooled for a day reaches
    the limit. App and support see which use, and when.
    """
    partition = Partition()
    partition.take("2026-01-30T10:00 subscribe pro")
    (sealed,) = partition.take("+2d use chat_action 200 id=gen_7 source=/render on=-1d")
    event = parse_limit_event(read_limit_event(limit_events(sealed.entry)[-1].value)[0])
    assert event.kind == "reached" and event.crossed_by is not None
    assert (event.crossed_by.source, event.crossed_by.id) == ("/render", "gen_7")
    assert event.crossed_by.occurred_at == datetime(2026, 1, 31, 10, tzinfo=UTC)
    assert event.appended_at == datetime(2026, 2, 1, 10, tzinfo=UTC)


def test_null_members_on_free_are_none() -> None:
    data = {
        **REACHED["data"],
        "period": {**REACHED["data"]["period"], "end": None},
        "resets_at": None,
        "crossed_by": None,
    }
    event = parse_limit_event({**REACHED, "data": data})
    assert (event.period_end, event.resets_at, event.crossed_by) == (None, None, None)


@pytest.mark.parametrize(
    "harm",
    [
        {"used": "a lot"},
        {"used": None},
        {"period": None},
        {"resets_at": "2026-12-03T09:00:00"},
        {"crossed_by": "somebody"},
    ],
)
def test_an_unreadable_limit_event_is_named(harm: dict[str, Any]) -> None:
    with pytest.raises(NotALimitEvent, match="3-1042-1"):
        parse_limit_event({**REACHED, "data": {**REACHED["data"], **harm}})
