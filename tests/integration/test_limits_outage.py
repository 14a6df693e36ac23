"""The broker is killed while limits are announced and heard."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaProducer

from tests.integration.test_limits import a_ledger, limit_addresses, limits, until, without_repeats
from usageledger.ledger.records import Record
from usageledger.local.kafka_server import KafkaServer
from usageledger.local.servers import wait_until_ready
from usageledger.log.topics import Topics
from usageledger.operations.topics import create_topics
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.sdk.limits.limit_event import LimitEvent
from usageledger.sdk.limits.subscriber import LimitSubscriber

PREFIX = "outage"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[KafkaServer]:
    """A broker that only this test uses, so it may be killed."""
    server = KafkaServer(tmp_path / "kafka", tmp_path / "logs")
    server.prepare()
    server.spawn()
    try:
        wait_until_ready(server)
        yield server
    finally:
        server.stop(20.0)


def kill(server: KafkaServer) -> None:
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: server.exit_code is not None, "the broker's end")


def append(kafka: KafkaConnection, records: list[Record]) -> None:
    producer = KafkaProducer(**kafka.for_kafka_python(), linger_ms=5)
    try:
        for record in records:
            producer.send(Topics(PREFIX).ledger, key=record.key, value=record.value, partition=0)
        producer.flush(timeout=30)
    finally:
        producer.close(timeout=5)


def test_a_broker_that_is_killed_and_comes_back_costs_no_crossing(broker: KafkaServer) -> None:
    kafka = broker.connection
    create_topics(kafka, PREFIX, partitions=1)
    ledger = a_ledger(0, 900)
    third = len(ledger.records) // 3
    subscriber = LimitSubscriber(kafka=kafka, prefix=PREFIX, group="app", from_beginning=True)
    heard: list[str] = []

    def note(event: LimitEvent) -> None:
        heard.append(event.id)

    def has_heard_all() -> bool:
        subscriber.blocked()  # raises what ended the subscriber, if something did
        return list(dict.fromkeys(heard)) == [address.id for address in ledger.addresses]

    for register in (subscriber.on_threshold, subscriber.on_reached, subscriber.on_cleared):
        register(note)
    with limits(kafka, PREFIX) as running, subscriber:
        for number in range(3):
            append(
                kafka,
                ledger.records[number * third : None if number == 2 else (number + 1) * third],
            )
            if number < 2:
                # The broker dies at any moment: some events may have been announced, or none.
                kill(broker)
                broker.spawn()
                wait_until_ready(broker)
        until(
            lambda: without_repeats(limit_addresses(kafka, PREFIX, 0)) == ledger.addresses,
            "every crossing",
        )
        until(has_heard_all, "every event at the subscriber")
        assert running.error is None
