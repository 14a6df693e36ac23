"""Entries of time alone: renewals, expiries, and the accounts for which the owner does not wait."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.notation import SHIPPED, Partition, ledger, moment
from usageledger.domain.account import due_at, next_boundary
from usageledger.domain.renewal import state_at


@ledger
def test_the_first_input_at_or_after_a_periods_end_writes_its_renewal() -> None:
    """
    2026-01-31T10:00         subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    2026-02-28T09:59:59.999  use chat_action  => usage 1 200+0-1=199
    2026-02-28T10:00         use chat_action  => renewal pro 200+0-0=200 ; usage 1 200+0-1=199
    """


@ledger
def test_every_period_that_has_ended_is_renewed_in_order() -> None:
    """
    2026-01-31T10:00  subscribe max
        => account_opened free 200+0-0=200 ; plan_change max 500+0-0=500
    +1d               change pro       => plan_change max->pro 500+0-0=500
    2026-05-01T00:00  use chat_action
        => renewal pro 200+0-0=200 ; renewal pro 200+0-0=200 ; renewal pro 200+0-0=200
                                          ; usage 1 200+0-1=199
    """


@ledger
def test_unused_allotment_and_excess_use_both_lapse() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1d               use chat_action 290  => usage 290 200+0-290=-90 !80% !reached
    2026-02-28T10:00  wait                 => renewal pro 200+0-0=200 !cleared
    """


@ledger
def test_neither_refusals_nor_duplicates_renew_an_account() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1d               use chat_action id=g                        => usage 1 200+0-1=199
    2026-02-28T10:00  use chat_action id=g on=2026-02-01T10:00    => duplicate
    +1s               use nothing                                 => refused unknown_feature
    +1s               use chat_action
        => renewal pro 200+0-0=200 ; usage 1 200+0-1=199
    """


@ledger
def test_the_owner_acts_at_once_for_a_blocked_account_and_waits_with_others() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1s               subscribe pro account=b
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1s               use chat_action 200            => usage 200 200+0-200=0 !80% !reached
    +1s               use chat_action 199 account=b  => usage 199 200+0-199=1 !80%
    2026-03-01T00:00  wait                           => renewal pro 200+0-0=200 !cleared
    """


def _after(*lines: str) -> Partition:
    partition = Partition()
    for line in lines:
        partition.take(line)
    return partition


@pytest.mark.parametrize(
    ("lines", "due"),
    [
        (["use chat_action 300"], None),
        (["subscribe pro", "+1s use chat_action 199"], None),
        (["subscribe pro", "+1s use chat_action 200"], "2026-02-28T10:00"),
        (["subscribe pro", "+1s grant 10"], None),
        (["subscribe pro", "+1s grant 10 until=2026-02-10T00:00"], "2026-02-10T00:00"),
        (["subscribe pro", "+1s grant 10 until=2026-05-10T00:00"], "2026-02-28T10:00"),
        (["use chat_action 199", "+1s subscribe pro", "+1s cancel"], None),
        (["use chat_action 200", "+1s subscribe pro", "+1s cancel"], "2026-02-28T10:00:01"),
        (["use chat_action 200", "+1s subscribe pro", "+1s cancel", "+1s change pro"], None),
        (
            [
                "use chat_action 199",
                "+1s subscribe pro",
                "+1s cancel",
                "+1s use chat_action on=-3s",
            ],
            "2026-02-28T10:00:01",
        ),
        (["subscribe pro", "+1s use chat_action 200", "+1s change max"], None),
    ],
)
def test_an_account_is_due_if_an_app_has_to_be_notified(lines: list[str], due: str | None) -> None:
    """Blocked, with a grant that expires, or falling back to a Free with nothing left."""
    partition = _after(f"2026-01-31T10:00 {lines[0]}", *lines[1:])
    expected = None if due is None else moment(due, partition.now)
    assert due_at(partition.state(), free_plan="free") == expected
    assert partition.book.due.get("a") == expected


@pytest.mark.parametrize(
    ("at", "plan", "used"),
    [("2026-02-28T09:59:59.999999", "max", 7), ("2026-02-28T10:00", "pro", 0)],
)
def test_a_reader_rolls_the_state_forward_without_changing_it(
    at: str, plan: str, used: int
) -> None:
    partition = _after("2026-01-31T10:00 subscribe max", "+1d change pro", "+1d use chat_action 7")
    stored = partition.state()
    shown = state_at(stored, "a", moment(at, partition.now), SHIPPED)
    assert (shown.plan, shown.period.used) == (plan, used * 1_000_000)
    assert partition.state() == stored


def test_a_readers_state_is_the_one_that_the_next_entry_finds() -> None:
    partition = _after(
        "2026-01-31T10:00 subscribe pro",
        "+1d grant 50 until=2026-03-15T00:00",
        "+1d use chat_action 230",
    )
    shown = state_at(partition.state(), "a", datetime(2026, 4, 10, tzinfo=UTC), SHIPPED)
    partition.take("2026-04-10T00:00 use chat_action 0")
    assert partition.state().period.number == shown.period.number
    assert (partition.state().remaining, partition.state().grants) == (
        shown.remaining,
        shown.grants,
    )


def test_a_renewal_names_account_and_period() -> None:
    partition = _after("2026-01-31T10:00 subscribe pro")
    renewal = partition.take("2026-02-28T10:00 use chat_action")[0].entry
    assert renewal.event is not None
    assert (renewal.event.source, renewal.event.id) == ("/usageledger", "renewal/a/2")
    assert renewal.event.occurred_at == datetime(2026, 2, 28, 10, tzinfo=UTC)


def test_free_has_no_next_boundary() -> None:
    assert next_boundary(_after("2026-01-31T10:00 use chat_action 300").state()) is None
