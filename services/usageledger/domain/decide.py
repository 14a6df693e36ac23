"""``decide``: what becomes of an event. Pure: state, event, time and catalogs are arguments.

The result is ledger entries. An event is refused first, in the order of `Refusal`; after that it
must succeed. A refusal is an entry too, and so is a duplicate; neither changes an account. Any
other event finds its account rolled forward to the ledger's time: renewals and expiries precede it
in the ledger.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple, TypedDict, Unpack, assert_never

from msgspec.structs import replace

from usageledger.domain.account import AccountState, Period, left_at_end
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.bounds import CLOCK_AHEAD_MAX, LATENESS_MAX, OPEN_GRANTS_MAX
from usageledger.domain.catalog import Rate, UnknownRate
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
    Kind,
    LedgerEntry,
    PeriodReference,
    PlanChange,
    SuspensionChange,
    Voids,
)
from usageledger.domain.events import (
    AccountCancelled,
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
from usageledger.domain.identity import IdentityRecord
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
"""How long after its end a period still accepts late usage and voids."""


class Decision(NamedTuple):
    """Draft entries in order, for `domain.chain` to seal, and the account's state after them."""

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

    ``identity`` is the record of the event's own identity, ``voided`` that of the usage event that
    a void names. An event that breaks a rule is refused, and then the account is as it was. Raises
    ValueError if no catalog has been adopted; nothing else raises.
    """
    reference = EventReference(
        source=event.source,
        id=event.id,
        occurred_at=event.occurred_at,
        content=content_digest(event),
        actor=event.actor,
    )
    refusal = _time_refusal(event, appended_at)
    if refusal is not None:
        return _refuse(refusal, event, reference, state, appended_at)
    known = identity if identity is not None and identity.counts_at(appended_at) else None
    if known is not None and known.state != "void_awaits_usage":
        if known.content != reference.content:
            return _refuse(Refusal.ID_REUSED, event, reference, state, appended_at)
        return Decision((_duplicate_entry(event, reference, appended_at),), state)
    refusal = _account_refusal(event, state, appended_at, catalogs)
    if refusal is None:
        draft = _Draft(event.account, state, appended_at, catalogs)
        draft.open_or_roll(event)
        refusal = _draft_event(event, reference, draft, is_voided=known is not None, voided=voided)
        if refusal is None:
            return Decision(tuple(draft.entries), draft.state)
    return _refuse(refusal, event, reference, state, appended_at)


def decide_due(
    account: str, state: AccountState, *, appended_at: datetime, catalogs: AdoptedCatalogs
) -> Decision:
    """Decide the renewals and expiries of an account that are due by ``appended_at``.

    No input asked for their entries. There are none if nothing is due.
    """
    draft = _Draft(account, state, appended_at, catalogs)
    draft.roll()
    return Decision(tuple(draft.entries), draft.state)


class _EntryFields(TypedDict, total=False):
    event: EventReference
    period: PeriodReference
    is_late: bool
    feature: str
    model: str | None
    quantity: Decimal
    rate: Rate
    catalog_version: str
    credits: int
    is_void_on_arrival: bool
    hold_id: str | None
    voids: Voids
    grant: GrantChange
    plan_change: PlanChange
    suspension: SuspensionChange
    thresholds: tuple[Decimal, ...] | None


class _Draft:
    """A decision in the making: the entries so far, and the account's state after the last of them.

    It is a scratch pad. Some refusals come after the account was opened or rolled forward here;
    then the draft is thrown away, and the decision has the original state.
    """

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
        """The state, once the account has been opened."""
        assert self.state is not None
        return self.state

    def open_or_roll(self, event: AnyEvent) -> None:
        """Roll a known account forward, and open an unknown one on Free.

        An ``account.opened`` opens its account itself.
        """
        if self.state is not None:
            self.roll()
        elif not isinstance(event, AccountOpened):
            first = min(event.occurred_at, self.appended_at)
            change = free_from_the_first_event(first, self.catalogs.in_force(self.appended_at))
            self.write("account_opened", plan_change=change)

    def roll(self) -> None:
        """Write the renewals and expiries that are due."""
        for entry, after in roll(self.known, self.account, self.appended_at, self.catalogs):
            self._write_change(entry, after)

    def write(self, kind: Kind, **fields: Unpack[_EntryFields]) -> None:
        """Write an entry of that kind, and advance to the state after it."""
        entry = LedgerEntry(kind=kind, appended_at=self.appended_at, account=self.account, **fields)
        if entry.voids is not None and entry.voids.awaits_usage:
            self.entries.append(entry)  # it changes no figure of any period yet
            return
        after = evolve(self.state, entry)
        assert after is not None, "an account is opened before anything else is written"
        self._write_change(entry, after)

    def _write_change(self, entry: LedgerEntry, after: AccountState) -> None:
        """Complete an entry with its figures and crossings."""
        before = self.state
        catalog = self.catalogs.in_force(self.appended_at)
        figures = _figures_counted_in(after, entry.is_late)
        crossings = crossings_between(before, after, figures, entry, catalog)
        entry = replace(
            entry,
            catalog_version=entry.catalog_version or catalog.version,
            period=entry.period or reference_to(after.period),
            before=None if before is None else _figures_counted_in(before, entry.is_late),
            after=figures,
            crossings=crossings,
        )
        self.entries.append(entry)
        # A period remembers the thresholds announced in it, which are known only now.
        has_announced = any(crossing.threshold is not None for crossing in crossings)
        self.state = evolve(before, entry) if has_announced else after


def _figures_counted_in(state: AccountState, is_late: bool) -> Figures:
    """The figures of the period that an entry counts in."""
    return (
        figures_of_ended(state.previous)
        if is_late and state.previous is not None
        else figures_of(state)
    )


def _time_refusal(event: AnyEvent, appended_at: datetime) -> Refusal | None:
    if event.occurred_at - appended_at > CLOCK_AHEAD_MAX:
        return Refusal.DATED_IN_THE_FUTURE
    return Refusal.TOO_OLD if appended_at - event.occurred_at > LATENESS_MAX else None


def _account_refusal(
    event: AnyEvent, state: AccountState | None, appended_at: datetime, catalogs: AdoptedCatalogs
) -> Refusal | None:
    if state is not None:
        return Refusal.ACCOUNT_ALREADY_KNOWN if isinstance(event, AccountOpened) else None
    if isinstance(event, (AccountOpened, AccountSubscribed)):
        return None
    is_refused = catalogs.in_force(appended_at).unknown_accounts == "refuse"
    return Refusal.UNKNOWN_ACCOUNT if is_refused else None


def _refuse(
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


def _duplicate_entry(
    event: AnyEvent, reference: EventReference, appended_at: datetime
) -> LedgerEntry:
    hold_id = event.hold_id if isinstance(event, UsageRecorded) else None
    return LedgerEntry(
        kind="duplicate",
        appended_at=appended_at,
        account=event.account,
        event=reference,
        hold_id=hold_id,
    )


def _draft_event(
    event: AnyEvent,
    reference: EventReference,
    draft: _Draft,
    *,
    is_voided: bool,
    voided: IdentityRecord | None,
) -> Refusal | None:
    """Write what becomes of an event into the draft, or return why the event is refused."""
    match event:
        case UsageRecorded():
            return _draft_usage(event, reference, draft, is_voided=is_voided)
        case UsageVoided():
            return _draft_void(event, reference, draft, voided)
        case CreditsGranted():
            return _draft_grant(event, reference, draft)
        case AccountSuspended() | AccountResumed():
            return _draft_suspension(event, reference, draft)
        case ThresholdsSet():
            draft.write("thresholds_set", event=reference, thresholds=event.thresholds)
            return None
        case AccountOpened() | AccountSubscribed() | PlanChanged() | AccountCancelled():
            return _draft_plan_change(event, reference, draft)
        case _:
            assert_never(event)


def _draft_usage(
    event: UsageRecorded, reference: EventReference, draft: _Draft, *, is_voided: bool
) -> Refusal | None:
    occurred_at = min(event.occurred_at, draft.appended_at)
    occurred_in = _open_period_at(occurred_at, draft.known, draft.appended_at)
    if isinstance(occurred_in, Refusal):
        return occurred_in
    rated = draft.catalogs.rate_for(event.feature, event.model, occurred_at)
    if isinstance(rated, UnknownRate):
        return Refusal(rated.reason)
    credits = rate_usage(rated.rate, event.quantity)
    charged = 0 if is_voided else credits
    period = _period_to_charge(charged, occurred_in, draft.known)
    if period.used + credits > MICROCREDITS_MAX:
        return Refusal.QUANTITY_OUT_OF_RANGE
    draft.write(
        "usage",
        event=reference,
        period=reference_to(period),
        is_late=period is not draft.known.period,
        feature=event.feature,
        model=event.model,
        quantity=event.quantity,
        rate=rated.rate,
        catalog_version=rated.catalog.version,
        credits=charged,
        is_void_on_arrival=is_voided,
        hold_id=event.hold_id,
    )
    return None


def _period_to_charge(credits: int, occurred_in: Period, state: AccountState) -> Period:
    """The period in which a use occurred, unless it has ended with fewer credits left.

    The use counts in the current period then. Backdated into a period that has ended with nothing
    left, it would cost nothing, and no limit would stop it.
    """
    if occurred_in is state.period or credits <= max(0, left_at_end(occurred_in)):
        return occurred_in
    return state.period


def _open_period_at(
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


def _draft_void(
    event: UsageVoided, reference: EventReference, draft: _Draft, voided: IdentityRecord | None
) -> Refusal | None:
    """Give the credits back to the period they were charged in.

    A void that overtakes its usage event is written too, and waits for it.
    """
    voids = Voids(source=event.usage_source, id=event.usage_id, reason=event.reason)
    usage = voided if voided is not None and voided.counts_at(draft.appended_at) else None
    if usage is None:
        draft.write("void", event=reference, voids=replace(voids, awaits_usage=True))
        return None
    if usage.state != "decided":
        return Refusal.ALREADY_VOIDED
    period = _charged_period(usage, draft.known, draft.appended_at)
    if period is None:
        return Refusal.PERIOD_CLOSED
    draft.write(
        "void",
        event=reference,
        period=reference_to(period),
        is_late=period is not draft.known.period,
        credits=-usage.credits,
        voids=replace(voids, feature=usage.feature, entry_offset=usage.entry_offset),
    )
    return None


def _charged_period(
    usage: IdentityRecord, state: AccountState, appended_at: datetime
) -> Period | None:
    """The period that a usage event was charged in, if it is still open."""
    if usage.period == state.period.number:
        return state.period
    previous = state.previous
    is_in_previous = (
        previous is not None and usage.period == previous.number and _is_open(previous, appended_at)
    )
    return previous if is_in_previous else None


def _draft_grant(event: CreditsGranted, reference: EventReference, draft: _Draft) -> Refusal | None:
    if event.expires_at is not None and event.expires_at <= draft.appended_at:
        return Refusal.GRANT_ALREADY_EXPIRED
    if len(draft.known.grants) >= OPEN_GRANTS_MAX:
        return Refusal.TOO_MANY_OPEN_GRANTS
    if draft.known.period.allotment + draft.known.granted + event.credits > MICROCREDITS_MAX:
        return Refusal.QUANTITY_OUT_OF_RANGE
    grant = GrantChange(
        source=event.source,
        id=event.id,
        credits=event.credits,
        reason=event.reason,
        expires_at=event.expires_at,
    )
    draft.write("grant", event=reference, grant=grant)
    return None


def _draft_suspension(
    event: AccountSuspended | AccountResumed, reference: EventReference, draft: _Draft
) -> Refusal | None:
    is_suspended = draft.known.suspended is not None
    change = SuspensionChange(reason=event.reason, note=event.note)
    if isinstance(event, AccountSuspended):
        if is_suspended:
            return Refusal.ALREADY_SUSPENDED
        draft.write("suspension", event=reference, suspension=change)
    else:
        if not is_suspended:
            return Refusal.NOT_SUSPENDED
        draft.write("resumption", event=reference, suspension=change)
    return None


def _draft_plan_change(
    event: AccountOpened | AccountSubscribed | PlanChanged | AccountCancelled,
    reference: EventReference,
    draft: _Draft,
) -> Refusal | None:
    at, catalogs = draft.appended_at, draft.catalogs
    change: PlanChange | Refusal
    match event:
        case AccountOpened():
            change = decide_opened(event, at, catalogs)
        case AccountSubscribed():
            change = decide_subscribed(event, draft.known, at, catalogs)
        case PlanChanged():
            change = decide_plan_changed(event, draft.known, at, catalogs)
        case AccountCancelled():
            change = decide_cancelled(event, draft.known, at, catalogs)
        case _:
            assert_never(event)
    if isinstance(change, Refusal):
        return change
    kind: Kind = "account_opened" if isinstance(event, AccountOpened) else "plan_change"
    draft.write(kind, event=reference, plan_change=change)
    draft.roll()  # a change that is reported late can open a period that is over by now
    return None
