"""The whole flow: SDKs, processor and limits consumer as processes, on a real Kafka and Redis."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from usageledger import AccountClient, LimitSubscriber, UsageMeter
from usageledger.accounts.balances import AccountReader
from usageledger.audit.verify import AuditReport, verify
from usageledger.counters.connection import connect_blocking
from usageledger.domain.balance import Balance
from usageledger.ledger.partitioning import partition_of
from usageledger.log.reading import entries_in, log_reader
from usageledger.log.topics import Topics
from usageledger.operations.audit_verdict import verdict_line
from usageledger.operations.catalogs import publish_shipped
from usageledger.operations.idleness import wait_until_idle
from usageledger.operations.lags import lag_reader
from usageledger.runtime.kafka_connection import KafkaConnection

pytestmark = pytest.mark.timeout(180)

CREDIT = 1_000_000
PARTITIONS = 2
DEADLINE_S = 90.0


class Ledger:
    """One ledger with its services running; ``kill`` and ``start`` expect the name of a service."""

    def __init__(
        self, kafka: KafkaConnection, redis_url: str, prefix: str, directory: Path
    ) -> None:
        self.kafka, self.redis_url, self.prefix = kafka, redis_url, prefix
        self._directory = directory
        self._services: dict[str, subprocess.Popen[bytes]] = {}
        publish_shipped(kafka, prefix, datetime.now(UTC))

    def start(self, name: str) -> None:
        environment = os.environ | {
            "USAGELEDGER_KAFKA": str(self.kafka),
            "USAGELEDGER_REDIS_URL": self.redis_url,
            "USAGELEDGER_PREFIX": self.prefix,
        }
        command = [sys.executable, "-m", "usageledger.cli", "service", name]
        with (self._directory / f"{name}.log").open("ab") as log:
            self._services[name] = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log
            )

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        self._services[name].send_signal(number)
        self._services[name].wait(20)

    def restart(self, name: str, number: int = signal.SIGKILL) -> None:
        self.kill(name, number)
        self.start(name)

    def end(self) -> None:
        for service in self._services.values():
            service.kill()
            service.wait(20)

    def wait_until_idle(self) -> None:
        with lag_reader(self.kafka, self.redis_url, self.prefix) as reader:
            lags = wait_until_idle(reader.look, DEADLINE_S)
        logs = {path.name: path.read_text()[-2_000:] for path in self._directory.glob("*.log")}
        assert lags.is_idle, f"{lags.waiting}\n{logs}"

    def balance(self, account: str) -> Balance:
        redis = connect_blocking(self.redis_url)
        try:
            with log_reader(self.kafka) as reader:
                return AccountReader(reader, redis, self.prefix).balance(account).balance
        finally:
            redis.close()

    def audit(self) -> AuditReport:
        return verify(self.kafka, self.redis_url, self.prefix)

    def reasons(self) -> list[str]:
        """Why records were refused: one reason for each record, also of a run."""
        topic = Topics(self.prefix).ledger
        with log_reader(self.kafka) as reader:
            return [
                reason
                for partition in range(PARTITIONS)
                for sealed in entries_in(
                    reader.read(topic, partition, 0, reader.end_offset(topic, partition))
                )
                if sealed.entry.kind == "refusal"
                for reason, count in (
                    {sealed.entry.reason or "": 1}
                    if sealed.entry.run is None
                    else sealed.entry.run.reasons
                ).items()
                for _ in range(count)
            ]

    @contextmanager
    def meter(self) -> Iterator[UsageMeter]:
        spool = self._directory / "spool"
        with UsageMeter(
            source="render", kafka=self.kafka, prefix=self.prefix, spool_directory=spool
        ) as meter:
            yield meter
            assert meter.flush(60.0)


@pytest.fixture
def ledger(kafka: KafkaConnection, redis_url: str, prefix: str, tmp_path: Path) -> Iterator[Ledger]:
    running = Ledger(kafka, redis_url, prefix, tmp_path)
    try:
        running.start("processor")
        running.start("limits")
        yield running
    finally:
        running.end()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.05)


@pytest.mark.docker_backend
def test_an_account_that_runs_out_is_stopped_and_an_upgrade_frees_it(ledger: Ledger) -> None:
    announced: list[tuple[str, str | None]] = []
    subscriber = LimitSubscriber(kafka=ledger.kafka, prefix=ledger.prefix)
    subscriber.on_threshold(
        lambda event: announced.append(("threshold", event.upgrade.plan if event.upgrade else None))
    )
    subscriber.on_reached(
        lambda event: announced.append(("reached", event.upgrade.plan if event.upgrade else None))
    )
    subscriber.on_cleared(lambda event: announced.append(("cleared", None)))
    with (
        subscriber,
        ledger.meter() as meter,
        AccountClient(source="billing", kafka=ledger.kafka, prefix=ledger.prefix) as billing,
    ):
        billing.subscribe("acct_1", "pro")
        ledger.wait_until_idle()
        for n in range(7):
            meter.record(account="acct_1", feature="genai_video", model="veo_3", id=f"gen_{n}")
        until(lambda: subscriber.is_blocked("acct_1"))
        billing.change_plan("acct_1", "max")
        until(lambda: not subscriber.is_blocked("acct_1"))
        until(lambda: len(announced) == 3)
    assert announced == [("threshold", "max"), ("reached", "max"), ("cleared", None)]
    ledger.wait_until_idle()
    balance = ledger.balance("acct_1")
    assert (balance.plan.id, balance.allotment, balance.used, balance.remaining) == (
        "max",
        500 * CREDIT,
        224 * CREDIT,
        276 * CREDIT,
    )
    assert not balance.is_blocked
    assert balance.by_feature == {"genai_video": 224 * CREDIT}
    report = ledger.audit()
    assert report.is_clean, verdict_line(report)
    assert (report.counts.inputs, report.limit_events, report.accounts) == (9, 3, 1)


def test_killed_services_and_an_emptied_redis_neither_lose_nor_double_an_event(
    ledger: Ledger,
) -> None:
    """300 events of 2 credits, every tenth sent twice, while each service is killed in turn."""
    faults: dict[int, Callable[[], None]] = {
        60: lambda: ledger.restart("processor"),
        120: lambda: ledger.restart("limits"),
        180: lambda: _empty(ledger),
        240: lambda: ledger.restart("processor", signal.SIGTERM),
    }
    with ledger.meter() as meter:
        for n in range(300):
            faults.get(n, lambda: None)()
            for _ in range(2 if n % 10 == 0 else 1):
                meter.record(account=f"acct_{n % 20}", feature="chat_message", id=f"gen_{n}")
            time.sleep(0.02)
    ledger.wait_until_idle()
    assert [ledger.balance(f"acct_{n}").used for n in range(20)] == [30 * CREDIT] * 20
    report = ledger.audit()
    assert report.is_clean, verdict_line(report)
    assert (report.counts.inputs, report.counts.duplicate_inputs, report.counts.refused_inputs) == (
        330,
        30,
        0,
    )


@pytest.mark.peer_defect("OpenMeter sink")
def test_every_bad_input_is_refused_with_its_reason_and_the_partition_goes_on(
    ledger: Ledger,
) -> None:
    good = {
        "specversion": "1.0",
        "type": "usage.recorded",
        "id": "gen_1",
        "source": "render",
        "subject": "acct_1",
        "time": datetime.now(UTC).isoformat(),
        "data": {"feature": "chat_message", "quantity": "1"},
    }
    bad: list[tuple[str, bytes | None]] = [
        ("empty_record", None),
        ("empty_record", b""),
        ("not_json", b"{oops"),
        ("not_json", b"\xff\xfe"),
        ("not_a_cloudevent", b"[1]"),
        ("not_a_cloudevent", _changed(good, specversion="0.3")),
        ("unknown_type", _changed(good, type="account.subscribed")),
        ("invalid_event", _changed(good, time="2026-11-24T10:00:00")),
        ("invalid_event", _changed(good, data={"feature": "chat_message", "quantity": 1.5})),
        ("invalid_event", _changed(good, data={"feature": "chat_message", "quantity": "-1"})),
        (
            "invalid_event",
            _changed(good, data={"feature": "chat_message", "quantity": "0.1234567"}),
        ),
        (
            "invalid_event",
            _changed(good, data={"feature": "chat_message", "quantity": "1" + "0" * 30}),
        ),
        ("wrong_key", _changed(good, subject="acct_2")),
        ("dated_in_the_future", _changed(good, time="2999-01-01T00:00:00Z")),
        ("too_old", _changed(good, time="2020-01-01T00:00:00Z")),
        ("unknown_feature", _changed(good, data={"feature": "smell", "quantity": "1"})),
        (
            "unknown_model",
            _changed(good, data={"feature": "genai_video", "model": "veo_9", "quantity": "1"}),
        ),
        (
            "record_too_large",
            _changed(
                good,
                data={
                    "feature": "chat_message",
                    "quantity": "1",
                    "dimensions": {"x": "y" * 70_000},
                },
            ),
        ),
    ]
    producer = KafkaProducer(**ledger.kafka.for_kafka_python())
    topic = Topics(ledger.prefix).usage
    try:
        for _, value in bad:
            producer.send(topic, value=value, key=b"acct_1")
        producer.send(
            topic,
            value=json.dumps(good).encode(),
            key=b"acct_1",
            partition=1 - partition_of(b"acct_1", PARTITIONS),
        )
        producer.send(topic, value=json.dumps(good).encode(), key=b"acct_1")
        producer.send(topic, value=json.dumps(good).encode(), key=b"acct_1")
        producer.send(
            topic,
            value=_changed(good, data={"feature": "chat_message", "quantity": "2"}),
            key=b"acct_1",
        )
        producer.flush(30)
    finally:
        producer.close()
    ledger.wait_until_idle()
    expected = [reason for reason, _ in bad] + [
        "wrong_partition",
        "id_reused_with_different_content",
    ]
    assert sorted(ledger.reasons()) == sorted(expected)
    assert ledger.balance("acct_1").used == 2 * CREDIT
    report = ledger.audit()
    assert report.is_clean, verdict_line(report)
    counts = report.counts
    assert (counts.inputs, counts.refused_inputs, counts.duplicate_inputs) == (
        len(bad) + 4,
        len(expected),
        1,
    )


def _changed(event: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps({**event, **changes}).encode()


def _empty(ledger: Ledger) -> None:
    """Delete this ledger's keys, as a FLUSHALL would; other tests' ledgers share the Redis."""
    redis = connect_blocking(ledger.redis_url)
    try:
        until(
            lambda: any(redis.scan_iter(match=f"{{{ledger.prefix}:*"))
        )  # the processor may still be on its way back
        redis.delete(*redis.scan_iter(match=f"{{{ledger.prefix}:*"))
    finally:
        redis.close()
