"""``evolve(state, entry) -> state``: the fold that makes an account's state from its entries."""

from __future__ import annotations

from typing import assert_never

from msgspec.structs import replace

from usageledger.domain.account import AccountState, Grant, Period, by_expiry
from usageledger.domain.entry import GrantChange, LedgerEntry, PlanChange


def evolve(state: AccountState | None, entry: LedgerEntry) -> AccountState | None:
    """Apply one entry. ``None`` is an account that the ledger does not know yet.

    Refusals, duplicates, skips and adoptions leave every account as it was.
    """
    if state is None:
        return None if entry.plan_change is None else _open_account(entry.plan_change)
    match entry.kind:
        case "usage":
            return _apply_charge(state, entry)
        case "void":
            assert entry.voids is not None
            return state if entry.voids.awaits_usage else _apply_charge(state, entry)
        case "renewal" | "plan_change" | "account_opened":
            assert entry.plan_change is not None
            return _apply_plan_change(state, entry.plan_change)
        case "grant":
            assert entry.grant is not None
            return _apply_grant(state, entry.grant, entry)
        case "grant_expired":
            assert entry.grant is not None
            return _apply_expiry(state, entry.grant)
        case "suspension":
            assert entry.suspension is not None
            return replace(state, suspended=entry.suspension.reason)
        case "resumption":
            return replace(state, suspended=None)
        case "thresholds_set":
            return replace(state, thresholds=entry.thresholds)
        case "refusal" | "duplicate" | "skip" | "catalog_adopted":
            return state
        case _:
            assert_never(entry.kind)


def _apply_charge(state: AccountState, entry: LedgerEntry) -> AccountState:
    feature = entry.feature or (entry.voids and entry.voids.feature) or ""
    if not entry.is_late:
        return replace(
            state,
            period=_with_use(
                state.period,
                feature,
                entry.credits,
                _announced_thresholds(entry) if entry.crossings else (),
            ),
        )
    assert state.previous is not None, "a late entry counts in the previous period"
    previous = _with_use(state.previous, feature, entry.credits, ())
    return replace(state, previous=previous, free_left=_free_left(previous, state.free_left))


def _announced_thresholds(entry: LedgerEntry) -> tuple[tuple[str, int], ...]:
    return tuple(
        (c.threshold, c.figures.used + c.figures.remaining)
        for c in entry.crossings
        if c.threshold is not None
    )


def _with_use(
    period: Period, feature: str, credits: int, announced: tuple[tuple[str, int], ...]
) -> Period:
    by_feature = {**period.by_feature, feature: period.by_feature.get(feature, 0) + credits}
    return replace(
        period,
        used=period.used + credits,
        by_feature=by_feature,
        announced=period.announced + announced,
    )


def _free_left(period: Period, otherwise: int) -> int:
    return max(0, period.allotment - period.used) if period.is_free else otherwise


def _apply_plan_change(state: AccountState, change: PlanChange) -> AccountState:
    changed = replace(
        state,
        plan=change.plan,
        next_plan=change.next_plan,
        time_zone=change.time_zone or state.time_zone,
        anchor=change.anchor or state.anchor,
    )
    if change.opens is not None:
        return _apply_renewal(changed, change, change.opens)
    allotment = state.period.allotment if change.allotment is None else change.allotment
    return replace(changed, period=replace(state.period, plan=change.plan, allotment=allotment))


def _open_account(change: PlanChange) -> AccountState:
    assert change.opens is not None and change.free_left is not None, (
        "an account's first entry opens it"
    )
    return AccountState(
        plan=change.plan,
        period=change.opens,
        free_left=change.free_left,
        time_zone=change.time_zone or "UTC",
        anchor=change.anchor,
        counted_from=change.counted_from,
    )


def _apply_renewal(state: AccountState, change: PlanChange, opens: Period) -> AccountState:
    """End the current period and begin the one that ``opens``.

    The unused part of the allotment lapses, and so does use beyond it. The amounts that the ended
    period drew from grants are settled. A grant that expires at this moment gives the new period
    nothing.
    """
    ended = state.period
    drawn = sum(amount for _, _, amount in change.settled)
    return replace(
        state,
        period=opens,
        previous=replace(ended, end=opens.start, settled=ended.settled + drawn, announced=()),
        free_left=_free_left(ended, state.free_left),
        grants=tuple(
            grant
            for grant in _without_settled(state.grants, change.settled)
            if grant.left > 0 and (grant.expires_at is None or grant.expires_at > opens.start)
        ),
    )


def _without_settled(
    grants: tuple[Grant, ...], settled: tuple[tuple[str, str, int], ...]
) -> list[Grant]:
    """The grants, each with the rest that is left of it.

    Both arguments are in the order of drawing. Names alone do not tell grants apart: once an
    identity no longer counts, its id can name a second grant.
    """
    owed = list(settled)
    return [
        replace(grant, left=grant.left - owed.pop(0)[2])
        if owed and owed[0][:2] == (grant.source, grant.id)
        else grant
        for grant in grants
    ]


def _apply_grant(state: AccountState, change: GrantChange, entry: LedgerEntry) -> AccountState:
    grant = Grant(
        source=change.source,
        id=change.id,
        granted_at=entry.appended_at,
        credits=change.credits,
        left=change.credits,
        expires_at=change.expires_at,
    )
    return replace(state, grants=tuple(by_expiry((*state.grants, grant))))


def _apply_expiry(state: AccountState, change: GrantChange) -> AccountState:
    named = (change.source, change.id, change.expires_at)
    index = next(
        n
        for n, grant in enumerate(state.grants)
        if (grant.source, grant.id, grant.expires_at) == named
    )
    grants = state.grants[:index] + state.grants[index + 1 :]
    return replace(
        state,
        grants=grants,
        period=replace(state.period, settled=state.period.settled + change.settled),
    )
