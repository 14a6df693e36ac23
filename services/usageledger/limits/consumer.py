"""The limits consumer on Kafka.

It reads ``ledger.entries`` as a consumer group, and appends to the same partition of
``limit.events``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors as kafka_errors
from kafka.structs import OffsetAndMetadata

from usageledger.domain.record_skip import SkippedPlace
from usageledger.ledger.limit_events import LimitMessage
from usageledger.ledger.records import Record
from usageledger.limits.announcer import (
    Announcer,
    Assignment,
    LimitsError,
    PartitionHealth,
    PartitionUnusable,
    Unavailable,
)
from usageledger.limits.reporting import report_of
from usageledger.log.assignor import KnownPartitionsAssignor
from usageledger.log.bounded_codecs import FETCH_BYTES_MAX, Unreadable
from usageledger.log.kafka_python_reading import BoundedPolls
from usageledger.log.partition_counts import (
    PartitionCountsDiffer,
    PartitionCountWatch,
    partition_counts,
    watched_partition_counts,
)
from usageledger.log.reading import BatchUnreadable, LogReader, LogUnreadable, skips_after
from usageledger.log.topics import Topics, limits_group
from usageledger.log.transient_errors import REBALANCED, TRANSIENT
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.runtime.telemetry import Report

APPEND_TIMEOUT_S = 30.0
COMMIT_TIMEOUT_MS = 5_000
RECORDS_PER_POLL = 2_000

BATCH_BYTES = 1024 * 1024
# An append to a partition stays well below BATCH_BYTES, so that it is one batch.
APPEND_BYTES_MAX = BATCH_BYTES * 3 // 4
_RECORD_OVERHEAD_BYTES = 64

OnHealth = Callable[[Mapping[int, PartitionHealth]], None]
OnReport = Callable[[Report], None]

REPORT_EVERY_S = 1.0

log = logging.getLogger(__name__)


def run_limits(
    *,
    kafka: KafkaConnection,
    prefix: str,
    stop: threading.Event,
    on_health: OnHealth | None = None,
    on_report: OnReport | None = None,
) -> None:
    """Announce limits until ``stop`` is set.

    ``on_health`` is called at every change of a partition's state, and ``on_report`` about once a
    second. Raises LimitsError if every partition has stopped or nothing is fetched any more, and at
    the end if some partitions have stopped. Raises kafka-python's errors if Kafka refuses access.
    Where the topics' partition counts differ from the ledger's, nothing is announced any more, and
    the report says why.
    """
    try:
        _announce(kafka, prefix, stop, on_health, on_report)
    except PartitionCountsDiffer as differ:
        log.error("nothing is announced any more: %s", differ)
        _report_until(stop, str(differ), on_report)


def _announce(
    kafka: KafkaConnection,
    prefix: str,
    stop: threading.Event,
    on_health: OnHealth | None,
    on_report: OnReport | None,
) -> None:
    topics = Topics(prefix)
    reader = LogReader(kafka)
    feed = limit_log = None
    try:
        count = _checked_partition_count(reader, topics)
        feed = KafkaLedgerFeed(kafka, topics, limits_group(prefix), reader, count)
        limit_log = KafkaLimitLog(kafka, topics, reader)
        announcer = Announcer(feed, limit_log, time.monotonic)
        with watched_partition_counts(kafka, topics, count) as watch:
            _run(announcer, feed, watch, stop, on_health, on_report)
    finally:
        for open_ in (feed, limit_log, reader):
            if open_ is not None:
                open_.close()
    announcer.raise_if_stopped()


def _run(
    announcer: Announcer,
    feed: KafkaLedgerFeed,
    watch: PartitionCountWatch,
    stop: threading.Event,
    on_health: OnHealth | None,
    on_report: OnReport | None,
) -> None:
    known_states: dict[int, str] = {}
    report_at_s = 0.0
    while not stop.is_set():
        watch.check()
        announcer.step()
        health = announcer.health()
        states = {partition: f"{state.state} {state.detail}" for partition, state in health.items()}
        if on_health is not None and states != known_states:
            on_health(health)
            known_states = states
        if on_report is not None and time.monotonic() >= report_at_s:
            on_report(report_of(health, feed.known_ends(health), announcer.announced_count))
            report_at_s = time.monotonic() + REPORT_EVERY_S


def _checked_partition_count(reader: LogReader, topics: Topics) -> int:
    counts = partition_counts(reader, topics)
    for topic in (topics.ledger, topics.limit):
        if topic in counts.missing:
            raise LimitsError(f"there is no topic {topic}: create the ledger's topics first")
    counts.check()
    return counts.of_ledger


def _report_until(stop: threading.Event, difference: str, on_report: OnReport | None) -> None:
    while not stop.wait(REPORT_EVERY_S):
        if on_report is not None:
            on_report(Report(unready=(difference,)))


class KafkaLedgerFeed:
    """See `LedgerFeed`.

    The group only assigns the partitions. The limit events, never the group's offsets, say where
    reading continues.
    """

    def __init__(
        self,
        kafka: KafkaConnection,
        topics: Topics,
        group: str,
        reader: LogReader,
        partition_count: int,
    ) -> None:
        self._topic = topics.ledger
        self._reader = reader
        self._consumer = KafkaConsumer(
            topics.ledger,
            **kafka.for_kafka_python(),
            client_id="usageledger-limits",
            group_id=group,
            partition_assignment_strategy=[
                KnownPartitionsAssignor({topics.ledger: partition_count})
            ],
            enable_auto_commit=False,
            # Every partition is sought before anything of it is used; a position that was reset
            # shows as a gap.
            auto_offset_reset="earliest",
            allow_auto_create_topics=False,
            max_poll_records=RECORDS_PER_POLL,
            session_timeout_ms=10_000,
            request_timeout_ms=15_000,
            reconnect_backoff_max_ms=2_000,
            fetch_max_wait_ms=250,
            fetch_max_bytes=FETCH_BYTES_MAX,
            metrics_enabled=False,
        )
        self._polls = BoundedPolls(self._consumer)
        self._unreadable: dict[int, Unreadable] = {}
        # A consumer that joins before it knows the topic's partitions causes another rebalance when
        # it does.
        self._consumer.partitions_for_topic(topics.ledger)

    def assignment(self) -> Assignment:
        member = self._consumer.group_metadata()
        partitions = frozenset(place.partition for place in self._consumer.assignment())
        return Assignment((member.generation_id, member.member_id), partitions)

    def seek(self, partition: int, offset: int) -> None:
        with _raising_unavailable(), _unless_reassigned():
            self._consumer.seek(self._topic_partition(partition), offset)
            self._consumer.resume(self._topic_partition(partition))

    def pause(self, partition: int) -> None:
        with _unless_reassigned():
            self._consumer.pause(self._topic_partition(partition))

    def poll(self, timeout_ms: int) -> dict[int, list[Record]]:
        with _raising_unavailable():
            polled, unreadable = self._polls.poll(timeout_ms)
        self._unreadable = {place.partition: found for place, found in unreadable.items()}
        return {
            place.partition: [
                Record(record.offset, record.timestamp, record.key, record.value)
                for record in records
            ]
            for place, records in polled.items()
        }

    def unreadable(self) -> Mapping[int, Unreadable]:
        return self._unreadable

    def bounds(self, partition: int) -> tuple[int, int]:
        with _raising_unavailable():
            return self._reader.start_offset(self._topic, partition), self._reader.end_offset(
                self._topic, partition
            )

    def known_ends(self, partitions: Iterable[int]) -> dict[int, int]:
        """Return where partitions ended when they were last read. Sends no request."""
        with _unless_reassigned():
            ends = {
                partition: self._consumer.highwater(self._topic_partition(partition))
                for partition in partitions
            }
        return {partition: end for partition, end in ends.items() if end is not None}

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        offsets = {
            self._topic_partition(partition): OffsetAndMetadata(offset, "", -1)
            for partition, offset in next_offsets.items()
        }
        try:
            with _raising_unavailable():
                self._consumer.commit(offsets, timeout_ms=COMMIT_TIMEOUT_MS)
        except REBALANCED as error:
            raise Unavailable(f"{type(error).__name__}: {error}") from error

    def skips_after(self, partition: int, offset: int) -> frozenset[SkippedPlace]:
        try:
            with _raising_unavailable():
                return skips_after(self._reader, self._topic, partition, offset)
        except LogUnreadable as error:
            raise Unavailable(str(error)) from error

    def committed_offset(self, partition: int) -> int:
        with _raising_unavailable(), _unless_reassigned():
            return (
                self._consumer.committed(
                    self._topic_partition(partition), timeout_ms=COMMIT_TIMEOUT_MS
                )
                or 0
            )

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close(autocommit=False, timeout_ms=COMMIT_TIMEOUT_MS)

    def _topic_partition(self, partition: int) -> Any:
        return TopicPartition(self._topic, partition)


class KafkaLimitLog:
    """See `LimitLog`."""

    def __init__(self, kafka: KafkaConnection, topics: Topics, reader: LogReader) -> None:
        self._kafka = kafka
        self._topic = topics.limit
        self._reader = reader
        self._producer: Any = None

    def newest_first(self, partition: int) -> Iterator[Record]:
        with _raising_unavailable():
            start, end = (
                self._reader.start_offset(self._topic, partition),
                self._reader.end_offset(self._topic, partition),
            )
        if start == end > 0:
            raise PartitionUnusable(
                f"{self._topic}/{partition} has lost its {end} records, so nothing says "
                "where to continue"
            )
        count = 1
        while end > start:
            begin = max(start, end - count)
            yield from reversed(self._read(partition, begin, end))
            end, count = begin, min(10 * count, RECORDS_PER_POLL)

    def _read(self, partition: int, begin: int, end: int) -> list[Record]:
        """The records from ``begin`` to ``end``, without those from an unreadable batch on.

        Events that were announced behind it are announced again, and every reader drops a repeat.
        """
        records: list[Record] = []
        try:
            with _raising_unavailable():
                for record in self._reader.read(self._topic, partition, begin, end):
                    records.append(record)
        except BatchUnreadable as error:
            log.error(
                "%s: find out who may write to that topic. It does not say what was announced",
                error,
            )
            return records
        except LogUnreadable as error:
            raise Unavailable(str(error)) from error
        if not records:
            raise Unavailable(
                f"the last records of {self._topic}/{partition} before {end} did not come"
            )
        return records

    def append(self, messages: Mapping[int, Sequence[LimitMessage]]) -> dict[int, Exception]:
        failures: dict[int, Exception] = {}
        rest = {partition: list(some) for partition, some in messages.items()}
        while rest:
            chunk = {partition: _first_batch(some) for partition, some in rest.items()}
            failures |= self._append_batches(chunk)
            rest = {
                partition: some[len(chunk[partition]) :]
                for partition, some in rest.items()
                if partition not in failures
            }
            rest = {partition: some for partition, some in rest.items() if some}
        return failures

    def close(self) -> None:
        """Close the producer. Nothing is in flight between two appends."""
        self._give_up()

    def _append_batches(
        self, batches: Mapping[int, Sequence[LimitMessage]]
    ) -> dict[int, Exception]:
        """Append one batch to each partition, and return the errors by partition.

        Kafka appends a batch whole or not at all. Two batches of a partition are never in flight
        together.
        """
        sent: dict[int, list[Any]] = {partition: [] for partition in batches}
        try:
            producer = self._producer = self._producer or _producer(self._kafka)
            for partition, messages in batches.items():
                for message in messages:
                    sent[partition].append(
                        producer.send(
                            self._topic, value=message.value, key=message.key, partition=partition
                        )
                    )
            producer.flush(timeout=APPEND_TIMEOUT_S)
        except TRANSIENT as error:
            unfinished: Exception = error
        else:
            unfinished = TimeoutError("no answer")
        failures = {
            partition: failure
            for partition, futures in sent.items()
            if (failure := _failure(futures, len(batches[partition]), unfinished)) is not None
        }
        if failures:
            # After a failure a kafka-python producer may never send again. It may also still have
            # records in flight.
            self._give_up()
        return failures

    def _give_up(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            # close() flushes first, and closes nothing if that fails. The messages that are still
            # in the producer must not be sent after later ones.
            producer.flush = lambda timeout=None: None
            producer.close(timeout=0)


def _producer(kafka: KafkaConnection) -> Any:
    return KafkaProducer(
        **kafka.for_kafka_python(),
        client_id="usageledger-limits",
        acks="all",
        enable_idempotence=True,
        # A subscriber with kafka-python alone has no other codec.
        compression_type="gzip",
        # An idempotent producer stops for ever when a batch expires by this time-out. So it never
        # comes, and APPEND_TIMEOUT_S bounds the append.
        delivery_timeout_ms=2**40,
        # Nothing is sent before flush(), so that all messages of an append are one batch.
        linger_ms=3_600_000,
        batch_size=BATCH_BYTES,
        max_request_size=8 * BATCH_BYTES,
        max_block_ms=10_000,
        request_timeout_ms=10_000,
        reconnect_backoff_max_ms=2_000,
        allow_auto_create_topics=False,
        metrics_enabled=False,
    )


def _first_batch(messages: Sequence[LimitMessage]) -> Sequence[LimitMessage]:
    """The first messages, as many as fit into one batch, and at least one."""
    size = 0
    for count, message in enumerate(messages):
        size += len(message.key) + len(message.value) + _RECORD_OVERHEAD_BYTES
        if size > APPEND_BYTES_MAX and count:
            return messages[:count]
    return messages


def _failure(futures: Sequence[Any], expected: int, unfinished: Exception) -> Exception | None:
    """Return why a partition's batch is not known to be in the log; None if it is there."""
    errors = [
        None if future.succeeded() else future.exception if future.failed() else unfinished
        for future in futures
    ]
    errors += [unfinished] * (expected - len(futures))
    first_failed = next((index for index, error in enumerate(errors) if error is not None), None)
    if first_failed is None:
        return None
    error = errors[first_failed]
    if any(later is None for later in errors[first_failed:]):
        return PartitionUnusable(
            f"a limit event was refused ({error}), but a later one was appended: limit.events "
            "has a gap"
        )
    return Unavailable(f"{type(error).__name__}: {error}")


@contextmanager
def _raising_unavailable() -> Iterator[None]:
    """Raise Unavailable for an error that passes by itself.

    Other errors (no permission, a wrong configuration) end the process.
    """
    try:
        yield
    except TRANSIENT as error:
        raise Unavailable(f"{type(error).__name__}: {error}") from error


@contextmanager
def _unless_reassigned() -> Iterator[None]:
    """Raise Unavailable if a rebalance took the partition away between two calls.

    The next step sees the new assignment.
    """
    try:
        yield
    except (kafka_errors.IllegalStateError, KeyError, ValueError) as error:
        raise Unavailable(f"the partition is not ours any more: {error}") from error
