"""The accounts that a view of limit events calls blocked, and why."""

from __future__ import annotations

from typing import Any

from tests.notation import Partition
from tests.worlds.limits_world import Ledger
from usageledger.domain.chain import entry_at
from usageledger.ledger.limit_address import LimitAddress, read_limit_event
from usageledger.ledger.limit_events import limit_events
from usageledger.sdk.limits.blocked_view import BlockedView, _compress


def announced_by(ledger: Ledger) -> list[tuple[dict[str, Any], LimitAddress, bytes]]:
    """Return the arguments of `BlockedView.apply` for each limit event of a ledger."""
    sealed = [entry_at(record.offset, record.value) for record in ledger.records]
    messages = [message for one in sealed if one is not None for message in limit_events(one.entry)]
    return [(*read_limit_event(message.value), message.value) for message in messages]


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


def test_a_blocked_account_keeps_the_event_that_blocked_it() -> None:
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


def test_a_blocking_event_is_kept_in_less_than_a_third_of_its_bytes() -> None:
    """An app holds every blocked account of a ledger, and most accounts that were ever on Free are
    blocked.
    """
    (*_, limit) = Partition().take(
        "2026-01-31T10:00 use chat_action 200 id=gen_01JQ source=/render"
    )
    value = limit_events(limit.entry)[-1].value
    assert 3 * len(_compress(value)) < len(value)


def test_addresses_of_different_partitions_are_not_compared() -> None:
    near, far = Ledger(0), Ledger(1)
    near.entry("limit.reached", account="near")
    for _ in range(5):
        far.entry()
    far.entry("limit.reached", account="far")
    view = BlockedView()
    for announced in [*announced_by(far), *announced_by(near)]:
        view.apply(*announced)
    assert view.blocked() == {"near", "far"}
