"""A notation for ledgers: a test whose docstring is one.

Each line is an input of a ledger partition and, after ``=>``, the entries that decide it. A line
that begins with ``=>`` or ``;`` continues the line before. ``#`` begins a remark::

    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1h               use genai_video/veo_3   => usage 32 200+0-32=168

The first word is when Kafka appended the event: a time in UTC, or the distance from the line
before. Then comes the event:

    use FEATURE[/MODEL] [QUANTITY]   subscribe PLAN   change PLAN   cancel [now]
    grant CREDITS [until=TIME]       void ID          open PLAN [used=] [free_used=] [as_of=]
    suspend REASON                   resume           thresholds SHARE... | none | plan
    wait                             (no event; the ledger's owner acts on what is due)

Any of them can have ``id=``, ``source=``, ``account=`` (default ``a``), ``anchor=``, ``zone=`` and
``on=``. The last is when the event occurred, if that is not when Kafka appended it: a time, or a
distance such as ``-35d``.

An entry is its kind, its own figures, and the equation ``allotment+granted-used=remaining`` of the
period that it counts in. Then come the limits that it crosses: ``!80%``, ``!reached``,
``!cleared``. Amounts are credits.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from usageledger.domain.account import AccountState
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.catalog_document import load_shipped_catalog
from usageledger.domain.chain import SealedEntry
from usageledger.domain.credits import format_credits, parse_credits
from usageledger.domain.entry import Crossing, Figures, LedgerEntry
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
)
from usageledger.domain.head import Head
from usageledger.domain.quantity import format_quantity
from usageledger.domain.thresholds import parse_thresholds
from usageledger.ledger.decoded_input import DecodedInput
from usageledger.ledger.partition_book import PartitionBook

SHIPPED = AdoptedCatalogs((load_shipped_catalog(),))

_UNITS = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
    "us": timedelta(microseconds=1),
}
_PART = re.compile(r"(\d+)(ms|us|d|h|m|s)")


def ledger(test: Callable[[], None]) -> Callable[[], None]:
    """Play the test's docstring, and then its body."""

    @functools.wraps(test)
    def played() -> None:
        play(test.__doc__ or "")
        test()

    return played


def play(text: str, catalogs: AdoptedCatalogs = SHIPPED) -> Partition:
    """Give a partition every line, and compare its entries with those that the line states."""
    partition = Partition(catalogs)
    for line in _lines(text):
        what, _, stated = line.partition("=>")
        came = [written(sealed.entry) for sealed in partition.take(what)]
        assert came == [" ".join(entry.split()) for entry in stated.split(";")], (
            f"in the line: {line}"
        )
    return partition


class Partition:
    """A ledger partition in memory: a `PartitionBook` that has every identity and account."""

    def __init__(self, catalogs: AdoptedCatalogs = SHIPPED) -> None:
        self.book = PartitionBook(0, 1, Head(ledger="ledger"), catalogs)
        self.entries: list[SealedEntry] = []
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self._offsets = {"usage": 0, "account": 0}

    def state(self, account: str = "a") -> AccountState:
        """The account's state as it was last decided."""
        state = self.book.accounts[account]
        assert state is not None
        return state

    def take(self, line: str) -> list[SealedEntry]:
        """Take one line of the notation, without its entries."""
        when, what, *words = line.split()
        self.now = moment(when, self.now)
        if what == "wait":
            return self._act_on_what_is_due()
        return self.decide(event_of(what, words, self.now, f"{what}-{len(self.entries)}"))

    def decide(self, event: AnyEvent, at: datetime | None = None) -> list[SealedEntry]:
        """Decide an event that Kafka appended at that time, or now."""
        self.now = at or self.now
        topic = "usage" if isinstance(event, UsageRecorded) else "account"
        offset, self._offsets[topic] = self._offsets[topic], self._offsets[topic] + 1
        item = DecodedInput("usage" if topic == "usage" else "account", offset, self.now, event)
        return self._record(self.book.decide_input(item))

    def _act_on_what_is_due(self) -> list[SealedEntry]:
        sealed: list[SealedEntry] = []
        while (due := self.book.due.next()) is not None and due[0] <= self.now:
            sealed += self._record(self.book.decide_due(due[1], due[0]))
        return sealed

    def _record(self, sealed: list[SealedEntry]) -> list[SealedEntry]:
        self.entries += sealed
        return sealed


def event_of(what: str, words: list[str], now: datetime, event_id: str) -> AnyEvent:
    """The event that a line describes."""
    options = dict(word.split("=", 1) for word in words if "=" in word)
    arguments = [word for word in words if "=" not in word]
    header: dict[str, Any] = {
        "account": options.get("account", "a"),
        "source": options.get("source", "/test"),
        "id": options.get("id", event_id),
        "occurred_at": moment(options["on"], now) if "on" in options else now,
    }
    times: dict[str, Any] = {
        name: moment(options[name], now) for name in ("anchor", "as_of") if name in options
    }
    if what == "use":
        feature, _, model = arguments[0].partition("/")
        return UsageRecorded(
            **header,
            feature=feature,
            model=model or None,
            quantity=Decimal(arguments[1] if len(arguments) > 1 else 1),
        )
    if what == "subscribe":
        return AccountSubscribed(
            **header, plan=arguments[0], time_zone=options.get("zone"), **times
        )
    if what == "change":
        return PlanChanged(**header, plan=arguments[0])
    if what == "cancel":
        return AccountCancelled(**header, effective="now" if arguments == ["now"] else "period_end")
    if what == "grant":
        until = moment(options["until"], now) if "until" in options else None
        return CreditsGranted(
            **header, credits=parse_credits(arguments[0]), reason="support", expires_at=until
        )
    if what in ("suspend", "resume", "thresholds"):
        return _status_event(what, arguments, header)
    if what == "void":
        return UsageVoided(**header, usage_source="/test", usage_id=arguments[0], reason="failed")
    assert what == "open", f"unknown event: {what}"
    amounts: dict[str, Any] = {
        name: parse_credits(options[name]) for name in ("used", "free_used") if name in options
    }
    return AccountOpened(
        **header, plan=arguments[0], time_zone=options.get("zone", "UTC"), **amounts, **times
    )


def _status_event(what: str, arguments: list[str], header: dict[str, Any]) -> AnyEvent:
    if what == "suspend":
        return AccountSuspended(**header, reason=arguments[0])
    if what == "resume":
        return AccountResumed(**header)
    shares = (
        None
        if arguments == ["plan"]
        else parse_thresholds([] if arguments == ["none"] else arguments)
    )
    return ThresholdsSet(**header, thresholds=shares)


def moment(text: str, now: datetime) -> datetime:
    """A time in UTC, or a distance from ``now``: ``2026-01-31T10:00``, ``+35d5m``, ``-1ms``."""
    if text[0] not in "+-":
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    distance = sum(
        (int(number) * _UNITS[unit] for number, unit in _PART.findall(text)), timedelta()
    )
    return now + distance if text[0] == "+" else now - distance


def written(entry: LedgerEntry) -> str:
    """An entry in the notation."""
    return " ".join(
        [*_entry_words(entry), *_equation(entry.after), *map(_crossing_word, entry.crossings)]
    )


def _entry_words(entry: LedgerEntry) -> Iterator[str]:
    yield "refused" if entry.kind == "refusal" else entry.kind
    if entry.kind == "refusal":
        yield entry.reason or ""
    if entry.kind in ("usage", "void") and entry.period is not None:
        yield format_credits(entry.credits)
    if entry.is_late:
        yield "late"
    if entry.is_void_on_arrival:
        yield "voided"
    if entry.voids is not None and entry.voids.awaits_usage:
        yield "awaits"
    if entry.kind == "suspension" and entry.suspension is not None:
        yield entry.suspension.reason or ""
    if entry.kind == "thresholds_set":
        yield (
            "plan"
            if entry.thresholds is None
            else ",".join(map(format_quantity, entry.thresholds)) or "none"
        )
    if entry.plan_change is not None:
        following = entry.plan_change.next_plan
        yield entry.plan_change.plan + (f"->{following}" if following else "")


def _equation(figures: Figures | None) -> Iterator[str]:
    if figures is not None:
        terms = (figures.allotment, figures.granted, figures.used, figures.remaining)
        yield "{}+{}-{}={}".format(*map(format_credits, terms))


def _crossing_word(crossing: Crossing) -> str:
    if crossing.threshold is not None:
        return f"!{Decimal(crossing.threshold) * 100:.0f}%"
    return "!" + crossing.type.removeprefix("limit.")


def _lines(text: str) -> Iterator[str]:
    """The lines of a ledger, each joined with those that continue it. Prose has no ``=>``."""
    joined: list[str] = []
    for line in (line.partition("#")[0].strip() for line in text.splitlines()):
        if line.startswith((";", "=>")) and joined:
            joined[-1] += f" {line}"
        elif line:
            joined.append(line)
    return (line for line in joined if "=>" in line)
