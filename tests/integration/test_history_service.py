"""The history as a service, on a real Kafka: killed halfway, its file deleted, the ledger created
again under it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from kafka import KafkaProducer

from tests.benchmarks.made_up_ledger import make_ledger
from tests.history_files import content, folded, records_of
from tests.notation import Partition
from usageledger.domain.chain import SealedEntry
from usageledger.history.reading import HistoryAbsent, reach_of
from usageledger.history.service import HistoryHealth, run_history
from usageledger.history.tables import HISTORY_FILE, throw_away
from usageledger.ledger.records import Record
from usageledger.local.ports import free_port
from usageledger.local.stack import Stack
from usageledger.log.topics import Topics
from usageledger.operations.kafka_probe import admin_client
from usageledger.operations.topics import create_topics
from usageledger.operations.waiting import is_true_within
from usageledger.runtime.kafka_connection import KafkaConnection

DEADLINE_S = 60.0
START = "2026-01-03T09:00"


def test_killed_in_the_middle_again_and_again_it_has_each_entry_once(
    kafka: KafkaConnection, redis_url: str, prefix: str, tmp_path: Path
) -> None:
    records = make_ledger(30_000, accounts=300).log.records
    path = tmp_path / "gateway" / HISTORY_FILE
    appending = threading.Thread(target=append, args=(kafka, prefix, 0, records))
    appending.start()
    killed_at: list[int] = []
    for _ in range(4):
        before = reached(path, 0)
        with service(kafka, redis_url, prefix, tmp_path) as process:
            assert is_true_within(partial(has_moved, path, before), DEADLINE_S)
            process.send_signal(signal.SIGKILL)
            process.wait(DEADLINE_S)
        killed_at.append(reached(path, 0))
        if killed_at[-1] == len(records):
            break
    appending.join(DEADLINE_S)
    with service(kafka, redis_url, prefix, tmp_path) as process:
        assert is_true_within(lambda: reached(path, 0) == len(records), DEADLINE_S)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
    assert killed_at[0] < len(records), "a kill after all is done proves nothing"
    assert content_of(path) == content(folded(records, [len(records)]))


def test_a_file_that_is_taken_away_is_built_anew(
    kafka: KafkaConnection, prefix: str, tmp_path: Path
) -> None:
    records = records_of(decided(f"{START} subscribe max", "+1h use chat_action"))
    append(kafka, prefix, 0, records)
    path = tmp_path / HISTORY_FILE
    with following(kafka, prefix, path):
        assert is_true_within(lambda: reached(path, 0) == len(records), DEADLINE_S)
        before = content_of(path)
        throw_away(path)
        assert is_true_within(lambda: reached(path, 0) == len(records), DEADLINE_S)
        assert content_of(path) == before


def test_a_ledger_made_anew_has_a_history_of_its_own(
    kafka: KafkaConnection, prefix: str, tmp_path: Path
) -> None:
    old = records_of(
        decided(f"{START} subscribe max", *(f"+1m use chat_action {n}" for n in range(1, 20)))
    )
    new = records_of(decided(f"{START} subscribe pro", "+1h use ai_edit"))
    append(kafka, prefix, 0, old)
    path = tmp_path / HISTORY_FILE
    with following(kafka, prefix, path):
        assert is_true_within(lambda: reached(path, 0) == len(old), DEADLINE_S)
    make_anew(kafka, prefix)
    append(kafka, prefix, 0, new)
    with following(kafka, prefix, path):
        assert is_true_within(lambda: reached(path, 0) == len(new), DEADLINE_S)
    assert content_of(path) == content(folded(new, [1]))


def test_another_ledger_is_known_though_it_is_the_longer_one(
    kafka: KafkaConnection, prefix: str, tmp_path: Path
) -> None:
    old = records_of(decided(f"{START} subscribe max", "+1h use chat_action"))
    new = records_of(
        decided(f"{START} subscribe pro", *(f"+1m use chat_action {n}" for n in range(1, 9)))
    )
    append(kafka, prefix, 0, old)
    path = tmp_path / HISTORY_FILE
    with following(kafka, prefix, path):
        assert is_true_within(lambda: reached(path, 0) == len(old), DEADLINE_S)
    make_anew(kafka, prefix)
    append(kafka, prefix, 0, new)
    with following(kafka, prefix, path):
        assert is_true_within(lambda: reached(path, 0) == len(new), DEADLINE_S)
    assert content_of(path) == content(folded(new, [1]))


def test_bytes_that_are_no_entry_are_passed_over(
    kafka: KafkaConnection, prefix: str, tmp_path: Path
) -> None:
    first = records_of(decided(f"{START} subscribe max"))
    more = records_of(decided(f"{START} subscribe max", "+1h use chat_action"))
    append(kafka, prefix, 0, first)
    append(kafka, prefix, 1, [Record(0, 0, b"a", b"this is no entry")])
    path = tmp_path / HISTORY_FILE
    with following(kafka, prefix, path) as health:
        append(kafka, prefix, 0, more[len(first) :])
        assert is_true_within(lambda: reached(path, 0) == len(more), DEADLINE_S)
        assert is_true_within(lambda: reached(path, 1) == 1, DEADLINE_S)
        assert is_true_within(lambda: bool(health) and not health[-1].stopped, DEADLINE_S)


def test_a_broker_that_goes_away_is_reported_and_waited_for(redis_url: str, tmp_path: Path) -> None:
    stack = Stack(tmp_path / "stack", redis=redis_url, partitions=2, services={})
    kafka = stack.start().kafka
    try:
        records = records_of(decided(f"{START} subscribe max", "+1h use chat_action"))
        append(kafka, "", 0, records[:2])
        path = tmp_path / HISTORY_FILE
        with following(kafka, "", path) as health:
            assert is_true_within(lambda: reached(path, 0) == 2, DEADLINE_S)
            broker = broker_of(stack)["pid"]
            os.kill(broker, signal.SIGSTOP)
            assert is_true_within(
                lambda: "Kafka has not answered" in trouble_of(health), DEADLINE_S
            )
            os.kill(broker, signal.SIGCONT)
            assert is_true_within(lambda: not trouble_of(health), DEADLINE_S)
            os.kill(broker, signal.SIGKILL)
            assert is_true_within(
                lambda: (
                    broker_of(stack)["restarts"] == 1 and broker_of(stack)["state"] == "running"
                ),
                DEADLINE_S,
            )
            append(kafka, "", 0, records[2:])
            assert is_true_within(lambda: reached(path, 0) == len(records), DEADLINE_S)
    finally:
        stack.stop()


def test_the_service_reports_its_readiness_and_figures(
    kafka: KafkaConnection, redis_url: str, prefix: str, tmp_path: Path
) -> None:
    append(kafka, prefix, 0, records_of(decided(f"{START} subscribe max")))
    forged = records_of(decided(f"{START} subscribe pro", "+1h use chat_action"))[-1]
    port = free_port()
    with service(
        kafka, redis_url, prefix, tmp_path, {"USAGELEDGER_TELEMETRY_PORT": str(port)}
    ) as process:
        address = f"http://127.0.0.1:{port}"
        assert is_true_within(lambda: status_of(f"{address}/readyz") == 200, DEADLINE_S)
        assert is_true_within(
            lambda: b"usageledger_history_entries_total 2.0" in body_of(f"{address}/metrics"),
            DEADLINE_S,
        )
        assert json.loads(body_of(f"{address}/healthz")) == {"status": "ok", "service": "history"}
        append(kafka, prefix, 0, [forged])
        assert is_true_within(lambda: status_of(f"{address}/readyz") == 503, DEADLINE_S)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0


def test_without_a_ledger_the_service_says_what_to_do(
    kafka: KafkaConnection, redis_url: str, tmp_path: Path
) -> None:
    with service(kafka, redis_url, "nobody", tmp_path) as process:
        assert process.wait(DEADLINE_S) == 1
        assert process.stderr is not None
        assert "there is no topic nobody.ledger.entries.v1" in process.stderr.read()


# How


def decided(*lines: str) -> Sequence[SealedEntry]:
    partition = Partition()
    for line in lines:
        partition.take(line)
    return partition.entries


def append(kafka: KafkaConnection, prefix: str, partition: int, records: Sequence[Record]) -> None:
    """Append records to a ledger partition as the processor would. Nobody else appends, so each
    gets the offset that it names.
    """
    producer = KafkaProducer(**kafka.for_kafka_python(), acks="all", linger_ms=20)
    for record in records:
        producer.send(
            Topics(prefix).ledger, value=record.value, key=record.key, partition=partition
        )
    producer.flush(DEADLINE_S)
    producer.close()


def make_anew(kafka: KafkaConnection, prefix: str) -> None:
    topic = Topics(prefix).ledger
    with closing(admin_client(kafka)) as admin:
        admin.delete_topics([topic])
        assert is_true_within(lambda: topic not in admin.list_topics(), DEADLINE_S)
    assert is_true_within(lambda: topic in create_topics(kafka, prefix, partitions=2), DEADLINE_S)


def reached(path: Path, partition: int) -> int:
    try:
        return reach_of(path).get(partition, 0)
    except HistoryAbsent:
        return 0


def has_moved(path: Path, since: int) -> bool:
    return reached(path, 0) > since


def content_of(path: Path) -> dict[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(path)) as database:
        return content(database)


@contextmanager
def service(
    kafka: KafkaConnection,
    redis_url: str,
    prefix: str,
    data: Path,
    more: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """`usageledger service history`, killed at the end if it still runs."""
    own = {"KAFKA": str(kafka), "REDIS_URL": redis_url, "PREFIX": prefix, "DATA": str(data)}
    environment = (
        os.environ
        | {f"USAGELEDGER_{name}": value for name, value in own.items()}
        | dict(more or {})
    )
    command = [sys.executable, "-m", "usageledger.cli", "service", "history"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait(DEADLINE_S)
        if process.stderr is not None:
            process.stderr.close()


def broker_of(stack: Stack) -> dict[str, Any]:
    """Return the status of the stack's Kafka."""
    found: dict[str, Any] = next(
        each for each in stack.status()["services"] if each["name"] == "kafka"
    )
    return found


def trouble_of(health: Sequence[HistoryHealth]) -> str:
    return (health[-1].trouble or "") if health else "it has said nothing yet"


@contextmanager
def following(kafka: KafkaConnection, prefix: str, path: Path) -> Iterator[list[HistoryHealth]]:
    """The service in a thread, and every health report that it makes."""
    stop, loop = asyncio.Event(), asyncio.new_event_loop()
    health: list[HistoryHealth] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            loop.run_until_complete(
                run_history(
                    kafka=kafka, prefix=prefix, path=path, stop=stop, on_health=health.append
                )
            )
        except BaseException as error:  # noqa: BLE001 - the test's own thread raises it
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield health
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
        loop.close()
    assert failures == []


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE_S) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def body_of(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=DEADLINE_S) as response:
        return bytes(response.read())
