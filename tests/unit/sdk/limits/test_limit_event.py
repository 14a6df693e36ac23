"""What a subscriber makes of limit events: who is blocked, and which handlers are called."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from tests.notation import Partition
from tests.worlds.limits_world import Ledger
from usageledger.contracts.examples import examples
from usageledger.domain.chain import entry_at
from usageledger.ledger.limit_address import LimitAddress, NotALimitEvent, read_limit_event
from usageledger.ledger.limit_events import limit_events
from usageledger.sdk.limits.limit_event import (
    HANDLER_RETRY,
    BlockedView,
    HandlerFailed,
    Handlers,
    LimitEvent,
    Upgrade,
    _packed,
    parse_limit_event,
)
from usageledger.sdk.limits.subscriber import LimitSubscriber

REACHED: dict[str, Any] = examples()["limit.reached"][0]
CLEARED: dict[str, Any] = examples()["limit.cleared"][0]
THRESHOLD: dict[str, Any] = examples()["limit.threshold"][0]


def announced_by(ledger: Ledger) -> list[tuple[dict[str, Any], LimitAddress, bytes]]:
    """What a view is given of each limit event."""
    sealed = [entry_at(record.offset, record.value) for record in ledger.records]
    messages = [message for one in sealed if one is not None for message in limit_events(one.entry)]
    return [(*read_limit_event(message.value), message.value) for message in messages]


def no_pause(_seconds: float) -> None:
    """Retries follow at once."""


def test_an_account_is_blocked_from_reached_to_cleared() -> None:
    ledger = Ledger()
    ledger.entry("limit.threshold", "limit.reached", account="a")
    ledger.entry("limit.reached", account="b")
    ledger.entry("limit.cleared", account="a")
    view = BlockedView()
    seen = []
    for announced in announced_by(ledger):
        view.apply(*announced)
        seen.append(sorted(view.blocked()))
    assert seen == [[], ["a"], ["a", "b"], ["b"]]
    assert (
        view.is_blocked("b") and not view.is_blocked("a") and not view.is_blocked("never heard of")
    )


def test_repeats_change_nothing_however_late_they_come() -> None:
    ledger = Ledger()
    ledger.entry("limit.reached")
    ledger.entry("limit.cleared")
    events = announced_by(ledger)
    view = BlockedView()
    for announced in [*events, events[0], events[0], events[1], events[0]]:
        view.apply(*announced)
    assert view.blocked() == set()


def test_a_blocked_account_is_blocked_for_the_event_that_blocked_it() -> None:
    partition = Partition()
    view = BlockedView()

    def why_after(line: str) -> tuple[str, str | None] | None:
        for message in limit_events(partition.take(line)[-1].entry):
            view.apply(*read_limit_event(message.value), message.value)
        why = view.why_blocked("a")
        return (
            None if why is None else (why.reason, None if why.upgrade is None else why.upgrade.plan)
        )

    assert why_after("2026-01-31T10:00 use chat_action 160") is None
    assert why_after("+1s use chat_action 40") == ("usage", "pro")
    assert why_after("+1s suspend fraud") == ("usage", "pro")
    assert why_after("+1s grant 10") == ("usage", "pro")
    assert why_after("+1s resume") is None
    assert why_after("+1s suspend payment_failed") == ("suspended", None)
    why = view.why_blocked("a")
    assert why is not None and why.suspension_reason == "payment_failed"
    assert view.why_blocked("never heard of") is None


def test_a_view_of_many_blocked_accounts_takes_a_third_of_what_their_events_have() -> None:
    """An app holds all accounts of a ledger that are blocked, and most of those that ever were on
    Free are.
    """
    (*_, limit) = Partition().take(
        "2026-01-31T10:00 use chat_action 200 id=gen_01JQ source=/render"
    )
    value = limit_events(limit.entry)[-1].value
    assert 3 * len(_packed(value)) < len(value)


def test_places_of_different_partitions_are_not_compared() -> None:
    near, far = Ledger(0), Ledger(1)
    near.entry("limit.reached", account="near")
    for _ in range(5):
        far.entry()
    far.entry("limit.reached", account="far")
    view = BlockedView()
    for announced in [*announced_by(far), *announced_by(near)]:
        view.apply(*announced)
    assert view.blocked() == {"near", "far"}


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
    """Flexprice says when it found out.

    Here a use that was spooled for a day reaches the limit: app and support see which, and when.
    """
    partition = Partition()
    partition.take("2026-01-30T10:00 subscribe pro")
    (sealed,) = partition.take("+2d use chat_action 200 id=gen_7 source=/render on=-1d")
    event = parse_limit_event(read_limit_event(limit_events(sealed.entry)[-1].value)[0])
    assert event.kind == "reached" and event.crossed_by is not None
    assert (event.crossed_by.source, event.crossed_by.id) == ("/render", "gen_7")
    assert event.crossed_by.occurred_at == datetime(2026, 1, 31, 10, tzinfo=UTC)
    assert event.appended_at == datetime(2026, 2, 1, 10, tzinfo=UTC)


def test_what_is_null_on_free_is_none() -> None:
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
def test_a_limit_event_that_cannot_be_read_is_named(harm: dict[str, Any]) -> None:
    with pytest.raises(NotALimitEvent, match="3-1042-1"):
        parse_limit_event({**REACHED, "data": {**REACHED["data"], **harm}})


def test_handlers_of_the_kind_are_called_in_their_order() -> None:
    called: list[tuple[str, str]] = []
    handlers = Handlers(no_pause)
    handlers.add("reached", lambda event: called.append(("first", event.id)))
    handlers.add("reached", lambda event: called.append(("second", event.id)))
    handlers.add("cleared", lambda event: called.append(("cleared", event.id)))
    for event in (THRESHOLD, REACHED, CLEARED):
        handlers.hand_over(event)
    assert called == [("first", "3-1042-1"), ("second", "3-1042-1"), ("cleared", "3-1043-0")]


def test_a_kind_that_a_later_release_announces_is_passed_over() -> None:
    handlers, view = Handlers(no_pause), BlockedView()
    for kind in ("threshold", "reached", "cleared"):
        handlers.add(kind, lambda event: pytest.fail(f"called with {event}"))
    later = {**REACHED, "type": "limit.paused"}
    handlers.hand_over(later)
    view.apply(later, LimitAddress(3, 1042, 1, 2), json.dumps(later).encode())
    assert view.blocked() == set()


def test_a_handler_that_fails_is_called_again_and_then_succeeds() -> None:
    attempts: list[str] = []
    pauses: list[float] = []

    def handler(event: LimitEvent) -> None:
        attempts.append(event.id)
        if len(attempts) < 3:
            raise OSError("the session service is away")

    handlers = Handlers(pauses.append)
    handlers.add("reached", handler)
    handlers.hand_over(REACHED)
    assert attempts == ["3-1042-1"] * 3
    assert pauses == list(HANDLER_RETRY.delays_s)


def test_a_handler_that_keeps_failing_surfaces_with_its_event_and_its_error() -> None:
    def stop_session(_event: LimitEvent) -> None:
        raise OSError("the session service is away")

    handlers = Handlers(no_pause)
    handlers.add("reached", stop_session)
    with pytest.raises(
        HandlerFailed, match="stop_session failed 3 times with limit event 3-1042-1"
    ) as raised:
        handlers.hand_over(REACHED)
    assert isinstance(raised.value.__cause__, OSError)
    assert raised.value.event.id == "3-1042-1"


def test_a_subscriber_says_at_once_what_it_cannot_start_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("USAGELEDGER_KAFKA", raising=False)
    with pytest.raises(ValueError, match="USAGELEDGER_KAFKA"):
        LimitSubscriber()
    with pytest.raises(ValueError, match="prefix"):
        LimitSubscriber(kafka="localhost:9", prefix="a b")
    with pytest.raises(ValueError, match="enable_auto_commit"):
        LimitSubscriber(kafka="localhost:9", kafka_options={"enable_auto_commit": True})


def test_who_is_blocked_is_not_answered_before_it_is_known() -> None:
    subscriber = LimitSubscriber(kafka="localhost:9")
    with pytest.raises(RuntimeError, match="wait_ready"):
        subscriber.is_blocked("acct")
    with pytest.raises(RuntimeError, match="wait_ready"):
        subscriber.blocked()
    with pytest.raises(RuntimeError, match="wait_ready"):
        subscriber.why_blocked("acct")


def test_the_same_entry_gives_the_same_bytes() -> None:
    ledger = Ledger()
    ledger.entry("limit.threshold", "limit.reached")
    entry = entry_at(0, ledger.records[0].value)
    assert entry is not None
    assert limit_events(entry.entry) == limit_events(entry.entry)
    assert [json.loads(message.value)["id"] for message in limit_events(entry.entry)] == [
        "0-0-0",
        "0-0-1",
    ]
    assert {message.key for message in limit_events(entry.entry)} == {b"acct"}
