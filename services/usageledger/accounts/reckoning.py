"""What is asked for each answer about an account, in which order, and what is made of it.

How it is asked is for others to say.

Each reckoning is a generator: it yields questions and is sent their answers. So one reckoning
serves clients that wait and clients that do not, in the gateway, in an app and in a test's memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

import msgspec

from usageledger.counters.calling import Call
from usageledger.counters.holding import (
    FindHold,
    Held,
    Hold,
    Outcome,
    PlaceHold,
    ReleaseHold,
    content_of,
)
from usageledger.counters.reading import AccountReading, ReadAccount, as_of
from usageledger.counters.view import ViewError
from usageledger.domain.account import AccountState
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.balance import untouched_free
from usageledger.domain.catalog import UnknownRate
from usageledger.domain.checking import Check, NotAllowed, Use, check_use
from usageledger.domain.credits import MICROCREDITS_MAX
from usageledger.domain.encoding import decode_account, decode_head
from usageledger.domain.head import Head
from usageledger.domain.rating import Quote, quote
from usageledger.domain.renewal import state_at

T = TypeVar("T")

ATTEMPTS_MAX = 20
"""How often a hold is reckoned anew because the account's usage has moved on meanwhile.

A busy account moves some twenty times a second.
"""

_ANY_ACCOUNT = "-"


class CatalogsUpTo(NamedTuple):
    """The catalogs below an offset of their topic; those that are published, where that is 0: no
    partition has adopted any.
    """

    before: int


Question = Call[Any] | CatalogsUpTo
Reckoning = Generator[Question, Any, T]


class Clock(NamedTuple):
    """What is now. While history is imported it is the ledger's own time."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    is_importing: Callable[[], bool] = lambda: False

    def at(self, head: Head) -> datetime:
        """What is now for the accounts of a partition.

        The ledger's time is never ahead of it; a head of no ledger has none.
        """
        return head.clock if head.ledger and self.is_importing() else max(self.now(), head.clock)


class AccountNow(NamedTuple):
    """An account at a moment.

    ``state`` is rolled to ``at``; of an account that the ledger does not know it is an untouched
    Free. ``verified_at``: when the counters were last known to be all that was decided, None if
    that was lately. ``ledger_next``: the offset behind the last entry that is in them.
    """

    account: str
    state: AccountState
    is_known: bool
    at: datetime
    verified_at: datetime | None
    catalogs: AdoptedCatalogs
    ledger_next: int
    held: int = 0
    """What its open holds have reserved, in micro-credits."""
    open_holds: int = 0
    stored: bytes | None = None
    """The state as the view keeps it."""

    def moved_to(self, stored: bytes | None, held: int) -> AccountNow:
        """The account as another state makes it, at the same moment."""
        state = _rolled(self.account, stored, self.at, self.catalogs)
        return self._replace(state=state, is_known=stored is not None, held=held, stored=stored)


class Checked(NamedTuple):
    """A check, and the account that it was made of."""

    now: AccountNow
    use: Use
    check: Check


class Placed(NamedTuple):
    """What became of a request to hold.

    ``refusal`` says why there is no ``hold``; ``checked`` is the account beside all open holds.
    """

    checked: Checked
    hold: Hold | None = None
    refusal: NotAllowed | Outcome | None = None


class NoRate(Exception):
    """The catalog has no rate for a use, so it is neither allowed nor not.

    ``reason``: ``unknown_feature`` or ``unknown_model``.
    """

    def __init__(self, use: Use, reason: str, catalog_version: str) -> None:
        named = (
            f"feature {use.feature!r}"
            if reason == "unknown_feature"
            else f"model {use.model!r} of feature {use.feature!r}"
        )
        if reason == "unknown_model" and use.model is None:
            named = f"feature {use.feature!r} with no model named"
        super().__init__(f"catalog {catalog_version!r} has no rate for {named}")
        self.use = use
        self.reason = reason


def reading(account: str, clock: Clock) -> Reckoning[AccountNow]:
    """The account now.

    Raises ViewError for counters that are not there, or that this release cannot read.
    """
    found: AccountReading = yield ReadAccount(account)
    return (yield from reckoned(account, found, clock))


def reckoned(account: str, found: AccountReading, clock: Clock) -> Reckoning[AccountNow]:
    """The account now, of what was read of it.

    Raises ViewError for counters that are not there, or that this release cannot read.
    """
    if found.head is None:
        # An account that is suspended would be an untouched Free, until it is read again from the
        # ledger.
        raise ViewError(
            "the counters of this partition are not there: no processor has written them yet, or "
            "they were lost and are read again"
        )
    try:
        head = decode_head(found.head.value)
        catalogs: AdoptedCatalogs = yield CatalogsUpTo(head.catalog_next)
        now = clock.now()
        at = clock.at(head)
        state = _rolled(account, found.account, at, catalogs)
    except msgspec.MsgspecError as error:
        raise ViewError(
            f"the counters hold what this release cannot read ({error}): upgrade it",
            retriable=False,
        ) from error
    standing = (found.held, found.open_holds, found.account)
    return AccountNow(
        account,
        state,
        found.account is not None,
        at,
        as_of(found.head, now),
        catalogs,
        head.next_offset,
        *standing,
    )


def checking(account: str, use: Use, clock: Clock) -> Reckoning[Checked]:
    """Whether a use may start. Raises NoRate, ViewError."""
    now = yield from reading(account, clock)
    return _checked(now, use, now.held)


def holding(account: str, hold_id: str, use: Use, life_ms: int, clock: Clock) -> Reckoning[Placed]:
    """Reserve what a use costs, if it may start.

    The same hold again is answered as it is. Raises NoRate, ViewError.
    """
    now = yield from reading(account, clock)
    for _ in range(ATTEMPTS_MAX):
        checked = _checked(now, use, now.held)
        if (
            checked.check.reason not in (None, "insufficient_credits")
            or checked.check.cost > MICROCREDITS_MAX
        ):
            return (yield from _refusing(checked, hold_id))
        asked = PlaceHold(
            account=account,
            seen=now.stored,
            remaining=checked.check.remaining,
            id=hold_id,
            credits=checked.check.cost,
            life_ms=life_ms,
            content=content_of(use),
        )
        held: Held = yield asked
        if held.outcome != "account_moved":
            # What the hold itself has reserved does not stand against it.
            return Placed(
                _checked(now, use, held.sum),
                held.hold,
                None if held.outcome == "held" else held.outcome,
            )
        now = now.moved_to(held.account, held.sum)
    raise ViewError("the account moved on each time that its hold was reckoned")


def releasing(account: str, hold_id: str) -> Reckoning[Hold | None]:
    """Free an open hold.

    The answer is what it then is; None where there is none, or it has run out. Raises ViewError.
    """
    found: Hold | None = yield ReleaseHold(account=account, id=hold_id)
    return found


def finding(account: str, hold_id: str) -> Reckoning[Hold | None]:
    """A hold as it is. None where there is none, or it has run out. Raises ViewError."""
    found: Hold | None = yield FindHold(account=account, id=hold_id)
    return found


def quoting(uses: Sequence[Use], clock: Clock) -> Reckoning[tuple[Quote, str]]:
    """What uses would cost together, and the catalog version that says so.

    Raises NoRate, ViewError.
    """
    # Any partition's head tells which catalogs are adopted; a use is rated by them wherever its
    # account lives.
    now = yield from reading(_ANY_ACCOUNT, clock)
    catalog = now.catalogs.in_force(now.at)
    for use in uses:
        rate = catalog.rate(use.feature, use.model)
        if isinstance(rate, UnknownRate):
            raise NoRate(use, rate.reason, catalog.version)
    return quote(catalog, [(use.feature, use.model, use.quantity) for use in uses]), catalog.version


def answered(reckoning: Reckoning[T], ask: Callable[[Question], Any]) -> T:
    """Carry a reckoning out, each question in turn."""
    try:
        question = next(reckoning)
        while True:
            question = reckoning.send(ask(question))
    except StopIteration as done:
        result: T = done.value
        return result


async def answered_async(reckoning: Reckoning[T], ask: Callable[[Question], Awaitable[Any]]) -> T:
    """As ``answered``, where asking is waiting for something."""
    try:
        question = next(reckoning)
        while True:
            question = reckoning.send(await ask(question))
    except StopIteration as done:
        result: T = done.value
        return result


def _refusing(checked: Checked, hold_id: str) -> Reckoning[Placed]:
    """The account may hold nothing now; what it has held under this id it still has."""
    found: Hold | None = yield FindHold(account=checked.now.account, id=hold_id)
    if found is None or found.state == "released":
        return Placed(checked, None, checked.check.reason)
    is_same = found.content == content_of(checked.use)
    return Placed(checked, found, None if is_same else "id_holds_something_else")


def _checked(now: AccountNow, use: Use, held: int) -> Checked:
    state = now.state if now.is_known else None
    check = check_use(
        use, account=now.account, state=state, held=held, at=now.at, catalogs=now.catalogs
    )
    if isinstance(check, UnknownRate):
        raise NoRate(use, check.reason, now.catalogs.in_force(now.at).version)
    return Checked(now, use, check)


def _rolled(
    account: str, stored: bytes | None, at: datetime, catalogs: AdoptedCatalogs
) -> AccountState:
    return (
        untouched_free(at, catalogs)
        if stored is None
        else state_at(decode_account(stored), account, at, catalogs)
    )
