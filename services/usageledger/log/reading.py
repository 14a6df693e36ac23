"""Reading a topic partition from one offset to another with kafka-python.

It is for readers outside the processor: audit, command line, apps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from kafka import KafkaConsumer, TopicPartition

from usageledger.domain.chain import SealedEntry, entry_at
from usageledger.domain.record_skip import SkippedPlace, places_skipped
from usageledger.ledger.records import Record
from usageledger.log.admin import connect_admin
from usageledger.log.bounded_codecs import FETCH_BYTES_MAX, Unreadable
from usageledger.log.diagnosis import named_cause
from usageledger.log.kafka_python_reading import BoundedPolls
from usageledger.log.missing_rights import is_refused, missing_right
from usageledger.runtime.kafka_connection import KafkaConnection

TIMEOUT_MS = 30_000
POLL_MS = 200
RECORDS_PER_POLL = 5_000


class LogUnreadable(Exception):
    """The log did not return records that it says it has. The message says where to look."""


class BatchUnreadable(LogUnreadable):
    """A batch cannot be decoded, or decompresses to too much. It stays so.

    ``place`` has the offset at which reading ends, and the last one of the batch if it is known.
    """

    def __init__(self, topic: str, partition: int, place: Unreadable) -> None:
        super().__init__(
            f"{topic}/{partition} cannot be read from offset {place.offset} on: {place.why}"
        )
        self.place = place


class TopicRefused(LogUnreadable):
    """The broker keeps a topic from the user that asks. A topic that is not there looks the same
    in what it lists.
    """

    def __init__(self, topic: str, kafka: KafkaConnection) -> None:
        super().__init__(missing_right(kafka, "describe", topic))


class RecordReader(Protocol):
    """Reads the partitions of topics. Adapter: `LogReader`."""

    def start_offset(self, topic: str, partition: int) -> int: ...

    def end_offset(self, topic: str, partition: int) -> int: ...

    def read(self, topic: str, partition: int, start: int, stop: int) -> Iterator[Record]: ...


class LogReader:
    """One consumer that reads any partition of one Kafka. Not thread-safe; close it."""

    def __init__(self, kafka: KafkaConnection, *, timeout_ms: int = TIMEOUT_MS) -> None:
        """``timeout_ms`` bounds each wait for a connection, an answer or the next records."""
        self._kafka = kafka
        self._timeout_ms = timeout_ms
        with named_cause(kafka):
            self._consumer = KafkaConsumer(
                **kafka.for_kafka_python(),
                enable_auto_commit=False,
                auto_offset_reset="none",
                max_poll_records=RECORDS_PER_POLL,
                fetch_max_wait_ms=100,
                fetch_max_bytes=FETCH_BYTES_MAX,
                bootstrap_timeout_ms=timeout_ms,
                request_timeout_ms=timeout_ms,
                # The default grows to half a minute, which a reader would lose after each restart
                # of a broker.
                reconnect_backoff_max_ms=2_000,
                # When a broker answers that another one now leads a partition, kafka-python 3.0.12
                # asks the same broker again until the time is up. So its metadata must not grow
                # old.
                metadata_max_age_ms=2_000,
                check_crcs=True,
            )
        self._polls = BoundedPolls(self._consumer)

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close()

    def partition_count(self, topic: str) -> int:
        """How many partitions a topic has; 0 where there is no such topic.

        Raises TopicRefused where the user may not know.
        """
        count = len(self._consumer.partitions_for_topic(topic) or ())
        if count == 0 and self._is_refused(topic):
            raise TopicRefused(topic, self._kafka)
        return count

    def _is_refused(self, topic: str) -> bool:
        with connect_admin(self._kafka, timeout_ms=self._timeout_ms) as admin:
            found = admin.describe_topics([topic])
        return is_refused(found)

    def start_offset(self, topic: str, partition: int) -> int:
        """The offset of the oldest record that is still there."""
        there = TopicPartition(topic, partition)
        return int(self._consumer.beginning_offsets([there])[there])

    def end_offset(self, topic: str, partition: int) -> int:
        """The offset that the next record will have."""
        there = TopicPartition(topic, partition)
        return int(self._consumer.end_offsets([there])[there])

    def end_offsets(
        self, topics: Sequence[str], partition_count: int
    ) -> dict[tuple[str, int], int]:
        """The end offsets of several topics' partitions.

        Raises LogUnreadable where a partition has no leader at the moment.
        """
        ends: dict[tuple[str, int], int] = {}
        # One topic after the other. If kafka-python 3.0.12 knows the leaders of some partitions, it
        # leaves out the others. If it knows none of a topic's leaders, it asks for them.
        for topic in topics:
            there = [TopicPartition(topic, partition) for partition in range(partition_count)]
            try:
                found = self._consumer.end_offsets(there)
            except KeyError as error:
                raise LogUnreadable(
                    f"{topic}: a partition has no leader at the moment ({error})"
                ) from error
            ends |= {(each.topic, each.partition): int(offset) for each, offset in found.items()}
        return ends

    def read(self, topic: str, partition: int, start: int, stop: int) -> Iterator[Record]:
        """Yield the records with ``start <= offset < stop`` in order.

        Raises LogUnreadable when no more come before ``stop``, and where a batch cannot be decoded.

        One read at a time: a second one ends the first.
        """
        there = TopicPartition(topic, partition)
        self._consumer.assign([there])
        self._consumer.seek(there, start)
        last_progress = time.monotonic()
        while (position := self._consumer.position(there)) < stop:
            # A caller that wants one record need not wait until a whole fetch is unpacked.
            wanted = min(RECORDS_PER_POLL, stop - position)
            records, unreadable = self._polls.poll(POLL_MS, wanted)
            for record in records.get(there, ()):
                last_progress = time.monotonic()
                if record.offset >= stop:
                    return
                yield Record(record.offset, record.timestamp, record.key, record.value)
            if there in unreadable:
                raise BatchUnreadable(topic, partition, unreadable[there])
            if time.monotonic() - last_progress > self._timeout_ms / 1_000:
                raise LogUnreadable(
                    f"{topic}/{partition} returned no record from offset "
                    f"{self._consumer.position(there)} in {self._timeout_ms / 1_000:.0f} s"
                )


class RecordCursor:
    """Reads a partition forwards: the offsets that are asked for must rise.

    It passes over a batch that cannot be read once a record behind it is asked for, as an operator
    has skipped it then.
    """

    def __init__(self, read_from: Callable[[int], Iterator[Record]], start: int = 0) -> None:
        self._read_from = read_from
        self._records = read_from(start)
        self._next: Record | None = None

    def at_or_after(self, offset: int) -> Record | None:
        """The first record at that offset or beyond; None without one. Raises BatchUnreadable."""
        try:
            return self._advance_to(offset)
        except BatchUnreadable as error:
            if error.place.offset >= offset:
                raise
            self._records = self._read_from(offset)
            return self._advance_to(offset)

    def _advance_to(self, offset: int) -> Record | None:
        while self._next is None or self._next.offset < offset:
            self._next = next(self._records, None)
            if self._next is None:
                return None
        return self._next


@contextmanager
def log_reader(kafka: KafkaConnection) -> Iterator[LogReader]:
    """A reader that is closed at the end."""
    reader = LogReader(kafka)
    try:
        yield reader
    finally:
        reader.close()


def skips_after(
    reader: RecordReader, ledger_topic: str, partition: int, offset: int
) -> frozenset[SkippedPlace]:
    """The records that the skips beyond an offset of a ledger partition name.

    Raises LogUnreadable. It ends the reader's read that is under way.
    """
    end = reader.end_offset(ledger_topic, partition)
    records = reader.read(ledger_topic, partition, offset + 1, end)
    return places_skipped(record.value for record in records)


def entries_in(records: Iterator[Record]) -> Iterator[SealedEntry]:
    """The entries among a ledger partition's records, each at the offset that it names."""
    for record in records:
        entry = entry_at(record.offset, record.value)
        if entry is not None:
            yield entry
