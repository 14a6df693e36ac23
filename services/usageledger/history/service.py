"""The history as a service: it reads every partition of the ledger and folds it.

It has a process of its own, so that the gateway's answers never wait for it.

Only ``history.db`` records how far the fold has come. After a connect, the entry that was folded
last is read again and compared. A ledger that was recreated, or lost its end, is therefore
recognised by its first record. The history is then emptied and folded again, and this is logged.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing, closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from usageledger.domain.chain import entry_at
from usageledger.domain.record_skip import SkippedPlace
from usageledger.history.folding import AnotherLedger, FoldFailed, HistoryFold, Position
from usageledger.history.tables import empty, open_for_writing, throw_away
from usageledger.ledger.reader_rule import NO_SKIPS, RecordStops
from usageledger.ledger.records import Record
from usageledger.log.follower import NOT_LET_IN, TRANSIENT, Stalled, TopicFollower
from usageledger.log.partition_counts import (
    PartitionCounts,
    PartitionCountsDiffer,
    PartitionCountWatch,
    partition_counts,
    watched_partition_counts,
)
from usageledger.log.reading import LogUnreadable, log_reader, skips_after
from usageledger.log.topics import Topics
from usageledger.runtime.backoff import Backoff
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.runtime.telemetry import Figure, Report

POLL_MS = 200
RECORDS_PER_POLL_MAX = 5_000
# After a step with fewer than FEW_RECORDS records, the next step waits for GATHER_S, so that more
# entries share a transaction. Ten transactions cost 1.5 times as much as one with the same entries.
GATHER_S, FEW_RECORDS = 0.2, 1_000
RECONNECT = Backoff((0.5,))
ANSWER_WITHIN_S = 15.0
SILENT_MAX_S = 10.0
REPORT_EVERY_S = 1.0
LOOK_FOR_SKIP_EVERY_S = 5.0
# Enough for about RECORDS_PER_POLL_MAX entries of one partition. An entry costs a fifth less in a
# batch of 5,000 than in one of 1,000.
FETCH_BYTES_MAX = 4 * 1024 * 1024

log = logging.getLogger(__name__)


class HistoryError(Exception):
    """Nothing can be folded. The message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryHealth:
    """How far the fold has come.

    ``folded_count``: the entries that this process has folded. ``lag_records``: the records of the
    ledger that are not folded yet; None while that is not known. ``stopped``: for each stopped
    partition, why it stopped.
    """

    partition_count: int
    folded_count: int = 0
    lag_records: int | None = None
    stopped: Mapping[int, str] = field(default_factory=dict)
    trouble: str | None = None
    """Why nothing can be read at the moment."""

    def report(self) -> Report:
        """The service's readiness and figures."""
        unready = [
            f"partition {partition} stopped: {why}"
            for partition, why in sorted(self.stopped.items())
        ]
        unready += [self.trouble] if self.trouble is not None else []
        return Report(
            unready=tuple(unready),
            figures=(
                Figure(
                    "entries",
                    "Ledger entries that it has folded",
                    {"": self.folded_count},
                    is_total=True,
                ),
                Figure(
                    "lag_records",
                    "Ledger records known not to be folded yet",
                    {"": self.lag_records or 0},
                ),
                Figure(
                    "partitions",
                    "Partitions of the ledger, by state",
                    {
                        "folding": self.partition_count - len(self.stopped),
                        "stopped": len(self.stopped),
                    },
                    label="state",
                ),
            ),
        )


OnHealth = Callable[[HistoryHealth], None]


async def run_history(
    *,
    kafka: KafkaConnection,
    prefix: str,
    path: Path,
    stop: asyncio.Event,
    on_health: OnHealth | None = None,
) -> None:
    """Fold the ledger into the file until ``stop`` is set, and call ``on_health`` at each step.

    Raises HistoryError if there is no ledger or every partition has stopped. Raises sqlite3.Error,
    and one of `NOT_LET_IN` if Kafka refuses access to the client.
    Where the topics' partition counts differ from the ledger's, nothing is folded any more, and the
    health says why.
    """
    on_health = on_health or (lambda _: None)
    try:
        with watched_partition_counts(kafka, Topics(prefix), 0) as watch:
            await _follow(kafka, watch, path, stop, on_health)
    except PartitionCountsDiffer as differ:
        log.error("nothing is folded any more: %s", differ)
        while not stop.is_set():
            on_health(HistoryHealth(partition_count=watch.count, trouble=str(differ)))
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), REPORT_EVERY_S)


async def _follow(
    kafka: KafkaConnection,
    watch: PartitionCountWatch,
    path: Path,
    stop: asyncio.Event,
    on_health: OnHealth,
) -> None:
    topic = TopicFollower(
        kafka,
        watch.topics.ledger,
        client_id="usageledger-history",
        answer_within_s=ANSWER_WITHIN_S,
        fetch_bytes_max=FETCH_BYTES_MAX,
        records_per_poll_max=RECORDS_PER_POLL_MAX,
    )
    async with aclosing(topic):
        while not stop.is_set():
            try:
                await _run(topic, watch, path, stop, on_health)
            except _FileGone:
                log.warning("%s was removed or replaced: it is built anew from the ledger", path)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError as error:
                log.error("%s cannot be read (%s): it is built anew from the ledger", path, error)
                throw_away(path)


class _FileGone(Exception):
    """The file at our path was replaced or removed."""


async def _run(
    topic: TopicFollower,
    watch: PartitionCountWatch,
    path: Path,
    stop: asyncio.Event,
    on_health: OnHealth,
) -> None:
    with closing(open_for_writing(path)) as database:
        inode = _inode(path)
        history = History(topic, watch, database)
        logged = None
        while not stop.is_set():
            watch.check()
            trouble = None
            try:
                await history.step()
            except NOT_LET_IN:
                raise
            except TRANSIENT as error:
                trouble = f"Kafka is not available: {type(error).__name__}: {error}"
                history.reconnect()
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), RECONNECT.delay_s(1))
            if trouble is None and topic.silent_s() > SILENT_MAX_S:
                trouble = f"Kafka has not answered for {topic.silent_s():.0f} s"
            if (trouble is None) != (logged is None):
                log.warning("%s", trouble or "Kafka answers again")
            logged = trouble
            on_health(replace(history.health(), trouble=trouble))
            if _inode(path) != inode:
                raise _FileGone


def _inode(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None


class History:
    """Folds the ledger's topic into a database, step by step.

    A partition that cannot be folded stops, and the others go on.
    """

    def __init__(
        self, topic: TopicFollower, watch: PartitionCountWatch, database: sqlite3.Connection
    ) -> None:
        self._topic = topic
        self._watch = watch
        self._database = database
        self._fold = HistoryFold(database)
        self._is_connected = False
        self._unconfirmed: set[int] = set()
        self._reread_at: dict[int, int] = {}
        self._stopped: dict[int, str] = {}
        self._stopped_at: dict[int, SkippedPlace] = {}
        """The records that stopped partitions. An operator may skip them."""
        self._skipped = NO_SKIPS
        self._look_for_skips_at_s = 0.0
        self._partition_count = 0
        self._folded_count = 0
        self._ends: dict[int, int] = {}

    async def step(self) -> None:
        """Fold the records of one poll.

        Raises HistoryError if nothing can be folded, sqlite3.Error, and as `TopicFollower` does.
        """
        await self._resume_skipped()
        if not self._is_connected:
            await self._connect()
        polled = await self._topic.poll(POLL_MS)
        for partition, records in polled.items():
            self._fold_records(partition, records)
            if not self._is_connected:
                return  # the history was emptied, and a reconnect reads the rest again
        for partition, found in self._topic.unreadable.items():
            if partition not in self._stopped:
                self._stop(
                    partition, f"it cannot be read from offset {found.offset} on: {found.why}"
                )
        self._ends |= self._topic.known_ends()
        if sum(map(len, polled.values())) < FEW_RECORDS:
            await asyncio.sleep(GATHER_S)
        are_for_good = self._stopped.keys() - self._stopped_at.keys()
        if are_for_good and len(are_for_good) == self._partition_count:
            raise HistoryError(
                "; ".join(
                    f"partition {partition}: {detail}"
                    for partition, detail in sorted(self._stopped.items())
                )
            )

    def reconnect(self) -> None:
        """Make the next step connect again and look up where each partition continues."""
        self._is_connected = False

    def health(self) -> HistoryHealth:
        """How far the fold has come."""
        behind = [
            max(0, end - self._fold.position(partition).next_offset)
            for partition, end in self._ends.items()
        ]
        return HistoryHealth(
            partition_count=self._partition_count,
            folded_count=self._folded_count,
            lag_records=sum(behind) if self._ends else None,
            stopped=dict(self._stopped),
        )

    async def _resume_skipped(self) -> None:
        """Read on in each stopped partition whose record an operator has skipped since."""
        now_s = time.monotonic()
        if not self._stopped_at or now_s < self._look_for_skips_at_s:
            return
        self._look_for_skips_at_s = now_s + LOOK_FOR_SKIP_EVERY_S
        try:
            found = await asyncio.to_thread(_skips_beyond, self._topic, dict(self._stopped_at))
        except LogUnreadable as error:
            raise Stalled(str(error)) from error
        self._skipped |= found
        for partition, place in list(self._stopped_at.items()):
            if place in found:
                log.info("partition %d: an operator has skipped %s", partition, place)
                del self._stopped_at[partition], self._stopped[partition]
                self.reconnect()

    async def _connect(self) -> None:
        counts = await asyncio.to_thread(_partition_counts, self._topic, self._watch.topics)
        if self._topic.topic in counts.missing:
            raise HistoryError(
                f"there is no topic {self._topic.topic}: make the ledger with `usageledger up`"
            )
        counts.check()
        count = self._watch.count = counts.of_ledger
        bounds = await self._topic.connect(count)
        self._partition_count = count
        for partition, (_, end) in bounds.items():
            position = self._fold.position(partition)
            if position.next_offset > end:
                self._forget(
                    f"partition {partition} ends at offset {end}, and was folded up to "
                    f"{position.next_offset}"
                )
                break
        self._unconfirmed.clear()
        self._ends = {partition: end for partition, (_, end) in bounds.items()}
        self._is_connected = True
        for partition, (start, _) in bounds.items():
            self._read_from(partition, start)

    def _read_from(self, partition: int, start: int) -> None:
        """Seek to the last folded entry, which confirms that it is the same log, or after it."""
        position = self._fold.position(partition)
        if start > position.next_offset:
            self._stopped.setdefault(
                partition,
                f"the ledger begins at offset {start}, and its history reaches "
                f"{position.next_offset} only",
            )
        if partition in self._stopped:
            # Kafka's client requires a position, although nothing of the partition is read.
            self._topic.seek(partition, start)
            self._stop(partition, self._stopped[partition])
        elif position.entry_offset >= start:
            self._unconfirmed.add(partition)
            self._topic.seek(partition, position.entry_offset)
        else:
            self._topic.seek(partition, position.next_offset)

    def _fold_records(self, partition: int, records: Sequence[Record]) -> None:
        if partition in self._stopped:
            return
        position = self._fold.position(partition)
        try:
            if partition in self._unconfirmed:
                _check_last_folded(position, records[0])
                self._unconfirmed.discard(partition)
            new = [record for record in records if record.offset >= position.next_offset]
            if new:
                self._folded_count += self._fold.add(partition, new, self._skipped)
        except AnotherLedger as error:
            self._forget(f"partition {partition}: {error}")
            self.reconnect()
        except RecordStops as stop:
            if self._reread_at.get(partition) == position.next_offset:
                self._stopped_at[partition] = stop.place
                self._stop(partition, str(stop))
            else:
                # A reconnect compares the entry that was folded last: this may be another ledger.
                self._reread_at[partition] = position.next_offset
                self.reconnect()
        except FoldFailed as error:
            if self._reread_at.get(partition) == position.next_offset:
                self._stop(partition, str(error))
            else:
                # A consumer's position may have been reset, so the records are read once more.
                # A fault of the log itself shows again.
                self._reread_at[partition] = position.next_offset
                self._topic.seek(partition, position.next_offset)

    def _forget(self, why: str) -> None:
        log.error(
            "the history was folded from another ledger than the topic holds now: it is emptied "
            "and built anew (%s)",
            why,
        )
        empty(self._database)
        self._fold = HistoryFold(self._database)
        self._stopped, self._stopped_at, self._reread_at = {}, {}, {}

    def _stop(self, partition: int, detail: str) -> None:
        log.error("partition %d STOPPED, its entries are no longer folded: %s", partition, detail)
        self._stopped[partition] = detail
        self._topic.pause(partition)


def _partition_counts(topic: TopicFollower, topics: Topics) -> PartitionCounts:
    with log_reader(topic.kafka) as reader:
        return partition_counts(reader, topics)


def _skips_beyond(
    topic: TopicFollower, stopped_at: Mapping[int, SkippedPlace]
) -> frozenset[SkippedPlace]:
    with log_reader(topic.kafka) as reader:
        found = [
            skips_after(reader, topic.topic, partition, place.offset)
            for partition, place in stopped_at.items()
        ]
    return NO_SKIPS.union(*found)


def _check_last_folded(position: Position, first: Record) -> None:
    """Raise AnotherLedger unless the record is the entry that was folded last."""
    sealed = entry_at(first.offset, first.value) if first.offset == position.entry_offset else None
    if sealed is None or sealed.hash != position.entry_hash:
        raise AnotherLedger(
            f"the entry at offset {position.entry_offset} is not the one that was folded"
        )
