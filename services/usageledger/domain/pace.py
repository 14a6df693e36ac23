"""How fast an account uses what it has, what that comes to, and what its next renewal brings.

Pure, and without a float.

A forecast promises no more than there is: the rate is rounded up and what is left is rounded down,
both to hundredths of a credit.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import ROUND_FLOOR, Decimal
from typing import NamedTuple

from usageledger.domain.account import AccountState
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.renewal import state_at

ELAPSED_MIN = timedelta(hours=1)
"""Before so much of a period has passed, a pace says nothing."""

FORECAST_MAX = timedelta(days=3_650)
"""What lasts longer is not used up, for all that can be said."""

_MICROSECOND = timedelta(microseconds=1)
_DAY = timedelta(days=1)
_HUNDREDTH_CREDIT = 10_000


class Pace(NamedTuple):
    """Over ``days`` of the period, ``microcredits_per_day`` were used.

    ``used_up_at``: when nothing will remain at this pace.

    That is None where something is left when the period ends, and where nothing remains now.
    ``at_period_end``: what will remain then, in micro-credits, negative where it will not be
    enough; None on Free, which has no end.
    """

    days: Decimal
    microcredits_per_day: int
    used_up_at: datetime | None
    at_period_end: int | None


class Renewal(NamedTuple):
    """What the end of the period brings if nothing more is used until then, in micro-credits.

    ``lapses``: what of the allotment will not have been used. ``granted_left``: what grants have
    left after it.
    """

    at: datetime
    plan: str
    allotment: int
    lapses: int
    granted_left: int


def pace_of(state: AccountState, at: datetime) -> Pace | None:
    """The pace of the current period, over all of it that has passed.

    None without use, and at its very beginning.
    """
    period = state.period
    elapsed = at - period.start
    if period.used <= 0 or elapsed < ELAPSED_MIN:
        return None
    elapsed_us = elapsed // _MICROSECOND
    at_end = None
    if period.end is not None:
        to_come = -(-period.used * ((period.end - at) // _MICROSECOND) // elapsed_us)
        at_end = (state.remaining - to_come) // _HUNDREDTH_CREDIT * _HUNDREDTH_CREDIT
    a_day = -(-period.used * (_DAY // _MICROSECOND) // elapsed_us)
    return Pace(
        days=(Decimal(elapsed_us) / (_DAY // _MICROSECOND)).quantize(Decimal("0.01"), ROUND_FLOOR),
        microcredits_per_day=-(-a_day // _HUNDREDTH_CREDIT) * _HUNDREDTH_CREDIT,
        used_up_at=_used_up_at(state, at, elapsed_us),
        at_period_end=at_end,
    )


def renewal_of(state: AccountState, account: str, catalogs: AdoptedCatalogs) -> Renewal | None:
    """What the account's next renewal brings, by the catalogs adopted so far.

    None on Free, which does not renew.
    """
    end = state.period.end
    if end is None:
        return None
    after = state_at(state, account, end, catalogs)
    return Renewal(
        at=end,
        plan=after.plan,
        allotment=after.period.allotment,
        lapses=max(0, state.period.allotment - state.period.used),
        granted_left=sum(grant.left for grant in after.grants),
    )


def _used_up_at(state: AccountState, at: datetime, elapsed_us: int) -> datetime | None:
    if state.remaining <= 0:
        return None
    lasts_us = state.remaining * elapsed_us // state.period.used
    if lasts_us > FORECAST_MAX // _MICROSECOND:
        return None
    used_up_at = at + lasts_us * _MICROSECOND
    end = state.period.end
    return None if end is not None and used_up_at >= end else used_up_at
