"""Changes of plan: opening, subscribing, changing and cancelling.

Each test is the ledger in its docstring.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.notation import Partition, ledger, play


@ledger
def test_an_unknown_account_is_on_free_from_its_first_event() -> None:
    """
    2026-01-10T00:00  use genai_video/veo_3
        => account_opened free 200+0-0=200 ; usage 32 200+0-32=168
    """


@ledger
def test_subscribing_from_free_starts_a_fresh_cycle() -> None:
    """
    2026-01-10T00:00  use genai_video/veo_3 5
        => account_opened free 200+0-0=200 ; usage 160 200+0-160=40 !80%
    2026-01-31T10:00  subscribe pro            => plan_change pro 200+0-0=200
    2026-02-28T09:00  use genai_video/veo_3    => usage 32 200+0-32=168
    2026-02-28T10:00  use genai_video/veo_3    => renewal pro 200+0-0=200 ; usage 32 200+0-32=168
    2026-03-31T10:00  use genai_video/veo_3    => renewal pro 200+0-0=200 ; usage 32 200+0-32=168
    """


@ledger
def test_an_upgrade_raises_the_allotment_at_once_and_keeps_cycle_and_use() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    2026-02-10T00:00  use genai_video/veo_3 7  => usage 224 200+0-224=-24 !80% !reached
    2026-02-10T01:00  change max               => plan_change max 500+0-224=276 !cleared
    2026-02-28T10:00  use chat_action          => renewal max 500+0-0=500 ; usage 1 500+0-1=499
    """


@ledger
def test_a_downgrade_waits_for_the_renewal() -> None:
    """
    2026-01-31T10:00  subscribe max
        => account_opened free 200+0-0=200 ; plan_change max 500+0-0=500
    +1d               change pro       => plan_change max->pro 500+0-0=500
    2026-02-28T09:59  use chat_action  => usage 1 500+0-1=499
    2026-02-28T10:00  use chat_action  => renewal pro 200+0-0=200 ; usage 1 200+0-1=199
    """


@ledger
def test_changing_to_the_present_plan_withdraws_a_waiting_downgrade() -> None:
    """
    2026-01-31T10:00  subscribe max
        => account_opened free 200+0-0=200 ; plan_change max 500+0-0=500
    +1d               change pro       => plan_change max->pro 500+0-0=500
    +1d               change max       => plan_change max 500+0-0=500
    2026-02-28T10:00  use chat_action  => renewal max 500+0-0=500 ; usage 1 500+0-1=499
    """


@ledger
def test_a_cancellation_waits_for_the_renewal_and_restores_the_rest_of_free() -> None:
    """
    2026-01-10T00:00  use genai_video/veo_3 5
        => account_opened free 200+0-0=200 ; usage 160 200+0-160=40 !80%
    2026-01-31T10:00  subscribe pro            => plan_change pro 200+0-0=200
    +1d               cancel                   => plan_change pro->free 200+0-0=200
    2026-02-28T10:00  use chat_action          => renewal free 40+0-0=40 ; usage 1 40+0-1=39
    2027-02-28T10:00  use chat_action          => usage 1 40+0-2=38    # Free has no end
    """


@ledger
def test_a_cancellation_now_takes_effect_when_it_occurred() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +5d               cancel now on=-1h  => plan_change free 200+0-0=200
    +1s               use chat_action on=-1h2s
        => usage 1 late 200+0-1=199    # before the cancellation: the ended period
    +1s               use chat_action on=-1h2s
        => usage 1 200+0-1=199          # the moment of the cancellation: Free
    """


@ledger
def test_falling_back_to_an_empty_free_reaches_the_limit() -> None:
    """
    2026-01-10T00:00  use genai_video/pika 10
        => account_opened free 200+0-0=200 ; usage 200 200+0-200=0 !80% !reached
    2026-01-31T10:00  subscribe pro            => plan_change pro 200+0-0=200 !cleared
    +1d               cancel                   => plan_change pro->free 200+0-0=200
    2026-02-28T10:00  wait                     => renewal free 0+0-0=0 !reached
    """


@ledger
def test_free_comes_once_in_a_life_however_often_an_account_falls_back() -> None:
    """
    2026-01-01T00:00  use chat_action 150
        => account_opened free 200+0-0=200 ; usage 150 200+0-150=50
    +1d               subscribe pro        => plan_change pro 200+0-0=200
    +1d               cancel now           => plan_change free 50+0-0=50
    +1d               use chat_action 30   => usage 30 50+0-30=20
    +1d               subscribe pro        => plan_change pro 200+0-0=200
    +1d               cancel now           => plan_change free 20+0-0=20
    +1d               use chat_action 30   => usage 30 20+0-30=-10 !80% !reached
    +1d               subscribe pro        => plan_change pro 200+0-0=200 !cleared
    +1d               cancel now           => plan_change free 0+0-0=0 !reached
    """


@ledger
def test_late_usage_in_free_is_missing_when_the_account_falls_back() -> None:
    """
    2026-01-01T00:00  use chat_action 150
        => account_opened free 200+0-0=200 ; usage 150 200+0-150=50
    +1d               subscribe pro             => plan_change pro 200+0-0=200
    +1h               use chat_action 40 on=-2h => usage 40 late 200+0-190=10
    +1h               cancel now                => plan_change free 10+0-0=10
    """


@ledger
def test_subscribing_to_a_running_subscription_is_refused() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1d               subscribe max  => refused already_subscribed
    +1d               subscribe pro  => refused already_subscribed
    +1d               change pro     => plan_change pro 200+0-0=200
    """


@ledger
def test_subscribing_withdraws_a_cancellation_without_a_fresh_cycle() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1d               use chat_action 90 => usage 90 200+0-90=110
    +1d               cancel             => plan_change pro->free 200+0-90=110
    +1d               subscribe pro      => plan_change pro 200+0-90=110
    +1d               cancel             => plan_change pro->free 200+0-90=110
    +1d               subscribe max      => plan_change max 500+0-90=410
    +1d               cancel             => plan_change max->free 500+0-90=410
    +1d               subscribe pro      => plan_change max->pro 500+0-90=410
    2026-02-28T10:00  use chat_action    => renewal pro 200+0-0=200 ; usage 1 200+0-1=199
    """


@ledger
def test_a_plan_change_from_free_begins_a_cycle() -> None:
    """
    2026-01-31T10:00  change pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    2026-02-28T10:00  use chat_action  => renewal pro 200+0-0=200 ; usage 1 200+0-1=199
    """


@ledger
def test_free_can_be_changed_to_but_neither_subscribed_to_nor_cancelled() -> None:
    """
    2026-01-31T10:00  subscribe free   => refused plan_has_no_cycle
    +1d               cancel           => refused not_subscribed
    +1d               cancel now       => refused not_subscribed
    +1d               change free
        => account_opened free 200+0-0=200 ; plan_change free 200+0-0=200
    +1d               change pro       => plan_change pro 200+0-0=200
    +1d               change free      => plan_change pro->free 200+0-0=200
    """


@pytest.mark.parametrize("ahead", ["+1us", "+1ms", "+3m", "+5m"])
@pytest.mark.parametrize("event", ["subscribe pro", "change pro"])
def test_a_subscription_dated_ahead_begins_when_appended_and_lasts_a_whole_cycle(
    event: str, ahead: str
) -> None:
    """Incident: its cycle began at the date ahead. The next boundary, and with it a second
    allotment, came within minutes.
    """
    play(f"""
    2026-01-31T10:00  {event} on={ahead}
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +10m              use chat_action     => usage 1 200+0-1=199
    2026-02-28T10:00  use chat_action     => renewal pro 200+0-0=200 ; usage 1 200+0-1=199
    """)


@ledger
def test_an_anchor_ahead_by_no_more_than_a_clock_may_be_is_the_ledgers_time() -> None:
    """
    2026-01-31T10:00  subscribe pro anchor=+5m
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +10m              use chat_action           => usage 1 200+0-1=199
    """


@ledger
def test_a_stated_anchor_gives_the_cycle_its_day() -> None:
    """The first period ends at the first boundary, with the whole allotment.

    2026-01-31T10:00  subscribe pro anchor=2025-11-15T08:00
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    2026-02-15T07:59  use chat_action                        => usage 1 200+0-1=199
    2026-02-15T08:00  use chat_action
        => renewal pro 200+0-0=200 ; usage 1 200+0-1=199
    2026-03-15T08:00  use chat_action
        => renewal pro 200+0-0=200 ; usage 1 200+0-1=199
    """


@ledger
def test_a_cycle_keeps_the_local_time_of_day_of_its_zone() -> None:
    """Berlin's clocks go forward on 29 March 2026: 12:00 there is 11:00 UTC before, 10:00 after.

    2026-03-15T11:00  subscribe pro zone=Europe/Berlin
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    2026-04-15T09:59  use chat_action                   => usage 1 200+0-1=199
    2026-04-15T10:00  use chat_action
        => renewal pro 200+0-0=200 ; usage 1 200+0-1=199
    """


@ledger
def test_a_subscription_reported_after_its_first_cycle_has_ended_is_renewed_with_it() -> None:
    """
    2026-03-05T10:00  subscribe pro on=2026-01-31T10:00
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200 ; renewal pro 200+0-0=200
    """


@ledger
def test_a_plan_or_zone_that_does_not_exist_is_refused_and_opens_no_account() -> None:
    """
    2026-01-31T10:00  subscribe gold            => refused unknown_plan
    +1s               change gold               => refused unknown_plan
    +1s               open gold                 => refused unknown_plan
    +1s               subscribe pro zone=Mars   => refused unknown_time_zone
    +1s               open pro zone=Mars        => refused unknown_time_zone
    +1s               use chat_action
        => account_opened free 200+0-0=200 ; usage 1 200+0-1=199
    """


@ledger
def test_an_account_can_be_brought_in_mid_cycle_with_its_use() -> None:
    """The opening balance counts use before the stated moment. The rest of Free waits for the
    account.

    2026-02-10T00:00  open pro used=150 free_used=120 anchor=2025-12-31T10:00 as_of=2026-02-09T12:00
        => account_opened pro 200+0-150=50
    +1s               use chat_action on=2026-02-09T11:59:59.999999
        => refused counted_before_opening
    +1s               use chat_action on=2026-02-09T12:00            => usage 1 200+0-151=49
    +1s               cancel
        => plan_change pro->free 200+0-151=49
    2026-02-28T10:00  use chat_action
        => renewal free 80+0-0=80 ; usage 1 80+0-1=79
    """


@ledger
def test_an_account_is_brought_in_as_of_the_events_time_unless_stated() -> None:
    """
    2026-02-10T00:00  open pro used=150 anchor=2025-12-31T10:00 on=-2h
        => account_opened pro 200+0-150=50
    +1s               use chat_action on=2026-02-09T22:00               => usage 1 200+0-151=49
    +1s               use chat_action on=2026-02-09T21:59
        => refused counted_before_opening
    """


@ledger
def test_an_account_brought_in_on_free_has_the_rest_of_free() -> None:
    """
    2026-02-10T00:00  open free free_used=120     => account_opened free 200+0-120=80
    +1d               subscribe pro               => plan_change pro 200+0-0=200
    +1d               cancel now                  => plan_change free 80+0-0=80
    """


@ledger
def test_an_account_brought_in_with_nothing_left_is_blocked_at_once() -> None:
    """
    2026-02-10T00:00  open pro used=200  => account_opened pro 200+0-200=0 !reached
    """


@ledger
def test_an_account_brought_in_as_of_an_ended_period_is_renewed_with_it() -> None:
    """
    2026-03-05T00:00  open pro used=200 anchor=2026-01-31T10:00 as_of=2026-02-20T00:00
        => account_opened pro 200+0-200=0 !reached ; renewal pro 200+0-0=200 !cleared
    """


@ledger
def test_only_an_accounts_first_event_can_open_it() -> None:
    """
    2026-02-10T00:00  open pro                => account_opened pro 200+0-0=200
    +1s               open pro                => refused account_already_known
    +1s               open gold zone=Mars
        => refused account_already_known    # the first rule that it breaks
    +1s               use chat_action account=b
        => account_opened free 200+0-0=200 ; usage 1 200+0-1=199
    +1s               open pro account=b      => refused account_already_known
    """


@ledger
def test_a_subscription_that_breaks_several_rules_is_refused_for_the_first() -> None:
    """
    2026-02-10T00:00  subscribe gold zone=Mars  => refused unknown_plan
    +1s               subscribe free zone=Mars  => refused plan_has_no_cycle
    +1s               subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1s               subscribe pro zone=Mars   => refused unknown_time_zone
    +1s               subscribe pro             => refused already_subscribed
    """


def test_a_plan_change_from_free_keeps_the_accounts_zone() -> None:
    partition = Partition()
    partition.take("2026-03-01T00:00 subscribe pro zone=Asia/Tokyo")
    partition.take("+1d cancel now")
    partition.take("+1d change pro")
    assert partition.state().time_zone == "Asia/Tokyo"


def test_the_highest_plan_stays_where_it_is_on_a_change_to_itself() -> None:
    partition = Partition()
    partition.take("2026-03-01T00:00 subscribe scale_4x")
    partition.take("+1d change scale_4x")
    assert (partition.state().plan, partition.state().next_plan) == ("scale_4x", None)
    assert partition.state().period.end == datetime(2026, 4, 1, tzinfo=UTC)
