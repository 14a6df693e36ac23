"""The history as a service: reads every partition of the ledger and folds it, in a process of its
own, so that the gateway's answers never wait for it.

Where to go on, ``history.db`` says, and nothing else does. The entry that was folded last is read
again and compared, so that a ledger that was made anew, or one that lost its end, is known from the
first record; then everything is forgotten and folded again, and that is told.
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
from typing import Any

import kafka.errors
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import (
    AuthenticationFailedError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
)

from usageledger.domain.chain import NotAnEntry, entry_at
from usageledger.history.folding import AnotherLedger, FoldFailed, HistoryFold, Position
from usageledger.history.tables import empty, open_for_writing, throw_away
from usageledger.ledger.records import Record
from usageledger.log.reading import log_reader
from usageledger.log.topics import Topics
from usageledger.runtime.telemetry import Figure, Report

POLL_MS = 200
RECORDS_PER_POLL = 5_000
# While little comes, what comes in so long is folded together: ten transactions cost half as much
# again as one of as many entries.
GATHER_S, FEW_RECORDS = 0.2, 1_000
RETRY_AFTER_S = 0.5
ANSWER_WITHIN_S = 15.0
SILENCE_S = 10.0
# Per partition: about what a poll then takes, and a batch of so many costs a fifth less than one of
# a thousand.
FETCH_BYTES = 4 * 1024 * 1024

_NOT_LET_IN = (AuthenticationFailedError, SaslAuthenticationFailed, TopicAuthorizationFailedError)
_TRANSIENT = (KafkaError, kafka.errors.KafkaError, OSError, TimeoutError)

logger = logging.getLogger(__name__)


class HistoryError(Exception):
    """There is nothing that could be folded. The message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryHealth:
    """How far the fold is.

    ``lag_records``: records of the ledger that are not folded yet, None while that is not known.

    ``stopped``: why partitions are not folded any more. ``folded_count``: the entries that this
    process has folded.
    """

    partition_count: int
    folded_count: int = 0
    lag_records: int | None = None
    stopped: Mapping[int, str] = field(default_factory=dict)
    trouble: str | None = None
    """Why nothing can be read at the moment."""

    def report(self) -> Report:
        """What the service tells who watches it."""
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
    *, kafka: str, prefix: str, path: Path, stop: asyncio.Event, on_health: OnHealth | None = None
) -> None:
    """Fold the ledger into the file until ``stop`` is set. ``on_health`` is told again and again.

    Raises HistoryError where there is no ledger or every partition has stopped, sqlite3.Error, and
    Kafka's errors where it is not let in.
    """
    async with aclosing(LedgerFeed(kafka, Topics(prefix))) as feed:
        while not stop.is_set():
            try:
                await _run(feed, path, stop, on_health or (lambda _: None))
            except _FileGone:
                logger.warning("%s was taken away: it is built anew from the ledger", path)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError as error:
                logger.error(
                    "%s cannot be read (%s): it is built anew from the ledger", path, error
                )
                throw_away(path)


class _FileGone(Exception):
    """Another file lies where ours was, or none."""


async def _run(feed: LedgerFeed, path: Path, stop: asyncio.Event, on_health: OnHealth) -> None:
    with closing(open_for_writing(path)) as database:
        inode = _inode(path)
        history = History(feed, database)
        told = None
        while not stop.is_set():
            trouble = None
            try:
                await history.step()
            except _NOT_LET_IN:
                raise
            except _TRANSIENT as error:
                trouble = f"Kafka is not available: {type(error).__name__}: {error}"
                history.begin_again()
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), RETRY_AFTER_S)
            trouble = trouble or feed.silence()
            if (trouble is None) != (told is None):
                logger.warning("%s", trouble or "Kafka answers again")
            told = trouble
            on_health(replace(history.health(), trouble=trouble))
            if _inode(path) != inode:
                raise _FileGone


def _inode(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None


class History:
    """Folds a feed into a database, step by step.

    Partitions that cannot be folded stop, and the others go on.
    """

    def __init__(self, feed: LedgerFeed, database: sqlite3.Connection) -> None:
        self._feed = feed
        self._database = database
        self._fold = HistoryFold(database)
        self._is_begun = False
        self._unconfirmed: set[int] = set()
        self._asked_again: dict[int, int] = {}
        self._stopped: dict[int, str] = {}
        self._partition_count = 0
        self._folded_count = 0
        self._ends: dict[int, int] = {}

    async def step(self) -> None:
        """Fold what comes within a moment.

        Raises HistoryError where nothing can be folded, sqlite3.Error, Kafka's errors.
        """
        if not self._is_begun:
            await self._begin()
        polled = await self._feed.poll(POLL_MS)
        for partition, records in polled.items():
            self._take(partition, records)
            if not self._is_begun:
                return  # the rest is of a history that was forgotten
        self._ends |= self._feed.known_ends()
        if sum(map(len, polled.values())) < FEW_RECORDS:
            await asyncio.sleep(GATHER_S)
        if self._stopped and len(self._stopped) == self._partition_count:
            raise HistoryError(
                "; ".join(
                    f"partition {partition}: {detail}"
                    for partition, detail in sorted(self._stopped.items())
                )
            )

    def begin_again(self) -> None:
        """Have the next step look up where each partition is to be read from."""
        self._is_begun = False

    def health(self) -> HistoryHealth:
        """How far the fold is."""
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

    async def _begin(self) -> None:
        bounds = await self._feed.bounds()
        self._partition_count = len(bounds)
        for partition, (_, end) in bounds.items():
            position = self._fold.position(partition)
            if position.next_offset > end:
                self._forget(
                    f"partition {partition} ends at offset {end}, and was folded up to "
                    f"{position.next_offset}"
                )
                break
        self._unconfirmed, self._ends = (
            set(),
            {partition: end for partition, (_, end) in bounds.items()},
        )
        self._is_begun = True
        for partition, (start, _) in bounds.items():
            self._read_from(partition, start)

    def _read_from(self, partition: int, start: int) -> None:
        """Go on after what is folded, or, to confirm that it is the same log, with the last entry
        that is.
        """
        position = self._fold.position(partition)
        if start > position.next_offset:
            self._stopped.setdefault(
                partition,
                f"the ledger begins at offset {start}, and its history reaches "
                f"{position.next_offset} only",
            )
        if partition in self._stopped:
            self._feed.seek(
                partition, start
            )  # one without a position would be an error, though nothing of it is read
            self._stop(partition, self._stopped[partition])
        elif position.entry_offset >= start:
            self._unconfirmed.add(partition)
            self._feed.seek(partition, position.entry_offset)
        else:
            self._feed.seek(partition, position.next_offset)

    def _take(self, partition: int, records: Sequence[Record]) -> None:
        if partition in self._stopped:
            return
        position = self._fold.position(partition)
        try:
            if partition in self._unconfirmed:
                _confirm(position, records[0])
                self._unconfirmed.discard(partition)
            new = [record for record in records if record.offset >= position.next_offset]
            self._folded_count += self._fold.take(partition, new) if new else 0
        except AnotherLedger as error:
            self._forget(f"partition {partition}: {error}")
            self.begin_again()
        except FoldFailed as error:
            if self._asked_again.get(partition) == position.next_offset:
                self._stop(partition, str(error))
            else:
                # Once more, for a consumer's position may have been reset; what is wrong with the
                # log stays wrong.
                self._asked_again[partition] = position.next_offset
                self._feed.seek(partition, position.next_offset)

    def _forget(self, why: str) -> None:
        logger.error(
            "another ledger lies there than the one whose history this is: it is forgotten and "
            "built anew (%s)",
            why,
        )
        empty(self._database)
        self._fold = HistoryFold(self._database)
        self._stopped, self._asked_again = {}, {}

    def _stop(self, partition: int, detail: str) -> None:
        logger.error("partition %d STOPPED, its history does not go on: %s", partition, detail)
        self._stopped[partition] = detail
        self._feed.pause(partition)


def _confirm(position: Position, first: Record) -> None:
    """Raise AnotherLedger unless the record is the entry that was folded last."""
    try:
        sealed = (
            entry_at(first.offset, first.value) if first.offset == position.entry_offset else None
        )
    except NotAnEntry:
        sealed = None
    if sealed is None or sealed.hash != position.entry_hash:
        raise AnotherLedger(
            f"another entry lies at offset {position.entry_offset} than the one that was folded"
        )


class LedgerFeed:
    """The partitions of ``ledger.entries``.

    Raises Kafka's errors, of which those in `_TRANSIENT` pass, and TimeoutError.
    """

    def __init__(self, kafka: str, topics: Topics) -> None:
        self._kafka = kafka
        self._topic = topics.ledger
        self._consumer: Any = None
        self._began_s = time.time()
        self._places: list[Any] = []

    async def bounds(self) -> dict[int, tuple[int, int]]:
        """The offsets of the oldest record and of the next one, of each partition: they are read
        from now on. Raises HistoryError.
        """
        await self.aclose()
        count = await asyncio.to_thread(self._partition_count)
        if count == 0:
            raise HistoryError(f"there is no topic {self._topic}: `usageledger up` makes a ledger")
        self._places = [TopicPartition(self._topic, partition) for partition in range(count)]
        consumer = self._consumer = _consumer(self._kafka)
        consumer.assign(self._places)
        self._began_s = time.time()
        async with asyncio.timeout(ANSWER_WITHIN_S):
            await consumer.start()
            starts, ends = (
                await consumer.beginning_offsets(self._places),
                await consumer.end_offsets(self._places),
            )
        return {place.partition: (starts[place], ends[place]) for place in self._places}

    def known_ends(self) -> dict[int, int]:
        """The offset of the next record of each partition, where a poll has told it.

        Asks nobody.
        """
        ends = {place.partition: self._consumer.highwater(place) for place in self._places}
        return {partition: end for partition, end in ends.items() if end is not None}

    def silence(self) -> str | None:
        """What there is to say where Kafka has answered no fetch for a while: a poll only finds
        nothing then.
        """
        if self._consumer is None:
            return None
        heard_ms = max(
            (self._consumer.last_poll_timestamp(place) or 0 for place in self._places), default=0
        )
        silent_s = time.time() - (heard_ms / 1_000 if heard_ms else self._began_s)
        return f"Kafka has not answered for {silent_s:.0f} s" if silent_s > SILENCE_S else None

    def seek(self, partition: int, offset: int) -> None:
        """Read the partition on from there."""
        self._consumer.seek(TopicPartition(self._topic, partition), offset)

    def pause(self, partition: int) -> None:
        """Read no more of it."""
        self._consumer.pause(TopicPartition(self._topic, partition))

    async def poll(self, timeout_ms: int) -> dict[int, list[Record]]:
        """Some records of some partitions, in order."""
        polled = await self._consumer.getmany(timeout_ms=timeout_ms, max_records=RECORDS_PER_POLL)
        return {
            place.partition: [
                Record(record.offset, record.timestamp, record.key, record.value)
                for record in records
            ]
            for place, records in polled.items()
        }

    async def aclose(self) -> None:
        """Let go of the connections."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with suppress(TimeoutError, KafkaError):
                async with asyncio.timeout(1.0):
                    await consumer.stop()

    def _partition_count(self) -> int:
        with log_reader(self._kafka) as reader:
            return reader.partition_count(self._topic)


def _consumer(kafka: str) -> Any:
    return AIOKafkaConsumer(
        bootstrap_servers=kafka,
        client_id="usageledger-history",
        auto_offset_reset="none",
        enable_auto_commit=False,
        check_crcs=True,
        max_partition_fetch_bytes=FETCH_BYTES,
        # Who leads a partition is another after a failover: what is known of it must not grow old.
        metadata_max_age_ms=2_000,
        request_timeout_ms=int(ANSWER_WITHIN_S * 1_000),
    )
