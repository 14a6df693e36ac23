"""Sends records in order, within a partition and across the two input topics, and waits for Kafka.

The processor merges a partition's two inputs by time. So the earlier line of a file must be in
Kafka before a later one. Within a topic Kafka keeps the order. Between the topics, a record waits
until all earlier records of its partition are acknowledged. Partitions do not wait for each other,
as nothing is ever decided across them.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from usageledger.log.packing import BATCH_OVERHEAD_BYTES, RECORD_OVERHEAD_BYTES
from usageledger.log.topics import Topics
from usageledger.operations.errors import OperatorError
from usageledger.operations.event_file import Input, OutgoingRecord
from usageledger.operations.topics import MIB
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.sdk.producer.publisher import Done, PublishError

RECORD_BYTES_MAX = 1 * MIB - BATCH_OVERHEAD_BYTES - RECORD_OVERHEAD_BYTES
"""The most bytes that a key and value may have together in an input topic."""

WAITING_COUNT_MAX = 20_000
WAITING_BYTES_MAX = 16 * MIB
STUCK_AFTER_S = 60.0


class SendingFailed(OperatorError):
    """Kafka did not acknowledge a record, or cannot be reached, for the reason ``why``.

    It may have some of the records all the same.
    """

    def __init__(self, message: str, why: str) -> None:
        super().__init__(message)
        self.why = why


class RecordPublisher(Protocol):
    """One connection to Kafka, publishing to one topic in the order of the calls.

    Adapter: ``sdk.producer.kafka_publisher.KafkaPublisher``.
    """

    def send(
        self,
        key: bytes | None,
        value: bytes,
        done: Done,
        *,
        partition: int | None,
        timestamp_ms: int | None,
    ) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class NotSent:
    """A line that is too large for Kafka."""

    line: int
    why: str


@dataclass(slots=True)
class SendReport:
    """The outcome of sending. ``sent`` counts the acknowledged records by type."""

    sent: Counter[str] = field(default_factory=Counter)
    not_sent: list[NotSent] = field(default_factory=list)


class Sender:
    """Sends records to the two input topics. A context manager, for one thread."""

    def __init__(
        self, connect: Callable[[Input], RecordPublisher], *, stuck_after_s: float = STUCK_AFTER_S
    ) -> None:
        self._connect = connect
        self._stuck_after_s = stuck_after_s
        self._publishers: dict[Input, RecordPublisher] = {}
        self._lanes: dict[int, _Lane] = {}
        # Everything below is shared with the producers' threads, which acknowledge the records.
        self._changed = threading.Condition()
        self._free: set[int] = set()
        self._count = 0
        self._bytes = 0
        self._progress_s = time.monotonic()
        self._failure: SendingFailed | None = None
        self.report = SendReport()

    def __enter__(self) -> Sender:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for publisher in self._publishers.values():
            publisher.close()

    def send(self, record: OutgoingRecord) -> None:
        """Queue a record and send what need not wait; blocks while too many are unacknowledged.

        A record that is too large for Kafka is noted in the report. Raises SendingFailed.
        """
        size = _size(record)
        if is_too_large(record):
            self.report.not_sent.append(
                NotSent(
                    record.line,
                    f"{size:,} bytes with its key: the topic accepts at most {RECORD_BYTES_MAX:,}",
                )
            )
            return
        self._wait_until(
            lambda: (
                self._count < WAITING_COUNT_MAX
                and (self._count == 0 or self._bytes + size <= WAITING_BYTES_MAX)
            )
        )
        with self._changed:
            if self._count == 0:
                self._progress_s = time.monotonic()
            self._count += 1
            self._bytes += size
        lane = self._lanes.setdefault(record.partition, _Lane())
        lane.queue.append(record)
        self._advance(lane)
        self.report.sent[record.type] += 1

    def flush(self) -> None:
        """Wait until every record is acknowledged. Raises SendingFailed."""
        self._wait_until(lambda: self._count == 0)

    def _advance(self, lane: _Lane) -> None:
        """Hand the producers the records of a lane that need not wait.

        The lock is not held meanwhile: a producer may have to wait for the thread that
        acknowledges.
        """
        while lane.queue:
            record = lane.queue[0]
            with self._changed:
                if lane.in_flight and lane.input != record.input:
                    return
                lane.input = record.input
                lane.in_flight += 1
            lane.queue.popleft()
            try:
                self._publisher(record.input).send(
                    record.key,
                    record.value,
                    self._on_acknowledged(record, lane),
                    partition=record.partition,
                    timestamp_ms=record.timestamp_ms,
                )
            except PublishError as error:
                raise _failed(record.line, error) from error

    def _on_acknowledged(self, record: OutgoingRecord, lane: _Lane) -> Done:
        def done(error: PublishError | None) -> None:
            with self._changed:
                self._count -= 1
                self._bytes -= _size(record)
                self._progress_s = time.monotonic()
                lane.in_flight -= 1
                if lane.in_flight == 0:
                    self._free.add(record.partition)
                if error is not None and self._failure is None:
                    self._failure = _failed(record.line, error)
                self._changed.notify_all()

        return done

    def _wait_until(self, is_met: Callable[[], bool]) -> None:
        """Wait for acknowledgements until a condition is met, and send the records they free.

        Raises SendingFailed if a record fails, or if no acknowledgement comes for too long.
        """
        while True:
            with self._changed:
                if self._failure is not None:
                    raise self._failure
                free, self._free = self._free, set()
                if not free:
                    if is_met():
                        return
                    self._wait_for_change()
            for partition in free:
                self._advance(self._lanes[partition])

    def _wait_for_change(self) -> None:
        left_s = self._progress_s + self._stuck_after_s - time.monotonic()
        if left_s <= 0:
            why = f"Kafka has acknowledged nothing for {self._stuck_after_s:.0f} s"
            raise SendingFailed(
                f"{why}, {self._count:,} records wait: see `usageledger status`. {_AGAIN}", why
            )
        self._changed.wait(left_s)

    def _publisher(self, input: Input) -> RecordPublisher:
        if input not in self._publishers:
            self._publishers[input] = self._connect(input)
        return self._publishers[input]


@dataclass(slots=True)
class _Lane:
    """One partition: its queue, and how many records are in flight to which of its two topics."""

    queue: deque[OutgoingRecord] = field(default_factory=deque)
    in_flight: int = 0
    input: Input = "usage"


def send_records(
    records: Iterable[OutgoingRecord],
    connect: Callable[[Input], RecordPublisher],
    on_sent: Callable[[OutgoingRecord], None] | None = None,
) -> SendReport:
    """Send all records in order, and return once Kafka has acknowledged them.

    ``on_sent`` is called with each record when it is queued. Raises SendingFailed.
    """
    with Sender(connect) as sender:
        for record in records:
            sender.send(record)
            if on_sent is not None:
                on_sent(record)
        sender.flush()
        return sender.report


def kafka_connector(kafka: KafkaConnection, prefix: str) -> Callable[[Input], RecordPublisher]:
    """A function that connects to an input topic. It raises SendingFailed if no broker answers."""
    from usageledger.sdk.producer.kafka_publisher import KafkaPublisher, connector_to

    topics = Topics(prefix)
    # Batches fill while one is in flight. To wait for more would only delay each change from one
    # topic to the other.
    connect_to = connector_to(
        kafka,
        {
            "linger_ms": 0,
            "batch_size": 256 * 1024,
            "max_request_size": 2 * MIB,
            "max_block_ms": 15_000,
        },
    )

    def connect(input: Input) -> RecordPublisher:
        try:
            publisher = connect_to(topics.usage if input == "usage" else topics.account)()
        except PublishError as error:
            why = f"no Kafka broker answers at {kafka} ({error})"
            raise SendingFailed(
                f"{why}: see `usageledger status` for whether it runs", why
            ) from error
        assert isinstance(publisher, KafkaPublisher)
        return publisher

    return connect


def is_too_large(record: OutgoingRecord) -> bool:
    """Whether no input topic accepts a record."""
    return _size(record) > RECORD_BYTES_MAX


def _size(record: OutgoingRecord) -> int:
    return len(record.key or b"") + len(record.value)


_AGAIN = "Send the file again once Kafka is well: events that it has already end as duplicates."


def _failed(line: int, error: PublishError) -> SendingFailed:
    return SendingFailed(
        f"line {line} was not acknowledged by Kafka ({error}). {_AGAIN}", str(error)
    )
