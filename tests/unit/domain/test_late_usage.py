"""In which period a late use counts: the ended one only if it had the credits for all of it."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from tests.notation import ledger, play
from usageledger.domain.events import UsageRecorded


@pytest.mark.parametrize(
    ("used", "decision"),
    [
        ("198.999999", "usage 1 late 200+0-199.999999=0.000001"),
        ("199", "usage 1 late 200+0-200=0"),
        ("199.000001", "usage 1 200+0-1=199"),
        ("200", "usage 1 200+0-1=199"),
        ("201", "usage 1 200+0-1=199"),
    ],
)
def test_a_late_use_needs_all_its_credits_left_in_the_ended_period(
    used: str, decision: str
) -> None:
    """With one micro-credit less than the use costs, all of it counts in the current period."""
    blocked = " !reached" if Decimal(used) >= 200 else ""
    cleared = " !cleared" if blocked else ""
    remaining = f"{(200 - Decimal(used)).normalize():f}"
    play(f"""
        2026-02-01T00:00  open pro used={used}
            => account_opened pro 200+0-{used}={remaining}{blocked}
        2026-03-01T01:00  use chat_action on=-2h
            => renewal pro 200+0-0=200{cleared} ; {decision}
    """)


@pytest.mark.parametrize(
    ("credits", "decision"),
    [("0.000001", "usage 1 late 200+0-200=0"), ("100", "usage 1 late 200+0-200=0")],
)
def test_a_grant_that_was_not_drawn_changes_nothing_in_the_ended_period(
    credits: str, decision: str
) -> None:
    amount = Decimal(credits)
    play(f"""
        2026-02-01T00:00  open pro used=199  => account_opened pro 200+0-199=1
        +1s               grant {credits}    => grant 200+{credits}-199={1 + amount}
        2026-03-01T01:00  use chat_action on=-2h
            => renewal pro 200+{credits}-0={200 + amount} ; {decision}
    """)


@ledger
def test_the_rest_of_a_grant_belongs_to_the_current_period() -> None:
    """A grant paid for what the ended period had used, and leaves it no credits.

    2026-02-01T00:00  open pro used=229.999999
        => account_opened pro 200+0-229.999999=-29.999999 !reached
    +1s               grant 100  => grant 200+100-229.999999=70.000001 !cleared
    2026-03-01T01:00  use chat_action on=-2h
        => renewal pro 200+70.000001-0=270.000001 ; usage 1 200+70.000001-1=269.000001
    """


@ledger
def test_a_late_use_beyond_the_ended_period_can_reach_the_limit_of_the_current_one() -> None:
    """Backdating a use gets round no limit.

    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1d               use chat_action 200        => usage 200 200+0-200=0 !80% !reached
    2026-02-28T11:00  use chat_action 150 on=-2h
        => renewal pro 200+0-0=200 !cleared ; usage 150 200+0-150=50
    +1h               use chat_action 50 on=-3h  => usage 50 200+0-200=0 !80% !reached
    +1h               use chat_action 1 on=-4h   => usage 1 200+0-201=-1
    """


@ledger
def test_a_late_use_is_never_divided_between_two_periods() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1d               use chat_action 190       => usage 190 200+0-190=10 !80%
    2026-02-28T11:00  use chat_action 11 on=-2h => renewal pro 200+0-0=200 ; usage 11 200+0-11=189
    +1s               use chat_action 10 on=-2h => usage 10 late 200+0-200=0
    +1s               use chat_action 1 on=-2h  => usage 1 200+0-12=188
    """


@ledger
def test_a_late_use_is_refused_72_hours_after_the_end_whatever_was_left() -> None:
    """
    2026-01-31T10:00         subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1d                      use chat_action 200  => usage 200 200+0-200=0 !80% !reached
    2026-03-03T09:59:59.999  use chat_action on=2026-02-28T09:59
        => renewal pro 200+0-0=200 !cleared ; usage 1 200+0-1=199
    2026-03-03T10:00         use chat_action on=2026-02-28T09:59  => refused period_closed
    """


@ledger
def test_a_void_leaves_its_credits_to_the_ended_period() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1d               use chat_action 200 id=g  => usage 200 200+0-200=0 !80% !reached
    2026-02-28T11:00  use chat_action 5 on=-2h
        => renewal pro 200+0-0=200 !cleared ; usage 5 200+0-5=195
    +1s               void g                    => void -200 late 200+0-0=200
    +1s               use chat_action 5 on=-2h  => usage 5 late 200+0-5=195
    """


@ledger
def test_a_void_of_a_late_use_gives_back_to_the_period_that_was_charged() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1d               use chat_action 200            => usage 200 200+0-200=0 !80% !reached
    2026-02-28T11:00  use chat_action 5 on=-2h id=g
        => renewal pro 200+0-0=200 !cleared ; usage 5 200+0-5=195
    2026-03-04T00:00  void g                         => void -5 200+0-0=200
    """


@ledger
def test_an_ended_period_has_the_allotment_of_the_plan_that_it_ended_on() -> None:
    """A downgrade takes effect at the renewal: the ended period keeps what was paid for it.

    2026-01-31T10:00  subscribe max
        => account_opened free 200+0-0=200 ; plan_change max 500+0-0=500
    +1d               use chat_action 300         => usage 300 500+0-300=200
    +1d               change pro                  => plan_change max->pro 500+0-300=200
    2026-02-28T11:00  use chat_action 200 on=-2h
        => renewal pro 200+0-0=200 ; usage 200 late 500+0-500=0
    +1s               use chat_action on=-2h      => usage 1 200+0-1=199
    """


@ledger
def test_an_upgrade_after_a_renewal_leaves_the_ended_period_no_more() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1d               use chat_action 200       => usage 200 200+0-200=0 !80% !reached
    2026-02-28T11:00  change max on=-2h
        => renewal pro 200+0-0=200 !cleared ; plan_change max 500+0-0=500
    +1s               use chat_action 9 on=-2h  => usage 9 500+0-9=491
    """


@ledger
def test_a_late_use_beyond_the_rest_of_an_ended_free_takes_nothing_from_it() -> None:
    """
    2026-01-01T00:00  use chat_action 150
        => account_opened free 200+0-0=200 ; usage 150 200+0-150=50
    +1d               subscribe pro              => plan_change pro 200+0-0=200
    +1h               use chat_action 51 on=-2h  => usage 51 200+0-51=149
    +1h               cancel now                 => plan_change free 50+0-0=50
    """


@ledger
def test_a_late_use_that_costs_nothing_counts_where_it_occurred() -> None:
    """It needs no credits, so it counts even in an ended period that is over its limit.

    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1d               use chat_action 210         => usage 210 200+0-210=-10 !80% !reached
    2026-02-28T11:00  use chat_action 0 on=-2h
        => renewal pro 200+0-0=200 !cleared ; usage 0 late 200+0-210=-10
    """


@ledger
def test_a_late_use_that_was_voided_before_counts_where_it_occurred() -> None:
    """It costs nothing, whatever its rate.

    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1d               use chat_action 200            => usage 200 200+0-200=0 !80% !reached
    2026-02-28T11:00  void g  => renewal pro 200+0-0=200 !cleared ; void awaits
    +1s               use chat_action 9 on=-2h id=g  => usage 0 late voided 200+0-200=0
    """


def test_a_late_use_settles_its_hold_in_whichever_period_it_counts() -> None:
    """The hold is of the account, not of a period."""
    partition = play("""
        2026-01-31T10:00  subscribe pro
            => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
        +1d               use chat_action 200  => usage 200 200+0-200=0 !80% !reached
        2026-02-28T11:00  wait                 => renewal pro 200+0-0=200 !cleared
    """)
    use = UsageRecorded(
        account="a",
        source="/test",
        id="g",
        occurred_at=datetime(2026, 2, 28, 9, tzinfo=UTC),
        feature="chat_action",
        quantity=Decimal(3),
        hold_id="h",
    )
    (sealed,) = partition.decide(use)
    assert (sealed.entry.hold_id, sealed.entry.credits) == ("h", 3_000_000)
    assert sealed.entry.period is not None and sealed.entry.period.number == 2
