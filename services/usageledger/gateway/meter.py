"""Making the usage meter of an account, and its past periods, from its balance and its history."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal

from usageledger.accounts.queries import AccountBalance
from usageledger.domain.account import AccountState, Period
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.balance import Balance, GrantBalance
from usageledger.domain.catalog import Catalog
from usageledger.domain.credits import format_credits
from usageledger.domain.cycle import zone
from usageledger.domain.pace import pace_of, renewal_of
from usageledger.domain.quantity import format_quantity
from usageledger.domain.renewal import plan_at, roll
from usageledger.gateway.figures import Block, figures, plan_shown
from usageledger.gateway.history_reach import history_as_of
from usageledger.gateway.meter_models import (
    DayShown,
    FeatureUse,
    GrantShown,
    Meter,
    ModelUse,
    PaceShown,
    PeriodListed,
    RenewalShown,
)
from usageledger.history.reading import AccountHistory, DailyUse, ListedPeriod

FREE_DAYS = 31
"""How many days the meter shows on Free, whose period has no end."""

LATENESS_DAYS = 36
"""How many days before an account's first period use can still count in it."""


def meter_of(found: AccountBalance, history: AccountHistory) -> Meter:
    """The meter of an account, from its balance and its history."""
    balance = found.balance
    as_of = history_as_of(found, history)
    shown = figures(found, block_of(history) if as_of is None else None)
    return Meter(
        **dict(shown),
        known=balance.is_known,
        time_zone=balance.state.time_zone,
        next_plan=None if balance.next_plan is None else plan_shown(balance.next_plan),
        thresholds=[format_quantity(share) for share in balance.thresholds],
        grants=[_grant_shown(grant) for grant in balance.grants],
        features=features_of(history.daily_use, balance.catalog),
        days=days_of(balance, history.daily_use),
        pace=_pace_shown(balance),
        renewal=_renewal_shown(balance),
        history_as_of=as_of,
    )


def block_of(history: AccountHistory) -> Block | None:
    """When and why the account was blocked, from a history that is up to date."""
    return (
        None
        if history.blocked_since is None
        else Block(history.blocked_since, history.blocked_reason or "usage")
    )


def features_of(daily_use: Iterable[DailyUse], catalog: Catalog) -> list[FeatureUse]:
    """The period's use by feature and model, the most expensive first."""
    by_feature: dict[str, dict[str | None, list[DailyUse]]] = defaultdict(lambda: defaultdict(list))
    for use in daily_use:
        by_feature[use.feature][use.model].append(use)
    found = [_feature_use(feature, models, catalog) for feature, models in by_feature.items()]
    return [
        shown for _, shown in sorted(found, key=lambda each: (-each[0], each[1].id)) if shown.uses
    ]


def days_of(balance: Balance, daily_use: Iterable[DailyUse]) -> list[DayShown]:
    """Every day of the period so far, in the account's time zone.

    Days before the period are among them if an account's first period has use on them. Free, whose
    period has no end, shows its last days alone.
    """
    by_day: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for use in daily_use:
        by_day[use.date][use.feature] += use.credits
    here, period = zone(balance.state.time_zone), balance.period
    first, last = period.start.astimezone(here).date(), balance.at.astimezone(here).date()
    if by_day:
        last = max(last, date.fromisoformat(max(by_day)))
        first = max(
            first - timedelta(days=LATENESS_DAYS), min(first, date.fromisoformat(min(by_day)))
        )
    if period.end is None:
        first = max(first, last - timedelta(days=FREE_DAYS - 1))
    return [
        _day(first + timedelta(days=number), by_day) for number in range((last - first).days + 1)
    ]


def ended_periods(
    balance: Balance, known: AccountState | None, stored: Sequence[ListedPeriod], before: int
) -> list[ListedPeriod]:
    """The periods with numbers below ``before`` that are over, the newest first.

    They are those of the history (``stored``), and those that have ended since the account's last
    entry, which no entry says yet. ``known`` is the account's state as the history has it.
    """
    rolled: dict[int, ListedPeriod] = {}
    if known is not None:
        for _, state in roll(known, balance.account, balance.at, balance.catalogs):
            if state.previous is not None:
                rolled[state.previous.number] = ListedPeriod(state.previous, state.previous.settled)
    by_number = {each.period.number: each for each in stored} | rolled
    return [by_number[number] for number in sorted(by_number, reverse=True) if number < before]


def _feature_use(
    feature: str, models: Mapping[str | None, Sequence[DailyUse]], catalog: Catalog
) -> tuple[int, FeatureUse]:
    known = catalog.feature(feature)
    names = {} if known is None else {model.id: model.name for model in known.models}
    shown: list[tuple[int, ModelUse]] = []
    for model, use in models.items():
        credits, rate = sum(each.credits for each in use), catalog.rates.get((feature, model))
        quantity = sum((each.quantity for each in use), Decimal(0))
        found = ModelUse(
            id=model,
            name=None if model is None else names.get(model, model),
            credits=format_credits(credits),
            quantity=format_quantity(quantity),
            unit=None if rate is None else rate.unit,
            uses=sum(each.uses for each in use),
        )
        shown.append((credits, found))
    total = sum(credits for credits, _ in shown)
    used = [
        found
        for _, found in sorted(shown, key=lambda each: (-each[0], each[1].id or ""))
        if found.uses
    ]
    name = feature if known is None else known.name
    return total, FeatureUse(
        id=feature,
        name=name,
        credits=format_credits(total),
        uses=sum(found.uses for found in used),
        models=used,
    )


def _day(day: date, by_day: Mapping[str, Mapping[str, int]]) -> DayShown:
    used = by_day.get(day.isoformat(), {})
    features = {
        feature: format_credits(credits) for feature, credits in sorted(used.items()) if credits
    }
    return DayShown(
        date=day.isoformat(), credits=format_credits(sum(used.values())), features=features
    )


def _grant_shown(found: GrantBalance) -> GrantShown:
    grant = found.grant
    return GrantShown(
        source=grant.source,
        id=grant.id,
        credits=format_credits(grant.credits),
        left=format_credits(found.left),
        granted_at=grant.granted_at,
        expires_at=grant.expires_at,
    )


def _pace_shown(balance: Balance) -> PaceShown | None:
    pace = pace_of(balance)
    if pace is None:
        return None
    return PaceShown(
        days=format_quantity(pace.days),
        credits_per_day=format_credits(pace.microcredits_per_day),
        used_up_at=pace.used_up_at,
        at_period_end=None if pace.at_period_end is None else format_credits(pace.at_period_end),
    )


def _renewal_shown(balance: Balance) -> RenewalShown | None:
    renewal = renewal_of(balance)
    if renewal is None:
        return None
    return RenewalShown(
        at=renewal.at,
        plan=renewal.plan.id,
        plan_name=renewal.plan.name,
        allotment=format_credits(renewal.allotment),
        lapses=format_credits(renewal.lapses),
        granted_left=format_credits(renewal.granted_left),
    )


def period_listed(listed: ListedPeriod, catalogs: AdoptedCatalogs) -> PeriodListed:
    """A period that is over as answers show it, its plan named as it was then."""
    period: Period = listed.period
    plan = plan_at(catalogs, period.plan, period.start)
    return PeriodListed(
        number=period.number,
        start=period.start,
        end=period.end,
        plan=period.plan,
        plan_name=period.plan if plan is None else plan.name,
        allotment=format_credits(period.allotment),
        granted=format_credits(listed.granted),
        used=format_credits(period.used),
        by_feature={
            feature: format_credits(credits)
            for feature, credits in sorted(period.by_feature.items())
        },
    )
