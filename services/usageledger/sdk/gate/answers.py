"""A gate's answers and errors. Amounts are credits; times are in UTC."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal

from usageledger.accounts.queries import Checked, HoldResult
from usageledger.counters.holding import Hold, use_of
from usageledger.domain.checking import Use
from usageledger.domain.credits import format_credits
from usageledger.domain.entry import UpgradeOffer
from usageledger.domain.rating import Quote

HoldState = Literal["open", "settled", "released", "gone"]
"""``gone``: the hold has expired, or there never was one."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class GateError(Exception):
    """A gate has no answer."""


class InvalidUse(GateError, ValueError):
    """An argument is not well-formed: a name, a quantity, or how long a hold is to last.

    The message says which one and why.
    """


class UnknownUse(InvalidUse):
    """The catalog has no rate for this feature or model.

    ``reason`` is ``unknown_feature`` or ``unknown_model``.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class HoldIdReused(GateError):
    """The id is, or was until its hold was settled, for another use: give this one another id."""


class NotTheHolder(GateError):
    """Another key or source placed the hold, so it stays open."""


class GateMisconfigured(GateError):
    """Asking again will not help until something is changed.

    A key or a password is wrong, the ledger is not there, or a newer release has written it.
    """


class GateUnavailable(GateError):
    """No answer came in time. `check` and `hold` answer ``degraded`` instead of raising this."""


class NotEnoughCredits(GateError):
    """`held` got no hold. ``answer`` says why, and which upgrade would help."""

    def __init__(self, answer: HoldAnswer) -> None:
        super().__init__(f"account {answer.account!r} got no hold: {answer.reason}")
        self.answer = answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade:
    """The lowest plan under which the use would be allowed."""

    plan: str
    name: str
    price_cents: int
    allotment: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckAnswer:
    """Whether a use may start. True in a condition if it may.

    ``degraded`` means that no answer came in time: ``allowed`` is then what the caller chose for
    that case, and no figure is known.
    """

    account: str
    allowed: bool
    reason: str | None = None
    """Why not: ``insufficient_credits``, ``suspended``, ``unknown_account`` or ``unavailable``."""
    suspension: str | None = None
    """Why the account is suspended; None if it is not."""
    cost: Decimal | None = None
    remaining: Decimal | None = None
    held: Decimal | None = None
    """What the account's open holds have reserved."""
    available: Decimal | None = None
    """``remaining - held``."""
    upgrade: Upgrade | None = None
    resets_at: datetime | None = None
    """When the period ends; None on Free."""
    as_of: datetime | None = None
    """When the figures were last known to be complete; None if within the last seconds."""
    degraded: bool = False

    def __bool__(self) -> bool:
        return self.allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldAnswer:
    """The answer to a request to hold. True in a condition if the use may start.

    ``state`` is ``open``, or ``settled`` if the same id has held the same use before and that use
    was charged. To do the use again costs nothing more: its report will be a duplicate. ``state``
    is None if no hold was given, and if that is not known (``degraded``).
    """

    account: str
    id: str
    allowed: bool
    state: HoldState | None = None
    reason: str | None = None
    """Why not: ``insufficient_credits``, ``suspended``, ``unknown_account``,
    ``too_many_open_holds`` or ``unavailable``.
    """
    suspension: str | None = None
    credits: Decimal | None = None
    """What the hold reserves, or would reserve."""
    expires_at: datetime | None = None
    """When the hold expires by itself; None unless it is open."""
    remaining: Decimal | None = None
    held: Decimal | None = None
    """What all open holds of the account have reserved, including this one."""
    available: Decimal | None = None
    upgrade: Upgrade | None = None
    resets_at: datetime | None = None
    as_of: datetime | None = None
    degraded: bool = False

    def __bool__(self) -> bool:
        return self.allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseAnswer:
    """A hold's state after its release.

    ``degraded`` means that no answer came in time: the hold may stay open until it expires.
    """

    account: str
    id: str
    state: HoldState | None
    degraded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotedUse:
    """A use and what it costs."""

    feature: str
    model: str | None
    quantity: Decimal
    credits: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteAnswer:
    """The cost of several uses together.

    ``fits`` are the plans whose allotment covers that, the lowest first.
    """

    total: Decimal
    uses: tuple[QuotedUse, ...]
    fits: tuple[Upgrade, ...]
    catalog: str
    """The version of the catalog by which the uses were rated."""


def check_answer(checked: Checked) -> CheckAnswer:
    """The answer to a check."""
    balance, check = checked.account.balance, checked.check
    return CheckAnswer(
        account=balance.account,
        allowed=check.allowed,
        reason=check.reason,
        suspension=check.suspended,
        cost=credits_of(check.cost),
        remaining=credits_of(check.remaining),
        held=credits_of(check.held),
        available=credits_of(check.available),
        upgrade=upgrade_from(check.upgrade),
        resets_at=balance.resets_at,
        as_of=checked.account.verified_at,
    )


def hold_answer(result: HoldResult, hold_id: str) -> HoldAnswer:
    """The answer to a request to hold. Raises HoldIdReused."""
    account, check, hold = result.checked.account, result.checked.check, result.hold
    balance = account.balance
    if result.refusal == "id_holds_something_else":
        raise HoldIdReused(id_reused_message(balance.account, hold_id, hold))
    is_open = hold is not None and hold.state == "open"
    return HoldAnswer(
        account=balance.account,
        id=hold_id,
        allowed=result.refusal is None,
        state=None if hold is None else hold.state,
        reason=result.refusal,
        suspension=check.suspended,
        credits=credits_of(check.cost if hold is None else hold.credits),
        expires_at=_expires_at(hold) if hold is not None and is_open else None,
        remaining=credits_of(check.remaining),
        held=credits_of(check.held),
        available=credits_of(check.available),
        upgrade=None if result.refusal is None else upgrade_from(check.upgrade),
        resets_at=balance.resets_at,
        as_of=account.verified_at,
    )


def quote_answer(quoted: tuple[Quote, str]) -> QuoteAnswer:
    """The answer to a request for a quote."""
    quote, version = quoted
    return QuoteAnswer(
        total=credits_of(quote.total),
        uses=tuple(
            QuotedUse(
                feature=line.feature,
                model=line.model,
                quantity=line.quantity,
                credits=credits_of(line.credits),
            )
            for line in quote.lines
        ),
        fits=tuple(
            Upgrade(
                plan=plan.id,
                name=plan.name,
                price_cents=plan.price_cents,
                allotment=credits_of(plan.allotment),
            )
            for plan in quote.fits
        ),
        catalog=version,
    )


def release_answer(account: str, hold_id: str, hold: Hold | None) -> ReleaseAnswer:
    """The answer to a request to release a hold. Raises NotTheHolder."""
    if hold is not None and hold.state == "open":
        raise NotTheHolder(not_the_holder_message(account, hold_id))
    return ReleaseAnswer(account=account, id=hold_id, state="gone" if hold is None else hold.state)


def id_reused_message(account: str, hold_id: str, hold: Hold | None) -> str:
    """The sentence about an id that is for another use. ``hold`` is what it holds, if known."""
    what = "something else" if hold is None else _use_text(use_of(hold))
    return f"hold {hold_id!r} of account {account!r} is for {what}: another use needs another id"


def not_the_holder_message(account: str, hold_id: str) -> str:
    """The sentence about a hold that the caller may not release."""
    return (
        f"hold {hold_id!r} of account {account!r} was placed by another key or source: release it "
        "with that one, or with a key that has the scope 'admin', or let it expire"
    )


def credits_of(microcredits: int) -> Decimal:
    """Micro-credits as credits, exactly."""
    return Decimal(format_credits(microcredits))


def upgrade_from(offer: UpgradeOffer | None) -> Upgrade | None:
    """An upgrade offer in credits."""
    if offer is None:
        return None
    return Upgrade(
        plan=offer.plan,
        name=offer.name,
        price_cents=offer.price_cents,
        allotment=credits_of(offer.allotment),
    )


def _expires_at(hold: Hold) -> datetime:
    return _EPOCH + timedelta(milliseconds=hold.counts_until_ms)


def _use_text(use: Use) -> str:
    return f"{use.quantity} of {use.feature}" + ("" if use.model is None else f"/{use.model}")
