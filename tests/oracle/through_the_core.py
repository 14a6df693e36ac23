"""The same history through the product's pure core: one partition's book.

It gets its inputs as from an owner with a backlog.
"""

from __future__ import annotations

import bisect
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.oracle.oracle import Arrival, is_account_event, subject_of
from usageledger.domain.account import AccountState
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.balance import Balance, balance_at
from usageledger.domain.catalog_document import catalog_document, load_shipped_catalog
from usageledger.domain.chain import SealedEntry
from usageledger.domain.entry import LedgerEntry, Topic
from usageledger.domain.evolve import evolve
from usageledger.domain.head import Head
from usageledger.ledger.limit_events import limit_events
from usageledger.ledger.partition_book import PartitionBook
from usageledger.ledger.records import Record
from usageledger.ledger.timestamps import milliseconds


@dataclass
class CoreResult:
    """The product's results for a history: entries, a decision on each arrival, and all states."""

    entries: list[LedgerEntry] = field(default_factory=list)
    decisions: dict[int, tuple[str, str | None]] = field(default_factory=dict)
    limit_events: list[dict[str, Any]] = field(default_factory=list)
    states: dict[str, tuple[list[datetime], list[AccountState | None]]] = field(
        default_factory=dict
    )
    catalogs: AdoptedCatalogs = field(default_factory=AdoptedCatalogs)

    def add(self, sealed: SealedEntry) -> None:
        entry = sealed.entry
        self.entries.append(entry)
        self.limit_events += [json.loads(message.value) for message in limit_events(entry)]
        if entry.account:
            times, states = self.states.setdefault(entry.account, ([], []))
            states.append(evolve(states[-1] if states else None, entry))
            times.append(entry.appended_at)

    def show(self, account: str, at: datetime) -> Balance:
        """The balance as ``account show --at`` has it: the fold of all decisions up to then."""
        times, states = self.states.get(account, ([], []))
        place = bisect.bisect_right(times, at)
        return balance_at(account, states[place - 1] if place else None, at, self.catalogs)


def decide_history(arrivals: list[Arrival]) -> CoreResult:
    """Decide a history: merge the two topics by timestamp, account events first.

    An account that is due by the time of a record is renewed before that record.
    """
    book = PartitionBook(0, 1, Head(ledger="oracle"), AdoptedCatalogs())
    result = CoreResult()
    for sealed in book.adopt(_catalog_record()):
        result.add(sealed)
    result.catalogs = book.catalogs
    usage, account = _topics(arrivals)
    while usage or account:
        topic: Topic = (
            "account"
            if account and (not usage or account[0][1].timestamp_ms <= usage[0][1].timestamp_ms)
            else "usage"
        )
        number, record = (account if topic == "account" else usage).pop(0)
        item = book.decode(topic, [record])[0]
        while (due := book.due.next()) is not None and due[0] <= item.appended_at:
            for sealed in book.decide_due(due[1], due[0]):
                result.add(sealed)
        for sealed in book.decide_input(item):
            result.add(sealed)
            result.decisions[number] = (sealed.entry.kind, sealed.entry.reason)
    return result


def _topics(arrivals: list[Arrival]) -> tuple[list[tuple[int, Record]], list[tuple[int, Record]]]:
    usage: list[tuple[int, Record]] = []
    account: list[tuple[int, Record]] = []
    for number, arrival in enumerate(arrivals):
        topic = account if is_account_event(arrival.value) else usage
        subject = subject_of(arrival.value)
        key = None if subject is None else subject.encode()
        topic.append((number, Record(len(topic), arrival.timestamp_ms, key, arrival.value)))
    return usage, account


def _catalog_record() -> Record:
    catalog = load_shipped_catalog()
    document = catalog_document(catalog)
    event = {
        "specversion": "1.0",
        "type": "catalog.published",
        "id": document["version"],
        "source": "/catalog",
        "data": document,
    }
    return Record(0, milliseconds(catalog.effective_from), None, json.dumps(event).encode())
