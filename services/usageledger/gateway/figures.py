"""An account's figures as apps and people read them: what the usage meter shows first, and what its
stream sends whenever they change.

A projection of `AccountNow` and of nothing else. Credits are decimal strings, shares are rounded
down, so that no limit shows as reached before it is.
"""

from __future__ import annotations

from datetime import datetime
from decimal import ROUND_FLOOR, Context, Decimal
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from usageledger.accounts.reader import AccountNow
from usageledger.domain.account import AccountState
from usageledger.domain.catalog import Catalog, Plan, Rate
from usageledger.domain.credits import format_credits
from usageledger.domain.crossings import upgrade_for
from usageledger.domain.entry import UpgradeOffer
from usageledger.domain.quantity import format_quantity
from usageledger.domain.renewal import plan_at

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

# Amounts have at most 16 digits: a quotient of two of them is rounded once, and down.
_SHARES = Context(prec=40, rounding=ROUND_FLOOR)
_SHARE_PLACES = Decimal("0.0001")


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
    """That nothing more may be used, and what would change that."""

    reason: str = Field(
        description="What blocked it: that of its `limit.reached`.", examples=["usage"]
    )
    since: datetime | None = Field(description="Null where that is not known.")
    suspension: str | None = Field(
        description="Why the account is suspended, null where it is not.",
        examples=["payment_failed"],
    )
    upgrade: UpgradeShown | None
    resets_at: datetime | None = Field(
        description="When the period ends; null on Free, and while the account is suspended."
    )


class HoldsShown(BaseModel):
    """What generations that have not ended yet have reserved."""

    open: int
    credits: CreditsText


class Figures(BaseModel):
    """An account's figures at a moment: `remaining` = `allotment` + `granted` - `used`, `available`
    = `remaining` - `held`.
    """

    model_config = ConfigDict(title="Figures")

    account: str
    at: datetime
    as_of: datetime | None = Field(
        description="When the counters were last known to be all that was decided; null if that "
        "was lately."
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
        description="`used` of `used` + `remaining`, rounded down; 1.0000 or more where nothing "
        "remains."
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


def figures(now: AccountNow, block: Block | None = None) -> Figures:
    """The account's figures.

    ``block``: what is known of when it was blocked, which the counters do not say.
    """
    state, catalog = now.state, now.catalogs.in_force(now.at)
    return Figures(
        account=now.account,
        at=now.at,
        as_of=now.verified_at,
        plan=plan_shown(now, state.plan),
        period=PeriodShown(
            number=state.period.number, start=state.period.start, end=state.period.end
        ),
        allotment=format_credits(state.period.allotment),
        granted=format_credits(state.granted),
        used=format_credits(state.period.used),
        held=format_credits(now.held),
        remaining=format_credits(state.remaining),
        available=format_credits(state.remaining - now.held),
        share_used=share_used(state),
        blocked=_blocked(state, catalog, block) if state.is_blocked else None,
        upgrade=upgrade_shown(upgrade_for(state, catalog)),
        holds=HoldsShown(open=now.open_holds, credits=format_credits(now.held)),
        by_feature={
            feature: format_credits(credits)
            for feature, credits in sorted(state.period.by_feature.items())
        },
    )


def plan_shown(now: AccountNow, plan_id: str) -> PlanShown:
    """A plan that the account has or will have."""
    plan = plan_of(now, plan_id)
    allotment = format_credits(plan.allotment)
    return PlanShown(
        id=plan.id,
        name=plan.name,
        price_cents=plan.price_cents,
        allotment=allotment,
        renews=plan.renews,
    )


def plan_of(now: AccountNow, plan_id: str) -> Plan:
    """The plan as the version in force has it; where that one has dropped it, as the last that has
    it.
    """
    plan = plan_at(now.catalogs, plan_id, now.at)
    assert plan is not None, "a plan was adopted before any account could have it"
    return plan


def share_used(state: AccountState) -> str:
    """``used`` of ``used + remaining``, with four places, rounded down.

    Where there is nothing to use, all of it is used.
    """
    whole = state.period.used + state.remaining
    share = Decimal(1) if whole <= 0 else _SHARES.divide(Decimal(state.period.used), Decimal(whole))
    return format(share.quantize(_SHARE_PLACES, context=_SHARES), "f")


def _blocked(state: AccountState, catalog: Catalog, block: Block | None) -> BlockedShown:
    return BlockedShown(
        reason=block.reason
        if block is not None
        else "usage"
        if state.suspended is None
        else "suspended",
        since=None if block is None else block.since,
        suspension=state.suspended,
        upgrade=upgrade_shown(upgrade_for(state, catalog)),
        resets_at=state.period.end if state.suspended is None else None,
    )


def upgrade_shown(offer: UpgradeOffer | None) -> UpgradeShown | None:
    """An offer as apps and people read it."""
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
    """What a use costs: `credits` for each `per` units."""

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
