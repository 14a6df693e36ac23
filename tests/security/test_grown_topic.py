"""A topic of a running ledger is given more partitions.

Clients with Kafka's default partitioner then send an account's events elsewhere. The usage of 92 of
300 accounts was never decided, and the audit said CLEAN.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer
from kafka.admin import NewPartitions
from typer.testing import CliRunner, Result

from tests.servers import RunningGateway, running_gateway
from usageledger import UsageGate, UsageMeter
from usageledger.audit.verify import verify
from usageledger.cli import app
from usageledger.local.addresses import Addresses
from usageledger.local.daemon import read_status
from usageledger.log.topics import Topics
from usageledger.operations.kafka_probe import admin_client
from usageledger.operations.topics import go_live
from usageledger.runtime.kafka_connection import KafkaConnection

DEADLINE_S = 120.0
ACCOUNTS = [f"acct-{n}" for n in range(60)]


@pytest.fixture
def ledger(tmp_path: Path, kafka: KafkaConnection, redis_url: str) -> Iterator[RunningGateway]:
    """A ledger of two partitions with every service of the stack, which the test may ruin."""
    with running_gateway(tmp_path, kafka, redis_url) as found:
        yield found


def grow(addresses: Addresses, topic: str, partitions: int) -> None:
    with admin_client(addresses.kafka) as admin:
        admin.create_partitions({topic: NewPartitions(partitions)})


def report_uses(addresses: Addresses, id_: str) -> None:
    """Report a use for each account with kafka-python's own partitioner, as a new worker would."""
    producer = KafkaProducer(**addresses.kafka.for_kafka_python())
    with closing(producer):
        for account in ACCOUNTS:
            event = {
                "specversion": "1.0",
                "type": "usage.recorded",
                "id": id_,
                "source": "/render",
                "subject": account,
                "time": datetime.now(UTC).isoformat(),
                "data": {"feature": "genai_video", "model": "veo_3", "quantity": "1"},
            }
            producer.send(
                Topics(addresses.prefix).usage,
                key=account.encode(),
                value=json.dumps(event).encode(),
            )
        producer.flush(timeout=60)


def gate_of(addresses: Addresses, prefix: str) -> UsageGate:
    return UsageGate(
        kafka=addresses.kafka,
        redis_url=addresses.redis_url,
        prefix=prefix,
        source="/render",
        on_unavailable="deny",
    )


def run(addresses: Addresses, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--data", str(addresses.data)])


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come about in time"
        time.sleep(0.5)


def unready_of(url: str) -> str:
    """The answer of a service's readyz while it is not ready; empty once it is."""
    try:
        urllib.request.urlopen(f"{url}/readyz", timeout=10).close()
    except urllib.error.HTTPError as answer:
        return answer.read().decode()
    return ""


def test_a_grown_topic_stops_every_service_and_no_usage_is_forgotten(
    ledger: RunningGateway,
) -> None:
    addresses, topics = ledger.addresses, Topics(ledger.addresses.prefix)
    report_uses(addresses, "before")
    assert run(addresses, "wait-idle").exit_code == 0
    with closing(gate_of(addresses, addresses.prefix)) as gate:
        assert gate.hold(ACCOUNTS[0], "h1", "genai_video", "veo_3")

    grow(addresses, topics.usage, 5)
    services: dict[str, str] = read_status(addresses.data)["telemetry"]
    for name in ("processor", "limits", "history"):
        wait_until(lambda: f"{topics.usage} has 5" in unready_of(services[name]))  # noqa: B023
    wait_until(lambda: "partition_counts" in unready_of(addresses.gateway))

    report_uses(addresses, "after")

    def are_reported_as_stopped() -> bool:
        status: dict[str, Any] = json.loads(run(addresses, "status", "--json").stdout)
        assert f"{topics.usage} has 5" in status["partition_counts_differ"]
        states = {each["partition"]: each["state"] for each in status["partitions"]}
        return [states[partition] for partition in range(2)] == ["stopped", "stopped"]

    wait_until(are_reported_as_stopped)
    idle = run(addresses, "wait-idle", "--timeout", "1")
    assert idle.exit_code == 1
    assert f"60 input records have no entry ({topics.usage} partitions " in idle.output

    audit = run(addresses, "audit", "verify")
    assert audit.exit_code == 1
    assert "the ledger was made with 2 partitions, and " in audit.output
    report = verify(addresses.kafka, addresses.redis_url, addresses.prefix)
    assert report.counts.inputs == len(ACCOUNTS)
    assert {topic for topic, _ in report.uncovered} == {topics.usage}
    assert max(partition for _, partition in report.uncovered) >= 2
    assert report.undecided_inputs == len(ACCOUNTS)

    doctor = run(addresses, "doctor")
    assert doctor.exit_code == 1
    assert "60 input records have no entry" in doctor.output

    is_copied_into_another_number_of_partitions(addresses)


def is_copied_into_another_number_of_partitions(addresses: Addresses) -> None:
    new = f"{addresses.prefix}-3"
    reshard = ("reshard", "--to-prefix", new, "--partitions", "3")
    copied = run(addresses, *reshard)
    assert copied.exit_code == 0, copied.output
    assert "copied from 2 partitions into 3: inputs 60, catalogs 1" in copied.output
    assert "the same in both ledgers: accounts 60, open holds 1" in copied.output
    assert "not decided by the old ledger, and sent afterwards: inputs 60" in copied.output
    assert f"USAGELEDGER_PREFIX={new} usageledger go-live" in copied.output

    again = run(addresses, *reshard)
    assert again.exit_code == 1
    assert "Only an empty ledger can be filled. Name another --to-prefix" in again.output

    report = verify(addresses.kafka, addresses.redis_url, new)
    assert (report.is_clean, report.counts.inputs, report.accounts) == (True, 120, len(ACCOUNTS))
    assert go_live(addresses.kafka, new)
    with closing(gate_of(addresses, new)) as gate:
        check = gate.check(ACCOUNTS[0], "genai_video", "veo_3")
        assert (check.remaining, check.available) == (Decimal(136), Decimal(104))


@pytest.mark.parametrize("topic", ["account", "ledger", "limit"])
def test_a_service_that_starts_on_a_grown_topic_says_so(ledger: RunningGateway, topic: str) -> None:
    addresses = ledger.addresses
    report_uses(addresses, "before")
    assert run(addresses, "wait-idle").exit_code == 0
    grow(addresses, getattr(Topics(addresses.prefix), topic), 5)
    services: dict[str, str] = read_status(addresses.data)["telemetry"]
    for name in ("processor", "limits", "history"):
        wait_until(lambda: " has 5" in unready_of(services[name]))  # noqa: B023
    report = verify(addresses.kafka, addresses.redis_url, addresses.prefix)
    assert (report.is_clean, report.counts.inputs) == (False, len(ACCOUNTS))


def test_a_meter_keeps_the_usage_of_a_topic_that_has_grown(
    tmp_path: Path, kafka: KafkaConnection, prefix: str
) -> None:
    meter = UsageMeter(
        kafka=kafka,
        source="/render",
        prefix=prefix,
        spool_directory=tmp_path,
        kafka_options={"metadata_max_age_ms": 500},
    )
    with closing(meter):
        meter.record(account="acct-1", feature="genai_video", model="veo_3", id="u1")
        assert meter.flush(DEADLINE_S)
        with admin_client(kafka) as admin:
            admin.create_partitions({Topics(prefix).usage: NewPartitions(5)})
        count = 1

        def is_kept() -> bool:
            nonlocal count
            count += 1
            meter.record(account="acct-1", feature="genai_video", model="veo_3", id=f"u{count}")
            return "has 5 partitions, and had 2" in (meter.waiting().last_error or "")

        wait_until(is_kept)
        assert meter.waiting().count > 0
