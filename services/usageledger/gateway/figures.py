"""An account's figures as apps and people read them over HTTP.

The usage meter begins with them, and its stream sends them whenever they change. This is the one
place that formats a `Balance` for HTTP: credits become decimal strings. Shares are rounded down, so
that no limit shows as reached before it is.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from math import floor
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from usageledger.accounts.queries import AccountBalance
from usageledger.domain.balance import Balance
from usageledger.domain.catalog import Plan, Rate
from usageledger.domain.credits import format_credits
from usageledger.domain.entry import UpgradeOffer
from usageledger.domain.quantity import format_quantity

CreditsText = Annotated[
    str,
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^-?[0-9]+(\.[0-9]{1,6})?$",
            "description": "Credits.",
            "examples": ["14"],
        }
    ),
]
ShareText = Annotated[
    str,
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^-?[0-9]+\.[0-9]{4}$",
            "description": "A share.",
            "examples": ["0.2375"],
        }
    ),
]

_SHARE_PLACES = 4


class PlanShown(BaseModel):
    """A plan as the catalog in force has it."""

    id: str
    name: str
    price_cents: int
    allotment: CreditsText
    renews: bool


class PeriodShown(BaseModel):
    """The period that the figures are of. Free's has no end."""

    number: int
    start: datetime
    end: datetime | None


class UpgradeShown(BaseModel):
    """The lowest plan above the account's under which something would remain."""

    plan: str
    name: str
    price_cents: int
    allotment: CreditsText


class BlockedShown(BaseModel):
    """Why nothing more may be used, and what would change that."""

    reason: str = Field(
        description="What blocked it: the reason in its `limit.reached`.", examples=["usage"]
    )
    since: datetime | None = Field(description="Null if that is not known.")
    suspension: str | None = Field(
        description="Why the account is suspended; null if it is not.",
        examples=["payment_failed"],
    )
    upgrade: UpgradeShown | None
    resets_at: datetime | None = Field(
        description="When the period ends; null on Free, and while the account is suspended."
    )


class HoldsShown(BaseModel):
    """The credits that running generations have reserved."""

    open: int
    credits: CreditsText


class Figures(BaseModel):
    """An account's figures at a moment.

    `remaining` = `allotment` + `granted` - `used`, and `available` = `remaining` - `held`.
    """

    model_config = ConfigDict(title="Figures")

    account: str
    at: datetime
    as_of: datetime | None = Field(
        description="When the figures were last known to be complete; null if that was within the "
        "last seconds."
    )
    plan: PlanShown
    period: PeriodShown
    allotment: CreditsText
    granted: CreditsText
    used: CreditsText
    held: CreditsText
    remaining: CreditsText
    available: CreditsText
    share_used: ShareText = Field(
        description="`used` as a share of `used` + `remaining`, rounded down; 1.0000 or more if "
        "nothing remains."
    )
    blocked: BlockedShown | None
    upgrade: UpgradeShown | None
    holds: HoldsShown
    by_feature: dict[str, CreditsText] = Field(
        description="What was used in the period, by feature.", examples=[{"genai_video": "100"}]
    )


class Block(NamedTuple):
    """When and why an account was blocked, as its last `limit.reached` says."""

    since: datetime
    reason: str


def figures(found: AccountBalance, block: Block | None = None) -> Figures:
    """The account's figures.

    ``block`` is what is known about when the account was blocked, which its balance does not say.
    """
    balance = found.balance
    upgrade = upgrade_shown(balance.upgrade)
    return Figures(
        account=balance.account,
        at=balance.at,
        as_of=found.verified_at,
        plan=plan_shown(balance.plan),
        period=PeriodShown(
            number=balance.period.number, start=balance.period.start, end=balance.period.end
        ),
        allotment=format_credits(balance.allotment),
        granted=format_credits(balance.granted),
        used=format_credits(balance.used),
        held=format_credits(balance.held),
        remaining=format_credits(balance.remaining),
        available=format_credits(balance.available),
        share_used=share_text(balance.share_used),
        blocked=_block_shown(balance, block, upgrade),
        upgrade=upgrade,
        holds=HoldsShown(open=balance.open_holds, credits=format_credits(balance.held)),
        by_feature={
            feature: format_credits(credits) for feature, credits in balance.by_feature.items()
        },
    )


def plan_shown(plan: Plan) -> PlanShown:
    """A plan as answers show it."""
    return PlanShown(
        id=plan.id,
        name=plan.name,
        price_cents=plan.price_cents,
        allotment=format_credits(plan.allotment),
        renews=plan.renews,
    )


def share_text(share: Fraction) -> str:
    """A share with four places, rounded down."""
    return format(Decimal(floor(share * 10**_SHARE_PLACES)).scaleb(-_SHARE_PLACES), "f")


def _block_shown(
    balance: Balance, block: Block | None, upgrade: UpgradeShown | None
) -> BlockedShown | None:
    if balance.block_reason is None:
        return None
    is_suspended = balance.suspended is not None
    return BlockedShown(
        reason=balance.block_reason if block is None else block.reason,
        since=None if block is None else block.since,
        suspension=balance.suspended,
        upgrade=upgrade,
        resets_at=None if is_suspended else balance.resets_at,
    )


def upgrade_shown(offer: UpgradeOffer | None) -> UpgradeShown | None:
    """An upgrade offer as answers show it."""
    if offer is None:
        return None
    return UpgradeShown(
        plan=offer.plan,
        name=offer.name,
        price_cents=offer.price_cents,
        allotment=format_credits(offer.allotment),
    )


class EventShown(BaseModel):
    """The event behind an entry, by its identity."""

    source: str
    id: str


class RateShown(BaseModel):
    """The price of a use: `credits` for each `per` units."""

    credits: CreditsText
    unit: str
    per: str = Field(examples=["1"])
    rounding: Literal["up", "exact"] = Field(
        description="`up`: each begun `per` in full; `exact`: in proportion."
    )


def rate_shown(rate: Rate) -> RateShown:
    """A rate of the catalog as answers have it."""
    return RateShown(
        credits=format_credits(rate.credits),
        unit=rate.unit,
        per=format_quantity(rate.per),
        rounding=rate.rounding,
    )
