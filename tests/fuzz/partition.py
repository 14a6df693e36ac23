"""A partition of random inputs, which the real `PartitionBook` decides.

The audit replays its ledger entry by entry as it is written.
"""

from __future__ import annotations

import json
import random
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from usageledger.audit.replay import PartitionReplay
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.chain import SealedEntry
from usageledger.domain.entry import InputAddress, Topic
from usageledger.domain.head import Head
from usageledger.domain.refusal import Refusal
from usageledger.ledger.partition_book import PartitionBook
from usageledger.ledger.records import Record
from usageledger.ledger.timestamps import time_of

_REASONS = {refusal.value for refusal in Refusal}


class InputRecord(NamedTuple):
    """A record of one of a partition's input topics. The partition assigns its offset."""

    topic: Topic
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


@dataclass
class Outcomes:
    """Counts of the inputs by result. Records of the catalog topic are counted separately."""

    sent: int = 0
    accepted: int = 0
    duplicates: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    accepted_types: Counter[str] = field(default_factory=Counter)
    catalogs: Counter[str] = field(default_factory=Counter)
    entries: int = 0

    def include(self, other: Outcomes) -> None:
        self.sent += other.sent
        self.accepted += other.accepted
        self.duplicates += other.duplicates
        self.refused += other.refused
        self.accepted_types += other.accepted_types
        self.catalogs += other.catalogs
        self.entries += other.entries


class FuzzedPartition:
    """Decides its inputs in order. The audit decides them again from the bytes alone."""

    def __init__(self, partition: int = 0, partition_count: int = 1) -> None:
        self.outcomes = Outcomes()
        self._book = PartitionBook(partition, partition_count, Head(ledger=""), AdoptedCatalogs())
        self._replay = PartitionReplay(partition, partition_count, self._read)
        self._unread: dict[Topic, deque[Record]] = {
            "usage": deque(),
            "account": deque(),
            "catalog": deque(),
        }
        self._next_offset: dict[Topic, int] = {"usage": 0, "account": 0, "catalog": 0}

    @property
    def book(self) -> PartitionBook:
        """The book that decides the inputs."""
        return self._book

    def run(self, sent: Iterable[InputRecord]) -> Outcomes:
        """Decide and replay the inputs.

        Raises AssertionError, which names the input, if a promise is broken.
        """
        for _ in self._replay.verified_entries(self._ledger_records(sent)):
            self.outcomes.entries += 1
        found, counts = self.outcomes, self._replay.counts
        assert found.sent == found.accepted + found.refused.total() + found.duplicates
        assert (counts.inputs, counts.refused_inputs, counts.duplicate_inputs) == (
            found.sent,
            found.refused.total(),
            found.duplicates,
        )
        assert self._replay.book.head == self._book.head
        assert self._replay.book.accounts == self._book.accounts
        assert self._replay.book.due.all() == self._book.due.all()
        return found

    def _ledger_records(self, sent: Iterable[InputRecord]) -> Iterator[Record]:
        """The ledger's records, in order, as each input is decided."""
        for each in sent:
            record = Record(self._next_offset[each.topic], each.timestamp_ms, each.key, each.value)
            self._next_offset[each.topic] += 1
            self._unread[each.topic].append(record)
            try:
                for sealed in self._entries_of(each.topic, record):
                    yield Record(sealed.entry.offset, 0, None, sealed.value)
            except Exception as error:
                raise AssertionError(f"{each.topic} {record!r}: {error!r}") from error

    def _entries_of(self, topic: Topic, record: Record) -> list[SealedEntry]:
        if topic == "catalog":
            entries = self._book.adopt(record)
            self.outcomes.catalogs[entries[-1].entry.kind] += 1
            return entries
        due = self._due_entries(time_of(record.timestamp_ms))
        (item,), (again,) = self._book.decode(topic, [record]), self._book.decode(topic, [record])
        assert item == again, "the same bytes are decoded to the same result"
        entries = self._book.decide_input(item)
        self._count(
            InputAddress(topic=topic, partition=self._book.partition, offset=record.offset), entries
        )
        return [*due, *entries]

    def _due_entries(self, at: datetime) -> list[SealedEntry]:
        """The entries that fall due before the input, as its owner would write them."""
        at, written = max(self._book.head.clock, at), []
        while (due := self._book.due.next()) is not None and due[0] <= at:
            written += self._book.decide_due(due[1], due[0])
        return written

    def _count(self, address: InputAddress, sealed: list[SealedEntry]) -> None:
        """Count the one outcome of an input, which names its address and, if refused, the rule."""
        assert sealed and all(each.entry.input == address for each in sealed)
        kinds, last = [each.entry.kind for each in sealed], sealed[-1].entry
        self.outcomes.sent += 1
        if "refusal" in kinds or "duplicate" in kinds:
            assert len(kinds) == 1
        if last.kind == "refusal":
            assert last.reason in _REASONS and last.credits == 0
            self.outcomes.refused[last.reason] += 1
        elif last.kind == "duplicate":
            assert last.credits == 0
            self.outcomes.duplicates += 1
        else:
            self.outcomes.accepted += 1
            self.outcomes.accepted_types[last.kind] += 1

    def _read(self, topic: Topic, offset: int) -> Record | None:
        unread = self._unread[topic]
        while unread and unread[0].offset < offset:
            unread.popleft()
        return unread[0] if unread else None


def key_of(value: bytes, rng: random.Random) -> bytes | None:
    """The key that belongs to the event's subject, and now and then another one."""
    if rng.random() < 0.02:
        return rng.choice([None, b"", b"acct_1", b"\xff\xfe", rng.randbytes(6)])
    try:
        subject = json.loads(value)["subject"]
        return subject.encode() or None if isinstance(subject, str) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return rng.choice([None, b"acct_1"])
