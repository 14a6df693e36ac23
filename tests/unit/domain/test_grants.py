"""Grants are used after the allotment, the soonest to expire first.

The amounts that they gave are settled with the period.
"""

from __future__ import annotations

import pytest

from tests.notation import Partition, ledger, play
from usageledger.domain.bounds import OPEN_GRANTS_MAX
from usageledger.domain.credits import MICROCREDITS_MAX, MICROCREDITS_PER_CREDIT, format_credits


@ledger
def test_a_grant_adds_to_what_remains_and_lasts_until_it_is_used() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1d               grant 100            => grant 200+100-0=300
    +1d               use chat_action 230  => usage 230 200+100-230=70
    2026-02-28T10:00  use chat_action 210  => renewal pro 200+70-0=270 ; usage 210 200+70-210=60
    2026-03-31T10:00  use chat_action 260
        => renewal pro 200+60-0=260 ; usage 260 200+60-260=0 !80% !reached
    2026-04-30T10:00  wait                 => renewal pro 200+0-0=200 !cleared
    """


@ledger
def test_the_first_use_of_a_grant_is_after_the_last_of_the_allotment() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1d               grant 100            => grant 200+100-0=300
    +1d               use chat_action 200  => usage 200 200+100-200=100
    2026-02-28T10:00  use chat_action      => renewal pro 200+100-0=300 ; usage 1 200+100-1=299
    """


@ledger
def test_a_grant_frees_a_blocked_account_and_covers_the_excess_use() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1d               use chat_action 250  => usage 250 200+0-250=-50 !80% !reached
    +1d               grant 50             => grant 200+50-250=0
    +1d               grant 0.000001       => grant 200+50.000001-250=0.000001 !cleared
    2026-02-28T10:00  use chat_action
        => renewal pro 200+0.000001-0=200.000001 ; usage 1 200+0.000001-1=199.000001
    """


@ledger
def test_the_soonest_to_expire_is_drawn_first_and_one_that_never_does_last() -> None:
    """Of 60 used beyond the allotment, the first grant to expire gives 50 and the next one 10.

    The third grant stays whole.

    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1m               grant 1000                           => grant 200+1000-0=1200
    +1m               grant 100 until=2026-06-01T00:00     => grant 200+1100-0=1300
    +1m               grant 50 until=2026-05-01T00:00      => grant 200+1150-0=1350
    +1m               use chat_action 260                  => usage 260 200+1150-260=1090
    2026-02-28T10:00  use chat_action
        => renewal pro 200+1090-0=1290 ; usage 1 200+1090-1=1289
    2026-05-02T00:00  wait
        => renewal pro 200+1090-0=1290 ; renewal pro 200+1090-0=1290
    2026-06-01T00:00  wait
        => renewal pro 200+1090-0=1290 ; grant_expired 200+1000-0=1200
    """


@ledger
def test_a_grant_expires_at_its_moment_and_not_before() -> None:
    """
    2026-01-31T10:00           subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1d                        grant 100 until=2026-02-10T00:00  => grant 200+100-0=300
    2026-02-09T23:59:59.999    use chat_action                   => usage 1 200+100-1=299
    2026-02-10T00:00           use chat_action
        => grant_expired 200+0-1=199 ; usage 1 200+0-2=198
    """


@ledger
def test_the_amount_that_an_expired_grant_gave_stays_with_the_period() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1d               grant 100 until=2026-02-10T00:00  => grant 200+100-0=300
    +1d               use chat_action 230               => usage 230 200+100-230=70
    2026-02-10T00:00  wait                              => grant_expired 200+30-230=0 !reached
    +1d               change max                        => plan_change max 500+30-230=300 !cleared
    2026-02-28T10:00  use chat_action
        => renewal max 500+0-0=500 ; usage 1 500+0-1=499
    """


@ledger
def test_an_ended_period_keeps_the_amounts_it_drew_from_all_grants() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1d               grant 100 until=2026-02-10T00:00  => grant 200+100-0=300
    +1d               grant 100                         => grant 200+200-0=400
    +1d               use chat_action 230               => usage 230 200+200-230=170
    2026-02-10T00:00  use chat_action 20
        => grant_expired 200+130-230=100 ; usage 20 200+130-250=80
    2026-02-28T10:00  use chat_action 5 on=-1s
        => renewal pro 200+80-0=280 ; usage 5 200+80-5=275
    """


@ledger
def test_an_upgrade_gives_drawn_grants_back() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1d               grant 100            => grant 200+100-0=300
    +1d               use chat_action 280  => usage 280 200+100-280=20 !80%
    +1d               change max           => plan_change max 500+100-280=320
    2026-02-28T10:00  use chat_action      => renewal max 500+100-0=600 ; usage 1 500+100-1=599
    """


@ledger
def test_a_grant_that_expires_as_the_period_ends_lapses_with_it() -> None:
    """Its drawn part is settled with the period; the next period never had the rest.

    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1d               grant 100 until=2026-02-28T10:00  => grant 200+100-0=300
    +1d               use chat_action 230 id=g          => usage 230 200+100-230=70
    2026-02-28T10:00  wait                              => renewal pro 200+0-0=200
    +1s               void g                            => void -230 late 200+30-0=230
    """


@ledger
def test_falling_back_to_an_empty_free_as_the_last_grant_expires_is_a_renewal() -> None:
    """
    2026-01-10T00:00  use chat_action 200
        => account_opened free 200+0-0=200 ; usage 200 200+0-200=0 !80% !reached
    2026-01-31T10:00  subscribe pro                     => plan_change pro 200+0-0=200 !cleared
    +1d               grant 100 until=2026-02-28T10:00  => grant 200+100-0=300
    +1d               cancel                            => plan_change pro->free 200+100-0=300
    2026-02-28T10:00  wait                              => renewal free 0+0-0=0 !reached
    """


@ledger
def test_a_grant_that_was_used_up_with_its_period_expires_silently() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1d               grant 100 until=2026-03-10T00:00  => grant 200+100-0=300
    +1d               use chat_action 320               => usage 320 200+100-320=-20 !80% !reached
    2026-02-28T10:00  wait                              => renewal pro 200+0-0=200 !cleared
    2026-03-10T00:00  use chat_action                   => usage 1 200+0-1=199
    """


@ledger
def test_a_grant_serves_every_plan_and_outlives_a_cancellation() -> None:
    """
    2026-01-01T00:00  grant 100            => account_opened free 200+0-0=200 ; grant 200+100-0=300
    +1d               use chat_action 230  => usage 230 200+100-230=70
    +1d               subscribe pro        => plan_change pro 200+70-0=270
    +1d               cancel now           => plan_change free 0+70-0=70
    +1d               use chat_action 70   => usage 70 0+70-70=0 !80% !reached
    """


@ledger
def test_late_usage_in_an_ended_period_draws_nothing_more_from_grants() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1d               grant 100                   => grant 200+100-0=300
    +1d               use chat_action 230         => usage 230 200+100-230=70
    2026-02-28T11:00  use chat_action 20 on=-2h
        => renewal pro 200+70-0=270 ; usage 20 200+70-20=250
    """


@ledger
def test_a_grant_that_has_already_expired_is_refused() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1s               grant 10 until=-1us     => refused grant_already_expired
    +1s               grant 10 until=+0s      => refused grant_already_expired
    +1s               grant 10 until=+1us     => grant 200+10-0=210
    +1ms              use chat_action         => grant_expired 200+0-0=200 ; usage 1 200+0-1=199
    """


@ledger
def test_a_grants_id_used_again_when_it_no_longer_counts_is_another_grant() -> None:
    """Incident: each of the two was settled by what both drew, and both went when one expired.

    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1d               grant 100 id=promo until=2026-06-01T00:00         => grant 200+100-0=300
    2026-03-31T10:00  grant 100 id=promo until=2026-06-20T00:00
        => renewal pro 200+100-0=300 ; renewal pro 200+100-0=300
                                                                           ; grant 200+200-0=400
    +1d               use chat_action 250                               => usage 250 200+200-250=150
    2026-04-30T10:00  use chat_action
        => renewal pro 200+150-0=350 ; usage 1 200+150-1=349
    2026-06-01T00:00  wait
        => renewal pro 200+150-0=350 ; grant_expired 200+100-0=300
    """


@ledger
def test_two_grants_of_one_id_are_settled_one_after_the_other() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1d               grant 100 id=promo           => grant 200+100-0=300
    2026-03-31T10:00  grant 100 id=promo
        => renewal pro 200+100-0=300 ; renewal pro 200+100-0=300 ; grant 200+200-0=400
    +1d               use chat_action 330          => usage 330 200+200-330=70 !80%
    2026-04-30T10:00  use chat_action
        => renewal pro 200+70-0=270 ; usage 1 200+70-1=269
    """


def test_no_more_is_granted_than_the_ledger_counts() -> None:
    """Readers in JavaScript hold numbers as doubles: no figure goes beyond 2**53."""
    most = format_credits(MICROCREDITS_MAX - 200 * MICROCREDITS_PER_CREDIT)
    play(f"""
    2026-01-31T10:00  grant {most}
        => account_opened free 200+0-0=200 ; grant 200+{most}-0={format_credits(MICROCREDITS_MAX)}
    +1s               grant 0.000001  => refused quantity_out_of_range
    """)


@pytest.mark.parametrize("spent", ["100", "300"])
def test_the_state_keeps_no_grant_that_is_used_up(spent: str) -> None:
    partition = Partition()
    for line in [
        "2026-01-31T10:00 subscribe pro",
        "+1d grant 100",
        f"+1d use chat_action {spent}",
        "2026-02-28T10:00 use chat_action",
    ]:
        partition.take(line)
    assert len(partition.state().grants) == (1 if spent == "100" else 0)


def test_an_account_has_at_most_100_open_grants() -> None:
    """Grants are a part of the account's state, which each use reads."""
    partition = Partition()

    def last(line: str) -> tuple[str, str | None]:
        (*_, item) = partition.take(line)
        return item.entry.kind, item.entry.reason

    partition.take("2026-01-31T10:00 subscribe pro")
    partition.take("+1s grant 1 id=first until=+1h")
    for number in range(OPEN_GRANTS_MAX - 1):
        assert last(f"+1s grant 1 id=g{number}") == ("grant", None)
    refused = ("refusal", "too_many_open_grants")
    assert last("+1s grant 9007199254 id=more") == refused
    assert last("+1s grant 1 id=more until=-1s") == ("refusal", "grant_already_expired")
    assert last("+1h grant 1 id=more") == ("grant", None), "the first one has expired"
    assert last("+1s use chat_action 203") == ("usage", None)
    assert last("+1s grant 1 id=another") == refused, "a void could still give them back"
    for number in range(3):
        assert last(f"{'2026-02-28T10:00' if number == 0 else '+1s'} grant 1 id=n{number}") == (
            "grant",
            None,
        ), "three were used up by the period that has ended"
    assert last("+1s grant 1 id=n3") == refused
