"""The state of an account: a fold of its ledger entries and of nothing else.

All amounts are micro-credits, all intervals half-open.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

import msgspec


class Period(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One instance of the billing cycle: ``[start, end)``; Free's has no end. An account's periods
    are numbered from 0.
    """

    number: int
    start: datetime
    end: datetime | None
    plan: str
    allotment: int
    used: int = 0
    by_feature: dict[str, int] = {}
    settled: int = 0
    """What was drawn for good from grants that have expired in it, and, once it is over, from all
    grants.
    """
    announced: tuple[tuple[str, int], ...] = ()
    """Thresholds announced in it: (share, the ``used + remaining`` it was a share of)."""
    is_free: bool = False
    """Its allotment is what was left of Free's once-in-a-life credits."""
    is_first: bool = False
    """The account's first period also takes what occurred before it: there is no other for it."""

    def holds(self, at: datetime) -> bool:
        """Whether a use at that time counts in this period."""
        return (self.is_first or at >= self.start) and (self.end is None or at < self.end)


class Grant(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """An immutable, dated addition of credits, named by the event that brought it.

    ``left`` is what no ended period has drawn.
    """

    source: str
    id: str
    granted_at: datetime
    credits: int
    left: int
    expires_at: datetime | None = None


class AccountState(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What the ledger knows of an account."""

    plan: str
    period: Period
    free_left: int
    """What is left of Free's once-in-a-life credits, as of the last time that the account was on
    Free.
    """
    time_zone: str
    previous: Period | None = None
    next_plan: str | None = None
    """The plan that the next renewal brings, where it is another one."""
    anchor: datetime | None = None
    grants: tuple[Grant, ...] = ()
    """In the order in which they are drawn: see `by_expiry`."""
    counted_from: datetime | None = None
    """For an account brought in mid-cycle: what occurred before this was counted elsewhere."""
    suspended: str | None = None
    """Why it is suspended, where it is."""
    thresholds: tuple[Decimal, ...] | None = None
    """Its own, where it has been given some; an empty tuple announces none."""

    @property
    def granted(self) -> int:
        """What grants add to the current period's allotment."""
        return self.period.settled + (
            sum(grant.left for grant in self.grants) if self.grants else 0
        )

    @property
    def remaining(self) -> int:
        """Allotment + usable grants - used; negative where more was used than there was."""
        return self.period.allotment + self.granted - self.period.used

    @property
    def is_blocked(self) -> bool:
        """Whether it is suspended, or nothing remains."""
        return self.suspended is not None or self.remaining <= 0


def drawn_from_grants(state: AccountState) -> list[tuple[Grant, int]]:
    """What the current period draws from each grant, the soonest to expire first: the allotment is
    used up before any grant.
    """
    beyond = max(0, state.period.used - state.period.allotment - state.period.settled)
    drawn: list[tuple[Grant, int]] = []
    for grant in state.grants:
        amount = min(beyond, grant.left)
        drawn.append((grant, amount))
        beyond -= amount
    return drawn


def by_expiry(grants: Iterable[Grant]) -> list[Grant]:
    """The soonest to expire first; those that never do, last; among equals, the older first."""
    return sorted(
        grants,
        key=lambda grant: (
            grant.expires_at is None,
            grant.expires_at or grant.granted_at,
            grant.granted_at,
        ),
    )


def next_boundary(state: AccountState) -> datetime | None:
    """When the account next changes by itself: its period ends or a grant expires; None where
    neither will.
    """
    end, expiry = state.period.end, _next_expiry(state)
    return end if expiry is None or (end is not None and end <= expiry) else expiry


def due_at(state: AccountState, *, free_plan: str) -> datetime | None:
    """When the ledger's owner must act on the account without waiting for an input: where an app
    has to be told.

    That is the next boundary of an account to which nothing remains, that has a grant which
    expires, or that falls back to a Free with nothing left. Time alone does not free one that is
    suspended.
    """
    falls_to_nothing = state.next_plan == free_plan and state.free_left <= 0
    is_due = state.remaining <= 0 or falls_to_nothing or _next_expiry(state) is not None
    return next_boundary(state) if is_due else None


def _next_expiry(state: AccountState) -> datetime | None:
    return state.grants[0].expires_at if state.grants else None
