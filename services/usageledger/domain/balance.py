"""What an account has: a projection of its state at a moment, for apps and people.

Never a fact of its own.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from usageledger.domain.account import AccountState
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.catalog import Catalog
from usageledger.domain.credits import format_credits
from usageledger.domain.crossings import thresholds_of
from usageledger.domain.plan_changes import free_from_the_first_event
from usageledger.domain.quantity import format_quantity
from usageledger.domain.renewal import state_at


class BalancePeriod(msgspec.Struct, frozen=True, kw_only=True):
    """The period that the balance is of. Free's has no end."""

    start: datetime | None
    end: datetime | None


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """Credits are decimal strings: ``remaining = allotment + granted - used``."""

    account: str
    known: bool
    plan: str
    next_plan: str | None
    period: BalancePeriod
    allotment: str
    granted: str
    used: str
    remaining: str
    blocked: bool
    suspended: str | None
    """Why, where the account is suspended."""
    thresholds: tuple[str, ...]
    """The shares of what it has whose crossing is announced."""
    by_feature: dict[str, str]


def balance_at(
    account: str, state: AccountState | None, at: datetime, catalogs: AdoptedCatalogs
) -> Balance:
    """The balance at a moment: the state is rolled over in the reader's hands.

    An account that the ledger does not know is on an untouched Free.
    """
    if state is None:
        return _balance(
            account, untouched_free(at, catalogs), catalogs.in_force(at), is_known=False
        )
    return _balance(
        account, state_at(state, account, at, catalogs), catalogs.in_force(at), is_known=True
    )


def untouched_free(at: datetime, catalogs: AdoptedCatalogs) -> AccountState:
    """What an account has that the ledger does not know yet."""
    free = free_from_the_first_event(at, catalogs.in_force(at)).opens
    assert free is not None, "an account's first period is opened"
    return AccountState(plan=free.plan, period=free, free_left=free.allotment, time_zone="UTC")


def _balance(account: str, state: AccountState, catalog: Catalog, *, is_known: bool) -> Balance:
    period = state.period
    return Balance(
        account=account,
        known=is_known,
        plan=state.plan,
        next_plan=state.next_plan,
        period=BalancePeriod(start=period.start if is_known else None, end=period.end),
        allotment=format_credits(period.allotment),
        granted=format_credits(state.granted),
        used=format_credits(period.used),
        remaining=format_credits(state.remaining),
        blocked=state.is_blocked,
        suspended=state.suspended,
        thresholds=tuple(format_quantity(share) for share in thresholds_of(state, catalog)),
        by_feature={
            feature: format_credits(credits)
            for feature, credits in sorted(period.by_feature.items())
        },
    )
