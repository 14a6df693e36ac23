"""``decide``: what becomes of an event.

Pure: state, event, time and catalogs are arguments; what comes back are ledger entries.

An event is refused first, in the order of `Refusal`; after that it must succeed. A refusal is an
entry too, and so is a duplicate; neither changes an account. Otherwise the account is first rolled
forward to the ledger's time, so that renewals and expiries precede the event in the ledger.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from msgspec.structs import replace

from usageledger.domain.account import AccountState, Period
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.catalog import UnknownRate
from usageledger.domain.credits import MICROCREDITS_MAX
from usageledger.domain.crossings import (
    crossings_between,
    figures_of,
    figures_of_ended,
    reference_to,
)
from usageledger.domain.entry import (
    EventReference,
    Figures,
    GrantChange,
    LedgerEntry,
    PlanChange,
    SuspensionChange,
    Voids,
)
from usageledger.domain.events import (
    AccountCancelled,
    AccountEvent,
    AccountOpened,
    AccountResumed,
    AccountSubscribed,
    AccountSuspended,
    AnyEvent,
    CreditsGranted,
    PlanChanged,
    ThresholdsSet,
    UsageRecorded,
    UsageVoided,
    content_digest,
)
from usageledger.domain.evolve import evolve
from usageledger.domain.identity import CLOCK_AHEAD_MAX, LATENESS_MAX, IdentityRecord
from usageledger.domain.plan_changes import (
    decide_cancelled,
    decide_opened,
    decide_plan_changed,
    decide_subscribed,
    free_from_the_first_event,
)
from usageledger.domain.rating import rate_usage
from usageledger.domain.refusal import Refusal
from usageledger.domain.renewal import roll

GRACE = timedelta(hours=72)
"""How long after its end a period still takes late usage and voids."""


class Decision(NamedTuple):
    """Draft entries in order (see `domain.chain` for their sealing), and the account's state after
    them.
    """

    entries: tuple[LedgerEntry, ...]
    state: AccountState | None


def decide(
    event: AnyEvent,
    *,
    state: AccountState | None,
    identity: IdentityRecord | None,
    voided: IdentityRecord | None = None,
    appended_at: datetime,
    catalogs: AdoptedCatalogs,
) -> Decision:
    """Decide one event at the ledger's time ``appended_at``.

    ``identity`` is what is remembered of the event itself, ``voided`` of the usage that a void
    names. Never fails: what breaks a rule is refused, and the account is then as it was.
    """
    reference = EventReference(
        source=event.source,
        id=event.id,
        occurred_at=event.occurred_at,
        content=content_digest(event),
    )
    refusal = _refused_by_time(event, appended_at)
    if refusal is not None:
        return _refused(refusal, event, reference, state, appended_at)
    known = identity if identity is not None and identity.counts_at(appended_at) else None
    if known is not None and known.state != "void_awaits_usage":
        if known.content != reference.content:
            return _refused(Refusal.ID_REUSED, event, reference, state, appended_at)
        return Decision((_duplicate(event, reference, appended_at),), state)
    book = _Book(event.account, state, appended_at, catalogs)
    refused = book.refuses_unknown(event) or book.open_and_roll(event)
    if refused is None:
        if isinstance(event, UsageRecorded):
            refused = _decide_usage(event, reference, book, is_voided=known is not None)
        else:
            refused = _decide_account_event(event, reference, book, voided)
    return (
        _refused(refused, event, reference, state, appended_at)
        if refused is not None
        else Decision(tuple(book.entries), book.state)
    )


def decide_due(
    account: str, state: AccountState, *, appended_at: datetime, catalogs: AdoptedCatalogs
) -> Decision:
    """What time alone brings an account by ``appended_at``: entries of their own, which no input
    asked for.
    """
    book = _Book(account, state, appended_at, catalogs)
    book.roll()
    return Decision(tuple(book.entries), book.state)


class _Book:
    """The entries of one decision as they come about, and the state after the last of them."""

    def __init__(
        self,
        account: str,
        state: AccountState | None,
        appended_at: datetime,
        catalogs: AdoptedCatalogs,
    ) -> None:
        self.account = account
        self.appended_at = appended_at
        self.catalogs = catalogs
        self.state = state
        self.entries: list[LedgerEntry] = []

    @property
    def known(self) -> AccountState:
        assert self.state is not None
        return self.state

    def refuses_unknown(self, event: AnyEvent) -> Refusal | None:
        is_refused = (
            self.state is None
            and self.catalogs.in_force(self.appended_at).unknown_accounts == "refuse"
        )
        return (
            Refusal.UNKNOWN_ACCOUNT
            if is_refused and not isinstance(event, (AccountOpened, AccountSubscribed))
            else None
        )

    def open_and_roll(self, event: AnyEvent) -> Refusal | None:
        if isinstance(event, AccountOpened):
            return None if self.state is None else Refusal.ACCOUNT_ALREADY_KNOWN
        if self.state is None:
            first = min(event.occurred_at, self.appended_at)
            change = free_from_the_first_event(first, self.catalogs.in_force(self.appended_at))
            self.write(self.draft("account_opened", plan_change=change))
        else:
            self.roll()
        return None

    def roll(self) -> None:
        for entry, state in roll(self.known, self.account, self.appended_at, self.catalogs):
            self._take(entry, state)

    def draft(self, kind: str, **fields: object) -> LedgerEntry:
        return LedgerEntry(kind=kind, appended_at=self.appended_at, account=self.account, **fields)  # type: ignore[arg-type]

    def write(self, entry: LedgerEntry) -> None:
        """Complete an entry with its figures and crossings, and move on to the state after it."""
        self._take(entry, evolve(self.state, entry))

    def _take(self, entry: LedgerEntry, after: AccountState | None) -> None:
        before = self.state
        if after is None or (
            after is before and entry.kind == "void"
        ):  # a void that awaits its usage
            self.entries.append(entry)
            return
        catalog = self.catalogs.in_force(self.appended_at)
        figures = None if before is None else _figures(before, entry.is_late)
        now = _figures(after, entry.is_late)
        crossings = crossings_between(before, after, now, entry, catalog)
        entry = replace(
            entry,
            catalog_version=entry.catalog_version or catalog.version,
            period=entry.period or reference_to(after.period),
            before=figures,
            after=now,
            crossings=crossings,
        )
        self.entries.append(entry)
        has_announced = any(crossing.threshold is not None for crossing in crossings)
        self.state = evolve(before, entry) if has_announced else after


def _figures(state: AccountState, is_late: bool) -> Figures:
    """The figures of the period that an entry counts in."""
    return (
        figures_of_ended(state.previous)
        if is_late and state.previous is not None
        else figures_of(state)
    )


def _refused_by_time(event: AnyEvent, appended_at: datetime) -> Refusal | None:
    if event.occurred_at - appended_at > CLOCK_AHEAD_MAX:
        return Refusal.DATED_IN_THE_FUTURE
    return Refusal.TOO_OLD if appended_at - event.occurred_at > LATENESS_MAX else None


def _refused(
    refusal: Refusal,
    event: AnyEvent,
    reference: EventReference,
    state: AccountState | None,
    appended_at: datetime,
) -> Decision:
    entry = LedgerEntry(
        kind="refusal",
        appended_at=appended_at,
        account=event.account,
        event=reference,
        reason=refusal.value,
    )
    if isinstance(event, UsageRecorded):
        entry = replace(
            entry,
            feature=event.feature,
            model=event.model,
            quantity=event.quantity,
            hold_id=event.hold_id,
        )
    return Decision((entry,), state)


def _duplicate(event: AnyEvent, reference: EventReference, appended_at: datetime) -> LedgerEntry:
    hold_id = event.hold_id if isinstance(event, UsageRecorded) else None
    return LedgerEntry(
        kind="duplicate",
        appended_at=appended_at,
        account=event.account,
        event=reference,
        hold_id=hold_id,
    )


def _decide_usage(
    event: UsageRecorded, reference: EventReference, book: _Book, *, is_voided: bool
) -> Refusal | None:
    occurred_at = min(event.occurred_at, book.appended_at)
    period = _period_of(occurred_at, book.known, book.appended_at)
    if isinstance(period, Refusal):
        return period
    rated = book.catalogs.rate_for(event.feature, event.model, occurred_at)
    if isinstance(rated, UnknownRate):
        return Refusal(rated.reason)
    credits = rate_usage(rated.rate, event.quantity)
    if period.used + credits > MICROCREDITS_MAX:
        return Refusal.QUANTITY_OUT_OF_RANGE
    book.write(
        book.draft(
            "usage",
            event=reference,
            period=reference_to(period),
            is_late=period is not book.known.period,
            feature=event.feature,
            model=event.model,
            quantity=event.quantity,
            rate=rated.rate,
            catalog_version=rated.catalog.version,
            credits=0 if is_voided else credits,
            is_void_on_arrival=is_voided,
            hold_id=event.hold_id,
        )
    )
    return None


def _period_of(
    occurred_at: datetime, state: AccountState, appended_at: datetime
) -> Period | Refusal:
    """The current period, or the previous one within its grace."""
    if state.counted_from is not None and occurred_at < state.counted_from:
        return Refusal.COUNTED_BEFORE_OPENING
    if state.period.holds(occurred_at):
        return state.period
    previous = state.previous
    if previous is not None and previous.holds(occurred_at) and _is_open(previous, appended_at):
        return previous
    return Refusal.PERIOD_CLOSED


def _is_open(previous: Period, appended_at: datetime) -> bool:
    return previous.end is not None and appended_at - previous.end < GRACE


def _decide_account_event(
    event: AccountEvent, reference: EventReference, book: _Book, voided: IdentityRecord | None
) -> Refusal | None:
    if isinstance(event, CreditsGranted):
        return _decide_grant(event, reference, book)
    if isinstance(event, UsageVoided):
        return _decide_void(event, reference, book, voided)
    if isinstance(event, (AccountSuspended, AccountResumed)):
        return _decide_suspension(event, reference, book)
    if isinstance(event, ThresholdsSet):
        book.write(book.draft("thresholds_set", event=reference, thresholds=event.thresholds))
        return None
    change = _plan_change(event, book)
    if isinstance(change, Refusal):
        return change
    kind = "account_opened" if isinstance(event, AccountOpened) else "plan_change"
    book.write(book.draft(kind, event=reference, plan_change=change))
    book.roll()  # a change that is reported late can open a period that is over by now
    return None


def _plan_change(
    event: AccountOpened | AccountSubscribed | PlanChanged | AccountCancelled, book: _Book
) -> PlanChange | Refusal:
    if isinstance(event, AccountOpened):
        return decide_opened(event, book.appended_at, book.catalogs)
    if isinstance(event, AccountSubscribed):
        return decide_subscribed(event, book.known, book.appended_at, book.catalogs)
    if isinstance(event, PlanChanged):
        return decide_plan_changed(event, book.known, book.appended_at, book.catalogs)
    return decide_cancelled(event, book.known, book.appended_at, book.catalogs)


def _decide_grant(event: CreditsGranted, reference: EventReference, book: _Book) -> Refusal | None:
    if event.expires_at is not None and event.expires_at <= book.appended_at:
        return Refusal.GRANT_ALREADY_EXPIRED
    if book.known.period.allotment + book.known.granted + event.credits > MICROCREDITS_MAX:
        return Refusal.QUANTITY_OUT_OF_RANGE
    grant = GrantChange(
        source=event.source,
        id=event.id,
        credits=event.credits,
        reason=event.reason,
        expires_at=event.expires_at,
    )
    book.write(book.draft("grant", event=reference, grant=grant))
    return None


def _decide_suspension(
    event: AccountSuspended | AccountResumed, reference: EventReference, book: _Book
) -> Refusal | None:
    is_suspended = book.known.suspended is not None
    suspends = isinstance(event, AccountSuspended)
    if suspends == is_suspended:
        return Refusal.ALREADY_SUSPENDED if suspends else Refusal.NOT_SUSPENDED
    said = SuspensionChange(reason=event.reason, note=event.note)
    book.write(
        book.draft("suspension" if suspends else "resumption", event=reference, suspension=said)
    )
    return None


def _decide_void(
    event: UsageVoided, reference: EventReference, book: _Book, voided: IdentityRecord | None
) -> Refusal | None:
    """Give the credits back to the period they were charged in; remember a void that overtakes its
    usage.
    """
    voids = Voids(source=event.usage_source, id=event.usage_id, reason=event.reason)
    usage = voided if voided is not None and voided.counts_at(book.appended_at) else None
    if usage is None:
        book.write(book.draft("void", event=reference, voids=replace(voids, awaits_usage=True)))
        return None
    if usage.state != "decided":
        return Refusal.ALREADY_VOIDED
    period = _charged_period(usage, book.known, book.appended_at)
    if period is None:
        return Refusal.PERIOD_CLOSED
    book.write(
        book.draft(
            "void",
            event=reference,
            period=reference_to(period),
            is_late=period is not book.known.period,
            credits=-usage.credits,
            voids=replace(voids, feature=usage.feature, entry_offset=usage.entry_offset),
        )
    )
    return None


def _charged_period(
    usage: IdentityRecord, state: AccountState, appended_at: datetime
) -> Period | None:
    if usage.period == state.period.number:
        return state.period
    previous = state.previous
    is_in_previous = (
        previous is not None and usage.period == previous.number and _is_open(previous, appended_at)
    )
    return previous if is_in_previous else None
