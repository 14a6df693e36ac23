"""The pace at which an account uses what it has, and what its next renewal brings.

Pure, and without a float. A forecast promises no more than there is. The rate is rounded up and
the rest is rounded down, both to hundredths of a credit.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import ROUND_FLOOR, Decimal
from typing import NamedTuple

from usageledger.domain.balance import Balance
from usageledger.domain.catalog import Plan
from usageledger.domain.renewal import state_at

ELAPSED_MIN = timedelta(hours=1)
"""How much of a period must have passed before its pace says anything."""

FORECAST_MAX = timedelta(days=3_650)
"""How far a forecast reaches: credits that last longer are not said to be used up at all."""

_MICROSECOND = timedelta(microseconds=1)
_DAY = timedelta(days=1)
_HUNDREDTH_CREDIT = 10_000


class Pace(NamedTuple):
    """How fast the period's credits are used."""

    days: Decimal
    """How much of the period has passed, in days with two places, rounded down."""
    microcredits_per_day: int
    used_up_at: datetime | None
    """When nothing will remain at this pace.

    None if something will be left when the period ends, and if nothing remains already.
    """
    at_period_end: int | None
    """The micro-credits that will remain then. Negative if they are not enough. None on Free."""


class Renewal(NamedTuple):
    """The result of the period's end if nothing more is used until then, in micro-credits."""

    at: datetime
    plan: Plan
    allotment: int
    lapses: int
    """The part of the allotment that will not have been used."""
    granted_left: int
    """The rest of the grants after the renewal."""


def pace_of(balance: Balance) -> Pace | None:
    """The pace of the current period over all of it that has passed.

    None if nothing was used, and before `ELAPSED_MIN` of the period has passed.
    """
    period = balance.period
    elapsed = balance.at - period.start
    if period.used <= 0 or elapsed < ELAPSED_MIN:
        return None
    elapsed_us = elapsed // _MICROSECOND
    at_period_end = None
    if period.end is not None:
        to_come = -(-period.used * ((period.end - balance.at) // _MICROSECOND) // elapsed_us)
        at_period_end = (balance.remaining - to_come) // _HUNDREDTH_CREDIT * _HUNDREDTH_CREDIT
    per_day = -(-period.used * (_DAY // _MICROSECOND) // elapsed_us)
    return Pace(
        days=(Decimal(elapsed_us) / (_DAY // _MICROSECOND)).quantize(Decimal("0.01"), ROUND_FLOOR),
        microcredits_per_day=-(-per_day // _HUNDREDTH_CREDIT) * _HUNDREDTH_CREDIT,
        used_up_at=_used_up_at(balance, elapsed_us),
        at_period_end=at_period_end,
    )


def renewal_of(balance: Balance) -> Renewal | None:
    """The result of the account's next renewal, by the catalogs adopted so far.

    None on Free, which does not renew.
    """
    end = balance.resets_at
    if end is None:
        return None
    after = state_at(balance.state, balance.account, end, balance.catalogs)
    return Renewal(
        at=end,
        plan=balance.plan_named(after.plan),
        allotment=after.period.allotment,
        lapses=max(0, balance.allotment - balance.used),
        granted_left=sum(grant.left for grant in after.grants),
    )


def _used_up_at(balance: Balance, elapsed_us: int) -> datetime | None:
    if balance.remaining <= 0:
        return None
    lasts_us = balance.remaining * elapsed_us // balance.used
    if lasts_us > FORECAST_MAX // _MICROSECOND:
        return None
    used_up_at = balance.at + lasts_us * _MICROSECOND
    end = balance.resets_at
    return None if end is not None and used_up_at >= end else used_up_at
