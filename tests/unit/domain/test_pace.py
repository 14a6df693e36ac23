"""Pace and renewal: when there is a forecast, and which figures it has."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.notation import SHIPPED, Partition
from usageledger.domain.account import AccountState, Period
from usageledger.domain.balance import Balance, balance_at
from usageledger.domain.pace import FORECAST_MAX, pace_of, renewal_of

CREDIT = 1_000_000
BEGAN = datetime(2026, 1, 3, 9, tzinfo=UTC)
START = "2026-01-03T09:00"


def account(*lines: str, after: timedelta = timedelta()) -> Balance:
    """The balance of account ``a`` ``after`` its period began."""
    partition = Partition()
    for line in lines:
        partition.take(line)
    return balance_at("a", partition.state(), BEGAN + after, SHIPPED)


def test_a_pace_is_the_periods_use_over_what_has_passed_of_it() -> None:
    pace = pace_of(
        account(f"{START} subscribe max", "+1h use chat_action 100", after=timedelta(days=20))
    )
    assert pace is not None
    assert (pace.days, pace.microcredits_per_day, pace.used_up_at) == (
        Decimal(20),
        5 * CREDIT,
        None,
    )
    assert pace.at_period_end == 500 * CREDIT - 155 * CREDIT


def test_what_is_used_up_before_the_period_ends_has_a_date() -> None:
    pace = pace_of(
        account(f"{START} subscribe pro", "+1h use chat_action 100", after=timedelta(days=10))
    )
    assert pace is not None
    assert pace.used_up_at == BEGAN + timedelta(days=20)
    assert pace.at_period_end == -110 * CREDIT


@pytest.mark.parametrize(
    ("lines", "after"),
    [
        ((f"{START} subscribe max",), timedelta(days=5)),
        (
            (f"{START} subscribe max", "+1m use chat_action"),
            timedelta(hours=1) - timedelta(microseconds=1),
        ),
    ],
)
def test_without_use_and_in_the_first_hour_there_is_no_pace(
    lines: tuple[str, ...], after: timedelta
) -> None:
    assert pace_of(account(*lines, after=after)) is None
    used = (f"{START} subscribe max", "+1m use chat_action")
    assert pace_of(account(*used, after=timedelta(hours=1))) is not None


def test_where_nothing_remains_there_is_no_date_to_come() -> None:
    lines = (f"{START} subscribe pro", "+1h use chat_action 200")
    pace = pace_of(account(*lines, after=timedelta(days=1)))
    assert pace is not None and pace.used_up_at is None


def test_free_is_used_up_some_day_and_has_no_period_end() -> None:
    pace = pace_of(account(f"{START} use chat_action 100", after=timedelta(days=10)))
    assert pace is not None
    assert (pace.used_up_at, pace.at_period_end) == (BEGAN + timedelta(days=20), None)


def test_what_lasts_longer_than_a_forecast_reaches_is_not_used_up() -> None:
    pace = pace_of(account(f"{START} use chat_action", after=timedelta(days=100)))
    assert pace is not None and pace.used_up_at is None


@given(
    used=st.integers(1, 2**53 - 1),
    allotment=st.integers(0, 2**53 - 1),
    passed=st.timedeltas(timedelta(hours=1), timedelta(days=30)),
)
def test_a_forecast_promises_no_more_than_there_is(
    used: int, allotment: int, passed: timedelta
) -> None:
    end = BEGAN + timedelta(days=31)
    period = Period(number=1, start=BEGAN, end=end, plan="max", allotment=allotment, used=used)
    state = AccountState(plan="max", period=period, free_left=0, time_zone="UTC", anchor=BEGAN)
    at = BEGAN + passed
    pace = pace_of(balance_at("a", state, at, SHIPPED))
    assert pace is not None and pace.at_period_end is not None
    passed_us = passed // timedelta(microseconds=1)
    to_come = Decimal(used) * ((end - at) // timedelta(microseconds=1)) / passed_us
    assert pace.at_period_end <= state.remaining - to_come
    assert state.remaining - to_come - pace.at_period_end < 20_001
    assert pace.microcredits_per_day * passed_us >= used * 86_400_000_000
    if pace.used_up_at is not None:
        assert at <= pace.used_up_at < end and pace.used_up_at - at <= FORECAST_MAX
        assert pace.at_period_end < 0


def test_a_renewal_says_what_lapses_and_what_stays() -> None:
    balance = account(
        f"{START} subscribe max", "+1h grant 20", "+1h grant 7 until=+3d", "+1h use chat_action 120"
    )
    renewal = renewal_of(balance)
    assert renewal is not None
    assert (renewal.at, renewal.plan.id, renewal.allotment) == (
        datetime(2026, 2, 3, 9, tzinfo=UTC),
        "max",
        500 * CREDIT,
    )
    assert (renewal.lapses, renewal.granted_left) == (380 * CREDIT, 20 * CREDIT)


def test_a_renewal_draws_from_grants_what_the_allotment_did_not_cover() -> None:
    renewal = renewal_of(
        account(f"{START} subscribe pro", "+1h grant 20", "+1h use chat_action 205")
    )
    assert renewal is not None
    assert (renewal.lapses, renewal.granted_left) == (0, 15 * CREDIT)


def test_a_renewal_brings_the_plan_that_waits_and_the_rest_of_free() -> None:
    lower = renewal_of(account(f"{START} subscribe max", "+1h change pro"))
    assert lower is not None and (lower.plan.id, lower.allotment) == ("pro", 200 * CREDIT)
    cancelled = renewal_of(
        account("2026-01-01T00:00 use chat_action 50", f"{START} subscribe max", "+1h cancel"),
    )
    assert cancelled is not None and (cancelled.plan.id, cancelled.allotment) == (
        "free",
        150 * CREDIT,
    )


def test_free_does_not_renew() -> None:
    assert renewal_of(account(f"{START} use chat_action")) is None
