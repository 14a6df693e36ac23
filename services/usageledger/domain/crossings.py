"""Which limits an entry crosses, and what an app needs to know to act on that."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Literal, assert_never

from usageledger.domain.account import AccountState, Period, drawn_from_grants, left_at_end
from usageledger.domain.catalog import Catalog, Plan
from usageledger.domain.entry import (
    Crossing,
    Figures,
    Kind,
    LedgerEntry,
    PeriodReference,
    UpgradeOffer,
)
from usageledger.domain.quantity import format_quantity

Reason = Literal[
    "usage", "renewed", "plan_changed", "granted", "grant_expired", "voided", "suspended", "resumed"
]

LimitType = Literal["limit.threshold", "limit.reached", "limit.cleared"]

_ACTIONS: dict[LimitType, Literal["block", "prompt_upgrade"] | None] = {
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
    """The figures of a period that is over."""
    return Figures(
        allotment=period.allotment,
        granted=period.settled,
        used=period.used,
        remaining=left_at_end(period),
    )


def reference_to(period: Period) -> PeriodReference:
    """The reference by which an entry names a period."""
    return PeriodReference(number=period.number, start=period.start, end=period.end)


def crossings_between(
    before: AccountState | None,
    after: AccountState,
    figures: Figures,
    entry: LedgerEntry,
    catalog: Catalog,
) -> tuple[Crossing, ...]:
    """The limits that an entry crosses: thresholds lowest first, the limit itself last.

    ``before`` and ``after`` are the account's states around the entry, and ``figures`` those of
    ``after``. ``before`` is None if the entry opened the account, which nobody has blocked yet.

    Only usage crosses a threshold: `used` moves from below its share of `used + remaining` to it or
    above, once per period and sum. An entry of any kind reaches the limit if it blocks the account,
    by a suspension or because nothing remains. It clears the limit if it unblocks the account.
    """
    if entry.is_late:
        return ()
    crossed: list[Crossing] = []
    if before is not None and entry.kind == "usage":
        shares = _crossed_shares(before.period.used, figures, after, catalog)
        crossed = [
            _crossing("limit.threshold", entry, after, figures, catalog, share) for share in shares
        ]
    was_blocked = before is not None and before.is_blocked
    if after.is_blocked and not was_blocked:
        crossed.append(_crossing("limit.reached", entry, after, figures, catalog))
    elif was_blocked and not after.is_blocked:
        crossed.append(_crossing("limit.cleared", entry, after, figures, catalog))
    return tuple(crossed)


def upgrade_for(state: AccountState, catalog: Catalog, *, needed: int = 1) -> UpgradeOffer | None:
    """The lowest plan above the account's that would free it, or None if there is none.

    Under it, ``needed`` micro-credits would remain. No plan frees a suspended account.
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
    """The shares whose crossing is announced.

    They are the account's own, otherwise its plan's, otherwise the catalog's.
    """
    return catalog.thresholds_on(state.plan) if state.thresholds is None else state.thresholds


def _remaining_under(plan: Plan, state: AccountState) -> int:
    """The micro-credits that would remain under another plan.

    Subscribing from Free starts a fresh cycle, with what grants have left. A higher plan in a
    running cycle keeps the use.
    """
    if state.period.is_free:
        return plan.allotment + sum(grant.left - drawn for grant, drawn in drawn_from_grants(state))
    return plan.allotment + state.granted - state.period.used


def _crossed_shares(
    used_before: int, figures: Figures, after: AccountState, catalog: Catalog
) -> Iterator[Decimal]:
    whole = figures.used + figures.remaining
    if whole <= 0:
        return
    for share in thresholds_of(after, catalog):
        threshold = share * whole
        if (
            used_before < threshold <= figures.used
            and (format_quantity(share), whole) not in after.period.announced
        ):
            yield share


def _crossing(
    type_: LimitType,
    entry: LedgerEntry,
    after: AccountState,
    figures: Figures,
    catalog: Catalog,
    share: Decimal | None = None,
) -> Crossing:
    action = _ACTIONS[type_]
    if type_ == "limit.threshold" and after.suspended is not None:
        action = None  # to buy more would not free a suspended account
    return Crossing(
        type=type_,
        reason=_reason_of(entry.kind),
        plan=after.plan,
        period=reference_to(after.period),
        figures=figures,
        threshold=None if share is None else format_quantity(share),
        action=action,
        upgrade=None if action is None else upgrade_for(after, catalog),
        suspended=after.suspended,
    )


def _reason_of(kind: Kind) -> Reason:
    match kind:
        case "usage":
            return "usage"
        case "void":
            return "voided"
        case "grant":
            return "granted"
        case "grant_expired":
            return "grant_expired"
        case "renewal":
            return "renewed"
        case "plan_change" | "account_opened":
            return "plan_changed"
        case "suspension":
            return "suspended"
        case "resumption":
            return "resumed"
        case "refusal" | "duplicate" | "skip" | "catalog_adopted" | "thresholds_set":
            raise ValueError(f"an entry of kind {kind!r} crosses no limit")
        case _:
            assert_never(kind)
