"""The broker dies and returns while a gateway follows limit events and publishes reports."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from kafka import KafkaProducer

from tests.integration.gateway_process import GatewayProcess, Receiver, Stream
from tests.integration.test_gateway_limit_events import TEN, a_ledger, ids
from tests.integration.test_limits import messages_of, until
from tests.integration.test_limits_outage import broker as broker
from tests.integration.test_limits_outage import kill
from tests.worlds.limits_world import Ledger
from usageledger.local.kafka_server import KafkaServer
from usageledger.local.servers import wait_until_ready
from usageledger.log.topics import Topics
from usageledger.operations.catalogs import publish_shipped
from usageledger.operations.topics import create_topics
from usageledger.runtime.kafka_connection import KafkaConnection

PREFIX = "outage"


@pytest.fixture
def gateway(broker: KafkaServer, redis_url: str, tmp_path: Path) -> Iterator[GatewayProcess]:
    create_topics(broker.connection, PREFIX, partitions=1)
    publish_shipped(broker.connection, PREFIX, datetime.now(UTC))
    made = GatewayProcess(broker.connection, redis_url, PREFIX, tmp_path / "data")
    made.start()
    yield made
    made.stop()


def announce(kafka: KafkaConnection, ledger: Ledger, start: int, stop: int) -> None:
    producer = KafkaProducer(**kafka.for_kafka_python())
    for message in messages_of(ledger)[start:stop]:
        producer.send(Topics(PREFIX).limit, key=message.key, value=message.value, partition=0).get(
            timeout=30
        )
    producer.close(timeout=5)


def test_a_broker_that_is_killed_and_comes_back_costs_no_limit_event_and_no_report(
    broker: KafkaServer, gateway: GatewayProcess
) -> None:
    ledger = a_ledger(0, "a", *TEN)
    event = {
        "specversion": "1.0",
        "type": "usage.recorded",
        "id": "g1",
        "source": "/t",
        "subject": "a",
        "time": datetime.now(UTC).isoformat(),
        "data": {"feature": "genai_video", "model": "veo_3", "quantity": "1"},
    }
    with Receiver().running() as receiver:
        gateway.ask("POST", "/v1/webhooks", {"url": receiver.url})
        stream = Stream(gateway, "a").opened()
        announce(broker.connection, ledger, 0, 5)
        until(lambda: len(stream.ids) >= 5, "the events announced before")
        assert gateway.ask("POST", "/v1/events", event).status_code == 200
        kill(broker)
        # Keys and webhooks need no broker. The list of blocked accounts is served until the broker
        # has been silent for too long.
        assert [item["account"] for item in gateway.ask("GET", "/v1/blocked").json()["items"]] == [
            "a"
        ]
        refused = gateway.ask("POST", "/v1/events", event)
        assert (refused.status_code, refused.json()["items"][0]["result"]) == (503, "unavailable")
        until(
            lambda: gateway.ask("GET", "/v1/blocked").status_code == 503,
            "an answer that the blocked accounts are unknown",
        )
        broker.spawn()
        wait_until_ready(broker)
        announce(broker.connection, ledger, 3, 10)
        until(lambda: len(stream.ids) >= 10, "the events announced after")
        assert stream.ids == ids(ledger)
        until(
            lambda: gateway.ask("GET", "/v1/blocked").status_code == 200,
            "the list of blocked accounts again",
        )
        until(lambda: len(receiver.received) >= 10, "every delivery")
        assert receiver.ids == ids(ledger)
        until(
            lambda: gateway.ask("POST", "/v1/events", event).status_code == 200,
            "a report that is accepted again",
        )
        stream.close()
