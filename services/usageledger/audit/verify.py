"""``audit verify``: replays the ledger and compares it with the limit events and the view."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from usageledger.audit.replay import Difference, PartitionReplay, ReplayCounts
from usageledger.counters.connection import connect
from usageledger.counters.redis_view import RedisView
from usageledger.counters.view import Snapshot
from usageledger.domain.chain import SealedEntry
from usageledger.domain.encoding import encode
from usageledger.domain.record_skip import SkippedPlace, place_of
from usageledger.ledger.limit_address import LimitAddress, NotALimitEvent, limit_event_in
from usageledger.ledger.limit_events import LimitMessage, limit_events
from usageledger.ledger.partition_book import PartitionBook
from usageledger.ledger.records import Record
from usageledger.ledger.timestamps import milliseconds
from usageledger.log.partition_counts import PartitionCounts, partition_counts
from usageledger.log.reading import (
    BatchUnreadable,
    LogReader,
    RecordCursor,
    log_reader,
    skips_after,
)
from usageledger.log.topics import Topics
from usageledger.runtime.kafka_connection import KafkaConnection

Progress = Callable[[int, int], None]
"""Called every 2,000 ledger records with how many have been read, of how many."""

PROGRESS_EVERY = 2_000


@dataclass(slots=True)
class AuditReport:
    """The findings of an audit, as data. `operations.audit_verdict` words them.

    ``differences`` has the first one of each partition that has any. ``uncovered`` counts the input
    records that no entry covers, by topic and partition. ``unwritten_limit_events`` are still on
    their way, and are no differences. ``invalid_records`` names the records of the ledger and the
    limit events that our services did not write; each is reported until an operator skips it.
    """

    partitions: int = 0
    counts: ReplayCounts = field(default_factory=ReplayCounts)
    limit_events: int = 0
    accounts: int = 0
    uncovered: dict[tuple[str, int], int] = field(default_factory=dict)
    unwritten_limit_events: int = 0
    differences: list[str] = field(default_factory=list)
    invalid_records: list[SkippedPlace] = field(default_factory=list)
    skipped_records: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether every input has its entry, all that is decided follows from the inputs, and no
        record is a stranger's.
        """
        return not self.differences and not self.uncovered and not self.invalid_records

    @property
    def undecided_inputs(self) -> int:
        """How many input records no entry covers."""
        return sum(self.uncovered.values())


def verify(
    kafka: KafkaConnection, redis_url: str, prefix: str = "", progress: Progress | None = None
) -> AuditReport:
    """Audit a whole ledger, partition by partition. It may be running.

    Raises LogUnreadable or ViewError where it cannot be read.
    """
    topics = Topics(prefix)
    report = AuditReport()
    with ExitStack() as stack:
        # One event loop reads all views. It runs only while one is read: a replay inside it would
        # put off an interrupt (Ctrl-C) until the partition's end.
        runner = stack.enter_context(asyncio.Runner())
        readers = {
            topic: stack.enter_context(log_reader(kafka))
            for topic in (*topics.partitioned, topics.catalog)
        }
        ledger = readers[topics.ledger]
        counts = partition_counts(ledger, topics)
        difference = counts.difference()
        if difference is not None:
            report.differences.append(difference)
        # A partition that one of the topics lacks cannot be replayed: the difference says so.
        report.partitions = min(counts.of_ledger, *counts.by_topic.values())
        input_ends = _input_ends(readers, topics, counts)
        if report.partitions == 0:
            report.differences.append(
                f"there is no topic {', '.join(counts.missing)}: is the prefix {prefix!r} right?"
            )
        total = sum(
            ledger.end_offset(topics.ledger, partition) for partition in range(report.partitions)
        )
        read_counter = _ReadCounter(progress, total)

        def read_view(partition: int) -> Snapshot:
            return runner.run(_snapshot(redis_url, prefix, partition))

        for partition in range(report.partitions):
            _verify_partition(
                partition, report, topics, readers, read_view, read_counter, input_ends
            )
        for (topic, partition), end in input_ends.items():
            if partition >= report.partitions:
                _note_uncovered(report, readers[topic], topic, partition, 0, end)
    return report


def _input_ends(
    readers: dict[str, LogReader], topics: Topics, counts: PartitionCounts
) -> dict[tuple[str, int], int]:
    """Where every partition of the inputs ends now, those beyond the ledger's count too.

    An input that arrives later may await its entry at the end of the audit.
    """
    return {
        (topic, partition): readers[topic].end_offset(topic, partition)
        for topic in (topics.usage, topics.account)
        for partition in range(counts.by_topic[topic])
    }


def _note_uncovered(
    report: AuditReport, reader: LogReader, topic: str, partition: int, start: int, end: int
) -> None:
    """Count the records of an input from ``start`` to ``end``, which no entry covers."""
    start = max(start, reader.start_offset(topic, partition))
    if start < end:
        # Offsets are no count: transactions leave some out.
        found = 0
        try:
            for _ in reader.read(topic, partition, start, end):
                found += 1
        except BatchUnreadable as error:
            report.differences.append(str(error))
        if found:
            report.uncovered[topic, partition] = found


def _verify_partition(
    partition: int,
    report: AuditReport,
    topics: Topics,
    readers: dict[str, LogReader],
    read_view: Callable[[int], Snapshot],
    read_counter: _ReadCounter,
    input_ends: dict[tuple[str, int], int],
) -> None:
    # First what is derived is read, then what it is derived from. Whatever is appended meanwhile,
    # the entries of each limit event and of the view are in the ledger that is read.
    limit_values, invalid = _limit_event_values(readers[topics.limit], topics.limit, partition)
    snapshot = read_view(partition)
    ledger = readers[topics.ledger]
    end = ledger.end_offset(topics.ledger, partition)
    cursors = {
        "usage": _cursor(readers[topics.usage], topics.usage, partition),
        "account": _cursor(readers[topics.account], topics.account, partition),
        "catalog": _cursor(readers[topics.catalog], topics.catalog, 0),
    }
    replay = PartitionReplay(
        partition,
        report.partitions,
        lambda topic, offset: cursors[topic].at_or_after(offset),
        # The ledger's own reader is in the middle of a read.
        lambda offset: skips_after(readers[topics.limit], topics.ledger, partition, offset),
    )
    view = _ViewCheck(snapshot, partition)
    limits = _LimitCheck(limit_values, partition)
    try:
        records = read_counter.counting(ledger.read(topics.ledger, partition, 0, end))
        for sealed in replay.verified_entries(records):
            view.compare_after(sealed, replay.book)
            limits.compare(limit_events(sealed.entry))
        view.check_compared(end)
        limits.compare_at_end()
    except Difference as difference:
        report.differences.append(str(difference))
    invalid += replay.invalid
    report.invalid_records += [place for place in invalid if place not in replay.skipped]
    report.skipped_records += len(replay.skipped)
    report.counts.include(replay.counts)
    report.limit_events += limits.compared
    report.unwritten_limit_events += limits.awaited
    report.accounts += view.accounts_compared
    for topic, decided in (
        (topics.usage, replay.book.head.usage_next),
        (topics.account, replay.book.head.account_next),
    ):
        end = input_ends[topic, partition]
        _note_uncovered(report, readers[topic], topic, partition, decided, end)


class _ViewCheck:
    """Compares a partition's view with the replay, at the entry that the view has folded last."""

    def __init__(self, snapshot: Snapshot, partition: int) -> None:
        self._snapshot = snapshot
        self._partition = partition
        self._last_hash = ""
        self._was_compared = False
        self.accounts_compared = 0

    def compare_after(self, sealed: SealedEntry, book: PartitionBook) -> None:
        """Compare if this entry is the last one that the view has folded. Raises Difference.

        The book is past all entries of the entry's input.
        """
        self._last_hash = sealed.hash
        stored = self._snapshot.head
        if stored is None or stored.position.hash != sealed.hash:
            return
        expected = {
            account: encode(state) for account, state in book.accounts.items() if state is not None
        }
        for account in sorted(expected.keys() | self._snapshot.accounts.keys()):
            actual_state, expected_state = (
                self._snapshot.accounts.get(account),
                expected.get(account),
            )
            if actual_state != expected_state:
                raise Difference(
                    f"Redis, partition {self._partition}, account {account!r}: it holds "
                    f"{actual_state!r}, the ledger makes it {expected_state!r}"
                )
        due_ms = {account: milliseconds(at) for account, at in book.due.all().items()}
        if due_ms != dict(self._snapshot.due_ms):
            account = next(iter(dict(due_ms.items() ^ self._snapshot.due_ms.items())))
            raise Difference(
                f"Redis, partition {self._partition}: when account {account!r} is due is not what "
                "the ledger makes it"
            )
        self.accounts_compared = len(expected)
        self._snapshot = Snapshot(head=stored, accounts={}, due_ms={}, identities={})
        self._was_compared = True

    def check_compared(self, end: int) -> None:
        """Raise Difference if the view's head was not met in the ledger, which ends at ``end``."""
        stored = self._snapshot.head
        if self._was_compared or (stored is None and not self._last_hash):
            return
        if stored is None:
            raise Difference(
                f"Redis has no view of partition {self._partition}, though the ledger has entries: "
                "is a processor running?"
            )
        if stored.position.hash or self._snapshot.accounts:
            raise Difference(
                f"Redis, partition {self._partition}: its head {tuple(stored.position)} is not in "
                f"the ledger, which ends at {end}"
            )


class _LimitCheck:
    """Compares a partition's limit events, without repeats, with what the entries cross."""

    def __init__(self, actual: list[bytes], partition: int) -> None:
        self._actual = iter(actual)
        self._partition = partition
        self.compared = 0
        self.awaited = 0

    def compare(self, expected: Iterable[LimitMessage]) -> None:
        """Compare the events of the next entry with the next that were written.

        Those that are not written yet are counted as awaited. Raises Difference.
        """
        for message in expected:
            actual = None if self.awaited else next(self._actual, None)
            if actual is None:
                self.awaited += 1
            elif actual != message.value:
                raise Difference(
                    f"limit event {message.address.id}: {actual!r} was written, but the ledger "
                    f"makes it {message.value!r}"
                )
            else:
                self.compared += 1

    def compare_at_end(self) -> None:
        """Raise Difference if an event was written that no entry crosses."""
        actual = next(self._actual, None)
        if actual is not None:
            raise Difference(
                f"partition {self._partition} of the limit events: no entry of the ledger crosses "
                f"{actual!r}"
            )


def _limit_event_values(
    reader: LogReader, topic: str, partition: int
) -> tuple[list[bytes], list[SkippedPlace]]:
    """The values of a partition's limit events in order, without repeats; and its other records.

    A repeat's address is at or before that of an earlier event.
    """
    events: list[bytes] = []
    invalid: list[SkippedPlace] = []
    last: LimitAddress | None = None
    for record in reader.read(topic, partition, 0, reader.end_offset(topic, partition)):
        try:
            _, address = limit_event_in(record.value, partition)
        except NotALimitEvent:
            invalid.append(place_of("limit", partition, record.offset, record.value))
            continue
        if address.is_beyond(last):
            events.append(record.value or b"")
            last = address
    return events, invalid


async def _snapshot(redis_url: str, prefix: str, partition: int) -> Snapshot:
    # A client of its own: the server may have closed a connection that idled through a replay.
    redis = connect(redis_url)
    try:
        return await RedisView(redis, prefix, partition).snapshot()
    finally:
        await redis.aclose()


def _cursor(reader: LogReader, topic: str, partition: int) -> RecordCursor:
    end = reader.end_offset(topic, partition)
    start = reader.start_offset(topic, partition)
    return RecordCursor(partial(reader.read, topic, partition, stop=end), start)


class _ReadCounter:
    """Counts the records that are read, and reports the progress."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._read = 0

    def counting(self, records: Iterator[Record]) -> Iterator[Record]:
        """The same records; each is counted when it is read."""
        for record in records:
            self._read += 1
            if self._progress is not None and self._read % PROGRESS_EVERY == 0:
                self._progress(self._read, self._total)
            yield record
