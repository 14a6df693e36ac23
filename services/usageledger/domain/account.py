"""The state of an account: a fold of its ledger entries and of nothing else.

All amounts are micro-credits, and all intervals are half-open.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

import msgspec


class Period(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One instance of the billing cycle, ``[start, end)``. Free's period has no end.

    An account's periods are numbered from 0.
    """

    number: int
    start: datetime
    end: datetime | None
    plan: str
    allotment: int
    used: int = 0
    by_feature: dict[str, int] = {}
    settled: int = 0
    """The micro-credits that it drew for good.

    They come from grants that expired in it and, once it is over, from all grants.
    """
    announced: tuple[tuple[str, int], ...] = ()
    """The thresholds announced in it, each with the ``used + remaining`` that it is a share of."""
    is_free: bool = False
    """Whether its allotment is what was left of Free's once-in-a-life credits."""
    is_first: bool = False
    """Whether it is the first period: use before its start counts in it too."""

    def holds(self, at: datetime) -> bool:
        """Whether a use at that time counts in this period."""
        return (self.is_first or at >= self.start) and (self.end is None or at < self.end)


class Grant(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """An immutable, dated addition of credits, named by the event that made it.

    ``left`` is the part that no ended period has drawn.
    """

    source: str
    id: str
    granted_at: datetime
    credits: int
    left: int
    expires_at: datetime | None = None


class AccountState(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """Everything that the ledger knows about an account."""

    plan: str
    period: Period
    free_left: int
    """What was left of Free's once-in-a-life credits when the account was last on Free."""
    time_zone: str
    previous: Period | None = None
    next_plan: str | None = None
    """The plan that the next renewal brings, if it is another one."""
    anchor: datetime | None = None
    grants: tuple[Grant, ...] = ()
    """In the order in which they are drawn: see `by_expiry`."""
    counted_from: datetime | None = None
    """For an account brought in mid-cycle: use before this moment was counted elsewhere."""
    suspended: str | None = None
    """Why the account is suspended, or None if it is not."""
    thresholds: tuple[Decimal, ...] | None = None
    """The account's own thresholds, if any were set. An empty tuple announces none."""

    @property
    def granted(self) -> int:
        """The micro-credits that grants add to the current period's allotment."""
        return self.period.settled + (
            sum(grant.left for grant in self.grants) if self.grants else 0
        )

    @property
    def remaining(self) -> int:
        """Allotment + usable grants - used. It is negative if use exceeded them."""
        return self.period.allotment + self.granted - self.period.used

    @property
    def is_blocked(self) -> bool:
        """Whether the account is suspended, or nothing remains."""
        return self.suspended is not None or self.remaining <= 0


def left_at_end(period: Period) -> int:
    """The credits left in a period that is over: allotment + settled - used. It can be negative.

    Grants gave it what was settled when it ended. Late uses draw nothing more from them.
    """
    return period.allotment + period.settled - period.used


def drawn_from_grants(state: AccountState) -> list[tuple[Grant, int]]:
    """Each grant with the amount that the current period draws from it, soonest expiry first.

    The allotment is used up before any grant.
    """
    beyond = max(0, state.period.used - state.period.allotment - state.period.settled)
    drawn: list[tuple[Grant, int]] = []
    for grant in state.grants:
        amount = min(beyond, grant.left)
        drawn.append((grant, amount))
        beyond -= amount
    return drawn


def by_expiry(grants: Iterable[Grant]) -> list[Grant]:
    """Sort grants by their expiry, soonest first. Grants that never expire come last.

    Among equals, the older comes first.
    """
    return sorted(
        grants,
        key=lambda grant: (
            grant.expires_at is None,
            grant.expires_at or grant.granted_at,
            grant.granted_at,
        ),
    )


def next_boundary(state: AccountState) -> datetime | None:
    """When the account's period ends or a grant expires, whichever is first.

    None if neither will happen.
    """
    end, expiry = state.period.end, _next_expiry(state)
    return end if expiry is None or (end is not None and end <= expiry) else expiry


def due_at(state: AccountState, *, free_plan: str) -> datetime | None:
    """When the ledger's owner must act on the account without waiting for an input.

    It must act at the account's next boundary if an app may have to be notified then. That is so
    if nothing remains, if a grant expires, or if the account falls back to a Free with nothing
    left. A suspension alone makes no account due, because time does not end it.
    """
    falls_to_nothing = state.next_plan == free_plan and state.free_left <= 0
    is_due = state.remaining <= 0 or falls_to_nothing or _next_expiry(state) is not None
    return next_boundary(state) if is_due else None


def _next_expiry(state: AccountState) -> datetime | None:
    return state.grants[0].expires_at if state.grants else None
