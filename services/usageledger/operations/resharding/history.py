"""The old ledger as its log has it: the inputs that it decided, in order, and its accounts.

Everything is read up to an end that is fixed at the start, so the old ledger may be running.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from usageledger.domain.account import AccountState
from usageledger.domain.chain import SealedEntry
from usageledger.domain.entry import LedgerEntry
from usageledger.domain.evolve import evolve
from usageledger.domain.head import Head, advance
from usageledger.domain.record_skip import SkippedPlace
from usageledger.domain.refusal import Refusal
from usageledger.ledger.partition_book import group_key
from usageledger.ledger.reader_rule import NO_SKIPS, RecordStops, next_entry
from usageledger.ledger.records import Record
from usageledger.ledger.timestamps import milliseconds, whole_milliseconds_up
from usageledger.log.reading import RecordCursor, RecordReader, skips_after
from usageledger.log.topics import Topics
from usageledger.operations.errors import OperatorError
from usageledger.operations.event_file import Input

RECORDS_PER_READ = 2_000

NO_EVENTS = frozenset(
    refusal.value
    for refusal in (
        Refusal.WRONG_PARTITION,
        Refusal.EMPTY_RECORD,
        Refusal.RECORD_TOO_LARGE,
        Refusal.NOT_JSON,
        Refusal.NOT_A_CLOUDEVENT,
        Refusal.UNKNOWN_TYPE,
        Refusal.INVALID_EVENT,
        Refusal.WRONG_KEY,
    )
)
"""The refusals of records that are no events of an account.

Some of them hang on the partition: another ledger would accept what the old one refused.
"""


class HistoryUnreadable(OperatorError):
    """The old ledger cannot be copied. The message says why and what to do."""


class CopiedInput(NamedTuple):
    """An input that the new ledger gets.

    ``catalogs`` is the offset in the catalog topic up to which the old ledger had adopted when it
    decided the input. ``appended_ms`` is when that was, by the ledger's time.
    """

    catalogs: int
    appended_ms: int
    input: Input
    key: bytes | None
    value: bytes


class OldPartition:
    """One partition of the old ledger. `decided_inputs` fills the other attributes."""

    def __init__(self, reader: RecordReader, topics: Topics, partition: int) -> None:
        self.head = Head(ledger="")
        self.states: dict[str, AccountState] = {}
        self.left_out: Counter[str] = Counter()
        """The records that are not copied, by why: refused as no events, or skipped."""
        self._reader = reader
        self._topics = topics
        self._partition = partition
        self._end = reader.end_offset(topics.ledger, partition)
        self._skipped: frozenset[SkippedPlace] = NO_SKIPS

    def decided_inputs(self) -> Iterator[CopiedInput]:
        """The inputs in the order of their entries. Raises HistoryUnreadable, LogUnreadable."""
        inputs = {
            "usage": self._cursor(self._topics.usage),
            "account": self._cursor(self._topics.account),
        }
        for _, group in groupby(self._entries(), key=group_key):
            entries = list(group)
            catalogs = self.head.catalog_next
            for sealed in entries:
                self._fold(sealed)
            last = entries[-1].entry
            address = last.input
            if address is None or address.topic == "catalog":
                continue
            if (why := _why_left_out(last)) is not None:
                self.left_out[why] += last.input_records
                continue
            record = inputs[address.topic].at_or_after(address.offset)
            if record is None or record.offset != address.offset or record.value is None:
                raise HistoryUnreadable(
                    f"{address.topic} {address.partition}@{address.offset} is no longer in its "
                    "topic, and the ledger has an entry for it: restore the topic from a backup"
                )
            at_ms = milliseconds(whole_milliseconds_up(last.appended_at))
            yield CopiedInput(catalogs, at_ms, address.topic, record.key, record.value)

    def _cursor(self, topic: str) -> RecordCursor:
        end = self._reader.end_offset(topic, self._partition)
        return RecordCursor(
            lambda start: records_between(self._reader, topic, self._partition, start, end)
        )

    def _fold(self, sealed: SealedEntry) -> None:
        entry = sealed.entry
        if entry.changes_its_account:
            state = evolve(self.states.get(entry.account), entry)
            # The void of a use that has not arrived makes no account known.
            if state is not None:
                self.states[entry.account] = state
        self.head = advance(self.head, entry, sealed.hash)

    def _entries(self) -> Iterator[SealedEntry]:
        hash_ = ""
        for record in records_between(
            self._reader, self._topics.ledger, self._partition, 0, self._end
        ):
            sealed = self._entry(record, hash_)
            if sealed is not None:
                hash_ = sealed.hash
                yield sealed

    def _entry(self, record: Record, hash_: str) -> SealedEntry | None:
        try:
            return next_entry(record, self._partition, hash_, self._skipped)
        except RecordStops as stop:
            topic, offset = self._topics.ledger, record.offset
            self._skipped |= skips_after(self._reader, topic, self._partition, offset)
            if stop.place not in self._skipped:
                raise HistoryUnreadable(str(stop)) from None
            return None


def in_order(partitions: Sequence[OldPartition]) -> Iterator[CopiedInput]:
    """All partitions' decided inputs: by the catalogs that they were decided with, then by time.

    Those of one partition keep their order.
    """
    return heapq.merge(
        *(partition.decided_inputs() for partition in partitions),
        key=lambda item: (item.catalogs, item.appended_ms),
    )


def uncovered_inputs(
    reader: RecordReader, topics: Topics, starts: Mapping[tuple[Input, int], int]
) -> tuple[Iterator[CopiedInput], dict[tuple[Input, int], int]]:
    """The records of the inputs from ``starts`` on, by time; and the offsets at which they end."""
    names: dict[Input, str] = {"usage": topics.usage, "account": topics.account}
    ends = {
        (input_, partition): reader.end_offset(names[input_], partition)
        for input_, partition in starts
    }
    streams = [
        _as_copied(
            input_,
            records_between(reader, names[input_], partition, start, ends[input_, partition]),
        )
        for (input_, partition), start in starts.items()
    ]
    # Within one millisecond account events are decided first, as everywhere.
    merged = heapq.merge(*streams, key=lambda item: (item.appended_ms, item.input == "usage"))
    return merged, ends


def records_between(
    reader: RecordReader, topic: str, partition: int, start: int, stop: int
) -> Iterator[Record]:
    """The records with ``start <= offset < stop``, read in pieces.

    So many of these can go on side by side with one reader.
    """
    start = max(start, reader.start_offset(topic, partition))
    while start < stop:
        until = min(start + RECORDS_PER_READ, stop)
        yield from list(reader.read(topic, partition, start, until))
        start = until


def _as_copied(input_: Input, records: Iterator[Record]) -> Iterator[CopiedInput]:
    for record in records:
        yield CopiedInput(0, record.timestamp_ms, input_, record.key, record.value or b"")


def _why_left_out(entry: LedgerEntry) -> str | None:
    if entry.kind == "skip":
        return "skipped by an operator"
    if entry.run is not None:
        return "malformed"
    if entry.kind == "refusal" and entry.reason in NO_EVENTS:
        return entry.reason
    return None
