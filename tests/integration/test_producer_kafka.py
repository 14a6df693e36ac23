"""The producer SDK on a real broker: every recorded event arrives, whatever happens to the worker
and to the broker.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from tests.worlds.producer_fakes import in_child
from usageledger import AccountClient, CommandFailed, UsageMeter
from usageledger.domain.events import AccountSubscribed, UsageRecorded, UsageVoided
from usageledger.ledger.decoding import decode_account, decode_usage
from usageledger.ledger.partitioning import partition_of
from usageledger.ledger.records import Record
from usageledger.local.kafka_server import KafkaServer
from usageledger.local.progress import Silent
from usageledger.local.servers import start_all
from usageledger.log.reading import log_reader
from usageledger.log.topics import Topics
from usageledger.operations.topics import create_topics
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.sdk.producer.sender import SenderSettings

DEADLINE_S = 60.0
PARTITIONS = 2


def read(kafka: KafkaConnection, topic: str) -> dict[int, list[Record]]:
    """All records that a topic has now, by partition."""
    with log_reader(kafka) as reader:
        return {
            partition: list(reader.read(topic, partition, 0, reader.end_offset(topic, partition)))
            for partition in range(PARTITIONS)
        }


def values(kafka: KafkaConnection, topic: str) -> list[dict[str, Any]]:
    return [
        json.loads(record.value or b"")
        for records in read(kafka, topic).values()
        for record in records
    ]


def ids(kafka: KafkaConnection, prefix: str) -> list[str]:
    return [event["id"] for event in values(kafka, Topics(prefix).usage)]


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about in {DEADLINE_S} s"
        time.sleep(0.05)


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[KafkaServer]:
    """A broker of this test's own, which it may stop and start again on the same port."""
    server = KafkaServer(tmp_path / "kafka", tmp_path / "logs")
    start_all([server], Silent())
    try:
        yield server
    finally:
        server.stop(20)


@contextmanager
def worker(script: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A worker in a process of its own, which prints its progress."""
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *(path for path in sys.path if path)])
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(20)
        assert process.stdout is not None
        process.stdout.close()


def test_events_are_in_order_on_their_accounts_partition_and_decode(
    kafka: KafkaConnection, prefix: str, tmp_path: Path
) -> None:
    accounts = [f"acct_{number}" for number in range(20)]
    with UsageMeter(source="render", kafka=kafka, prefix=prefix, spool_directory=tmp_path) as meter:
        for number in range(25):
            for account in accounts:
                meter.record(
                    account=account,
                    feature="genai_video",
                    model="veo_3",
                    quantity="1.5",
                    id=f"{account}/{number}",
                )
        assert meter.flush(DEADLINE_S)
        assert meter.waiting().count == 0
    seen: dict[str, list[str]] = {account: [] for account in accounts}
    for partition, records in read(kafka, Topics(prefix).usage).items():
        for record in records:
            assert record.key is not None
            assert partition_of(record.key, PARTITIONS) == partition
            event = decode_usage(record, partition, PARTITIONS)
            assert isinstance(event, UsageRecorded), event
            seen[event.account].append(event.id)
    assert seen == {
        account: [f"{account}/{number}" for number in range(25)] for account in accounts
    }
    assert list(tmp_path.rglob("*.segment")) == []


def test_commands_are_in_the_account_topic_when_they_return(
    kafka: KafkaConnection, prefix: str, tmp_path: Path
) -> None:
    with AccountClient(source="billing", kafka=kafka, prefix=prefix) as client:
        client.subscribe("acct_1", "pro", time_zone="Europe/Berlin", id="evt_1")
        [subscribed] = values(kafka, Topics(prefix).account)
        assert subscribed["id"] == "evt_1"
        client.void_usage("acct_1", "render", "gen_1", "black frames")
    with UsageMeter(source="render", kafka=kafka, prefix=prefix, spool_directory=tmp_path) as meter:
        meter.void(account="acct_1", id="gen_2", reason="black frames")
        assert meter.flush(DEADLINE_S)
    decoded = [
        decode_account(record, partition, PARTITIONS)
        for partition, records in read(kafka, Topics(prefix).account).items()
        for record in records
    ]
    assert [type(event) for event in decoded] == [AccountSubscribed, UsageVoided, UsageVoided]


def test_a_command_for_a_ledger_that_is_not_there_fails_and_may_be_repeated(
    kafka: KafkaConnection,
) -> None:
    """The error says how long the topic was looked for: less than a command may take."""
    with (
        AccountClient(source="billing", kafka=kafka, prefix="nowhere") as client,
        pytest.raises(CommandFailed, match=r"Failed to update metadata after 5\.0 secs") as caught,
    ):
        client.cancel("acct_1")
    assert caught.value.retriable


@pytest.mark.parametrize("killed_after", [1, 300])
def test_a_worker_killed_while_it_sends_loses_nothing_that_it_recorded(
    kafka: KafkaConnection, prefix: str, tmp_path: Path, killed_after: int
) -> None:
    script = """
import itertools, os
from usageledger import UsageMeter
meter = UsageMeter(
    source="render",
    kafka=os.environ["K"],
    prefix=os.environ["P"],
    spool_directory=os.environ["S"],
)
for number in itertools.count():
    account, id = f"acct_{number % 7}", f"gen_{number}"
    print(meter.record(account=account, feature="genai_image", id=id), flush=True)
"""
    with worker(script, K=str(kafka), P=prefix, S=str(tmp_path)) as process:
        assert process.stdout is not None
        recorded = [process.stdout.readline().strip() for _ in range(killed_after)]
        process.send_signal(signal.SIGKILL)
        recorded += [line.strip() for line in process.stdout if line.endswith("\n")]
    with UsageMeter(source="render", kafka=kafka, prefix=prefix, spool_directory=tmp_path) as meter:
        assert meter.flush(DEADLINE_S)
    assert set(recorded) <= set(ids(kafka, prefix))


def test_events_recorded_while_the_broker_is_down_arrive_when_it_is_back(
    own_kafka: KafkaServer, tmp_path: Path
) -> None:
    """The broker is killed with events on their way, stays away while more are recorded, and comes
    back.
    """
    kafka = own_kafka.connection
    create_topics(kafka, "", partitions=PARTITIONS)
    recorded: list[str] = []

    def record(meter: UsageMeter, count: int) -> None:
        for _ in range(count):
            id = f"gen_{len(recorded)}"
            recorded.append(
                meter.record(account=f"acct_{len(recorded) % 5}", feature="genai_image", id=id)
            )

    with UsageMeter(
        source="render", kafka=kafka, spool_directory=tmp_path / "spool", stuck_after_s=5.0
    ) as meter:
        record(meter, 2_000)
        until(lambda: meter.waiting().count < 2_000, "a first acknowledgement")
        assert own_kafka.pid is not None
        os.kill(own_kafka.pid, signal.SIGKILL)
        until(lambda: own_kafka.exit_code is not None, "the broker's end")
        record(meter, 1_000)
        assert not meter.flush(0.5)
        until(lambda: meter.waiting().last_error is not None, "a reason")
        assert meter.waiting().count >= 1_000
        own_kafka.prepare()
        start_all([own_kafka], Silent())
        assert meter.flush(DEADLINE_S), meter.waiting()
        assert meter.waiting().last_error is None
    found = ids(kafka, "")
    assert set(found) == set(recorded)


def test_a_connection_that_is_stuck_is_replaced_without_waiting_for_it(
    own_kafka: KafkaServer, tmp_path: Path
) -> None:
    """The broker is frozen with events on their way. kafka-python waits; the meter gives its
    producer up, and sends the same ids again.
    """
    kafka = own_kafka.connection
    create_topics(kafka, "", partitions=PARTITIONS)
    assert own_kafka.pid is not None
    with UsageMeter(
        source="render", kafka=kafka, spool_directory=tmp_path / "spool", stuck_after_s=1.0
    ) as meter:
        meter.record(account="acct_1", feature="genai_image", id="before")
        assert meter.flush(DEADLINE_S)
        os.kill(own_kafka.pid, signal.SIGSTOP)
        try:
            for number in range(100):
                meter.record(account="acct_1", feature="genai_image", id=f"gen_{number}")
            until(
                lambda: "no acknowledgement" in (meter.waiting().last_error or ""),
                "the replacement",
            )
        finally:
            os.kill(own_kafka.pid, signal.SIGCONT)
        assert meter.flush(DEADLINE_S), meter.waiting()
    assert set(ids(kafka, "")) == {"before", *(f"gen_{number}" for number in range(100))}
    until(
        lambda: not [thread for thread in threading.enumerate() if "network-thread" in thread.name],
        "the end of the old producers",
    )


def test_what_waits_when_the_process_ends_is_sent_before_it_does(
    kafka: KafkaConnection, prefix: str, tmp_path: Path
) -> None:
    """kafka-python closes its producers at the end of the process too. The meter must have sent
    before that.
    """
    script = """
import os
from usageledger import UsageMeter
meter = UsageMeter(
    source="render",
    kafka=os.environ["K"],
    prefix=os.environ["P"],
    spool_directory=os.environ["S"],
    exit_timeout_s=30.0,
)
meter.record(account="acct_1", feature="genai_image", id="first")
assert meter.flush(30.0)
for number in range(5_000):
    meter.record(account="acct_1", feature="genai_image", id=f"gen_{number}")
"""
    with worker(script, K=str(kafka), P=prefix, S=str(tmp_path)) as process:
        assert process.wait(DEADLINE_S) == 0
    assert ids(kafka, prefix) == ["first", *(f"gen_{number}" for number in range(5_000))]
    assert list(tmp_path.rglob("*.segment")) == []


def test_events_for_topics_that_are_not_there_yet_wait_for_them(
    kafka: KafkaConnection, tmp_path: Path
) -> None:
    prefix = f"late{os.getpid()}"
    with UsageMeter(source="render", kafka=kafka, prefix=prefix, spool_directory=tmp_path) as meter:
        meter.record(account="acct_1", feature="genai_image", id="gen_1")
        until(lambda: meter.waiting().last_error is not None, "a reason")
        create_topics(kafka, prefix, partitions=PARTITIONS)
        assert meter.flush(DEADLINE_S)
    assert ids(kafka, prefix) == ["gen_1"]


def test_an_event_above_the_brokers_limit_is_parked_until_the_limit_is_raised(
    kafka: KafkaConnection, prefix: str, tmp_path: Path
) -> None:
    set_message_bytes_max(kafka, Topics(prefix).usage, 2_000)
    settings = SenderSettings(unpark_every_s=2.0)
    with UsageMeter(
        source="render",
        kafka=kafka,
        prefix=prefix,
        spool_directory=tmp_path,
        sender_settings=settings,
    ) as meter:
        for number in range(20):
            dimensions = {"prompt": "x" * 5_000} if number == 7 else None
            meter.record(
                account="acct_1", feature="genai_image", id=f"gen_{number}", dimensions=dimensions
            )
        others = [f"gen_{number}" for number in range(20) if number != 7]
        until(lambda: meter.waiting().parked == 1, "the parking of the event that is too large")
        until(lambda: list(dict.fromkeys(ids(kafka, prefix))) == others, "the others, in order")
        set_message_bytes_max(kafka, Topics(prefix).usage, 1 << 20)
        until(lambda: "gen_7" in ids(kafka, prefix), "the arrival of the event")
        until(lambda: meter.waiting().parked + meter.waiting().count == 0, "its acknowledgement")


def test_processes_forked_from_one_that_reports_report_on_their_own(
    kafka: KafkaConnection, prefix: str, tmp_path: Path
) -> None:
    """The parent has a connection and a thread when it forks, as gunicorn does with preload."""
    meter = UsageMeter(source="render", kafka=kafka, prefix=prefix, spool_directory=tmp_path)
    meter.record(account="acct_1", feature="genai_image", id="before")
    assert meter.flush(DEADLINE_S)

    def work(name: str) -> None:
        for number in range(50):
            meter.record(account="acct_1", feature="genai_image", id=f"{name}_{number}")
        assert meter.close(DEADLINE_S)

    for name in ("a", "b", "c"):
        assert in_child(partial(work, name), deadline_s=DEADLINE_S) == 0
    meter.record(account="acct_1", feature="genai_image", id="after")
    assert meter.close(DEADLINE_S)
    every = ["before", *(f"{name}_{number}" for name in "abc" for number in range(50)), "after"]
    assert ids(kafka, prefix) == every


def set_message_bytes_max(kafka: KafkaConnection, topic: str, bytes_max: int) -> None:
    with KafkaAdminClient(**kafka.for_kafka_python()) as admin:
        admin.alter_configs(
            [
                ConfigResource(
                    ConfigResourceType.TOPIC, topic, configs={"max.message.bytes": str(bytes_max)}
                )
            ]
        )
