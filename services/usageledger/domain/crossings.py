"""Which limits an entry crosses, and what an app needs to act on it."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Literal

from usageledger.domain.account import AccountState, Period, drawn_from_grants
from usageledger.domain.catalog import Catalog, Plan
from usageledger.domain.entry import Crossing, Figures, LedgerEntry, PeriodReference, UpgradeOffer
from usageledger.domain.quantity import format_quantity

Reason = Literal[
    "usage", "renewed", "plan_changed", "granted", "grant_expired", "voided", "suspended", "resumed"
]

_REASONS: dict[str, Reason] = {
    "usage": "usage",
    "void": "voided",
    "grant": "granted",
    "grant_expired": "grant_expired",
    "renewal": "renewed",
    "plan_change": "plan_changed",
    "account_opened": "plan_changed",
    "suspension": "suspended",
    "resumption": "resumed",
}

_ACTIONS: dict[str, Literal["block", "prompt_upgrade"] | None] = {
    "limit.threshold": "prompt_upgrade",
    "limit.reached": "block",
    "limit.cleared": None,
}


def figures_of(state: AccountState) -> Figures:
    """The current period's figures."""
    period, granted = state.period, state.granted
    remaining = period.allotment + granted - period.used
    return Figures(
        allotment=period.allotment, granted=granted, used=period.used, remaining=remaining
    )


def figures_of_ended(period: Period) -> Figures:
    """The figures of a period that is over: grants gave it what was settled when it ended, late
    uses draw nothing more from them.
    """
    remaining = period.allotment + period.settled - period.used
    return Figures(
        allotment=period.allotment, granted=period.settled, used=period.used, remaining=remaining
    )


def reference_to(period: Period) -> PeriodReference:
    """Name a period in an entry."""
    return PeriodReference(number=period.number, start=period.start, end=period.end)


def crossings_between(
    before: AccountState | None,
    after: AccountState,
    now: Figures,
    entry: LedgerEntry,
    catalog: Catalog,
) -> tuple[Crossing, ...]:
    """The limits crossed by an entry that took an account from ``before`` to ``after``: thresholds
    lowest first, the limit itself last.

    ``before`` is None for an account just opened, which nobody has blocked yet; ``now`` are the
    figures of ``after``.

    A threshold is crossed by usage alone: `used` comes from below its share of `used + remaining`
    to or above it, once per period and sum. The limit is reached when the account comes to be
    blocked, by a suspension or because nothing remains, and cleared when it comes to be free of
    both, whatever the entry.
    """
    if entry.is_late:
        return ()
    crossed: list[Crossing] = []
    if before is not None and entry.kind == "usage":
        shares = _shares_crossed(before.period.used, now, after, catalog)
        crossed = [
            _crossing("limit.threshold", entry, after, now, catalog, share) for share in shares
        ]
    was_blocked = before is not None and before.is_blocked
    is_blocked = after.suspended is not None or now.remaining <= 0
    if is_blocked and not was_blocked:
        crossed.append(_crossing("limit.reached", entry, after, now, catalog))
    elif was_blocked and not is_blocked:
        crossed.append(_crossing("limit.cleared", entry, after, now, catalog))
    return tuple(crossed)


def upgrade_for(state: AccountState, catalog: Catalog, *, needed: int = 1) -> UpgradeOffer | None:
    """The lowest plan above the account's that would free it, with ``needed`` micro-credits left,
    one by default; None where none would, as while it is suspended.
    """
    if state.suspended is not None:
        return None
    for plan in catalog.plans_above(state.plan):
        if _remaining_under(plan, state) >= needed:
            return UpgradeOffer(
                plan=plan.id, name=plan.name, price_cents=plan.price_cents, allotment=plan.allotment
            )
    return None


def thresholds_of(state: AccountState, catalog: Catalog) -> tuple[Decimal, ...]:
    """The shares whose crossing is announced: the account's own, otherwise its plan's, otherwise
    the catalog's.
    """
    return catalog.thresholds_on(state.plan) if state.thresholds is None else state.thresholds


def _remaining_under(plan: Plan, state: AccountState) -> int:
    """Subscribing from Free starts a fresh cycle, with what grants have left; a higher plan in a
    running cycle keeps what was used.
    """
    if state.period.is_free:
        return plan.allotment + sum(grant.left - drawn for grant, drawn in drawn_from_grants(state))
    return plan.allotment + state.granted - state.period.used


def _shares_crossed(
    used_before: int, now: Figures, after: AccountState, catalog: Catalog
) -> Iterator[Decimal]:
    whole = now.used + now.remaining
    if whole <= 0:
        return
    for share in thresholds_of(after, catalog):
        mark = share * whole
        if (
            used_before < mark <= now.used
            and (format_quantity(share), whole) not in after.period.announced
        ):
            yield share


def _crossing(
    type_: Literal["limit.threshold", "limit.reached", "limit.cleared"],
    entry: LedgerEntry,
    after: AccountState,
    figures: Figures,
    catalog: Catalog,
    share: Decimal | None = None,
) -> Crossing:
    is_suspended = after.suspended is not None
    action = (
        None if is_suspended and type_ == "limit.threshold" else _ACTIONS[type_]
    )  # buying more would help nothing
    return Crossing(
        type=type_,
        reason=_REASONS[entry.kind],
        plan=after.plan,
        period=reference_to(after.period),
        figures=figures,
        threshold=None if share is None else format_quantity(share),
        action=action,
        upgrade=None if action is None else upgrade_for(after, catalog),
        suspended=after.suspended,
    )
