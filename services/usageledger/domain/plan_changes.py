"""Changes of plan: opening, subscribing, changing and cancelling.

No sequence of these yields credits that were not paid for.
"""

from __future__ import annotations

from datetime import datetime

from usageledger.domain.account import AccountState, Period
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.bounds import CLOCK_AHEAD_MAX
from usageledger.domain.catalog import Catalog, Plan
from usageledger.domain.cycle import period_containing, zone
from usageledger.domain.entry import PlanChange
from usageledger.domain.events import (
    AccountCancelled,
    AccountOpened,
    AccountSubscribed,
    PlanChanged,
)
from usageledger.domain.refusal import Refusal
from usageledger.domain.renewal import free_left_after, next_period, settlement


def free_from_the_first_event(at: datetime, catalog: Catalog) -> PlanChange:
    """Open an account not yet known, on Free. Its first period includes any earlier use."""
    free = catalog.free
    period = Period(
        number=0,
        start=at,
        end=None,
        plan=free.id,
        allotment=free.allotment,
        is_free=True,
        is_first=True,
    )
    return PlanChange(plan=free.id, opens=period, free_left=free.allotment)


def decide_opened(
    event: AccountOpened, at: datetime, catalogs: AdoptedCatalogs
) -> PlanChange | Refusal:
    """Bring in an account mid-cycle.

    Its use up to ``as_of`` counts in the period that contains ``as_of``.
    """
    catalog = catalogs.in_force(at)
    plan = catalog.plan(event.plan)
    if plan is None:
        return Refusal.UNKNOWN_PLAN
    if not _is_zone(event.time_zone):
        return Refusal.UNKNOWN_TIME_ZONE
    as_of = min(event.as_of or event.occurred_at, at)
    free_left = max(0, catalog.free.allotment - event.free_used)
    anchor = event.anchor
    if plan.renews:
        anchor = anchor or as_of
        start, end = period_containing(anchor, event.time_zone, as_of)
        period = Period(
            number=0, start=start, end=end, plan=plan.id, allotment=plan.allotment, used=event.used
        )
    else:
        used = max(event.used, event.free_used)
        period = Period(
            number=0,
            start=as_of,
            end=None,
            plan=plan.id,
            allotment=plan.allotment,
            used=used,
            is_free=True,
        )
    return PlanChange(
        plan=plan.id,
        opens=period,
        free_left=free_left,
        time_zone=event.time_zone,
        anchor=anchor,
        counted_from=as_of,
    )


def decide_subscribed(
    event: AccountSubscribed, state: AccountState, at: datetime, catalogs: AdoptedCatalogs
) -> PlanChange | Refusal:
    """Start a fresh cycle from Free, or withdraw a cancellation that has not taken effect.

    Withdrawing a cancellation starts no fresh cycle.
    """
    catalog = catalogs.in_force(at)
    plan = catalog.plan(event.plan)
    if plan is None:
        return Refusal.UNKNOWN_PLAN
    if not plan.renews:
        return Refusal.PLAN_HAS_NO_CYCLE
    time_zone = event.time_zone or state.time_zone
    if not _is_zone(time_zone):
        return Refusal.UNKNOWN_TIME_ZONE
    if state.period.is_free:
        anchor = _anchor(event.anchor or event.occurred_at, at)
        return _fresh_cycle(
            plan, state, _effective_time(state, event.occurred_at, at), time_zone, anchor
        )
    if state.next_plan != catalog.free.id:
        return Refusal.ALREADY_SUBSCRIBED
    return _move_to(plan, state, catalog)


def decide_plan_changed(
    event: PlanChanged, state: AccountState, at: datetime, catalogs: AdoptedCatalogs
) -> PlanChange | Refusal:
    """Raise the allotment at once for a higher plan, or wait for the renewal for a lower one.

    From Free, begin a cycle.
    """
    catalog = catalogs.in_force(at)
    plan = catalog.plan(event.plan)
    if plan is None:
        return Refusal.UNKNOWN_PLAN
    if not state.period.is_free:
        return _move_to(plan, state, catalog)
    if not plan.renews:
        return PlanChange(plan=state.plan)
    return _fresh_cycle(
        plan,
        state,
        _effective_time(state, event.occurred_at, at),
        state.time_zone,
        _anchor(event.occurred_at, at),
    )


def decide_cancelled(
    event: AccountCancelled, state: AccountState, at: datetime, catalogs: AdoptedCatalogs
) -> PlanChange | Refusal:
    """Fall back to what was left of Free, at the period's end or at once."""
    if state.period.is_free:
        return Refusal.NOT_SUBSCRIBED
    free = catalogs.in_force(at).free
    if event.effective == "period_end":
        return PlanChange(plan=state.plan, next_plan=free.id)
    start = _effective_time(state, event.occurred_at, at)
    opens = next_period(state, free, start, state.time_zone, state.anchor, free_left_after(state))
    return PlanChange(plan=free.id, opens=opens, settled=settlement(state))


def _fresh_cycle(
    plan: Plan, state: AccountState, start: datetime, time_zone: str, anchor: datetime
) -> PlanChange:
    opens = next_period(state, plan, start, time_zone, anchor, 0)
    return PlanChange(
        plan=plan.id, opens=opens, settled=settlement(state), time_zone=time_zone, anchor=anchor
    )


def _move_to(plan: Plan, state: AccountState, catalog: Catalog) -> PlanChange:
    """Move to another plan within the cycle, which keeps its use.

    A move to the plan that the account has withdraws whatever waits for the renewal.
    """
    if plan.id == state.plan:
        return PlanChange(plan=state.plan)
    if _level(catalog, plan.id) < _level(catalog, state.plan):
        return PlanChange(plan=state.plan, next_plan=plan.id)
    return PlanChange(plan=plan.id, allotment=plan.allotment)


def _level(catalog: Catalog, plan_id: str) -> int:
    """The plan's level. A plan that the catalog has dropped is below all others."""
    return -1 if catalog.plan(plan_id) is None else catalog.level(plan_id)


def _effective_time(state: AccountState, occurred_at: datetime, at: datetime) -> datetime:
    """When a change takes effect: when it occurred, within certain bounds.

    They are the start of the current period and the ledger's time.
    """
    return max(state.period.start, min(occurred_at, at))


def _anchor(stated: datetime, at: datetime) -> datetime:
    """The anchor to use. One ahead by no more than a clock may be becomes the ledger's time.

    Otherwise the next boundary would be minutes away instead of a month.
    """
    return at if at < stated <= at + CLOCK_AHEAD_MAX else stated


def _is_zone(name: str) -> bool:
    try:
        zone(name)
    except ValueError:
        return False
    return True
