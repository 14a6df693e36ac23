"""A topic that grows under a producer: accounts keep their partitions, or nothing is sent."""

from __future__ import annotations

from typing import Any

import pytest

from usageledger.ledger.partitioning import partition_of
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.sdk.producer import kafka_publisher
from usageledger.sdk.producer.publisher import Blame, PublishError

ACCOUNTS = [f"acct-{n}".encode() for n in range(50)]


class Future:
    def add_callback(self, done: object) -> None: ...

    def add_errback(self, done: object) -> None: ...


class Broker:
    """Stands for kafka-python's producers, all of one topic with ``count`` partitions."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.sent: list[int | None] = []

    def __call__(self, **_: object) -> Broker:
        return self

    def partitions_for(self, topic: str) -> set[int]:
        return set(range(self.count))

    def send(self, topic: str, *, partition: int | None, **_: Any) -> Future:
        self.sent.append(partition)
        return Future()


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    made = Broker(8)
    monkeypatch.setattr(kafka_publisher, "_Producer", made)
    return made


def test_an_account_is_sent_to_its_home(broker: Broker) -> None:
    publisher = kafka_publisher.connector_to(KafkaConnection(servers="h:1"))("usage")()
    for account in ACCOUNTS:
        publisher.send(account, b"{}", lambda _: None)
    assert broker.sent == [partition_of(account, 8) for account in ACCOUNTS]


def test_nothing_is_sent_to_a_topic_that_has_grown(broker: Broker) -> None:
    """92 of 300 accounts' usage went to partitions that no ledger reads, without a word.

    A new connection does not forget the first count. The events stay in the spool.
    """
    connect = kafka_publisher.connector_to(KafkaConnection(servers="h:1"))("usage")
    connect().send(ACCOUNTS[0], b"{}", lambda _: None)
    broker.count = 12
    for publisher in (connect(), connect()):
        with pytest.raises(PublishError, match="usage has 12 partitions, and had 8") as raised:
            publisher.send(ACCOUNTS[1], b"{}", lambda _: None)
        assert raised.value.blame is Blame.CONNECTION
    assert broker.sent == [partition_of(ACCOUNTS[0], 8)]
