"""Every way to connect to Kafka works, and one line says why a connection cannot be made."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from kafka import KafkaProducer
from trustme import CA
from typer.testing import CliRunner

from tests.security.listeners import Listeners, every_listener, issue_certificate
from usageledger import LimitSubscriber, UsageMeter
from usageledger.cli import app
from usageledger.local.ports import LOOPBACK, free_port
from usageledger.log.diagnosis import connection_problem
from usageledger.log.topics import Topics
from usageledger.operations.access_rights import grant, kafka_rights
from usageledger.operations.errors import OperatorError
from usageledger.operations.kafka_probe import admin_client
from usageledger.operations.reachability import require_listener
from usageledger.operations.topics import create_topics
from usageledger.operations.waiting import is_true_within
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.sdk.limits.errors import SubscriberFailed

pytestmark = [
    pytest.mark.timeout(240),
    # kafka-python leaves the sockets of a client that could not connect to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

DEADLINE_S = 60.0
IMPATIENT = {"bootstrap_timeout_ms": 1_000}
PREFIX = "ways"
WAYS = ("by_scram", "by_plain", "by_token", "by_certificate")


@pytest.fixture(scope="module")
def listeners(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listeners]:
    with every_listener(tmp_path_factory.mktemp("listeners")) as running:
        create_topics(running.broker.connection, PREFIX, partitions=1)
        with admin_client(running.broker.connection) as admin:
            grant(admin, "worker", kafka_rights("worker", PREFIX))
        yield running
        gc.collect()


def wrong_password(listeners: Listeners) -> KafkaConnection:
    wrong = listeners.directory / "wrong"
    wrong.write_text("wrong\n")
    return replace(listeners.by_scram, sasl_password_file=wrong)


def unknown_authority(listeners: Listeners) -> KafkaConnection:
    another = listeners.directory / "another.pem"
    CA().cert_pem.write_to_path(another)
    return replace(listeners.by_scram, ssl_cafile=another)


def other_certificate(listeners: Listeners) -> KafkaConnection:
    certificate, key = listeners.directory / "other.pem", listeners.directory / "other.key"
    issue_certificate(CA(), certificate, key)
    return replace(listeners.by_certificate, ssl_certfile=certificate, ssl_keyfile=key)


def dead_broker(listeners: Listeners) -> KafkaConnection:
    return replace(listeners.by_scram, servers=f"{LOOPBACK}:{free_port()}")


CAUSES = {
    "a dead broker": (dead_broker, "no Kafka broker answers at .*refused"),
    "a wrong password": (
        wrong_password,
        r"refuses the user worker or its password \(Authentication failed .*SCRAM-SHA-512",
    ),
    "an unknown user": (
        lambda listeners: replace(listeners.by_scram, sasl_username="nobody"),
        r"refuses the user nobody or its password \(Authentication failed .*invalid credentials",
    ),
    "a wrong password for PLAIN": (
        lambda listeners: replace(wrong_password(listeners), sasl_mechanism="PLAIN"),
        r"refuses the user worker or its password \(Authentication failed.*username or password",
    ),
    "a token that is none": (
        lambda listeners: replace(listeners.by_token, oauth_token=lambda: "none"),
        r"refuses the token \(",
    ),
    "no token": (
        lambda listeners: replace(listeners.by_token, oauth_token={}.popitem),
        "there is no token for Kafka .*KeyError",
    ),
    "an unknown authority": (unknown_authority, "certificate of the broker at .* is not trusted"),
    "another name": (
        lambda listeners: replace(
            # A way to write the address that the certificate does not have.
            listeners.by_scram,
            servers=listeners.broker.address.replace(LOOPBACK, "127.1"),
        ),
        r"a certificate of another name .*127\.1",
    ),
    "plain text to TLS": (
        lambda listeners: KafkaConnection(servers=listeners.broker.address),
        "uses TLS: set USAGELEDGER_KAFKA_SECURITY_PROTOCOL to SSL or SASL_SSL",
    ),
    "TLS to plain text": (
        lambda listeners: replace(listeners.without_certificate, servers=str(listeners.open)),
        "does not use TLS: set USAGELEDGER_KAFKA_SECURITY_PROTOCOL to PLAINTEXT",
    ),
    "no user": (
        lambda listeners: replace(listeners.without_certificate, servers=listeners.broker.address),
        "asks for a user: set USAGELEDGER_KAFKA_SECURITY_PROTOCOL to SASL_SSL",
    ),
    "a user where none is asked for": (
        lambda listeners: KafkaConnection(
            servers=str(listeners.open),
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="PLAIN",
            sasl_username="worker",
            sasl_password="worker",
        ),
        "asks for no user: set USAGELEDGER_KAFKA_SECURITY_PROTOCOL to PLAINTEXT",
    ),
    "another mechanism": (
        lambda listeners: replace(listeners.by_scram, sasl_mechanism="SCRAM-SHA-256"),
        "does not offer SCRAM-SHA-256: set USAGELEDGER_KAFKA_SASL_MECHANISM to .*SCRAM-SHA-512",
    ),
    "no client certificate": (
        lambda listeners: listeners.without_certificate,
        r"asks for a client's certificate .*set USAGELEDGER_KAFKA_SSL_CERTFILE",
    ),
    "a client certificate of another authority": (
        other_certificate,
        "refuses the client's certificate",
    ),
    "a missing file": (
        lambda listeners: replace(listeners.by_scram, sasl_password_file=Path("/nowhere")),
        "/nowhere",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_worker_reports_usage_by_each_way(listeners: Listeners, way: str) -> None:
    """Each ends as the same user, which the broker's authorizer lets write to this topic alone."""
    kafka = getattr(listeners, way)
    assert connection_problem(kafka) is None
    with closing(KafkaProducer(**kafka.for_kafka_python())) as producer:
        producer.send(Topics(PREFIX).usage, b"an event", partition=0).get(30)


def test_an_open_listener_is_no_problem(listeners: Listeners) -> None:
    assert connection_problem(listeners.open) is None


@pytest.mark.parametrize("cause", CAUSES)
def test_each_cause_has_its_own_line(listeners: Listeners, cause: str) -> None:
    made, line = CAUSES[cause]
    with pytest.raises(OperatorError, match=line) as raised:
        require_listener(made(listeners))
    assert "\n" not in str(raised.value)
    others = [other for other, (_, text) in CAUSES.items() if text != line]
    assert not any(re.search(CAUSES[other][1], str(raised.value)) for other in others)


def test_a_meter_says_why_its_events_wait(listeners: Listeners, tmp_path: Path) -> None:
    made, line = CAUSES["a wrong password"]
    assert re.search(line, why_a_meter_waits(made(listeners), tmp_path))


def test_a_meter_whose_user_may_not_write_names_the_role(
    listeners: Listeners, tmp_path: Path
) -> None:
    kafka = listeners.security.connection(listeners.broker.address, "gate")
    assert why_a_meter_waits(kafka, tmp_path) == (
        f"Kafka does not let gate write to the topic {Topics(PREFIX).usage}: grant the rights of "
        f"role worker (`usageledger acls --role worker --prefix {PREFIX}`)"
    )


def why_a_meter_waits(kafka: KafkaConnection, directory: Path) -> str:
    meter = UsageMeter(
        source="render",
        kafka=kafka,
        prefix=PREFIX,
        spool_directory=directory / "spool",
        kafka_options=IMPATIENT,
    )
    try:
        meter.record(account="acct_1", feature="chat_message", id="one")
        assert is_true_within(lambda: meter.waiting().last_error is not None, DEADLINE_S)
        return str(meter.waiting().last_error)
    finally:
        meter.close(0.1)


def test_a_subscriber_says_why_it_is_not_ready(listeners: Listeners) -> None:
    made, line = CAUSES["a wrong password"]
    subscriber = LimitSubscriber(kafka=made(listeners), prefix=PREFIX, kafka_options=IMPATIENT)
    with closing(subscriber.start()), pytest.raises(TimeoutError, match=line):
        subscriber.wait_ready(5.0)


def test_a_subscriber_without_the_right_names_the_role(listeners: Listeners) -> None:
    subscriber = LimitSubscriber(kafka=listeners.by_scram, prefix=PREFIX)
    with pytest.raises(SubscriberFailed, match="--role subscriber"), subscriber:
        pass


@pytest.mark.parametrize("command", ["doctor", "send -", "topics create", "wait-idle"])
def test_a_command_prints_the_cause(
    listeners: Listeners, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, line = CAUSES["a wrong password"]
    for name, value in settings_of(made(listeners)).items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, command.split())
    assert result.exit_code == 1
    assert re.search(line, result.output), result.output


def test_a_service_that_cannot_connect_says_why_in_its_readiness(
    listeners: Listeners, tmp_path: Path
) -> None:
    made, line = CAUSES["a wrong password"]
    port = free_port()
    telemetry = {"USAGELEDGER_TELEMETRY_PORT": str(port), "USAGELEDGER_DATA": str(tmp_path)}
    service = subprocess.Popen(
        [sys.executable, "-m", "usageledger.cli", "service", "processor"],
        env=os.environ | settings_of(made(listeners)) | telemetry,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert is_true_within(lambda: re.search(line, readiness(port)) is not None, DEADLINE_S)
    finally:
        service.kill()
        service.wait(20)


def readiness(port: int) -> str:
    try:
        answer = httpx.get(f"http://{LOOPBACK}:{port}/readyz", timeout=30)
    except httpx.TransportError:
        return ""
    assert answer.status_code == 503
    return str(answer.json()["reasons"][0])


def settings_of(kafka: KafkaConnection) -> dict[str, str]:
    redis = {"USAGELEDGER_REDIS_URL": f"redis://{LOOPBACK}:1/0", "USAGELEDGER_PREFIX": PREFIX}
    return kafka.as_environment() | redis
