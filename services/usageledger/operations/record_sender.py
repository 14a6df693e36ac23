"""Sending events and waiting for their acknowledgement: each partition's in the order given, across
the two input topics as well.

The processor merges a partition's two inputs by time and looks whether the other one has more: what
comes earlier in a file must lie in Kafka before what comes later does. Within a topic that is
Kafka's own order; between the two, a record waits until everything before it of the same partition
is acknowledged. Partitions do not wait for each other: nothing is ever decided across them.
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
from usageledger.sdk.producer.publisher import Done, PublishError

RECORD_BYTES_MAX = 1 * MIB - BATCH_OVERHEAD_BYTES - RECORD_OVERHEAD_BYTES
"""The longest key and value together that an input topic takes."""

WAITING_COUNT_MAX = 20_000
WAITING_BYTES_MAX = 16 * MIB
STUCK_AFTER_S = 60.0


class SendingFailed(OperatorError):
    """Kafka did not acknowledge a record, or cannot be reached: ``why``. Some of what was sent may
    have been taken all the same.
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
    """A line that Kafka does not take."""

    line: int
    why: str


@dataclass(slots=True)
class SendReport:
    """What became of the lines. ``sent`` counts by type what Kafka has acknowledged."""

    sent: Counter[str] = field(default_factory=Counter)
    not_sent: list[NotSent] = field(default_factory=list)


class Sender:
    """Sends records to the two input topics. A context manager; for use from one thread."""

    def __init__(
        self, connect: Callable[[Input], RecordPublisher], *, stuck_after_s: float = STUCK_AFTER_S
    ) -> None:
        self._connect = connect
        self._stuck_after_s = stuck_after_s
        self._publishers: dict[Input, RecordPublisher] = {}
        self._lanes: dict[int, _Lane] = {}
        # All below is shared with the producers' threads, which bring the acknowledgements.
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
        """Take a record, to be sent in its turn.

        One that is too large for Kafka is noted in the report. Raises SendingFailed.
        """
        size = _size(record)
        if size > RECORD_BYTES_MAX:
            self.report.not_sent.append(
                NotSent(
                    record.line,
                    f"{size:,} bytes with its key: the topic takes at most {RECORD_BYTES_MAX:,}",
                )
            )
            return
        self._wait(
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
        """Wait until everything is acknowledged. Raises SendingFailed."""
        self._wait(lambda: self._count == 0)

    def _advance(self, lane: _Lane) -> None:
        """Hand over what need not wait.

        The lock is not held meanwhile: a producer may have to wait for the thread that
        acknowledges.
        """
        while lane.queue:
            record = lane.queue[0]
            with self._changed:
                if lane.on_their_way and lane.input != record.input:
                    return
                lane.input = record.input
                lane.on_their_way += 1
            lane.queue.popleft()
            try:
                self._publisher(record.input).send(
                    record.key,
                    record.value,
                    self._acknowledge(record, lane),
                    partition=record.partition,
                    timestamp_ms=record.timestamp_ms,
                )
            except PublishError as error:
                raise _failed(record.line, error) from error

    def _acknowledge(self, record: OutgoingRecord, lane: _Lane) -> Done:
        def done(error: PublishError | None) -> None:
            with self._changed:
                self._count -= 1
                self._bytes -= _size(record)
                self._progress_s = time.monotonic()
                lane.on_their_way -= 1
                if lane.on_their_way == 0:
                    self._free.add(record.partition)
                if error is not None and self._failure is None:
                    self._failure = _failed(record.line, error)
                self._changed.notify_all()

        return done

    def _wait(self, is_there: Callable[[], bool]) -> None:
        """Wait for acknowledgements until it is so, and hand over what they set free.

        Raises SendingFailed when none come any more.
        """
        while True:
            with self._changed:
                if self._failure is not None:
                    raise self._failure
                free, self._free = self._free, set()
                if not free:
                    if is_there():
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
    """A partition: what waits to be sent to it, and how many records are on their way to which of
    its two topics.
    """

    queue: deque[OutgoingRecord] = field(default_factory=deque)
    on_their_way: int = 0
    input: Input = "usage"


def send_records(
    records: Iterable[OutgoingRecord],
    connect: Callable[[Input], RecordPublisher],
    on_sent: Callable[[OutgoingRecord], None] | None = None,
) -> SendReport:
    """Send all records in order and return when Kafka has them.

    ``on_sent`` is told of each as it is handed over. Raises SendingFailed.
    """
    with Sender(connect) as sender:
        for record in records:
            sender.send(record)
            if on_sent is not None:
                on_sent(record)
        sender.flush()
        return sender.report


def kafka_connector(kafka: str, prefix: str) -> Callable[[Input], RecordPublisher]:
    """Connects to a ledger's input topics.

    What it makes raises SendingFailed where no broker answers.
    """
    from usageledger.sdk.producer.kafka_publisher import KafkaPublisher, connector_to

    topics = Topics(prefix)
    # Batches fill while one is on its way; waiting for more would only hold up each change from one
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
            raise SendingFailed(f"{why}: does it run? `usageledger status` says", why) from error
        assert isinstance(publisher, KafkaPublisher)
        return publisher

    return connect


def _size(record: OutgoingRecord) -> int:
    return len(record.key or b"") + len(record.value)


_AGAIN = "Send the file again once Kafka is well: what it took already ends as duplicates."


def _failed(line: int, error: PublishError) -> SendingFailed:
    return SendingFailed(
        f"line {line} was not acknowledged by Kafka ({error}). {_AGAIN}", str(error)
    )
