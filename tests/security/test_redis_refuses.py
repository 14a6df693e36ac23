"""A Redis that is full, read-only or silent is named; nobody guesses and nobody claims in a loop.

A client that fills Redis, or an operator's failover, can bring each of these about.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from tests.servers import RunningGateway, running_gateway
from tests.valkey_server import ValkeyServer, running_valkey
from usageledger import AsyncUsageGate, UsageGate, UsageMeter
from usageledger.audit.verify import verify
from usageledger.cli import app
from usageledger.domain.claim import decode_claim
from usageledger.local.daemon import read_status
from usageledger.local.ports import LOOPBACK, free_port
from usageledger.log.reading import log_reader
from usageledger.log.topics import Topics
from usageledger.operations.waiting import is_true_within
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.sdk.gate.answers import CheckAnswer, HoldAnswer

DEADLINE_S = 90.0
OUTAGE_S = 6.0
"""An owner that claims again with each failure would do so six times in this time."""

ACCOUNTS = [f"acct-{n}" for n in range(12)]
USE: dict[str, Any] = {"feature": "genai_video", "model": "veo_3"}


@contextmanager
def full(server: ValkeyServer) -> Iterator[None]:
    with server.client() as client:
        client.config_set("maxmemory", "100kb")
        try:
            yield
        finally:
            client.config_set("maxmemory", 0)


@contextmanager
def read_only(server: ValkeyServer) -> Iterator[None]:
    with server.client() as client:
        client.replicaof(LOOPBACK, str(free_port()))
        try:
            yield
        finally:
            client.replicaof("NO", "ONE")


@contextmanager
def silent(server: ValkeyServer) -> Iterator[None]:
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


Outage = Callable[[ValkeyServer], AbstractContextManager[None]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with running_valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="module")
def ledger(
    tmp_path_factory: pytest.TempPathFactory, kafka: KafkaConnection, store: ValkeyServer
) -> Iterator[RunningGateway]:
    """A ledger of two partitions with every service, on a Redis that the tests may ruin."""
    with running_gateway(tmp_path_factory.mktemp("ledger"), kafka, store.url) as found:
        yield found


def report_uses(ledger: RunningGateway, id_: str) -> None:
    """Report a use of 32 credits for each account."""
    where = ledger.addresses
    spool = where.data / "meter"
    with UsageMeter(
        kafka=where.kafka, source="/render", prefix=where.prefix, spool_directory=spool
    ) as meter:
        for account in ACCOUNTS:
            meter.record(account=account, id=id_, quantity=1, **USE)


def claims(ledger: RunningGateway) -> list[int]:
    """How many claims each partition of the ledger has."""
    topic = Topics(ledger.addresses.prefix).ledger
    with log_reader(ledger.addresses.kafka) as reader:
        return [
            sum(
                decode_claim(record.value) is not None
                for record in reader.read(topic, partition, 0, reader.end_offset(topic, partition))
            )
            for partition in range(2)
        ]


def readiness(url: str) -> dict[str, Any]:
    """The answer of a service's readyz, with its status."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=30) as answer:
            return {"http_status": 200, **json.loads(answer.read())}
    except urllib.error.HTTPError as error:
        return {"http_status": error.code, **json.loads(error.read())}


def run(ledger: RunningGateway, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--data", str(ledger.addresses.data)])


def ask(ledger: RunningGateway, what: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(
        f"{ledger.url}/v1/accounts/{ACCOUNTS[0]}/{what}",
        json=body,
        headers={"Authorization": f"Bearer {ledger.key}"},
        timeout=30,
    )


def check_answers(ledger: RunningGateway, cause: str, *, reads_work: bool) -> None:
    """A check is a read; a hold is a write. Whatever cannot be answered follows on_unavailable."""
    where = ledger.addresses
    direct: dict[str, Any] = {
        "kafka": where.kafka, "redis_url": where.redis_url, "prefix": where.prefix,
    }  # fmt: skip
    over_http: dict[str, Any] = {"gateway": ledger.url, "key": ledger.key, "timeout_s": 30.0}
    for options in (direct, over_http):
        with UsageGate(on_unavailable="deny", **options) as gate:
            check, hold = gate.check(ACCOUNTS[0], **USE), gate.hold(ACCOUNTS[0], "h", **USE)
        assert (check.allowed, check.degraded) == (reads_work, not reads_work)
        assert (hold.allowed, hold.degraded, hold.reason) == (False, True, "unavailable")

    async def ask_async() -> tuple[CheckAnswer, HoldAnswer]:
        async with AsyncUsageGate(on_unavailable="allow", **direct) as gate:
            check = await gate.check(ACCOUNTS[0], **USE)
            return check, await gate.hold(ACCOUNTS[0], "h", **USE)

    check, hold = asyncio.run(ask_async())
    assert (check.allowed, check.degraded) == (True, not reads_work)
    assert (hold.allowed, hold.degraded) == (True, True)

    for answer in (
        *([] if reads_work else [ask(ledger, "check", USE)]),
        ask(ledger, "holds", {"id": "h", **USE}),
    ):
        assert (answer.status_code, answer.json()["code"], answer.json()["cause"]) == (
            503, "counters_unavailable", cause,
        )  # fmt: skip
        assert answer.headers["Retry-After"]


@pytest.mark.parametrize(
    ("outage", "cause", "sentence"),
    [
        (full, "full", "Redis is full and writes nothing"),
        (read_only, "read_only", "Redis is a read-only replica"),
        (silent, "slow", "Redis does not answer in time"),
    ],
)
def test_a_redis_that_refuses_is_named_and_each_use_is_counted_once(
    ledger: RunningGateway, store: ValkeyServer, outage: Outage, cause: str, sentence: str
) -> None:
    """Each partition claimed every five seconds, and `status` said that no processor had it."""
    reads_work = cause != "slow"
    report_uses(ledger, f"{cause}-before")
    assert run(ledger, "wait-idle").exit_code == 0
    before = claims(ledger)
    services: dict[str, str] = read_status(ledger.addresses.data)["telemetry"]
    with outage(store):
        began_s = time.monotonic()
        report_uses(ledger, f"{cause}-meanwhile")
        check_answers(ledger, cause, reads_work=reads_work)
        assert is_true_within(
            lambda: f"2 partitions wait: {sentence}" in str(readiness(services["processor"])),
            DEADLINE_S,
        )
        at_gateway = readiness(ledger.url)
        assert at_gateway["causes"] == {"redis": cause}
        assert at_gateway["http_status"] == (200 if reads_work else 503)
        status = json.loads(run(ledger, "status", "--json").stdout)
        assert status["redis_trouble"]["cause"] == cause
        assert sentence in status["redis_trouble"]["what"]
        assert "no_owner" not in str(status["partitions"])
        if reads_work:  # a silent Redis lets each of its questions wait
            doctor = run(ledger, "doctor")
            assert doctor.exit_code == 1
            assert sentence in doctor.output
            assert "have no owner" not in doctor.output
        time.sleep(max(0.0, OUTAGE_S - (time.monotonic() - began_s)))
    assert run(ledger, "wait-idle").exit_code == 0
    assert max(after - first for after, first in zip(claims(ledger), before, strict=True)) <= 1
    where = ledger.addresses
    report = verify(where.kafka, where.redis_url, where.prefix)
    assert (report.is_clean, report.counts.duplicate_inputs) == (True, 0)
    assert is_true_within(
        lambda: readiness(services["processor"])["http_status"] == 200, DEADLINE_S
    )
