"""The usage meter of an account and its past periods, as answers show them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

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
from usageledger.gateway.figures import (
    Block,
    CreditsText,
    Figures,
    PlanShown,
    figures,
    plan_shown,
)
from usageledger.gateway.history_reach import history_as_of
from usageledger.history.reading import AccountHistory, DailyUse, ListedPeriod

FREE_DAYS = 31
"""How many days the meter shows on Free, whose period has no end."""

LATENESS_DAYS = 36
"""How many days before an account's first period use can still count in it."""


class GrantShown(BaseModel):
    """Credits that were granted on top of the allotment. `left` is what is not used of them."""

    source: str
    id: str
    credits: CreditsText
    left: CreditsText
    granted_at: datetime
    expires_at: datetime | None


class ModelUse(BaseModel):
    """The use of one model in the period. `id` is null for the feature's default rate."""

    id: str | None
    name: str | None
    credits: CreditsText
    quantity: str
    unit: str | None
    uses: int


class FeatureUse(BaseModel):
    """The use of one feature in the period."""

    id: str
    name: str
    credits: CreditsText
    uses: int
    models: list[ModelUse]


class DayShown(BaseModel):
    """The use on one day of the account's time zone."""

    date: str = Field(examples=["2026-11-03"])
    credits: CreditsText
    features: dict[str, CreditsText]


class PaceShown(BaseModel):
    """How fast the period's credits have been used so far, and what follows at this pace."""

    days: str = Field(description="How many days of the period have passed.", examples=["22.04"])
    credits_per_day: CreditsText = Field(description="Rounded up to a hundredth.")
    used_up_at: datetime | None = Field(
        description="When nothing will remain; null if something will be left at the period's end, "
        "and if nothing remains now."
    )
    at_period_end: CreditsText | None = Field(
        description="What will remain, rounded down; negative if it is not enough; null on Free."
    )


class RenewalShown(BaseModel):
    """What the period's end brings, if nothing more is used until then."""

    at: datetime
    plan: str
    plan_name: str
    allotment: CreditsText
    lapses: CreditsText = Field(description="What of the allotment will not have been used.")
    granted_left: CreditsText = Field(description="What grants will have left.")


_PLAN_EXAMPLE = {
    "id": "max",
    "name": "Max",
    "price_cents": 7000,
    "allotment": "500",
    "renews": True,
}
_METER_EXAMPLE: dict[str, Any] = {
    "account": "acct_4821",
    "at": "2026-11-25T10:00:00Z",
    "as_of": None,
    "time_zone": "UTC",
    "known": True,
    "plan": _PLAN_EXAMPLE,
    "next_plan": None,
    "period": {"number": 4, "start": "2026-11-03T09:00:00Z", "end": "2026-12-03T09:00:00Z"},
    "allotment": "500",
    "granted": "20",
    "used": "123.5",
    "held": "14",
    "remaining": "396.5",
    "available": "382.5",
    "share_used": "0.2375",
    "thresholds": ["0.8"],
    "blocked": None,
    "upgrade": {"plan": "scale", "name": "Scale", "price_cents": 15000, "allotment": "1400"},
    "grants": [
        {
            "source": "/support",
            "id": "g1",
            "credits": "20",
            "left": "20",
            "granted_at": "2026-11-05T12:00:00Z",
            "expires_at": None,
        }
    ],
    "holds": {"open": 1, "credits": "14"},
    "by_feature": {"ai_edit": "23.5", "genai_video": "100"},
    "features": [
        {
            "id": "genai_video",
            "name": "GenAI Video",
            "credits": "100",
            "uses": 9,
            "models": [
                {
                    "id": "veo_3",
                    "name": "Veo 3",
                    "credits": "100",
                    "quantity": "12",
                    "unit": "generation",
                    "uses": 9,
                }
            ],
        }
    ],
    "days": [
        {
            "date": "2026-11-03",
            "credits": "12.5",
            "features": {"ai_edit": "2.5", "genai_video": "10"},
        }
    ],
    "pace": {
        "days": "22.04",
        "credits_per_day": "5.61",
        "used_up_at": None,
        "at_period_end": "351.69",
    },
    "renewal": {
        "at": "2026-12-03T09:00:00Z",
        "plan": "max",
        "plan_name": "Max",
        "allotment": "500",
        "lapses": "376.5",
        "granted_left": "20",
    },
    "history_as_of": None,
}


class Meter(Figures):
    """The usage meter of an account.

    Its figures are from the counters; features, models and days are from the history, which can be
    behind: see `history_as_of`.
    """

    model_config = ConfigDict(title="Meter", json_schema_extra={"examples": [_METER_EXAMPLE]})

    known: bool = Field(
        description="Whether the ledger knows the account; one that it does not know is on an "
        "untouched Free."
    )
    time_zone: str
    next_plan: PlanShown | None = Field(
        description="The plan that the next renewal brings; null if it stays the same."
    )
    thresholds: list[str] = Field(
        description="The shares of use at which a `limit.threshold` is announced.",
        examples=[["0.8"]],
    )
    grants: list[GrantShown]
    features: list[FeatureUse]
    days: list[DayShown] = Field(description="Every day of the period so far; on Free the last 31.")
    pace: PaceShown | None = Field(description="Null without use, and in the period's first hour.")
    renewal: RenewalShown | None = Field(description="Null on Free.")
    history_as_of: datetime | None = Field(
        description="Until when features, models and days are complete; null if up to date."
    )


class PeriodListed(BaseModel):
    """A period that is over. Late uses and voids may change it for 72 hours after its end."""

    number: int
    start: datetime
    end: datetime | None
    plan: str
    plan_name: str
    allotment: CreditsText
    granted: CreditsText = Field(description="What the period drew from grants.")
    used: CreditsText
    by_feature: dict[str, CreditsText]


PERIOD_EXAMPLE: dict[str, Any] = {
    "number": 3,
    "start": "2026-10-03T09:00:00Z",
    "end": "2026-11-03T09:00:00Z",
    "plan": "max",
    "plan_name": "Max",
    "allotment": "500",
    "granted": "0",
    "used": "480",
    "by_feature": {"genai_video": "480"},
}


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
