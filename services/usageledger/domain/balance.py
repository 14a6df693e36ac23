"""The balance of an account at a moment: the one projection behind every answer about it.

A balance is never a fact of its own: it follows from the account's state, its open holds and the
adopted catalogs. All amounts are integers in micro-credits; whoever shows them formats them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from typing import Literal, NamedTuple

import msgspec

from usageledger.domain.account import AccountState, Grant, Period, drawn_from_grants, next_boundary
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.catalog import Catalog, Plan
from usageledger.domain.crossings import thresholds_of, upgrade_for
from usageledger.domain.entry import UpgradeOffer
from usageledger.domain.plan_changes import free_from_the_first_event
from usageledger.domain.renewal import plan_at, state_at

BlockReason = Literal["suspended", "usage"]


class GrantBalance(NamedTuple):
    """A grant, and what the current period has left of it."""

    grant: Grant
    left: int


class Balance(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """An account at a moment: its state rolled to ``at``, and the figures that follow from it.

    ``remaining = allotment + granted - used`` and ``available = remaining - held``. Make one with
    `balance_at`. It is a msgspec dict struct so that the derived values are computed at most once.
    """

    account: str
    at: datetime
    is_known: bool
    """Whether the ledger knows the account; one that it does not know is on an untouched Free."""
    state: AccountState
    """The account's state at ``at``: every renewal and expiry up to then has been applied."""
    catalogs: AdoptedCatalogs
    held: int = 0
    """What its open holds have reserved. Holds are of the present: at any other time it is 0."""
    open_holds: int = 0

    @cached_property
    def catalog(self) -> Catalog:
        """The catalog in force at ``at``."""
        return self.catalogs.in_force(self.at)

    @property
    def plan(self) -> Plan:
        """The account's plan."""
        return self.plan_named(self.state.plan)

    @property
    def next_plan(self) -> Plan | None:
        """The plan that the next renewal brings, if it is another one."""
        return None if self.state.next_plan is None else self.plan_named(self.state.next_plan)

    @property
    def period(self) -> Period:
        """The current period. Free's has no end."""
        return self.state.period

    @property
    def resets_at(self) -> datetime | None:
        """When the period ends; None on Free."""
        return self.state.period.end

    @property
    def changes_at(self) -> datetime | None:
        """When the figures next change by time alone; None if they do not."""
        return next_boundary(self.state)

    @property
    def allotment(self) -> int:
        """The plan's credits for the period."""
        return self.state.period.allotment

    @property
    def granted(self) -> int:
        """The credits that grants add to the allotment."""
        return self.state.granted

    @property
    def used(self) -> int:
        """The credits used in the period."""
        return self.state.period.used

    @property
    def remaining(self) -> int:
        """The credits that are left. Negative if use exceeded them."""
        return self.state.remaining

    @property
    def available(self) -> int:
        """The credits left beside the open holds. Negative if holds and use exceed them."""
        return self.remaining - self.held

    @property
    def share_used(self) -> Fraction:
        """``used / (used + remaining)``, exactly; 1 if there is nothing to use.

        It is 1 or more exactly if nothing remains.
        """
        whole = self.used + self.remaining
        return Fraction(1) if whole <= 0 else Fraction(self.used, whole)

    @property
    def by_feature(self) -> Mapping[str, int]:
        """The credits used in the period by feature, in the order of their names."""
        return dict(sorted(self.state.period.by_feature.items()))

    @property
    def is_blocked(self) -> bool:
        """Whether the account is suspended, or nothing remains."""
        return self.state.is_blocked

    @property
    def block_reason(self) -> BlockReason | None:
        """Why the account is blocked; None if it is not. A suspension is named first."""
        if self.state.suspended is not None:
            return "suspended"
        return "usage" if self.state.is_blocked else None

    @property
    def suspended(self) -> str | None:
        """Why the account is suspended; None if it is not."""
        return self.state.suspended

    @cached_property
    def upgrade(self) -> UpgradeOffer | None:
        """The lowest plan above the account's under which something would remain.

        None if no plan would help, as while the account is suspended.
        """
        return self.upgrade_for(1)

    def upgrade_for(self, needed: int) -> UpgradeOffer | None:
        """The lowest plan above the account's under which ``needed`` would remain; None if none."""
        return upgrade_for(self.state, self.catalog, needed=needed)

    @property
    def thresholds(self) -> tuple[Decimal, ...]:
        """The shares of what the account has whose crossing is announced."""
        return thresholds_of(self.state, self.catalog)

    @property
    def grants(self) -> tuple[GrantBalance, ...]:
        """The grants that can still be drawn from, in the order in which they are drawn."""
        return tuple(
            GrantBalance(grant, grant.left - drawn)
            for grant, drawn in drawn_from_grants(self.state)
        )

    def plan_named(self, plan_id: str) -> Plan:
        """A plan that the account has or will have, as the catalog in force has it.

        If that version has dropped the plan: as the last adopted version that has it.
        """
        plan = plan_at(self.catalogs, plan_id, self.at)
        assert plan is not None, "a plan was adopted before any account could have it"
        return plan


def balance_at(
    account: str,
    state: AccountState | None,
    at: datetime,
    catalogs: AdoptedCatalogs,
    *,
    held: int = 0,
    open_holds: int = 0,
) -> Balance:
    """An account's balance at a moment that is not before the last entry in its ``state``.

    ``state`` is as stored, None for an account that the ledger does not know. ``held`` is what its
    open holds have reserved, ``open_holds`` their number.
    """
    return Balance(
        account=account,
        at=at,
        is_known=state is not None,
        state=_untouched_free(at, catalogs)
        if state is None
        else state_at(state, account, at, catalogs),
        catalogs=catalogs,
        held=held,
        open_holds=open_holds,
    )


def _untouched_free(at: datetime, catalogs: AdoptedCatalogs) -> AccountState:
    """The state of an account that the ledger does not know yet."""
    free = free_from_the_first_event(at, catalogs.in_force(at)).opens
    assert free is not None, "an account's first period is opened"
    return AccountState(plan=free.plan, period=free, free_left=free.allotment, time_zone="UTC")
