"""Months in the life of a ledger partition: random events, and after each every invariant."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.notation import SHIPPED, Partition
from usageledger.domain.account import AccountState
from usageledger.domain.chain import SealedEntry, entry_at
from usageledger.domain.encoding import encode
from usageledger.domain.entry import LedgerEntry
from usageledger.domain.events import (
    AccountCancelled,
    AccountOpened,
    AccountResumed,
    AccountSubscribed,
    AccountSuspended,
    AnyEvent,
    CreditsGranted,
    EffectiveWhen,
    PlanChanged,
    ThresholdsSet,
    UsageRecorded,
    UsageVoided,
)
from usageledger.domain.head import Head
from usageledger.domain.renewal import state_at
from usageledger.ledger.partition_book import PartitionBook

CREDIT = 1_000_000
Use = tuple[str, str | None]
ACCOUNTS = ("a", "b")

accounts = st.sampled_from(ACCOUNTS)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
some_ids = st.sampled_from([f"id-{n}" for n in range(8)])
ids = st.one_of(st.none(), st.none(), some_ids)  # None: one of its own
waits = st.one_of(
    st.just(0 * DAY),
    st.timedeltas(0 * DAY, 8 * HOUR),
    st.timedeltas(0 * DAY, 3 * DAY),
    st.timedeltas(0 * DAY, 40 * DAY),
)
late_waits = st.timedeltas(26 * DAY, 32 * DAY)
latenesses = st.one_of(
    st.just(0 * DAY),
    st.timedeltas(timedelta(minutes=-6), 0 * DAY),
    st.timedeltas(0 * DAY, 80 * HOUR),
)
long_latenesses = st.timedeltas(0 * DAY, 36 * DAY)
uses = st.sampled_from(
    [
        ("chat_action", None),
        ("genai_video", "veo_3"),
        ("genai_sound", "mmaudio"),
        ("prompt_to_video", None),
        ("x", "y"),
    ]
)
starts = st.integers(0, 365 * 24 * 3600 * 1000).map(
    lambda ms: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
)
quantities = st.one_of(st.integers(0, 60).map(Decimal), st.decimals(0, 30, places=6))
plans = st.sampled_from(["free", "pro", "max", "max", "scale", "scale_4x", "gold"])
suspension_reasons = st.sampled_from(["payment_failed", "fraud"])
own_thresholds = st.sampled_from(
    [None, (), (Decimal("0.5"),), (Decimal("0.5"), Decimal("0.8"), Decimal("0.95"))]
)
zones = st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia"])


class PartitionLife(RuleBasedStateMachine):
    """Decides live, and folds the entries in the log. The results must not differ by a byte."""

    def __init__(self) -> None:
        super().__init__()
        self.live = Partition()
        self.folded = PartitionBook(0, 1, Head(ledger="ledger"), SHIPPED)
        self.opened: set[str] = set()
        self.written: dict[str, list[LedgerEntry]] = defaultdict(list)
        self.charged: dict[tuple[str, int], int] = defaultdict(int)

    @initialize(start=starts)
    def begin(self, start: datetime) -> None:
        self.live.now = start

    # The events

    @rule(
        account=accounts, event_id=ids, wait=waits, late=latenesses, use=uses, quantity=quantities
    )
    def use(
        self,
        account: str,
        event_id: str | None,
        wait: timedelta,
        late: timedelta,
        use: Use,
        quantity: Decimal,
    ) -> None:
        self._decide(
            UsageRecorded(
                **self._header(account, event_id, wait, late),
                feature=use[0],
                model=use[1],
                quantity=quantity,
            )
        )

    @rule(
        account=accounts,
        event_id=ids,
        wait=late_waits,
        late=long_latenesses,
        use=uses,
        quantity=quantities,
    )
    def use_late(
        self,
        account: str,
        event_id: str | None,
        wait: timedelta,
        late: timedelta,
        use: Use,
        quantity: Decimal,
    ) -> None:
        self._decide(
            UsageRecorded(
                **self._header(account, event_id, wait, late),
                feature=use[0],
                model=use[1],
                quantity=quantity,
            )
        )

    @rule(account=accounts, wait=waits, share=st.sampled_from(["left", "all but 1", "beyond"]))
    def use_up(self, account: str, wait: timedelta, share: str) -> None:
        header = self._header(account, None, wait, timedelta(0))
        state = self.live.book.accounts.get(account)
        left = (
            200
            if state is None
            else max(0, state_at(state, account, self.live.now, SHIPPED).remaining // CREDIT)
        )
        quantity = {"left": left, "all but 1": max(0, left - 1), "beyond": left + 10}[share]
        self._decide(UsageRecorded(**header, feature="chat_action", quantity=Decimal(quantity)))

    @rule(account=accounts, event_id=ids, wait=waits, late=latenesses, plan=plans, zone=zones)
    def subscribe(
        self,
        account: str,
        event_id: str | None,
        wait: timedelta,
        late: timedelta,
        plan: str,
        zone: str,
    ) -> None:
        self._decide(
            AccountSubscribed(
                **self._header(account, event_id, wait, late), plan=plan, time_zone=zone
            )
        )

    @rule(account=accounts, event_id=ids, wait=waits, late=latenesses, plan=plans)
    def change(
        self, account: str, event_id: str | None, wait: timedelta, late: timedelta, plan: str
    ) -> None:
        self._decide(PlanChanged(**self._header(account, event_id, wait, late), plan=plan))

    @rule(
        account=accounts,
        event_id=ids,
        wait=waits,
        late=latenesses,
        effective=st.sampled_from(["period_end", "now"]),
    )
    def cancel(
        self,
        account: str,
        event_id: str | None,
        wait: timedelta,
        late: timedelta,
        effective: EffectiveWhen,
    ) -> None:
        self._decide(
            AccountCancelled(**self._header(account, event_id, wait, late), effective=effective)
        )

    @rule(
        account=accounts,
        event_id=ids,
        wait=waits,
        credits=st.integers(1, 300),
        lasts=st.none() | waits,
    )
    def grant(
        self,
        account: str,
        event_id: str | None,
        wait: timedelta,
        credits: int,
        lasts: timedelta | None,
    ) -> None:
        header = self._header(account, event_id, wait, timedelta(0))
        expires_at = None if lasts is None else self.live.now + lasts
        self._decide(
            CreditsGranted(**header, credits=credits * CREDIT, reason="", expires_at=expires_at)
        )

    @rule(account=accounts, event_id=ids, wait=waits, late=latenesses, reason=suspension_reasons)
    def suspend(
        self, account: str, event_id: str | None, wait: timedelta, late: timedelta, reason: str
    ) -> None:
        self._decide(AccountSuspended(**self._header(account, event_id, wait, late), reason=reason))

    @rule(account=accounts, event_id=ids, wait=waits, late=latenesses)
    def resume(self, account: str, event_id: str | None, wait: timedelta, late: timedelta) -> None:
        self._decide(AccountResumed(**self._header(account, event_id, wait, late)))

    @rule(account=accounts, event_id=ids, wait=waits, thresholds=own_thresholds)
    def set_thresholds(
        self,
        account: str,
        event_id: str | None,
        wait: timedelta,
        thresholds: tuple[Decimal, ...] | None,
    ) -> None:
        self._decide(
            ThresholdsSet(
                **self._header(account, event_id, wait, timedelta(0)), thresholds=thresholds
            )
        )

    @rule(account=accounts, event_id=some_ids)
    def void_any(self, account: str, event_id: str) -> None:
        header = self._header(account, None, timedelta(0), timedelta(0))
        self._decide(UsageVoided(**header, usage_source="/test", usage_id=event_id, reason=""))

    @precondition(lambda self: any(self._usage_ids(account) for account in ACCOUNTS))
    @rule(account=accounts, wait=st.timedeltas(0 * DAY, 60 * HOUR), back=st.integers(0, 3))
    def void(self, account: str, wait: timedelta, back: int) -> None:
        account = (
            account
            if self._usage_ids(account)
            else next(name for name in ACCOUNTS if self._usage_ids(name))
        )
        usage_id = ([*self._usage_ids(account)] * 4)[-1 - back]
        header = self._header(account, None, wait, timedelta(0))
        self._decide(UsageVoided(**header, usage_source="/test", usage_id=usage_id, reason=""))

    @precondition(lambda self: not all(self.written[account] for account in ACCOUNTS))
    @rule(account=accounts, wait=waits, plan=plans, used=st.integers(0, 600), ago=waits)
    def open(self, account: str, wait: timedelta, plan: str, used: int, ago: timedelta) -> None:
        header = self._header(account, None, wait, timedelta(0))
        is_first = self.live.book.accounts.get(account) is None
        event = AccountOpened(
            **header,
            plan=plan,
            used=used * CREDIT,
            free_used=used * CREDIT // 3,
            as_of=self.live.now - ago,
        )
        if self._decide(event)[0].entry.kind == "account_opened" and is_first:
            self.opened.add(account)

    @rule(wait=late_waits)
    def act_on_what_is_due(self, wait: timedelta) -> None:
        self.live.now += timedelta(milliseconds=wait // timedelta(milliseconds=1))
        self._note(self.live.take("+0s wait"))

    # The invariants

    @invariant()
    def the_fold_of_the_log_is_what_was_decided(self) -> None:
        assert self.folded.head == self.live.book.head
        assert self.folded.identities == self.live.book.identities
        assert self.folded.due.all() == self.live.book.due.all()
        assert self._bytes(self.folded) == self._bytes(self.live.book)

    @invariant()
    def remaining_is_allotment_and_grants_less_use(self) -> None:
        for state in self._states().values():
            assert state.remaining == state.period.allotment + state.granted - state.period.used
            assert state.is_blocked == (state.suspended is not None or state.remaining <= 0)
            assert state.granted >= 0 and all(grant.left > 0 for grant in state.grants)
            assert state.free_left >= 0

    @invariant()
    def by_feature_sums_to_what_was_used(self) -> None:
        for account, state in self._states().items():
            for period in (state.period, state.previous):
                if period is None or (account in self.opened and period.number == 0):
                    continue
                assert (
                    sum(period.by_feature.values())
                    == period.used
                    == self.charged[account, period.number]
                )
                assert all(credits >= 0 for credits in period.by_feature.values())

    @invariant()
    def a_reader_sees_what_the_ledger_will_say(self) -> None:
        for account, state in self._states().items():
            shown = state_at(state, account, self.live.now, SHIPPED)
            assert shown.period.end is None or shown.period.end > self.live.now

    def teardown(self) -> None:
        for account, entries in self.written.items():
            _periods_are_numbered_and_tile(entries)
            _limits_alternate(entries, self._states().get(account))
            _thresholds_are_crossed_once(entries)
            _late_uses_stay_within_the_ended_period(entries)

    # How each rule decides an event and notes its entries

    def _usage_ids(self, account: str) -> list[str]:
        return [
            entry.event.id
            for entry in self.written[account]
            if entry.kind == "usage" and entry.event is not None
        ]

    def _header(
        self, account: str, event_id: str | None, wait: timedelta, late: timedelta
    ) -> dict[str, Any]:
        self.live.now += timedelta(milliseconds=wait // timedelta(milliseconds=1))
        event_id = event_id or f"own-{len(self.live.entries)}"
        return {
            "account": account,
            "source": "/test",
            "id": event_id,
            "occurred_at": self.live.now - late,
        }

    def _decide(self, event: AnyEvent) -> list[SealedEntry]:
        before = {account: encode(state) for account, state in self._states().items()}
        sealed = self.live.decide(event)
        after = {account: encode(state) for account, state in self._states().items()}
        touched = {account for account in ACCOUNTS if before.get(account) != after.get(account)}
        assert touched <= {event.account}, "an account's events never touch another's"
        if sealed[-1].entry.kind in ("refusal", "duplicate"):
            assert len(sealed) == 1 and not touched, "refusals and duplicates change nothing"
        assert {item.entry.account for item in sealed} == {event.account}
        self._note(sealed)
        self._again_changes_nothing(event)
        return sealed

    def _again_changes_nothing(self, event: AnyEvent) -> None:
        before = self._bytes(self.live.book)
        again = self.live.decide(event)
        assert [item.entry.kind for item in again] in (["duplicate"], ["refusal"])
        assert self._bytes(self.live.book) == before
        self._note(again)

    def _note(self, sealed: list[SealedEntry]) -> None:
        for item in sealed:
            read = entry_at(item.entry.offset, item.value)
            assert read == item, "what is read is what was sealed"
            entry = item.entry
            was_blocked = self._is_blocked(entry.account)
            self.folded.fold([read])
            announced = [
                crossing.type for crossing in entry.crossings if crossing.threshold is None
            ]
            changed = self._is_blocked(entry.account) - was_blocked
            assert announced == {1: ["limit.reached"], 0: [], -1: ["limit.cleared"]}[changed], (
                "what blocks or frees is announced"
            )
            self.written[entry.account].append(entry)
            for figures in (entry.before, entry.after):
                assert (
                    figures is None
                    or figures.remaining == figures.allotment + figures.granted - figures.used
                )
            if entry.period is not None:
                self.charged[entry.account, entry.period.number] += entry.credits

    def _is_blocked(self, account: str) -> bool:
        state = self.folded.accounts.get(account)
        return state is not None and state.is_blocked

    def _states(self) -> dict[str, AccountState]:
        return {
            account: state
            for account, state in self.live.book.accounts.items()
            if state is not None
        }

    def _bytes(self, book: PartitionBook) -> dict[str, bytes]:
        return {
            account: encode(state) for account, state in book.accounts.items() if state is not None
        }


def _periods_are_numbered_and_tile(entries: list[LedgerEntry]) -> None:
    opened = [
        entry.plan_change.opens
        for entry in entries
        if entry.plan_change is not None and entry.plan_change.opens is not None
    ]
    assert [period.number for period in opened] == list(range(len(opened)))
    renewals = [
        entry.plan_change.opens
        for entry in entries
        if entry.kind == "renewal" and entry.plan_change is not None
    ]
    for ended, following in pairwise(opened):
        assert ended.start <= following.start
        assert ended.end is None or following.start <= ended.end
        if following in renewals:
            assert following.start == ended.end
    assert all(period.end is None or period.start < period.end for period in opened)


def _limits_alternate(entries: list[LedgerEntry], state: AccountState | None) -> None:
    is_blocked = False
    for crossing in (
        crossing for entry in entries for crossing in entry.crossings if crossing.threshold is None
    ):
        assert crossing.type == ("limit.cleared" if is_blocked else "limit.reached")
        is_blocked = not is_blocked
        assert is_blocked == (crossing.suspended is not None or crossing.figures.remaining <= 0)
    assert state is None or state.is_blocked == is_blocked


def _thresholds_are_crossed_once(entries: list[LedgerEntry]) -> None:
    crossed = [
        (
            crossing.period.number,
            crossing.threshold,
            crossing.figures.used + crossing.figures.remaining,
        )
        for entry in entries
        for crossing in entry.crossings
        if crossing.threshold is not None
    ]
    assert len(crossed) == len(set(crossed))


def _late_uses_stay_within_the_ended_period(entries: list[LedgerEntry]) -> None:
    """A late use takes nothing that the ended period did not have, or else nothing from it."""
    for entry in entries:
        if entry.kind == "usage" and entry.is_late and entry.credits > 0:
            assert entry.after is not None and entry.after.remaining >= 0
        if entry.counts_after_its_period:
            assert entry.credits > 0, "a use that costs nothing counts where it occurred"


PartitionLife.TestCase.settings = settings(stateful_step_count=60)
TestPartitionLife = pytest.mark.peer_defect("FluxMeter: tenants collide")(PartitionLife.TestCase)
