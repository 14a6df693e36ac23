"""A broker with TLS, SCRAM and an authorizer: each role has exactly its rights, and all works."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from kafka import KafkaProducer
from kafka.errors import TopicAuthorizationFailedError

from tests.security.secured import SUBSCRIBER_GROUP, SecuredServers, Services, logs, secured_servers
from usageledger import AccountClient, LimitSubscriber, UsageGate, UsageMeter
from usageledger.audit.verify import verify
from usageledger.local.gateway_files import answers
from usageledger.local.ports import LOOPBACK, free_port
from usageledger.log.topics import Topics
from usageledger.operations.access_rights import KafkaRight, revoke
from usageledger.operations.catalogs import publish_shipped
from usageledger.operations.idleness import wait_until_idle
from usageledger.operations.kafka_probe import admin_client
from usageledger.operations.lags import lag_reader
from usageledger.operations.topics import create_topics
from usageledger.operations.waiting import is_true_within

pytestmark = pytest.mark.timeout(240)

DEADLINE_S = 90.0
KEY = f"ulk_0a1b2c3d_{'k' * 43}"
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredServers]:
    with secured_servers(tmp_path_factory.mktemp("secured")) as running:
        yield running


@pytest.fixture
def services(secured: SecuredServers, tmp_path: Path) -> Iterator[Services]:
    """A ledger on the secured servers, made by its operator, with no service started yet."""
    prefix = f"t{uuid.uuid4().hex[:10]}"
    secured.give_rights(prefix)
    create_topics(secured.kafka_as("operator"), prefix, partitions=2)
    publish_shipped(secured.kafka_as("publisher"), prefix, datetime.now(UTC))
    running = Services(secured, prefix, tmp_path)
    try:
        yield running
    finally:
        running.end()


def wait_for(condition: Callable[[], bool], services: Services) -> None:
    assert is_true_within(condition, DEADLINE_S), logs(services)


def meter(services: Services) -> UsageMeter:
    return UsageMeter(
        source="render",
        kafka=services.servers.kafka_as("worker"),
        prefix=services.prefix,
        spool_directory=services.directory / "spool",
    )


def wait_until_ledger_is_idle(services: Services) -> None:
    servers = services.servers
    kafka, redis = servers.kafka_as("operator"), servers.redis_as("operator", services.prefix)
    with lag_reader(kafka, redis, services.prefix) as reader:
        assert wait_until_idle(reader.look, DEADLINE_S).is_idle, logs(services)


def test_the_whole_flow_passes_with_the_least_rights(services: Services) -> None:
    servers, prefix = services.servers, services.prefix
    url = f"http://{LOOPBACK}:{free_port()}"
    services.variables |= {
        "USAGELEDGER_GATEWAY_PORT": url.rpartition(":")[2],
        "USAGELEDGER_GATEWAY_KEY": KEY,
    }
    for name in ("processor", "limits", "gateway"):
        services.start(name)
    services.start("history", role="gateway")
    with (
        AccountClient(
            source="billing", kafka=servers.kafka_as("billing"), prefix=prefix
        ) as billing,
        meter(services) as reporting,
        LimitSubscriber(
            kafka=servers.kafka_as("subscriber"),
            prefix=prefix,
            group=SUBSCRIBER_GROUP,
            from_beginning=True,
        ) as subscriber,
    ):
        billing.subscribe("acct_1", "pro")
        wait_until_ledger_is_idle(services)
        for number in range(7):
            reporting.record(
                account="acct_1", feature="genai_video", model="veo_3", id=f"gen_{number}"
            )
        wait_for(lambda: subscriber.is_blocked("acct_1"), services)
    wait_until_ledger_is_idle(services)

    wait_for(lambda: answers(url), services)
    question = {"feature": "genai_video", "model": "veo_3"}
    answer = httpx.post(f"{url}/v1/accounts/acct_1/check", json=question, headers=AUTHORIZED)
    assert (answer.status_code, answer.json()["allowed"]) == (200, False), logs(services)
    wait_for(lambda: usage_in_history(url) == 7, services)
    with UsageGate(
        kafka=servers.kafka_as("gate"),
        redis_url=servers.redis_as("gate", prefix),
        prefix=prefix,
        on_unavailable="deny",
    ) as gate:
        gate.prepare()
        check = gate.check("acct_1", "genai_video", "veo_3")
    assert (check.allowed, check.degraded) == (False, False)

    report = verify(servers.kafka_as("auditor"), servers.redis_as("auditor", prefix), prefix)
    assert report.is_clean, report.differences
    assert (report.accounts, report.undecided_inputs) == (1, 0)


def usage_in_history(url: str) -> int:
    answer = httpx.get(f"{url}/v1/accounts/acct_1/charges", headers=AUTHORIZED)
    items = answer.json()["items"] if answer.status_code == 200 else []
    return sum(item["kind"] == "usage" for item in items)


@pytest.mark.parametrize("topic", ["account", "ledger", "limit", "catalog"])
def test_a_worker_writes_no_topic_but_usage(services: Services, topic: str) -> None:
    """Its user is refused by the broker, whatever program uses it."""
    options = services.servers.kafka_as("worker").for_kafka_python()
    forged = getattr(Topics(services.prefix), topic)
    with (
        closing(KafkaProducer(**options)) as producer,
        pytest.raises(TopicAuthorizationFailedError),
    ):
        producer.send(forged, b"forged", partition=0).get(30)


def test_a_missing_right_to_a_topic_is_no_missing_ledger(services: Services) -> None:
    """The broker lists no topic that a user may not describe, as if there were none."""
    missing = KafkaRight(resource="topic", name=Topics(services.prefix).limit, operation="Describe")
    with admin_client(services.servers.broker.connection) as admin:
        revoke(admin, "processor", missing)
    services.start("processor")
    wait_for(lambda: not services.is_running("processor"), services)
    lines = [line for line in services.log_of("processor").splitlines() if "CRITICAL" in line]
    assert [line.partition("process: ")[2] for line in lines] == [
        f"Kafka does not let processor describe the topic {missing.name}: give it that right "
        "(`usageledger acls` prints the rights of each role)"
    ]


def test_running_services_outlast_new_passwords_and_certificates(services: Services) -> None:
    """The broker is restarted with them, so that every connection is made anew."""
    servers, prefix = services.servers, services.prefix
    for name in ("processor", "limits"):
        services.start(name)
    with (
        meter(services) as reporting,
        LimitSubscriber(
            kafka=servers.kafka_as("subscriber"), prefix=prefix, group=SUBSCRIBER_GROUP
        ) as subscriber,
    ):
        reporting.record(account="acct_2", feature="chat_message", id="before")
        wait_until_ledger_is_idle(services)
        for user in ("worker", "processor", "limits", "subscriber"):
            servers.change_password(user, f"another-{user}-{uuid.uuid4().hex}")
        servers.security.renew_certificate()
        servers.restart()
        for number in range(40):
            reporting.record(
                account="acct_2", feature="genai_video", model="veo_3", id=f"after_{number}"
            )
        wait_for(lambda: subscriber.is_blocked("acct_2"), services)
    wait_until_ledger_is_idle(services)
    assert all(services.is_running(name) for name in ("processor", "limits")), logs(services)
