"""The queries behind every answer about an account, free of I/O.

A query is a generator: it yields steps and is sent their answers. `run` and `run_async` carry one
out. So the same queries serve blocking and asyncio callers, in the gateway, in an app and in
memory.
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
    Holder,
    Outcome,
    PlaceHold,
    ReleaseHold,
    content_of,
)
from usageledger.counters.reading import AccountReading, ReadAccount, as_of
from usageledger.counters.view import StoredHead, ViewError
from usageledger.domain.account import AccountState
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.balance import Balance, balance_at
from usageledger.domain.catalog import UnknownRate
from usageledger.domain.checking import Check, NotAllowed, Use, check_use
from usageledger.domain.credits import MICROCREDITS_MAX
from usageledger.domain.encoding import decode_account, decode_head
from usageledger.domain.head import Head
from usageledger.domain.rating import Quote, quote

T = TypeVar("T")
S = TypeVar("S")

DECIDED_WITHIN_MS = 60_000
"""Checks and holds follow a view whose head was verified within this time.

An owner verifies it about once a second. A restart or a failover takes less than a minute.
"""

ATTEMPTS_MAX = 20
"""How often a hold is tried again because the account has changed meanwhile.

A busy account changes some twenty times a second.
"""

_ANY_ACCOUNT = "-"


class CatalogsUpTo(NamedTuple):
    """A step: read the catalogs below an offset of their topic.

    An offset of 0 means that the partition has adopted none: then all published ones are read.
    """

    before: int


class LedgerUntil(NamedTuple):
    """A step: fold an account's entries up to and including a time. The answer is a `PastState`."""

    account: str
    at: datetime


class PastState(NamedTuple):
    """The ledger's decisions by a time: an account's state, and which catalogs were adopted.

    ``catalog_next`` is the offset behind the last adopted catalog.
    """

    state: AccountState | None
    catalog_next: int


Step = Call[Any] | CatalogsUpTo
Query = Generator[Step, Any, T]
PastQuery = Generator[Step | LedgerUntil, Any, T]
"""A query that may ask about the past, which needs the ledger itself."""


class Clock(NamedTuple):
    """The present time for accounts. While history is imported, it is the ledger's own time."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    is_importing: Callable[[], bool] = lambda: False

    def at(self, head: Head) -> datetime:
        """The time for the accounts of a partition, never before the ledger's clock.

        The head of a partition without a ledger has no clock.
        """
        return head.clock if head.ledger and self.is_importing() else max(self.now(), head.clock)


class AccountBalance(NamedTuple):
    """An account's balance, and how current the view is from which it was made."""

    balance: Balance
    verified_at: datetime | None
    """When the view was last known to be complete; None if that was within the last seconds."""
    ledger_next: int
    """The ledger offset behind the last entry that is in the view."""
    stored: bytes | None = None
    """The account's state as the view stores it."""

    def with_holds(self, held: int) -> AccountBalance:
        """The same balance beside open holds of another sum, in micro-credits."""
        return self._replace(balance=msgspec.structs.replace(self.balance, held=held))

    def with_state(self, stored: bytes | None, held: int) -> AccountBalance:
        """The balance at the same moment with another stored state. Raises ViewError."""
        before = self.balance
        balance = balance_at(
            before.account,
            _decode_state(stored),
            before.at,
            before.catalogs,
            held=held,
            open_holds=before.open_holds,
        )
        return self._replace(balance=balance, stored=stored)


class Checked(NamedTuple):
    """A check, and the balance from which it was made."""

    account: AccountBalance
    use: Use
    check: Check


class HoldResult(NamedTuple):
    """The result of a request to hold.

    ``checked`` is the check beside all open holds.
    """

    checked: Checked
    hold: Hold | None = None
    """The hold under the requested id, if there is one."""
    refusal: NotAllowed | Outcome | None = None
    """Why the request was refused; None if it was granted."""


class NoRate(Exception):
    """The catalog has no rate for a use, so the use is neither allowed nor refused.

    ``reason`` is ``unknown_feature`` or ``unknown_model``.
    """

    def __init__(self, use: Use, reason: str, catalog_version: str) -> None:
        subject = (
            f"feature {use.feature!r}"
            if reason == "unknown_feature"
            else f"model {use.model!r} of feature {use.feature!r}"
        )
        if reason == "unknown_model" and use.model is None:
            subject = f"feature {use.feature!r} with no model named"
        super().__init__(f"catalog {catalog_version!r} has no rate for {subject}")
        self.use = use
        self.reason = reason


def balance_query(account: str, clock: Clock) -> Query[AccountBalance]:
    """An account's balance now.

    Raises ViewError if the view is missing, or was written by a newer release.
    """
    reading: AccountReading = yield ReadAccount(account)
    return (yield from balance_from(account, reading, clock))


def balance_from(account: str, reading: AccountReading, clock: Clock) -> Query[AccountBalance]:
    """An account's balance now, from what was already read of the view.

    Raises ViewError if the view is missing, or was written by a newer release.
    """
    stored_head, head = _head_in(reading)
    state = _decode_state(reading.account)
    catalogs: AdoptedCatalogs = yield CatalogsUpTo(head.catalog_next)
    balance = balance_at(
        account,
        state,
        clock.at(head),
        catalogs,
        held=reading.held,
        open_holds=reading.open_holds,
    )
    verified_at = as_of(stored_head, clock.now())
    return AccountBalance(balance, verified_at, head.next_offset, reading.account)


def balance_at_query(account: str, at: datetime, clock: Clock) -> PastQuery[AccountBalance]:
    """An account's balance at any time, without holds: they are of the present alone.

    A time before the ledger's clock is answered from the ledger, any other from the view. Raises
    ViewError if the view is missing, or was written by a newer release.
    """
    reading: AccountReading = yield ReadAccount(account)
    stored_head, head = _head_in(reading)
    state, catalog_next = _decode_state(reading.account), head.catalog_next
    if at < head.clock:
        past: PastState = yield LedgerUntil(account, at)
        state, catalog_next = past
    catalogs: AdoptedCatalogs = yield CatalogsUpTo(catalog_next)
    verified_at = as_of(stored_head, clock.now())
    return AccountBalance(
        balance_at(account, state, at, catalogs), verified_at, head.next_offset, reading.account
    )


def check_query(account: str, use: Use, clock: Clock) -> Query[Checked]:
    """Whether a use may start. Raises NoRate, ViewError."""
    found = yield from _current_balance_query(account, clock)
    return _check(found, use)


def hold_query(
    account: str, hold_id: str, use: Use, life_ms: int, clock: Clock, holder: Holder = ""
) -> Query[HoldResult]:
    """Reserve what a use costs, if the use may start.

    A repeated request is answered with the hold as it is. Raises NoRate, ViewError.
    """
    found = yield from _current_balance_query(account, clock)
    for _ in range(ATTEMPTS_MAX):
        checked = _check(found, use)
        check = checked.check
        if check.reason not in (None, "insufficient_credits") or check.cost > MICROCREDITS_MAX:
            return (yield from _refused_hold_query(checked, hold_id))
        held: Held = yield PlaceHold(
            account=account,
            seen=found.stored,
            remaining=check.remaining,
            id=hold_id,
            credits=check.cost,
            life_ms=life_ms,
            content=content_of(use),
            holder=holder,
        )
        if held.outcome != "account_moved":
            refusal = None if held.outcome == "held" else held.outcome
            return HoldResult(_check(found.with_holds(held.sum), use), held.hold, refusal)
        found = found.with_state(held.account, held.sum)
    raise ViewError(
        f"the account changed during each of {ATTEMPTS_MAX} attempts to hold: ask again"
    )


def release_query(
    account: str, hold_id: str, holders: tuple[Holder, ...] | None
) -> Query[Hold | None]:
    """Free an open hold of one of these holders, and return it as it then is.

    It is open still if its holder is another; None frees it whoever its holder is. The answer is
    None if there is no such hold, or it has expired. Raises ViewError.
    """
    found: Hold | None = yield ReleaseHold(account=account, id=hold_id, holders=holders)
    return found


def find_hold_query(account: str, hold_id: str) -> Query[Hold | None]:
    """A hold as it is; None if there is no such hold, or it has expired. Raises ViewError."""
    found: Hold | None = yield FindHold(account=account, id=hold_id)
    return found


def quote_query(uses: Sequence[Use], clock: Clock) -> Query[tuple[Quote, str]]:
    """The cost of several uses together, and the catalog version by which they are rated.

    Raises NoRate, ViewError.
    """
    # Any partition's head says which catalogs are adopted: a rate does not depend on the account.
    found = yield from balance_query(_ANY_ACCOUNT, clock)
    catalog = found.balance.catalog
    for use in uses:
        rate = catalog.rate(use.feature, use.model)
        if isinstance(rate, UnknownRate):
            raise NoRate(use, rate.reason, catalog.version)
    return quote(catalog, [(use.feature, use.model, use.quantity) for use in uses]), catalog.version


def run(query: Generator[S, Any, T], answer: Callable[[S], Any]) -> T:
    """Carry a query out: ``answer`` gives each step's answer, in turn."""
    try:
        step = next(query)
        while True:
            step = query.send(answer(step))
    except StopIteration as done:
        result: T = done.value
        return result


async def run_async(query: Generator[S, Any, T], answer: Callable[[S], Awaitable[Any]]) -> T:
    """As `run`, with answers that are awaited."""
    try:
        step = next(query)
        while True:
            step = query.send(await answer(step))
    except StopIteration as done:
        result: T = done.value
        return result


def _current_balance_query(account: str, clock: Clock) -> Query[AccountBalance]:
    """An account's balance, if it is current enough to decide by it.

    Raises ViewError otherwise: then an answer would be a guess about money.
    """
    reading: AccountReading = yield ReadAccount(account)
    if reading.unverified_ms > DECIDED_WITHIN_MS and not clock.is_importing():
        raise ViewError(
            f"the account's counters were last verified {reading.unverified_ms // 1_000} s ago: "
            "`usageledger status` says why its partition does not go on"
        )
    return (yield from balance_from(account, reading, clock))


def _refused_hold_query(checked: Checked, hold_id: str) -> Query[HoldResult]:
    """The account may not hold anything now; a hold that it has under this id stays as it is."""
    found: Hold | None = yield FindHold(account=checked.account.balance.account, id=hold_id)
    if found is None or found.state == "released":
        return HoldResult(checked, None, checked.check.reason)
    is_same = found.content == content_of(checked.use)
    return HoldResult(checked, found, None if is_same else "id_holds_something_else")


def _check(found: AccountBalance, use: Use) -> Checked:
    check = check_use(use, found.balance)
    if isinstance(check, UnknownRate):
        raise NoRate(use, check.reason, found.balance.catalog.version)
    return Checked(found, use, check)


def _head_in(reading: AccountReading) -> tuple[StoredHead, Head]:
    if reading.head is None:
        # Without this error a suspended account would pass for an untouched Free until the
        # processor has rebuilt the view.
        raise ViewError(
            "the counters of this partition are not there: no processor has written them yet, or "
            "they were lost and are being rebuilt; ask again in a moment"
        )
    try:
        return reading.head, decode_head(reading.head.value)
    except msgspec.MsgspecError as error:
        raise _newer_release(error) from error


def _decode_state(stored: bytes | None) -> AccountState | None:
    try:
        return None if stored is None else decode_account(stored)
    except msgspec.MsgspecError as error:
        raise _newer_release(error) from error


def _newer_release(error: msgspec.MsgspecError) -> ViewError:
    return ViewError(
        f"the counters contain something that this release cannot read ({error}): upgrade it",
        retriable=False,
    )
