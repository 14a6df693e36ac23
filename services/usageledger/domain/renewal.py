"""Rolling an account forward: the renewals and expiries that time alone brings."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import cast

from usageledger.domain.account import AccountState, Period, drawn_from_grants, next_boundary
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.catalog import Plan
from usageledger.domain.cycle import boundary_after
from usageledger.domain.entry import EventReference, GrantChange, LedgerEntry, PlanChange
from usageledger.domain.evolve import evolve

LEDGER_SOURCE = "/usageledger"
"""The source of entries that the ledger makes by itself."""


def roll(
    state: AccountState, account: str, until: datetime, catalogs: AdoptedCatalogs
) -> Iterator[tuple[LedgerEntry, AccountState]]:
    """Yield a draft entry for each renewal and expiry up to ``until``, and the state after it.

    They are in order, and ``until`` itself is included. If a period ends as a grant expires, the
    renewal is both: what the period drew is settled, and the rest of the grant lapses.
    """
    boundary = next_boundary(state)
    while boundary is not None and boundary <= until:
        entry = (
            _renewal_entry(state, account, until, catalogs)
            if boundary == state.period.end
            else _expiry_entry(state, account, boundary, until)
        )
        state = cast(AccountState, evolve(state, entry))
        yield entry, state
        boundary = next_boundary(state)


def state_at(
    state: AccountState, account: str, at: datetime, catalogs: AdoptedCatalogs
) -> AccountState:
    """The state at that time, which readers show: a stored state may not have been rolled yet."""
    rolled = state
    for _, rolled in roll(state, account, at, catalogs):  # noqa: B007  # the last one is wanted
        pass
    return rolled


def plan_at(catalogs: AdoptedCatalogs, plan_id: str, at: datetime) -> Plan | None:
    """The plan as the version in force at that time has it.

    If that version has dropped it, the last adopted version that has it counts.
    """
    plan = catalogs.in_force(at).plan(plan_id)
    if plan is not None:
        return plan
    known = [catalog.plan(plan_id) for catalog in catalogs]
    return next((plan for plan in reversed(known) if plan is not None), None)


def next_period(
    state: AccountState | None,
    plan: Plan,
    start: datetime,
    time_zone: str,
    anchor: datetime | None,
    free_left: int,
) -> Period:
    """The period of ``plan`` that begins at ``start``.

    Free's has no end. Any other ends at the next boundary of its cycle.
    """
    number = 0 if state is None else state.period.number + 1
    if not plan.renews:
        return Period(
            number=number, start=start, end=None, plan=plan.id, allotment=free_left, is_free=True
        )
    end = boundary_after(anchor or start, time_zone, start)
    return Period(number=number, start=start, end=end, plan=plan.id, allotment=plan.allotment)


def settlement(state: AccountState) -> tuple[tuple[str, str, int], ...]:
    """The amounts that the current period draws from grants if it ends now.

    Each is ``(source, id, micro-credits)``.
    """
    return tuple(
        (grant.source, grant.id, amount) for grant, amount in drawn_from_grants(state) if amount > 0
    )


def free_left_after(state: AccountState) -> int:
    """The micro-credits that are left of Free's if the current period ends now."""
    return (
        max(0, state.period.allotment - state.period.used)
        if state.period.is_free
        else state.free_left
    )


def _renewal_entry(
    state: AccountState, account: str, until: datetime, catalogs: AdoptedCatalogs
) -> LedgerEntry:
    end = cast(datetime, state.period.end)
    plan = plan_at(catalogs, state.next_plan or state.plan, end)
    assert plan is not None, "a plan was adopted before any account could have it"
    opens = next_period(state, plan, end, state.time_zone, state.anchor, free_left_after(state))
    return LedgerEntry(
        kind="renewal",
        appended_at=until,
        account=account,
        event=EventReference(
            source=LEDGER_SOURCE, id=f"renewal/{account}/{opens.number}", occurred_at=end
        ),
        plan_change=PlanChange(plan=plan.id, opens=opens, settled=settlement(state)),
    )


def _expiry_entry(state: AccountState, account: str, at: datetime, until: datetime) -> LedgerEntry:
    grant, drawn = next(
        (grant, drawn) for grant, drawn in drawn_from_grants(state) if grant.expires_at == at
    )
    return LedgerEntry(
        kind="grant_expired",
        appended_at=until,
        account=account,
        event=EventReference(
            source=LEDGER_SOURCE,
            id=f"grant_expired/{account}/{grant.source}/{grant.id}",
            occurred_at=at,
        ),
        grant=GrantChange(
            source=grant.source, id=grant.id, credits=grant.credits, expires_at=at, settled=drawn
        ),
    )
