"""Routes for an app that is about to spend: quote, check, hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, WithJsonSchema
from pydantic.config import JsonDict

from usageledger.accounts.queries import (
    Checked,
    HoldResult,
    NoRate,
    Query,
    T,
    check_query,
    find_hold_query,
    hold_query,
    quote_query,
    release_query,
)
from usageledger.accounts.reader import Accounts
from usageledger.contracts.fields import NAME_SCHEMA, Name, Quantity
from usageledger.counters.holding import OPEN_MAX, OPEN_OF_HOLDER_MAX, Hold, use_of
from usageledger.domain.bounds import QUANTITY_MAX
from usageledger.domain.checking import Use
from usageledger.domain.credits import format_credits
from usageledger.domain.quantity import format_quantity
from usageledger.gateway.dependencies import AccountPath, MayCheck, MayHold, MayQuote, TheAccounts
from usageledger.gateway.figures import CreditsText, UpgradeShown, upgrade_shown
from usageledger.gateway.problems import Problem, problems
from usageledger.sdk.gate.answers import id_reused_message, not_the_holder_message
from usageledger.sdk.gate.arguments import (
    EXPIRES_IN_DEFAULT,
    EXPIRES_IN_MAX,
    EXPIRES_IN_MIN,
    USES_MAX,
)

router = APIRouter(tags=["check and hold"])

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_USE_EXAMPLE: JsonDict = {"feature": "genai_video", "model": "veo_3", "quantity": "1"}
_UPGRADE_EXAMPLE: JsonDict = {"plan": "max", "name": "Max", "price_cents": 2499, "allotment": "500"}
_STANDING_EXAMPLE: JsonDict = {
    "remaining": "168",
    "held": "32",
    "available": "136",
    "resets_at": "2026-12-14T09:30:00Z",
    "as_of": None,
}
_HOLD_EXAMPLE: JsonDict = {
    "account": "acct_4821",
    "id": "gen_01J9",
    "state": "open",
    **_USE_EXAMPLE,
    "credits": "32",
    "expires_at": "2026-11-25T10:15:00Z",
}


def _as_json_integer(value: object) -> object:
    """A float without a fraction as an integer.

    To JSON Schema 2.0 is an integer, and some languages write integers so. The conversion is exact.
    """
    return (
        int(value)
        if isinstance(value, float) and value.is_integer() and abs(value) <= QUANTITY_MAX
        else value
    )


QuantityAsked = Annotated[
    Quantity,
    BeforeValidator(_as_json_integer),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "string",
                    "pattern": r"^([0-9]{1,9}(\.[0-9]{1,6})?|1000000000(\.0{1,6})?)$",
                },
                {"type": "integer", "minimum": 0, "maximum": int(QUANTITY_MAX)},
            ],
            "description": "In the rate's units: a decimal from 0 to 1000000000 with at most 6 "
            "places, as a string or an integer.",
            "examples": ["1", "0.5", 12],
        }
    ),
]
Seconds = Annotated[StrictInt, BeforeValidator(_as_json_integer)]
HoldId = Annotated[
    Name,
    WithJsonSchema({**NAME_SCHEMA, "examples": ["gen_01J9"]}),
    Path(description="The hold's id."),
]


class UseAsked(BaseModel):
    """A use that an app is about to start."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_USE_EXAMPLE]})

    feature: Name
    model: Name | None = None
    quantity: QuantityAsked = Decimal(1)

    @property
    def use(self) -> Use:
        """The use as the domain has it."""
        return Use(feature=self.feature, model=self.model, quantity=self.quantity)


class HoldAsked(UseAsked):
    """A use that an app is about to start, and for how long to reserve its credits."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"id": "gen_01J9", **_USE_EXAMPLE, "expires_in": 900}]},
    )

    id: Name = Field(
        description="Chosen by the caller. The same hold again reserves nothing more. Send it as "
        "`hold_id` when the use is reported."
    )
    expires_in: Seconds = Field(
        default=EXPIRES_IN_DEFAULT // timedelta(seconds=1),
        ge=EXPIRES_IN_MIN // timedelta(seconds=1),
        le=EXPIRES_IN_MAX // timedelta(seconds=1),
        description="Seconds until it expires, if it is neither settled nor released.",
    )


class QuoteAsked(BaseModel):
    """Uses whose price an app wants to know."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"uses": [_USE_EXAMPLE]}]}
    )

    uses: list[UseAsked] = Field(min_length=1, max_length=USES_MAX)


class StandingShown(BaseModel):
    """The credits that an account has left, at the moment of the answer."""

    remaining: CreditsText
    held: CreditsText = Field(description="The credits that its open holds reserve.")
    available: CreditsText = Field(description="`remaining` minus `held`.")
    resets_at: datetime | None = Field(description="When the period ends; null on Free.")
    as_of: datetime | None = Field(
        description="When the figures were last known to be complete; null if that was within the "
        "last seconds."
    )


class CheckShown(StandingShown):
    """Whether a use may start."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "account": "acct_4821",
                    "allowed": False,
                    "reason": "insufficient_credits",
                    "suspension": None,
                    "cost": "140",
                    **_STANDING_EXAMPLE,
                    "upgrade": _UPGRADE_EXAMPLE,
                }
            ]
        }
    )

    account: str
    allowed: bool
    reason: Literal["insufficient_credits", "suspended", "unknown_account"] | None = Field(
        description="Why not."
    )
    suspension: str | None = Field(description="Why the account is suspended, where it is.")
    cost: CreditsText
    upgrade: UpgradeShown | None = Field(
        description="The lowest plan under which it would be allowed, beside the open holds."
    )


class HoldShown(BaseModel):
    """A hold. Settled: its use was charged. Released: its credits were given back."""

    model_config = ConfigDict(json_schema_extra={"examples": [_HOLD_EXAMPLE]})

    account: str
    id: str
    state: Literal["open", "settled", "released"]
    feature: str
    model: str | None
    quantity: str
    credits: CreditsText
    expires_at: datetime | None = Field(
        description="When it expires; null if it is no longer open."
    )


class HoldGiven(HoldShown, StandingShown):
    """A hold, and the credits that the account has left beside it."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{**_HOLD_EXAMPLE, **_STANDING_EXAMPLE}]}
    )


class HoldReleased(BaseModel):
    """The state of a hold after its release."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"account": "acct_4821", "id": "gen_01J9", "state": "released"}]
        }
    )

    account: str
    id: str
    state: Literal["settled", "released", "gone"] = Field(
        description="`gone`: it has expired, or there never was one."
    )


class QuotedUse(BaseModel):
    """A use and its price."""

    feature: str
    model: str | None
    quantity: str
    credits: CreditsText


class QuoteShown(BaseModel):
    """The price of several uses together."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "total": "32",
                    "uses": [{**_USE_EXAMPLE, "credits": "32"}],
                    "fits": [_UPGRADE_EXAMPLE],
                    "catalog": "captions-2026-11",
                }
            ]
        }
    )

    total: CreditsText
    uses: list[QuotedUse]
    fits: list[UpgradeShown] = Field(
        description="The plans whose allotment covers the total, the lowest first."
    )
    catalog: str = Field(description="The version of the catalog that has these prices.")


@router.post(
    "/v1/quote",
    responses=problems("unknown_feature", "unknown_model", "log_unavailable", "not_ready"),
)
async def quote(asked: QuoteAsked, accounts: TheAccounts, caller: MayQuote) -> QuoteShown:
    """The price of several uses by the catalog in force now, and the plans that cover it."""
    found, version = await _run(
        accounts, "", quote_query([use.use for use in asked.uses], accounts.clock)
    )
    return QuoteShown(
        total=format_credits(found.total),
        uses=[
            QuotedUse(
                feature=line.feature,
                model=line.model,
                quantity=format_quantity(line.quantity),
                credits=format_credits(line.credits),
            )
            for line in found.lines
        ],
        fits=[
            UpgradeShown(
                plan=plan.id,
                name=plan.name,
                price_cents=plan.price_cents,
                allotment=format_credits(plan.allotment),
            )
            for plan in found.fits
        ],
        catalog=version,
    )


@router.post(
    "/v1/accounts/{account:segment}/check",
    responses=problems("unknown_feature", "unknown_model", "log_unavailable", "not_ready"),
)
async def check(
    account: AccountPath,
    asked: UseAsked,
    accounts: TheAccounts,
    caller: MayCheck,
) -> CheckShown:
    """Whether an account may start a use now, and what the use would cost.

    If it may not, the answer says why, and which upgrade would allow it. The status is 200 in both
    cases. A check reserves nothing.
    """
    checked = await _run(accounts, account, check_query(account, asked.use, accounts.clock))
    found = checked.check
    return CheckShown(
        account=account,
        allowed=found.allowed,
        reason=found.reason,
        suspension=found.suspended,
        cost=format_credits(found.cost),
        upgrade=upgrade_shown(found.upgrade),
        **_standing_members(checked),
    )


@router.post(
    "/v1/accounts/{account:segment}/holds",
    status_code=201,
    responses=problems(
        "insufficient_credits",
        "suspended",
        "unknown_account",
        "id_reused_with_different_content",
        "unknown_feature",
        "unknown_model",
        "too_many_open_holds",
        "log_unavailable",
        "not_ready",
    ),
)
async def place_hold(
    account: AccountPath,
    asked: HoldAsked,
    accounts: TheAccounts,
    caller: MayHold,
) -> HoldGiven:
    """Reserve the credits that a use may cost. Two workers never both get the last credits.

    Report the use with `hold_id` to settle the hold, or release it. Otherwise it expires after
    `expires_in`. The same hold again reserves nothing more and is answered as it is: `state` says
    whether its use was charged already. A hold that was released or has expired can be placed again
    under its id.

    If there are not enough credits, the problem has `credits` (the cost of the use), `remaining`,
    `held`, `available` and the `upgrade` that would allow it.
    """
    life_ms = asked.expires_in * 1_000
    query = hold_query(account, asked.id, asked.use, life_ms, accounts.clock, caller.holder)
    result = await _run(accounts, account, query)
    if result.refusal is not None or result.hold is None:
        raise _hold_problem(result, asked.id)
    return HoldGiven(
        **_hold_members(account, asked.id, result.hold), **_standing_members(result.checked)
    )


@router.get(
    "/v1/accounts/{account:segment}/holds/{hold_id:segment}", responses=problems("not_found")
)
async def show_hold(
    account: AccountPath,
    hold_id: HoldId,
    accounts: TheAccounts,
    caller: MayHold,
) -> HoldShown:
    """One hold.

    A settled or released hold is known until it would have expired, 15 minutes at most.
    """
    found = await accounts.run(account, find_hold_query(account, hold_id))
    if found is None:
        raise Problem(
            "not_found",
            f"account {account!r} has no hold {hold_id!r}: it has expired, or there never was one",
        )
    return HoldShown(**_hold_members(account, hold_id, found))


@router.post(
    "/v1/accounts/{account:segment}/holds/{hold_id:segment}/release",
    responses=problems("not_the_holder"),
)
async def release_hold(
    account: AccountPath,
    hold_id: HoldId,
    accounts: TheAccounts,
    caller: MayHold,
) -> HoldReleased:
    """Give back the credits of a hold, because the generation failed or will not start.

    It may be repeated. A settled hold stays settled. Only the key that placed the hold may release
    it, or a key with the scope `admin`. A key may also release what its tokens placed.
    """
    found = await accounts.run(account, release_query(account, hold_id, caller.holders))
    if found is not None and found.state == "open":
        raise Problem("not_the_holder", not_the_holder_message(account, hold_id))
    state: Literal["settled", "released", "gone"] = (
        "gone" if found is None else "settled" if found.state == "settled" else "released"
    )
    return HoldReleased(account=account, id=hold_id, state=state)


async def _run(accounts: Accounts, account: str, query: Query[T]) -> T:
    try:
        return await accounts.run(account, query)
    except NoRate as error:
        detail = (
            f"{error}: name a feature and a model of the rate card, or publish a catalog that has "
            "them"
        )
        raise Problem(
            error.reason, detail, feature=error.use.feature, model=error.use.model
        ) from None


def _hold_problem(result: HoldResult, hold_id: str) -> Problem:
    checked, refusal = result.checked, result.refusal
    account, check = checked.account.balance.account, checked.check
    if refusal == "id_holds_something_else":
        return Problem(
            "id_reused_with_different_content", id_reused_message(account, hold_id, result.hold)
        )
    assert refusal is not None
    costs = (
        f"{format_credits(check.cost)} credits, of which {format_credits(check.available)} are "
        "available"
    )
    offer = "" if check.upgrade is None else f": the plan {check.upgrade.name} would allow it"
    details = {
        "insufficient_credits": f"the use costs {costs}{offer}",
        "suspended": f"the account is suspended ({check.suspended}): resume it first",
        "unknown_account": "the account is unknown: open it, or subscribe it to a plan, first",
        "too_many_open_holds": f"an account has {OPEN_MAX:,} open holds at most, and a key "
        f"{OPEN_OF_HOLDER_MAX:,} in a partition: report or release the uses that have begun, or "
        "wait until their holds expire",
    }
    more: dict[str, Any] = {
        "account": account,
        "suspension": check.suspended,
        "credits": format_credits(check.cost),
        "upgrade": None if (shown := upgrade_shown(check.upgrade)) is None else shown.model_dump(),
        **{name: _json_value(value) for name, value in _standing_members(checked).items()},
    }
    return Problem(refusal, details[refusal], **more)


def _standing_members(checked: Checked) -> dict[str, Any]:
    account, found = checked.account, checked.check
    return {
        "remaining": format_credits(found.remaining),
        "held": format_credits(found.held),
        "available": format_credits(found.available),
        "resets_at": account.balance.resets_at,
        "as_of": account.verified_at,
    }


def _hold_members(account: str, hold_id: str, hold: Hold) -> dict[str, Any]:
    use = use_of(hold)
    return {
        "account": account,
        "id": hold_id,
        "state": hold.state,
        "feature": use.feature,
        "model": use.model,
        "quantity": format_quantity(use.quantity),
        "credits": format_credits(hold.credits),
        "expires_at": _EPOCH + timedelta(milliseconds=hold.counts_until_ms)
        if hold.state == "open"
        else None,
    }


def _json_value(value: object) -> object:
    """A member of a problem; times have the same form as in every answer."""
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value
