"""The order in which records reach Kafka, and the error if they do not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from usageledger.operations.event_file import Input, OutgoingRecord
from usageledger.operations.record_sender import (
    RECORD_BYTES_MAX,
    Sender,
    SendingFailed,
    send_records,
)
from usageledger.sdk.producer.publisher import Blame, Done, PublishError


@dataclass
class Broker:
    """Acknowledges records when a test says so. ``log`` has what it acknowledged, in order."""

    at_once: bool = False
    fails_with: PublishError | None = None
    pending: list[tuple[Input, int, bytes, Done]] = field(default_factory=list)
    log: list[tuple[Input, int, bytes]] = field(default_factory=list)
    dates: list[int | None] = field(default_factory=list)
    closed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def connect(self, input: Input) -> Connection:
        return Connection(self, input)

    def acknowledge(self) -> None:
        """Acknowledge what waits now."""
        with self.lock:
            pending, self.pending = self.pending, []
        for input, partition, value, done in pending:
            self.log.append((input, partition, value))
            done(None)


@dataclass
class Connection:
    broker: Broker
    input: Input

    def send(
        self,
        key: bytes | None,
        value: bytes,
        done: Done,
        *,
        partition: int | None,
        timestamp_ms: int | None,
    ) -> None:
        if self.broker.fails_with is not None:
            raise self.broker.fails_with
        assert partition is not None
        self.broker.dates.append(timestamp_ms)
        with self.broker.lock:
            self.broker.pending.append((self.input, partition, value, done))
        if self.broker.at_once:
            self.broker.acknowledge()

    def close(self) -> None:
        self.broker.closed += 1


def record(
    line: int, input: Input = "usage", partition: int = 0, value: bytes | None = None
) -> OutgoingRecord:
    return OutgoingRecord(
        line, input, f"{input}.type", b"a", partition, value or str(line).encode(), line * 1_000
    )


def waiting_in(broker: Broker) -> list[bytes]:
    return [value for _, _, value, _ in broker.pending]


def test_records_of_one_topic_follow_each_other_without_waiting() -> None:
    broker = Broker()
    with Sender(broker.connect) as sender:
        for line in range(1, 6):
            sender.send(record(line))
        assert waiting_in(broker) == [b"1", b"2", b"3", b"4", b"5"]
        broker.acknowledge()
        sender.flush()
        assert sender.report.sent == {"usage.type": 5}


def test_a_record_waits_until_all_before_it_in_the_other_topic_are_acknowledged() -> None:
    broker = Broker()
    with Sender(broker.connect) as sender:
        for each in (record(1), record(2), record(3, "account"), record(4, "account"), record(5)):
            sender.send(each)
        assert waiting_in(broker) == [b"1", b"2"]
        acknowledging = threading.Thread(
            target=_acknowledge_until, args=(broker, lambda: len(broker.log) == 5)
        )
        acknowledging.start()
        sender.flush()
        acknowledging.join()
    assert broker.log == [
        ("usage", 0, b"1"),
        ("usage", 0, b"2"),
        ("account", 0, b"3"),
        ("account", 0, b"4"),
        ("usage", 0, b"5"),
    ]


def test_partitions_do_not_wait_for_each_other() -> None:
    broker = Broker()
    with Sender(broker.connect) as sender:
        for each in (
            record(1, "usage", 0),
            record(2, "account", 1),
            record(3, "account", 0),
            record(4, "account", 1),
        ):
            sender.send(each)
        assert waiting_in(broker) == [b"1", b"2", b"4"]
        broker.acknowledge()
        acknowledging = threading.Thread(
            target=_acknowledge_until, args=(broker, lambda: len(broker.log) == 4)
        )
        acknowledging.start()
        sender.flush()
        acknowledging.join()


def test_each_record_bears_its_own_time_and_the_connections_are_closed() -> None:
    broker = Broker(at_once=True)
    report = send_records([record(1), record(2, "account")], broker.connect)
    assert (broker.dates, broker.closed, report.sent.total()) == ([1_000, 2_000], 2, 2)


def test_a_line_that_is_too_large_is_reported_and_the_others_are_sent() -> None:
    broker = Broker(at_once=True)
    largest = record(2, value=b"x" * (RECORD_BYTES_MAX - 1))
    report = send_records(
        [record(1), largest, record(3, value=b"x" * RECORD_BYTES_MAX), record(4)], broker.connect
    )
    assert [value[:1] for _, _, value in broker.log] == [b"1", b"x", b"4"]
    assert [line.line for line in report.not_sent] == [3]
    assert (
        report.not_sent[0].why.startswith("1,048,480 bytes with its key")
        and report.sent.total() == 3
    )


def test_a_record_that_is_not_acknowledged_is_named_by_its_line() -> None:
    broker = Broker()
    with Sender(broker.connect) as sender:
        sender.send(record(1))
        sender.send(record(7))
        broker.pending[1][3](PublishError("NotEnoughReplicas", Blame.CONNECTION))
        with pytest.raises(
            SendingFailed,
            match=r"line 7 was not acknowledged by Kafka \(NotEnoughReplicas\). "
            "Send the file again",
        ) as caught:
            sender.flush()
    assert caught.value.why == "NotEnoughReplicas"


def test_a_record_that_a_producer_refuses_ends_the_sending() -> None:
    broker = Broker(fails_with=PublishError("no such topic", Blame.CONNECTION))
    with pytest.raises(SendingFailed, match="line 1 was not acknowledged"):
        send_records([record(1), record(2)], broker.connect)


def test_a_broker_that_falls_silent_ends_the_sending() -> None:
    broker = Broker()
    with Sender(broker.connect, stuck_after_s=0.05) as sender:
        sender.send(record(1))
        with pytest.raises(SendingFailed, match="acknowledged nothing for 0 s, 1 records wait"):
            sender.flush()


def _acknowledge_until(broker: Broker, is_done: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 10
    while not is_done() and time.monotonic() < deadline_s:
        broker.acknowledge()
