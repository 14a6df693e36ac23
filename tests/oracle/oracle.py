"""The rules of the ledger a second time, in a naive way: every answer recomputes every figure.

It imports nothing of the product and keeps no balance. An `Account` holds only facts: the accepted
events and their times. Each question is answered from all of them. The periods follow from the
subscriptions, the use from the charges, and the grants' part from both. It is slow on purpose, and
different on purpose, so that it cannot share a mistake with the product. Credits are Decimals,
short enough to be exact.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from tests.oracle.rate_card import ALLOTMENTS, PLANS, RATES

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
AHEAD = timedelta(minutes=5)
LATE = timedelta(days=35)
REMEMBERED = LATE + AHEAD
CLOSES_AFTER = timedelta(hours=72)
GRANTS_AT_ONCE = 100
ZONES = available_timezones()
THRESHOLD = Decimal("0.8")


@dataclass(frozen=True)
class Arrival:
    """A line of the history, with its record's timestamp. Arrivals are in the order of sending."""

    value: bytes
    timestamp_ms: int


@dataclass(frozen=True)
class Outcome:
    """The result of an arrival: ``accepted``, ``duplicate`` or ``refused``.

    ``reasons`` are all the reasons that apply. The ledger may give any of them.
    """

    kinds: frozenset[str]
    reasons: frozenset[str] = frozenset()


@dataclass(frozen=True)
class LimitEvent:
    account: str
    type: str
    reason: str
    at: datetime
    plan: str
    used: Decimal
    remaining: Decimal
    allotment: Decimal
    threshold: str | None
    crossed_by: tuple[str, str] | None
    upgrade: str | None
    resets_at: datetime | None
    action: str | None


@dataclass(frozen=True)
class Shown:
    """An account's figures at a moment."""

    plan: str
    start: datetime | None
    end: datetime | None
    allotment: Decimal
    granted: Decimal
    used: Decimal
    remaining: Decimal
    blocked: bool
    by_feature: dict[str, Decimal]


# A moment in the ledger: its time, and the index of the input decided then. Renewals and expiries
# come before the inputs of their moment.
Moment = tuple[datetime, int]


def by_time(at: datetime) -> Moment:
    return (at, -1)


def after_all(at: datetime) -> Moment:
    return (at, 10**12)


@dataclass(frozen=True)
class PlanFact:
    moment: Moment
    event: tuple[str, str]
    kind: str  # subscribed, changed, cancelled, cancelled_now, opened
    plan: str
    since: datetime
    zone: str = "UTC"
    anchor: datetime | None = None
    used: Decimal = Decimal(0)
    free_used: Decimal = Decimal(0)
    as_of: datetime | None = None


@dataclass(frozen=True)
class Charge:
    moment: Moment
    event: tuple[str, str]
    period: int
    feature: str
    credits: Decimal
    voided_on_arrival: bool = False


@dataclass(frozen=True)
class Grant:
    moment: Moment
    event: tuple[str, str]
    credits: Decimal
    expires_at: datetime | None


@dataclass(frozen=True)
class Void:
    moment: Moment
    event: tuple[str, str]
    usage: tuple[str, str]
    charge: Charge | None  # None: its usage has not come yet


@dataclass(frozen=True)
class Period:
    """``closed`` is when the ledger learned that the period is over (None while it runs)."""

    number: int
    start: datetime
    end: datetime | None
    plans: tuple[tuple[Moment, str], ...]
    opened: Moment
    closed: Moment | None
    pending: str | None = None
    brought: Decimal = Decimal(0)


# Billing cycles
# ------------------------------------------------------------------------------------------


@lru_cache(maxsize=100_000)
def boundary(anchor: datetime, zone: str, month: int) -> datetime:
    """The ``month``-th renewal. It tries out local clocks, and does no arithmetic on offsets."""
    local = anchor.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    year, month_of_year = divmod(local.year * 12 + local.month - 1 + month, 12)
    wanted = local.replace(
        year=year, month=month_of_year + 1, day=min(local.day, _days_in(year, month_of_year + 1))
    )
    shown = sorted(
        {
            _offset_at(wanted.replace(tzinfo=UTC) + timedelta(hours=hours), zone)
            for hours in range(-30, 31)
        },
        reverse=True,
    )
    candidates = [(wanted - offset).replace(tzinfo=UTC) for offset in shown]
    meant = [
        at
        for at in sorted(candidates)
        if at.astimezone(ZoneInfo(zone)).replace(tzinfo=None) == wanted
    ]
    if meant:
        return meant[0]
    gap = max(shown) - min(shown)
    moved = [
        at
        for at in sorted(candidates)
        if at.astimezone(ZoneInfo(zone)).replace(tzinfo=None) == wanted + gap
    ]
    return moved[0]


def _offset_at(at: datetime, zone: str) -> timedelta:
    offset = at.astimezone(ZoneInfo(zone)).utcoffset()
    assert offset is not None
    return offset


def _days_in(year: int, month: int) -> int:
    first_of_next = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    return (first_of_next - timedelta(days=1)).day


def next_boundary(anchor: datetime, zone: str, after: datetime) -> datetime:
    """The first renewal of a cycle after a moment."""
    month = 0
    while boundary(anchor, zone, month) <= after:
        month += 1
    while boundary(anchor, zone, month - 1) > after:
        month -= 1
    return boundary(anchor, zone, month)


# One account
# ------------------------------------------------------------------------------------------


@dataclass
class Account:
    """Facts, in the order in which they were decided.

    Every method recomputes its answer from all of them.
    """

    name: str
    first_seen: datetime | None = None
    plan_facts: list[PlanFact] = field(default_factory=list)
    charges: list[Charge] = field(default_factory=list)
    grants: list[Grant] = field(default_factory=list)
    voids: list[Void] = field(default_factory=list)
    _periods: dict[tuple[int, Moment], list[Period]] = field(default_factory=dict)

    def periods(self, now: Moment) -> list[Period]:
        """All periods up to a moment of the ledger. The last one is running.

        Answers are cached as long as the facts are the same.
        """
        key = (len(self.plan_facts), now)
        if key not in self._periods:
            self._periods[key] = self._compute_periods(now)
        return self._periods[key]

    def _compute_periods(self, now: Moment) -> list[Period]:
        assert self.first_seen is not None
        found = [
            Period(
                0,
                self.first_seen,
                None,
                ((by_time(self.first_seen), "free"),),
                by_time(self.first_seen),
                None,
            )
        ]
        cycle: tuple[datetime, str] | None = None
        for fact in [fact for fact in self.plan_facts if fact.moment <= now]:
            found = self._with_renewals(found, cycle, fact.moment)
            running = found[-1]
            plan = running.plans[-1][1]
            if fact.kind in ("subscribed", "opened"):
                anchor = fact.anchor or fact.since
                cycle = (anchor, fact.zone)
                end = next_boundary(anchor, fact.zone, fact.since) if fact.plan != "free" else None
                if fact.kind == "opened":
                    found = []
                else:
                    found[-1] = _closed_period(running, fact.since, fact.moment)
                found.append(
                    Period(
                        len(found),
                        fact.since,
                        end,
                        ((fact.moment, fact.plan),),
                        fact.moment,
                        None,
                        brought=fact.used,
                    )
                )
            elif fact.kind == "cancelled_now":
                found[-1] = _closed_period(running, fact.since, fact.moment)
                found.append(
                    Period(
                        len(found), fact.since, None, ((fact.moment, "free"),), fact.moment, None
                    )
                )
            elif fact.kind == "cancelled":
                found[-1] = replace(running, pending="free")
            elif plan == "free":
                continue
            elif PLANS.index(fact.plan) >= PLANS.index(plan):
                found[-1] = replace(
                    running, plans=(*running.plans, (fact.moment, fact.plan)), pending=None
                )
            else:
                found[-1] = replace(running, pending=fact.plan)
        return self._with_renewals(found, cycle, now)

    def _with_renewals(
        self, found: list[Period], cycle: tuple[datetime, str] | None, now: Moment
    ) -> list[Period]:
        while found[-1].end is not None and by_time(found[-1].end) <= now:
            running = found[-1]
            end = running.end
            assert end is not None and cycle is not None
            plan = running.pending or running.plans[-1][1]
            closed = max(by_time(end), running.opened)
            found = [*found[:-1], _closed_period(running, end, closed)]
            next_end = None if plan == "free" else next_boundary(*cycle, end)
            found.append(Period(len(found), end, next_end, ((closed, plan),), closed, None))
        return found

    def charges_of(self, period: int, now: Moment) -> list[Charge]:
        """The uses that count in a period: those charged by that moment and not voided by then."""
        voided = [void.charge for void in self.voids if void.moment <= now]
        return [
            charge
            for charge in self.charges
            if charge.period == period
            and charge.moment <= now
            and charge not in voided
            and not charge.voided_on_arrival
        ]

    def used(self, period: Period, now: Moment) -> Decimal:
        return period.brought + sum(
            (charge.credits for charge in self.charges_of(period.number, now)), Decimal(0)
        )

    def free_left(self, now: Moment, before: int) -> Decimal:
        """The rest of Free's 200 when the period with this number begins."""
        left = ALLOTMENTS["free"] - sum(
            (fact.free_used for fact in self.plan_facts if fact.kind == "opened"), Decimal(0)
        )
        for period in self.periods(now)[:before]:
            if period.plans[-1][1] == "free":
                left -= min(left, self.used(period, now))
        return max(left, Decimal(0))

    def allotment(self, period: Period, now: Moment) -> Decimal:
        plan = [plan for moment, plan in period.plans if moment <= now][-1]
        return self.free_left(now, period.number) if plan == "free" else ALLOTMENTS[plan]

    def left_over(self, number: int, now: Moment) -> Decimal:
        """The credits that are left in a period that is over, as the ledger knows it by now.

        It had its allotment, and from grants what they paid for good. The rest of a grant belongs
        to the periods after it.
        """
        period = self.periods(now)[number]
        paid_by_grants = _sum_settled(self.settlements(now), number)
        return self.allotment(period, now) + paid_by_grants - self.used(period, now)

    def settlements(self, now: Moment) -> list[tuple[Moment, int, Grant, Decimal]]:
        """The final payments from grants: each has its moment, period, grant and amount.

        They are made when a period ends or a grant expires.
        """
        periods = self.periods(now)
        dates = {period.closed for period in periods if period.closed is not None}
        for grant in self.grants:
            if grant.expires_at is not None and by_time(grant.expires_at) <= now:
                dates.add(by_time(grant.expires_at))
        settled: list[tuple[Moment, int, Grant, Decimal]] = []
        for date in sorted(dates):
            # Only decisions before that date count, in the period that ran until then.
            period = (
                [p for p in periods if p.opened < date][-1]
                if any(p.opened < date for p in periods)
                else periods[0]
            )
            before = (date[0], date[1] - 1) if date[1] >= 0 else (date[0], -2)
            open_use = (
                self.used(period, before)
                - self.allotment(period, before)
                - _sum_settled(settled, period.number)
            )
            for grant in self.usable(before, settled, at=date):
                left = grant.credits - _sum_of(settled, grant)
                drawn = max(min(left, open_use), Decimal(0))
                open_use -= drawn
                is_over = period.closed == date or (
                    grant.expires_at is not None and by_time(grant.expires_at) <= date
                )
                if drawn > 0 and is_over:
                    settled.append((date, period.number, grant, drawn))
        return settled

    def usable(
        self, now: Moment, settled: list[tuple[Moment, int, Grant, Decimal]], at: Moment
    ) -> list[Grant]:
        """The grants that can still pay, those that expire soonest first.

        A grant that expires at ``at`` is still among them.
        """
        known = [
            grant
            for grant in self.grants
            if grant.moment <= now and (grant.expires_at is None or by_time(grant.expires_at) >= at)
        ]
        far = datetime.max.replace(tzinfo=UTC)
        return sorted(known, key=lambda grant: (grant.expires_at or far, grant.moment))

    def show(self, now: Moment) -> Shown:
        periods = self.periods(now)
        period = periods[-1]
        settled = self.settlements(now)
        open_grants = [
            g
            for g in self.grants
            if g.moment <= now and (g.expires_at is None or by_time(g.expires_at) > now)
        ]
        granted = sum(
            (g.credits - _sum_of(settled, g) for g in open_grants), Decimal(0)
        ) + _sum_settled(settled, period.number)
        used, allotment = self.used(period, now), self.allotment(period, now)
        by_feature: dict[str, Decimal] = {}
        for charge in self.charges_of(period.number, now):
            by_feature[charge.feature] = by_feature.get(charge.feature, Decimal(0)) + charge.credits
        remaining = allotment + granted - used
        return Shown(
            period.plans[-1][1],
            period.start,
            period.end,
            allotment,
            granted,
            used,
            remaining,
            remaining <= 0,
            by_feature,
        )


def _closed_period(period: Period, end: datetime, closed: Moment) -> Period:
    return replace(period, end=end, closed=closed)


def _sum_of(settled: list[tuple[Moment, int, Grant, Decimal]], grant: Grant) -> Decimal:
    return sum((drawn for _, _, paid_by, drawn in settled if paid_by == grant), Decimal(0))


def _sum_settled(settled: list[tuple[Moment, int, Grant, Decimal]], period: int) -> Decimal:
    return sum((drawn for _, number, _, drawn in settled if number == period), Decimal(0))


# The whole history
# ------------------------------------------------------------------------------------------


class Malformed(Exception):
    """A line that is not an event."""


ACCOUNT_TYPES = {
    "account.opened",
    "account.subscribed",
    "account.plan_changed",
    "account.cancelled",
    "credits.granted",
    "usage.voided",
}


@dataclass
class _Known:
    """An accepted event, by which its repeats are recognised."""

    content: str
    since: datetime


class Oracle:
    """Decides a history line by line in the ledger's order, one partition after the other."""

    def __init__(self, arrivals: list[Arrival], partition_of: Any = lambda account: 0) -> None:
        self.arrivals = arrivals
        self.outcomes: dict[int, Outcome] = {}
        self.accounts: dict[str, Account] = {}
        self.limit_events: list[LimitEvent] = []
        self.clocks: dict[int, datetime] = {}
        self._known: dict[tuple[str, str, str, str], _Known] = {}
        self._announced: set[tuple[str, int, Decimal]] = set()
        self._announced_until: dict[str, Moment] = {}
        self._places = 0
        partitions: dict[int, list[int]] = {}
        for number, arrival in enumerate(arrivals):
            partitions.setdefault(partition_of(subject_of(arrival.value)), []).append(number)
        for partition, numbers in sorted(partitions.items()):
            self._decide_partition(partition, numbers)

    def _decide_partition(self, partition: int, numbers: list[int]) -> None:
        """Merge two topics by their timestamps, and decide each record.

        Each topic is in the order of sending. Account events come before usage of the same
        millisecond.
        """
        usage = [n for n in numbers if not is_account_event(self.arrivals[n].value)]
        account = [n for n in numbers if is_account_event(self.arrivals[n].value)]
        clock, mine = EPOCH, set()
        while usage or account:
            if account and (
                not usage
                or self.arrivals[account[0]].timestamp_ms <= self.arrivals[usage[0]].timestamp_ms
            ):
                number = account.pop(0)
            else:
                number = usage.pop(0)
            clock = max(clock, EPOCH + self.arrivals[number].timestamp_ms * MILLISECOND)
            name = self._decide(number, clock)
            if name is not None:
                mine.add(name)
        self.clocks[partition] = clock
        for name in sorted(mine):
            self._let_time_pass(name, clock, due_only=True)

    # The passing of time

    def _let_time_pass(
        self, name: str, now: datetime, *, due_only: bool, announced_at: datetime | None = None
    ) -> None:
        """Announce the crossings at renewals and expiries.

        Those of blocked accounts and of expiring grants do not wait for an input of the account.
        """
        account = self.accounts[name]
        while True:
            date = self._next_date(account, self._announced_until[name], now, due_only)
            if date is None:
                return
            # A due date comes after everything that occurred before it.
            for each in self._dates(account, self._announced_until[name], date):
                before = account.show((each, -2))
                after = account.show(by_time(each))
                renewed = after.start == each and before.start != each
                if (
                    after.remaining <= 0 < before.remaining
                    or before.remaining <= 0 < after.remaining
                ):
                    self._announce(
                        account,
                        by_time(each),
                        "renewed" if renewed else "grant_expired",
                        None,
                        announced_at or date,
                    )
                self._announced_until[name] = by_time(each)

    def _next_date(
        self, account: Account, after: Moment, now: datetime, due_only: bool
    ) -> datetime | None:
        for date in self._dates(account, after, now):
            is_expiry = any(grant.expires_at == date for grant in account.grants)
            if (
                not due_only
                or is_expiry
                or account.show((date, -2)).blocked
                or self._falls_to_nothing(account, date)
            ):
                return date
        return None

    def _falls_to_nothing(self, account: Account, date: datetime) -> bool:
        """Whether the renewal itself blocks the account: it was cancelled, and Free is used up."""
        running = account.periods((date, -2))[-1]
        return running.pending == "free" and account.free_left((date, -2), running.number + 1) <= 0

    def _dates(self, account: Account, after: Moment, now: datetime) -> list[datetime]:
        dates = {period.start for period in account.periods(by_time(now))}
        dates |= {grant.expires_at for grant in account.grants if grant.expires_at is not None}
        return sorted(date for date in dates if after < by_time(date) and date <= now)

    # Decisions

    def _decide(self, number: int, clock: datetime) -> str | None:
        try:
            event = parse(self.arrivals[number].value)
        except Malformed:
            self.outcomes[number] = Outcome(frozenset({"refused"}), frozenset({"malformed"}))
            return None
        self._places += 1
        moment = (clock, self._places)
        occurred = min(event["time"], clock)
        name: str = event["subject"]
        topic = "usage" if event["type"] == "usage.recorded" else "account"
        kinds, reasons = set(), set()
        if event["time"] - clock > AHEAD:
            reasons.add("dated_in_the_future")
        if clock - event["time"] > LATE:
            reasons.add("too_old")
        known = self._known.get((topic, name, event["source"], event["id"]))
        if known is not None and clock - known.since <= REMEMBERED:
            if known.content == event["content"]:
                kinds.add("duplicate")
            else:
                reasons.add("id_reused_with_different_content")
        account = self.accounts.get(name)
        fact: Any = None
        if account is None:
            account = Account(name, first_seen=occurred)
        fact, reason = self._fact(
            account, event, moment, occurred, is_first=name not in self.accounts
        )
        reasons |= set(reason.split(" or ")) if reason else set()
        if reasons:
            kinds.add("refused")
        if kinds:
            self.outcomes[number] = Outcome(frozenset(kinds), frozenset(reasons))
            return None
        self.outcomes[number] = Outcome(frozenset({"accepted"}))
        self._known[topic, name, event["source"], event["id"]] = _Known(event["content"], clock)
        if name not in self.accounts:
            self.accounts[name] = account
            self._announced_until[name] = by_time(occurred)
        else:
            self._let_time_pass(name, clock, due_only=True)
            self._let_time_pass(name, clock, due_only=False, announced_at=clock)
        self._announced_until[name] = max(self._announced_until[name], by_time(clock))
        self._accept(account, event, fact, moment)
        return name

    def _accept(self, account: Account, event: dict[str, Any], fact: Any, moment: Moment) -> None:
        before = account.show((moment[0], moment[1] - 1))
        if isinstance(fact, PlanFact):
            account.plan_facts.append(fact)
            reason = "plan_changed"
        elif isinstance(fact, Charge):
            account.charges.append(fact)
            reason = "usage"
        elif isinstance(fact, Grant):
            account.grants.append(fact)
            reason = "granted"
        else:
            account.voids.append(fact)
            reason = "voided"
        after = account.show(moment)
        who = (event["source"], event["id"])
        period = account.periods(moment)[-1].number
        size = after.used + after.remaining
        is_crossed = (
            isinstance(fact, Charge)
            and fact.period == period
            and before.used < THRESHOLD * size <= after.used
        )
        if is_crossed and (account.name, period, size) not in self._announced:
            self._announced.add((account.name, period, size))
            self._announce(account, moment, reason, who, moment[0], threshold="0.8")
        if after.remaining <= 0 < before.remaining or before.remaining <= 0 < after.remaining:
            self._announce(account, moment, reason, who, moment[0])

    def _fact(
        self,
        account: Account,
        event: dict[str, Any],
        moment: Moment,
        occurred: datetime,
        *,
        is_first: bool,
    ) -> tuple[Any, str | None]:
        data, who = event["data"], (event["source"], event["id"])
        if event["type"] == "usage.recorded":
            return self._charge(account, data, who, moment, occurred)
        if event["type"] == "credits.granted":
            return self._grant(account, data, who, moment)
        if event["type"] == "usage.voided":
            return self._void(account, data, who, moment)
        return self._plan_fact(account, event, who, moment, occurred, is_first)

    def _plan_fact(
        self,
        account: Account,
        event: dict[str, Any],
        who: tuple[str, str],
        moment: Moment,
        occurred: datetime,
        is_first: bool,
    ) -> tuple[Any, str | None]:
        data, kind = event["data"], event["type"].removeprefix("account.")
        running = account.periods(moment)[-1]
        plan, since = running.plans[-1][1], max(running.start, occurred)
        if data.get("plan", "free") not in PLANS:
            return None, "unknown_plan"
        if kind == "opened":
            return (
                (self._opening(data, who, moment, occurred), None)
                if is_first
                else (None, "account_already_known")
            )
        if kind == "subscribed":
            return self._subscription(
                running,
                data,
                PlanFact(moment, who, "subscribed", data["plan"], since, data["zone"], occurred),
            )
        if kind == "cancelled":
            fact = PlanFact(
                moment,
                who,
                "cancelled_now" if data["effective"] == "now" else "cancelled",
                "free",
                since,
            )
            return (None, "not_subscribed") if plan == "free" else (fact, None)
        if plan == "free" and data["plan"] != "free":  # this is a subscription too
            zones = [
                fact.zone for fact in account.plan_facts if fact.kind in ("subscribed", "opened")
            ]
            return PlanFact(
                moment, who, "subscribed", data["plan"], since, (zones or ["UTC"])[-1], occurred
            ), None
        return PlanFact(moment, who, "changed", data["plan"], since), None

    def _subscription(
        self, running: Period, data: dict[str, Any], fact: PlanFact
    ) -> tuple[Any, str | None]:
        if data["plan"] == "free":
            return None, "plan_has_no_cycle"
        if data["zone"] not in ZONES:
            return None, "unknown_time_zone"
        if running.pending == "free":  # this revokes the cancellation
            return PlanFact(fact.moment, fact.event, "changed", fact.plan, fact.since), None
        if running.plans[-1][1] != "free":
            return None, "already_subscribed"
        now = fact.moment[0]
        anchor: datetime = data["anchor"] or fact.anchor or fact.since
        return replace(fact, anchor=now if now < anchor <= now + AHEAD else anchor), None

    def _opening(
        self, data: dict[str, Any], who: tuple[str, str], moment: Moment, occurred: datetime
    ) -> PlanFact:
        as_of = min(data["as_of"] or occurred, moment[0])
        anchor = data["anchor"] or as_of
        free_used, used = data["free_used"], data["used"]
        if data["plan"] == "free":
            return PlanFact(
                moment,
                who,
                "opened",
                "free",
                as_of,
                data["zone"],
                anchor,
                max(used, free_used),
                as_of=as_of,
            )
        month = -1200
        while boundary(anchor, data["zone"], month + 1) <= as_of:
            month += 1
        since = boundary(anchor, data["zone"], month)
        return PlanFact(
            moment, who, "opened", data["plan"], since, data["zone"], anchor, used, free_used, as_of
        )

    def _charge(
        self,
        account: Account,
        data: dict[str, Any],
        who: tuple[str, str],
        moment: Moment,
        occurred: datetime,
    ) -> tuple[Any, str | None]:
        wrong = []
        rates = RATES.get(data["feature"])
        if rates is None:
            wrong.append("unknown_feature")
        elif data["model"] not in rates:
            wrong.append("unknown_model")
        period = self._period_of(account, occurred, moment)
        if period is None:
            brought = any(
                fact.as_of is not None and occurred < fact.as_of for fact in account.plan_facts
            )
            wrong.append("counted_before_opening" if brought else "period_closed")
        if wrong or rates is None or period is None:
            return None, " or ".join(wrong)
        credits = Decimal(rates[data["model"]] * math.ceil(data["quantity"]))
        overtaken = any(
            void.usage == who and void.charge is None and moment[0] - void.moment[0] <= REMEMBERED
            for void in account.voids
        )
        running = account.periods(moment)[-1].number
        is_backdated = period < running and credits > 0 and not overtaken
        if is_backdated and account.left_over(period, moment) < credits:
            period = running
        return Charge(moment, who, period, data["feature"], credits, overtaken), None

    def _period_of(self, account: Account, occurred: datetime, moment: Moment) -> int | None:
        periods = account.periods(moment)
        if any(fact.as_of is not None and occurred < fact.as_of for fact in account.plan_facts):
            return None
        if occurred >= periods[-1].start or len(periods) == 1:
            return periods[-1].number
        if (occurred >= periods[-2].start or len(periods) == 2) and moment[0] - periods[
            -1
        ].start < CLOSES_AFTER:
            return periods[-2].number
        return None

    def _grant(
        self, account: Account, data: dict[str, Any], who: tuple[str, str], moment: Moment
    ) -> tuple[Any, str | None]:
        if data["expires_at"] is not None and data["expires_at"] <= moment[0]:
            return None, "grant_already_expired"
        settled = account.settlements(moment)
        having_credits = [
            grant
            for grant in account.grants
            if (grant.expires_at is None or grant.expires_at > moment[0])
            and grant.credits > _sum_of(settled, grant)
        ]
        if len(having_credits) >= GRANTS_AT_ONCE:
            return None, "too_many_open_grants"
        return Grant(moment, who, data["credits"], data["expires_at"]), None

    def _void(
        self, account: Account, data: dict[str, Any], who: tuple[str, str], moment: Moment
    ) -> tuple[Any, str | None]:
        usage = (data["source"], data["id"])
        charges = [
            c for c in account.charges if c.event == usage and moment[0] - c.moment[0] <= REMEMBERED
        ]
        waiting = [
            v
            for v in account.voids
            if v.usage == usage and v.charge is None and moment[0] - v.moment[0] <= REMEMBERED
        ]
        if not charges:
            return (None, "already_voided") if waiting else (Void(moment, who, usage, None), None)
        charge, periods = charges[-1], account.periods(moment)
        if charge.voided_on_arrival or any(void.charge == charge for void in account.voids):
            return None, "already_voided"
        is_current = charge.period == periods[-1].number
        if is_current or (
            charge.period == periods[-1].number - 1 and moment[0] - periods[-1].start < CLOSES_AFTER
        ):
            return Void(moment, who, usage, charge), None
        return None, "period_closed"

    def _announce(
        self,
        account: Account,
        moment: Moment,
        reason: str,
        who: tuple[str, str] | None,
        at: datetime,
        threshold: str | None = None,
    ) -> None:
        after = account.show(moment)
        # A change that is reported late can open a period that is over by now. The event is about
        # that period.
        ends = (
            [period.end for period in account.periods(moment) if period.opened == moment]
            if who
            else []
        )
        type_ = (
            "limit.threshold"
            if threshold
            else "limit.reached"
            if after.remaining <= 0
            else "limit.cleared"
        )
        upgrade = None if type_ == "limit.cleared" else self._upgrade(after)
        action = {
            "limit.threshold": "prompt_upgrade",
            "limit.reached": "block",
            "limit.cleared": None,
        }[type_]
        self.limit_events.append(
            LimitEvent(
                account.name,
                type_,
                reason,
                at,
                after.plan,
                after.used,
                after.remaining,
                after.allotment,
                threshold,
                who,
                upgrade,
                ends[0] if ends else after.end,
                action,
            )
        )

    def _upgrade(self, shown: Shown) -> str | None:
        """The lowest plan above that would leave some credits.

        An account on Free would subscribe, and so begin a fresh cycle with no use.
        """
        for plan in PLANS[PLANS.index(shown.plan) + 1 :]:
            if shown.plan == "free" or ALLOTMENTS[plan] + shown.granted - shown.used > 0:
                return plan
        return None

    # Questions

    def show(self, name: str, at: datetime) -> Shown:
        """The expected ``account show --at``, by all decisions of the ledger up to then."""
        account = self.accounts.get(name)
        if account is None or not self._has_facts(account, at):
            return Shown(
                "free", None, None, Decimal(200), Decimal(0), Decimal(0), Decimal(200), False, {}
            )
        return account.show(after_all(at))

    def _has_facts(self, account: Account, at: datetime) -> bool:
        facts: Iterable[Any] = (
            *account.plan_facts,
            *account.charges,
            *account.grants,
            *account.voids,
        )
        return any(fact.moment[0] <= at for fact in facts)

    def limit_events_of(self, name: str) -> Iterator[LimitEvent]:
        return (event for event in self.limit_events if event.account == name)


# Lines
# ------------------------------------------------------------------------------------------


def parse(value: bytes) -> dict[str, Any]:
    """An event with its times, amounts and content in one normal form. Raises Malformed."""
    try:
        event = json.loads(value, parse_float=_no_float)
        data = event["data"]
        if event["specversion"] != "1.0" or not all(
            isinstance(event[name], str) and event[name] for name in ("id", "source", "subject")
        ):
            raise Malformed("envelope")
        plain = {**event, "time": _time(event["time"]), "data": dict(data)}
        _READERS[event["type"]](data, plain["data"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Malformed(str(error)) from error
    plain["content"] = repr(
        (
            event["type"],
            sorted(
                (k, str(v)) for k, v in plain["data"].items() if k not in ("hold_id", "dimensions")
            ),
        )
    )
    return plain


def _no_float(text: str) -> Any:
    raise ValueError(f"a float: {text}")


def _time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("the time has no zone")
    return at.astimezone(UTC)


def _amount(value: Any) -> Decimal:
    if (
        isinstance(value, bool)
        or not isinstance(value, (str, int))
        or not re.fullmatch(r"[0-9]+(\.[0-9]{1,6})?", str(value))
    ):
        raise ValueError(f"not an amount: {value!r}")
    return Decimal(str(value))


def _read_usage(data: dict[str, Any], plain: dict[str, Any]) -> None:
    if not isinstance(data["feature"], str) or not isinstance(data.get("model"), str | None):
        raise ValueError("feature, model")
    plain.update(model=data.get("model"), quantity=_amount(data["quantity"]))


def _read_subscribed(data: dict[str, Any], plain: dict[str, Any]) -> None:
    if not isinstance(data["plan"], str):
        raise ValueError("plan")
    plain["zone"] = data.get("time_zone") or "UTC"
    plain["anchor"] = None if data.get("anchor") is None else _time(data["anchor"])


def _read_opened(data: dict[str, Any], plain: dict[str, Any]) -> None:
    _read_subscribed(data, plain)
    plain.update(used=_amount(data.get("used") or 0), free_used=_amount(data.get("free_used") or 0))
    plain["as_of"] = None if data.get("as_of") is None else _time(data["as_of"])


def _read_plan(data: dict[str, Any], plain: dict[str, Any]) -> None:
    if not isinstance(data["plan"], str):
        raise ValueError("plan")


def _read_cancelled(data: dict[str, Any], plain: dict[str, Any]) -> None:
    plain["effective"] = data.get("effective", "period_end")
    if plain["effective"] not in ("period_end", "now"):
        raise ValueError("effective")


def _read_grant(data: dict[str, Any], plain: dict[str, Any]) -> None:
    plain["credits"] = _amount(data["credits"])
    plain["expires_at"] = None if data.get("expires_at") is None else _time(data["expires_at"])
    if plain["credits"] <= 0:
        raise ValueError("credits")


def _read_void(data: dict[str, Any], plain: dict[str, Any]) -> None:
    if not isinstance(data["source"], str) or not isinstance(data["id"], str):
        raise ValueError("source, id")


_READERS = {
    "usage.recorded": _read_usage,
    "account.opened": _read_opened,
    "account.subscribed": _read_subscribed,
    "account.plan_changed": _read_plan,
    "account.cancelled": _read_cancelled,
    "credits.granted": _read_grant,
    "usage.voided": _read_void,
}


def is_account_event(value: bytes) -> bool:
    """Whether a line goes to the account topic. Any other line goes to the usage topic."""
    try:
        type_ = json.loads(value)["type"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(type_, str) and type_ in ACCOUNT_TYPES


def subject_of(value: bytes) -> str | None:
    """The account that a line names, which is its record's key."""
    try:
        name = json.loads(value)["subject"]
    except (ValueError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) and name else None
