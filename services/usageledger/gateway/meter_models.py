"""The usage meter of an account and its past periods, as answers show them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from usageledger.gateway.figures import CreditsText, Figures, PlanShown


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
    """The outcome of the period's end, if nothing more is used until then."""

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
