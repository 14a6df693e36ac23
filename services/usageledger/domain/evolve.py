"""``evolve(state, entry) -> state``: the fold that makes an account's state of its ledger
entries.
"""

from __future__ import annotations

from msgspec.structs import replace

from usageledger.domain.account import AccountState, Grant, Period, by_expiry
from usageledger.domain.entry import GrantChange, LedgerEntry, PlanChange


def evolve(state: AccountState | None, entry: LedgerEntry) -> AccountState | None:
    """Apply one entry.

    ``None`` is an account that the ledger does not know; duplicates and refusals leave every
    account as it was.
    """
    if entry.plan_change is not None:
        return _changed_plan(state, entry.plan_change)
    if state is None:
        return None
    if entry.kind in ("usage", "void") and entry.period is not None:
        return _charged(state, entry)
    if entry.kind == "grant" and entry.grant is not None:
        return _granted(state, entry.grant, entry)
    if entry.kind == "grant_expired" and entry.grant is not None:
        return _expired(state, entry.grant)
    return _told(state, entry)


def _told(state: AccountState, entry: LedgerEntry) -> AccountState:
    """What changes no figure."""
    if entry.kind == "suspension" and entry.suspension is not None:
        return replace(state, suspended=entry.suspension.reason)
    if entry.kind == "resumption":
        return replace(state, suspended=None)
    if entry.kind == "thresholds_set":
        return replace(state, thresholds=entry.thresholds)
    return state


def _charged(state: AccountState, entry: LedgerEntry) -> AccountState:
    feature = entry.feature or (entry.voids and entry.voids.feature) or ""
    if not entry.is_late:
        return replace(
            state,
            period=_with_use(
                state.period,
                feature,
                entry.credits,
                _announced_by(entry) if entry.crossings else (),
            ),
        )
    assert state.previous is not None, "a late entry counts in the previous period"
    previous = _with_use(state.previous, feature, entry.credits, ())
    return replace(state, previous=previous, free_left=_free_left(previous, state.free_left))


def _announced_by(entry: LedgerEntry) -> tuple[tuple[str, int], ...]:
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


def _changed_plan(state: AccountState | None, change: PlanChange) -> AccountState:
    if state is None:
        return _opened(change)
    changed = replace(
        state,
        plan=change.plan,
        next_plan=change.next_plan,
        time_zone=change.time_zone or state.time_zone,
        anchor=change.anchor or state.anchor,
    )
    if change.opens is not None:
        return _renewed(changed, change, change.opens)
    allotment = state.period.allotment if change.allotment is None else change.allotment
    return replace(changed, period=replace(state.period, plan=change.plan, allotment=allotment))


def _opened(change: PlanChange) -> AccountState:
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


def _renewed(state: AccountState, change: PlanChange, opens: Period) -> AccountState:
    """What is left of the allotment lapses, and so does what was used beyond it; what was drawn
    from grants is settled.

    A grant that expires as the period ends has given it what it drew, and gives the next one
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
            for grant in _less_drawn(state.grants, change.settled)
            if grant.left > 0 and (grant.expires_at is None or grant.expires_at > opens.start)
        ),
    )


def _less_drawn(
    grants: tuple[Grant, ...], settled: tuple[tuple[str, str, int], ...]
) -> list[Grant]:
    """What is left of each.

    Both are in the order of drawing, for names alone do not tell them apart: an id that no longer
    counts can come again and name a second grant.
    """
    owed = list(settled)
    return [
        replace(grant, left=grant.left - owed.pop(0)[2])
        if owed and owed[0][:2] == (grant.source, grant.id)
        else grant
        for grant in grants
    ]


def _granted(state: AccountState, change: GrantChange, entry: LedgerEntry) -> AccountState:
    grant = Grant(
        source=change.source,
        id=change.id,
        granted_at=entry.appended_at,
        credits=change.credits,
        left=change.credits,
        expires_at=change.expires_at,
    )
    return replace(state, grants=tuple(by_expiry((*state.grants, grant))))


def _expired(state: AccountState, change: GrantChange) -> AccountState:
    named = (change.source, change.id, change.expires_at)
    place = next(
        n
        for n, grant in enumerate(state.grants)
        if (grant.source, grant.id, grant.expires_at) == named
    )
    grants = state.grants[:place] + state.grants[place + 1 :]
    return replace(
        state,
        grants=grants,
        period=replace(state.period, settled=state.period.settled + change.settled),
    )
