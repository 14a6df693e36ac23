"""No sequence of plan changes yields more or fewer credits than were paid for.

A farmer of credits plays against a billing system of its own.
"""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.notation import SHIPPED, Partition
from usageledger.domain.account import AccountState
from usageledger.domain.events import (
    AccountCancelled,
    AccountSubscribed,
    AnyEvent,
    EffectiveWhen,
    PlanChanged,
    UsageRecorded,
)
from usageledger.domain.renewal import state_at

CREDIT = 1_000_000
PRICED = {"free": 0, "pro": 200, "max": 500, "scale": 1400, "scale_2x": 2800, "scale_4x": 5600}
LEVELS = list(PRICED)
FREE_ONCE = 200


class Billing:
    """The credits that the account pays for, computed independently of the ledger.

    It pays once for each cycle, for the highest plan that it had in that cycle.
    """

    def __init__(self) -> None:
        self.plan = "free"
        self.next_plan: str | None = None
        self.anchor = self.ends = datetime.max.replace(tzinfo=UTC)
        self.free_since = datetime.min.replace(tzinfo=UTC)
        self.paid_before = self.paid_now = 0
        self.free_left = FREE_ONCE
        self.spent_of_cycle = 0

    @property
    def paid(self) -> int:
        return self.paid_before + self.paid_now

    @property
    def left(self) -> int:
        """The unspent credits of the running cycle. They lapse with it; Free's stay for later."""
        return self.free_left if self.plan == "free" else self.paid_now - self.spent_of_cycle

    def spend(self, credits: int) -> None:
        if self.plan == "free":
            self.free_left -= credits
        else:
            self.spent_of_cycle += credits

    def advance(self, now: datetime) -> None:
        while self.plan != "free" and now >= self.ends:
            self._begin(self.next_plan or self.plan, self.ends)

    def subscribe(self, plan: str, occurred: datetime, now: datetime) -> None:
        if self.plan == "free" or self.next_plan == "free":
            self.change(plan, occurred, now)

    def change(self, plan: str, occurred: datetime, now: datetime) -> None:
        if self.plan == "free":
            if plan != "free":
                self.anchor = min(occurred, now)
                self._begin(plan, max(self.free_since, self.anchor))
                self.advance(now)
        elif LEVELS.index(plan) < LEVELS.index(self.plan):
            self.next_plan = plan
        else:
            self.plan, self.next_plan = plan, None
            self.paid_now = max(self.paid_now, PRICED[plan])

    def cancel(self, effective: EffectiveWhen, occurred: datetime, now: datetime) -> None:
        if self.plan != "free" and effective == "now":
            self._begin("free", max(self._began, min(occurred, now)))
        elif self.plan != "free":
            self.next_plan = "free"

    def _begin(self, plan: str, at: datetime) -> None:
        self.paid_before += self.paid_now
        self.spent_of_cycle = 0
        self.plan, self.next_plan, self.paid_now, self._began = plan, None, PRICED[plan], at
        if plan == "free":
            self.free_since = at
        else:
            self.ends = next(
                end for k in range(1_000) if (end := _months_after(self.anchor, k)) > at
            )


class Farmer(RuleBasedStateMachine):
    """Changes plans at random, dated a little late or ahead, and spends at most what remains."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Partition()
        self.billing = Billing()
        self.spent = 0

    @initialize(day=st.integers(0, 365), minute=st.integers(0, 1439))
    def begin(self, day: int, minute: int) -> None:
        self.ledger.now += timedelta(days=day, minutes=minute)
        self.spend(timedelta(0), all_but=200)  # it is on Free from its first event

    waits = st.one_of(
        st.timedeltas(timedelta(0), timedelta(minutes=10)),
        st.timedeltas(timedelta(0), timedelta(days=20)),
        st.just(timedelta(days=31)),
    )
    skews = st.one_of(
        st.just(timedelta(0)),
        st.timedeltas(timedelta(microseconds=1), timedelta(minutes=5)),
        st.timedeltas(timedelta(hours=-3), timedelta(0)),
    )
    plans = st.sampled_from(LEVELS)

    @rule(wait=waits, skew=skews, plan=plans)
    def subscribe(self, wait: timedelta, skew: timedelta, plan: str) -> None:
        header = self._header(wait, skew)
        if plan != "free":
            self.billing.subscribe(plan, header["occurred_at"], self.ledger.now)
        self._decide(AccountSubscribed(**header, plan=plan))

    @rule(wait=waits, skew=skews, plan=plans)
    def change(self, wait: timedelta, skew: timedelta, plan: str) -> None:
        header = self._header(wait, skew)
        self.billing.change(plan, header["occurred_at"], self.ledger.now)
        self._decide(PlanChanged(**header, plan=plan))

    @rule(wait=waits, skew=skews, effective=st.sampled_from(["period_end", "now"]))
    def cancel(self, wait: timedelta, skew: timedelta, effective: EffectiveWhen) -> None:
        header = self._header(wait, skew)
        self.billing.cancel(effective, header["occurred_at"], self.ledger.now)
        self._decide(AccountCancelled(**header, effective=effective))

    @rule(wait=waits, all_but=st.sampled_from([0, 0, 1, 150]))
    def spend(self, wait: timedelta, all_but: int) -> None:
        header = self._header(wait, timedelta(0))
        credits = max(0, self._remaining() - all_but)
        self.spent += credits
        self.billing.spend(credits)
        self._decide(UsageRecorded(**header, feature="chat_action", quantity=Decimal(credits)))

    @invariant()
    def no_more_credits_are_available_than_were_paid_for(self) -> None:
        assert self.spent + self._remaining() <= FREE_ONCE + self.billing.paid
        assert self._remaining() == self.billing.left

    @invariant()
    def a_running_cycle_has_what_was_paid_for_it(self) -> None:
        state = self._state()
        if state is not None:
            assert (state.plan, state.next_plan) == (self.billing.plan, self.billing.next_plan)
            if state.plan != "free":
                assert (state.period.allotment, state.period.end) == (
                    self.billing.paid_now * CREDIT,
                    self.billing.ends,
                )

    def _header(self, wait: timedelta, skew: timedelta) -> dict[str, Any]:
        self.ledger.now += timedelta(milliseconds=wait // timedelta(milliseconds=1))
        self.billing.advance(self.ledger.now)
        return {
            "account": "a",
            "source": "/crm",
            "id": str(len(self.ledger.entries)),
            "occurred_at": self.ledger.now + skew,
        }

    def _decide(self, event: AnyEvent) -> None:
        self.ledger.decide(event)

    def _state(self) -> AccountState | None:
        state = self.ledger.book.accounts.get("a")
        return None if state is None else state_at(state, "a", self.ledger.now, SHIPPED)

    def _remaining(self) -> int:
        state = self._state()
        return FREE_ONCE if state is None else state.remaining // CREDIT


def _months_after(anchor: datetime, months: int) -> datetime:
    year, month = divmod(anchor.year * 12 + anchor.month - 1 + months, 12)
    return anchor.replace(
        year=year, month=month + 1, day=min(anchor.day, monthrange(year, month + 1)[1])
    )


Farmer.TestCase.settings = settings(stateful_step_count=40)
TestFarmer = pytest.mark.peer_defect("llmgateway, flowglad")(Farmer.TestCase)
