"""Events reported over HTTP to a real broker: each has its own result and counts once, however
often it is reported. While Kafka is away, the answer says so.
"""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.freezing import broker_pid as broker_pid
from tests.integration.freezing import frozen
from tests.integration.gateway_process import GatewayProcess
from tests.integration.test_limits import until
from tests.servers import RunningGateway
from usageledger.domain.entry import LedgerEntry
from usageledger.ledger.partitioning import partition_of
from usageledger.log.event_publisher import EventPublisher, Outgoing
from usageledger.log.reading import entries_in, log_reader
from usageledger.log.topics import Topics
from usageledger.runtime.kafka_connection import KafkaConnection


def usage(id_: str, account: str, quantity: str = "1") -> dict[str, Any]:
    data = {"feature": "genai_video", "model": "veo_3", "quantity": quantity}
    at = datetime.now(UTC).isoformat()
    return {
        "specversion": "1.0",
        "type": "usage.recorded",
        "id": id_,
        "source": "/t",
        "subject": account,
        "time": at,
        "data": data,
    }


def report(gateway: RunningGateway, events: list[dict[str, Any]]) -> httpx.Response:
    return httpx.post(
        f"{gateway.url}/v1/events",
        json=events,
        headers={"Authorization": f"Bearer {gateway.key}"},
        timeout=30,
    )


def entries_of(gateway: RunningGateway, account: str) -> list[LedgerEntry]:
    topic = Topics(gateway.addresses.prefix).ledger
    partition = partition_of(account.encode(), 2)
    with log_reader(gateway.addresses.kafka) as reader:
        found = entries_in(reader.read(topic, partition, 0, reader.end_offset(topic, partition)))
        return [sealed.entry for sealed in found if sealed.entry.account == account]


def test_what_is_accepted_lies_where_it_is_said_and_is_charged_once(
    gateway: RunningGateway,
) -> None:
    account = f"acct_{uuid.uuid4().hex[:8]}"
    batch = [usage("g1", account), usage("g2", account, "-1"), usage("g3", account)]
    first = report(gateway, batch)
    assert first.status_code == 207
    assert [item["result"] for item in first.json()["items"]] == ["accepted", "invalid", "accepted"]
    again = report(gateway, batch)
    assert again.json()["items"][0]["offset"] > first.json()["items"][0]["offset"]

    def kinds() -> list[str]:
        return [entry.kind for entry in entries_of(gateway, account)]

    until(lambda: kinds().count("duplicate") == 2, "the decisions")
    assert kinds() == ["account_opened", "usage", "usage", "duplicate", "duplicate"]
    charged = [entry for entry in entries_of(gateway, account) if entry.kind == "usage"]
    for entry, item in zip(
        charged, (first.json()["items"][0], first.json()["items"][2]), strict=True
    ):
        assert entry.input is not None
        assert (item["partition"], item["offset"]) == (entry.input.partition, entry.input.offset)


def test_a_grant_reaches_the_account(gateway: RunningGateway) -> None:
    account = f"acct_{uuid.uuid4().hex[:8]}"
    event = usage("grant_1", account) | {
        "type": "credits.granted",
        "data": {"credits": "20", "reason": "sorry"},
    }
    assert report(gateway, [event]).status_code == 200
    until(lambda: "grant" in [entry.kind for entry in entries_of(gateway, account)], "the grant")


def test_where_no_broker_answers_nothing_is_said_to_be_taken(
    kafka: KafkaConnection, redis_url: str, prefix: str
) -> None:
    async def scenario() -> None:
        reporter = EventPublisher(KafkaConnection(servers="127.0.0.1:1"))
        record = Outgoing(Topics(prefix).usage, 0, b"a", b"{}", None)
        (sent,) = await reporter.publish([record])
        assert sent.offset is None
        assert sent.why
        await reporter.close()

    asyncio.run(scenario())


def test_a_frozen_broker_is_reported_while_frozen_and_the_event_counts_later(
    kafka: KafkaConnection, redis_url: str, prefix: str, tmp_path: Path, broker_pid: int
) -> None:
    gateway = GatewayProcess(kafka, redis_url, prefix, tmp_path / "data")
    gateway.start()
    try:
        assert gateway.ask("POST", "/v1/events", usage("g0", "a")).status_code == 200
        with frozen(broker_pid):
            # The answer comes while Kafka still gives none.
            answer = gateway.ask("POST", "/v1/events", [usage("g1", "a"), usage("g2", "b")])
        assert (answer.status_code, answer.json()["code"]) == (503, "log_unavailable")
        assert {item["result"] for item in answer.json()["items"]} == {"unavailable"}
        until(
            lambda: gateway.ask("POST", "/v1/events", usage("g1", "a")).status_code == 200,
            "Kafka's return",
        )
    finally:
        gateway.stop()


@pytest.mark.partitions(1)
def test_a_record_that_a_topic_refuses_fails_alone(kafka: KafkaConnection, prefix: str) -> None:
    """One is too large for the topic. Kafka accepts the other, and the record that comes after."""

    async def scenario() -> None:
        reporter = EventPublisher(kafka)
        topic = Topics(prefix).usage
        accepted, refused = await reporter.publish(
            [Outgoing(topic, 0, b"a", b"1", None), Outgoing(topic, 0, b"a", b"x" * 2_000_000, None)]
        )
        assert accepted.offset == 0
        assert refused.offset is None
        (after,) = await reporter.publish([Outgoing(topic, 0, b"a", b"2", None)])
        assert after.offset == 1
        await reporter.close()

    asyncio.run(scenario())
