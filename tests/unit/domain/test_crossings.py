"""The limits that an entry crosses, and the figures that a limit event needs."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from tests.notation import SHIPPED, Partition, ledger, play
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.entry import Crossing


@ledger
def test_a_threshold_is_crossed_from_below_it_to_it() -> None:
    """
    2026-01-31T10:00  use chat_action 159
        => account_opened free 200+0-0=200 ; usage 159 200+0-159=41
    +1s               use chat_action 1    => usage 1 200+0-160=40 !80%
    +1s               use chat_action 1    => usage 1 200+0-161=39
    """


@ledger
def test_the_limit_is_reached_once_when_nothing_remains() -> None:
    """
    2026-01-31T10:00  use chat_action 199
        => account_opened free 200+0-0=200 ; usage 199 200+0-199=1 !80%
    +1s               use chat_action 1    => usage 1 200+0-200=0 !reached
    +1s               use chat_action 1    => usage 1 200+0-201=-1
    """


@ledger
def test_a_use_that_costs_nothing_crosses_nothing() -> None:
    """
    2026-01-31T10:00  use chat_action 200
        => account_opened free 200+0-0=200 ; usage 200 200+0-200=0 !80% !reached
    +1s               use genai_sound/mmaudio      => usage 0 200+0-200=0
    +1s               use chat_action 0            => usage 0 200+0-200=0
    """


@ledger
def test_a_threshold_is_announced_once_for_each_size_of_a_periods_credits() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1s               use chat_action 160 id=g  => usage 160 200+0-160=40 !80%
    +1s               void g                    => void -160 200+0-0=200
    +1s               use chat_action 160 id=h  => usage 160 200+0-160=40
    +1s               grant 100                 => grant 200+100-160=140
    +1s               use chat_action 80 id=i   => usage 80 200+100-240=60 !80%
    +1s               void i                    => void -80 200+100-160=140
    +1s               use chat_action 80        => usage 80 200+100-240=60
    2026-02-28T10:00  use chat_action 208
        => renewal pro 200+60-0=260 ; usage 208 200+60-208=52 !80%
    """


@ledger
def test_a_threshold_passed_because_the_periods_credits_change_is_not_crossed() -> None:
    """Only a use crosses it.

    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1s               grant 100 until=2026-02-05T00:00     => grant 200+100-0=300
    +1s               use chat_action 170                  => usage 170 200+100-170=130
    2026-02-05T00:00  wait                                 => grant_expired 200+0-170=30
    +1s               use chat_action 1                    => usage 1 200+0-171=29
    """


@ledger
def test_a_crossing_in_a_period_that_is_over_is_not_announced() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    2026-02-28T11:00  use chat_action 200 on=-2h
        => renewal pro 200+0-0=200 ; usage 200 late 200+0-200=0
    """


@ledger
def test_reached_and_cleared_alternate_however_often() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1s               use chat_action 200 id=g  => usage 200 200+0-200=0 !80% !reached
    +1s               grant 10                  => grant 200+10-200=10 !cleared
    +1s               use chat_action 10        => usage 10 200+10-210=0 !reached
    +1s               void g                    => void -200 200+10-10=200 !cleared
    +1s               use chat_action 200       => usage 200 200+10-210=0 !80% !reached
    +1s               change max                => plan_change max 500+10-210=300 !cleared
    """


def _catalogs(**changes: Any) -> AdoptedCatalogs:
    (catalog,) = SHIPPED
    return AdoptedCatalogs((replace(catalog, **changes),))


def test_an_entry_announces_its_lowest_threshold_first_and_the_limit_last() -> None:
    several = _catalogs(thresholds=(Decimal("0.5"), Decimal("0.8"), Decimal("0.9")))
    play(
        """
        2026-01-31T10:00  use chat_action 500  => account_opened free 200+0-0=200
                                                  ; usage 500 200+0-500=-300 !50% !80% !90% !reached
        """,
        several,
    )


def test_a_threshold_that_a_later_catalog_writes_differently_is_not_repeated() -> None:
    (first,) = _catalogs(thresholds=(Decimal("0.8"),))
    later = replace(first, version="later", thresholds=(Decimal("0.80"),))
    partition = Partition(AdoptedCatalogs((first,)))
    for line in ["2026-01-31T10:00 use chat_action 160 id=g", "+1s void g"]:
        partition.take(line)
    partition.book.catalogs = AdoptedCatalogs((first, later))
    assert partition.take("+1s use chat_action 160")[0].entry.crossings == ()


def _crossing(*lines: str) -> Crossing:
    partition = Partition()
    for line in lines:
        sealed = partition.take(line)
    return sealed[-1].entry.crossings[-1]


def test_a_reached_limit_has_what_an_app_needs_to_act() -> None:
    crossing = _crossing("2026-01-31T10:00 subscribe pro", "+1d use chat_action 200")
    assert (crossing.type, crossing.reason, crossing.action) == ("limit.reached", "usage", "block")
    assert (crossing.plan, crossing.figures.used, crossing.figures.remaining) == (
        "pro",
        200_000_000,
        0,
    )
    assert crossing.period.end == datetime(2026, 2, 28, 10, tzinfo=UTC)
    assert crossing.upgrade is not None
    assert (crossing.upgrade.plan, crossing.upgrade.name, crossing.upgrade.price_cents) == (
        "max",
        "Max",
        2499,
    )


def test_a_threshold_prompts_an_upgrade_and_a_cleared_limit_asks_for_nothing() -> None:
    threshold = _crossing("2026-01-31T10:00 subscribe pro", "+1d use chat_action 160")
    assert (threshold.action, threshold.upgrade and threshold.upgrade.plan) == (
        "prompt_upgrade",
        "max",
    )
    cleared = _crossing("2026-01-31T10:00 subscribe pro", "+1d use chat_action 200", "+1d grant 1")
    assert (cleared.action, cleared.upgrade) == (None, None)


@pytest.mark.parametrize(
    ("lines", "offer"),
    [
        (["subscribe pro", "+1d use chat_action 499"], "max"),
        (["subscribe pro", "+1d use chat_action 500"], "scale"),
        (["subscribe pro", "+1d grant 10", "+1d use chat_action 509"], "max"),
        (["subscribe pro", "+1d grant 10", "+1d use chat_action 510"], "scale"),
        (["subscribe scale_2x", "+1d use chat_action 5599"], "scale_4x"),
        (["subscribe scale_2x", "+1d use chat_action 5600"], None),
        (["subscribe scale_4x", "+1d use chat_action 5600"], None),
        (
            ["use chat_action 9999"],
            "pro",
        ),  # from Free a fresh cycle begins: use on Free stays with Free
    ],
)
def test_the_offer_is_the_lowest_plan_that_clears_the_block(
    lines: list[str], offer: str | None
) -> None:
    crossing = _crossing(f"2026-01-31T10:00 {lines[0]}", *lines[1:])
    assert (crossing.upgrade and crossing.upgrade.plan) == offer


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["use chat_action 200", "+1d subscribe pro"], "plan_changed"),
        (["use chat_action 200", "+1d grant 1"], "granted"),
        (["use chat_action 200 id=g", "+1d void g"], "voided"),
        (["subscribe pro", "+1d use chat_action 200", "2026-02-28T10:00 wait"], "renewed"),
        (
            ["grant 1 until=2026-02-05T00:00", "+1d use chat_action 200", "2026-02-05T00:00 wait"],
            "grant_expired",
        ),
        (["use chat_action 200"], "usage"),
    ],
)
def test_a_crossing_states_its_reason(lines: list[str], reason: str) -> None:
    assert _crossing(f"2026-01-31T10:00 {lines[0]}", *lines[1:]).reason == reason


def test_free_has_no_reset_time() -> None:
    assert _crossing("2026-01-31T10:00 use chat_action 200").period.end is None
