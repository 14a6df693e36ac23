"""Batches in each codec, on each topic, with each reader; and batches that cannot be read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from kafka import KafkaConsumer, TopicPartition

from tests.history_files import records_of
from tests.integration.operated import Operated
from tests.integration.test_history_service import following, reached
from tests.integration.test_limits import Running
from tests.notation import Partition
from tests.security.batches import CODECS, bomb, made_by_others, send, send_payload
from usageledger.audit.verify import verify
from usageledger.domain.catalog_document import load_shipped_catalog
from usageledger.history.tables import HISTORY_FILE
from usageledger.ledger.limit_events import limit_events
from usageledger.ledger.records import KeyedValue, Record, RecordsUnreadable
from usageledger.log.follower import TopicFollower
from usageledger.log.kafka_ledger import KafkaLedgerPartition
from usageledger.log.reading import LogUnreadable, log_reader
from usageledger.log.topics import Topics
from usageledger.operations.catalogs import catalog_event, publish_shipped
from usageledger.operations.doctor.ledger_checks import partition_findings
from usageledger.operations.lags import lag_reader
from usageledger.operations.limit_tail import TailFailed, tail
from usageledger.operations.partition_states import partition_states
from usageledger.operations.waiting import is_true_within
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.sdk.limits.errors import SubscriberFailed
from usageledger.sdk.limits.subscriber import LimitSubscriber

DEADLINE_S = 60.0
UNREADABLE = "cannot be read from offset 1 on: a zstd batch decompresses to more than"

every_codec = pytest.mark.parametrize("codec", CODECS)


def use(account: str, id_: str) -> KeyedValue:
    """A report of a chat action."""
    event = {
        "specversion": "1.0",
        "type": "usage.recorded",
        "id": id_,
        "source": "/test",
        "subject": account,
        "time": datetime.now(UTC).isoformat(),
        "data": {"feature": "genai_video", "model": "veo_3", "quantity": "1"},
    }
    return KeyedValue(account.encode(), json.dumps(event).encode())


def blocked_ledger() -> Partition:
    """Partition 0 of a ledger in which an account reaches its limit."""
    partition = Partition()
    for line in ("2026-01-03T09:00 subscribe pro", *("+1m use genai_video/veo_3",) * 9):
        partition.take(line)
    assert any(limit_events(sealed.entry) for sealed in partition.entries)
    return partition


def ledger_records() -> list[KeyedValue]:
    return [
        KeyedValue(record.key, record.value or b"")
        for record in records_of(blocked_ledger().entries)
    ]


def limit_records() -> list[KeyedValue]:
    return [
        KeyedValue(message.key, message.value)
        for sealed in blocked_ledger().entries
        for message in limit_events(sealed.entry)
    ]


@every_codec
@pytest.mark.parametrize("is_ours", [True, False], ids=["our topics", "topics made by others"])
def test_the_processor_decides_what_comes_in_each_codec(
    kafka: KafkaConnection, redis_url: str, prefix: str, codec: str, is_ours: bool
) -> None:
    if not is_ours:
        made_by_others(kafka, prefix)
    operated = Operated(kafka, redis_url, prefix)
    topics, account = Topics(prefix), operated.account_in(0)
    catalog = KeyedValue(None, catalog_event(load_shipped_catalog(), datetime.now(UTC)))
    send(kafka, topics.catalog, 0, [catalog], codec)
    send(kafka, topics.usage, 0, [use(account, f"u{n}") for n in range(100)], codec)
    send(kafka, topics.account, 0, [KeyedValue(account.encode(), b"no event " * 99)], codec)

    async def decide() -> None:
        async with operated.processor():
            await operated.until(lambda: len(decided(operated)) == 101)

    asyncio.run(decide())
    assert {topic for topic, _, _ in decided(operated)} == {"usage", "account"}
    assert any(entry.kind == "catalog_adopted" for entry in operated.entries())


@every_codec
def test_a_ledger_in_each_codec_is_read_folded_and_announced(
    kafka: KafkaConnection, prefix: str, codec: str, tmp_path: Path
) -> None:
    topics, ledger = Topics(prefix), ledger_records()
    send(kafka, topics.ledger, 0, ledger, codec)
    values = [value for _, value in ledger]
    assert read_as_owner(kafka, topics.ledger, len(ledger)) == values
    assert [record.value for record in read_all(kafka, topics.ledger)] == values
    path = tmp_path / HISTORY_FILE
    with following(kafka, prefix, path):
        assert is_true_within(lambda: reached(path, 0) == len(ledger), DEADLINE_S)
    with running_limits(kafka, prefix):
        count = len(limit_records())
        assert is_true_within(lambda: len(read_all(kafka, topics.limit)) == count, DEADLINE_S)


@every_codec
def test_limit_events_in_each_codec_reach_streams_commands_and_apps(
    kafka: KafkaConnection, prefix: str, codec: str
) -> None:
    topic, events = Topics(prefix).limit, limit_records()
    send(kafka, topic, 0, events, codec)
    assert len(read_all(kafka, topic)) == len(events)
    assert len(read_following(kafka, topic)) == len(events)
    assert len(list(tail(kafka, prefix, True, 1.0))) == len(events)
    for group in (None, "app"):
        with LimitSubscriber(kafka=kafka, prefix=prefix, group=group) as subscriber:
            assert subscriber.blocked() == {"a"}


def test_what_our_writers_compress_with_is_what_their_readers_have(
    kafka: KafkaConnection, redis_url: str, prefix: str
) -> None:
    """The ledger is in zstd, which is small; limit events in gzip, which every Python has."""
    operated, topics = Operated(kafka, redis_url, prefix), Topics(prefix)
    account = operated.account_in(0)
    publish_shipped(kafka, prefix, datetime.now(UTC))
    send(kafka, topics.usage, 0, [use(account, f"u{n}") for n in range(100)], None)

    async def decide() -> None:
        async with operated.processor():
            await operated.until(lambda: len(decided(operated)) == 100)

    asyncio.run(decide())
    with running_limits(kafka, prefix):
        assert is_true_within(lambda: bool(read_all(kafka, topics.limit)), DEADLINE_S)
    assert codecs_of(kafka, topics.ledger) == {"zstd"}
    assert codecs_of(kafka, topics.limit) == {"gzip"}


def test_an_input_that_cannot_be_read_stops_its_partition_and_no_other(
    kafka: KafkaConnection, redis_url: str, prefix: str
) -> None:
    """One batch in zstd stopped the processor for all partitions, again after each start."""
    made_by_others(kafka, prefix)
    operated, topics = Operated(kafka, redis_url, prefix), Topics(prefix)
    publish_shipped(kafka, prefix, datetime.now(UTC))
    send(kafka, topics.usage, 0, [use(operated.account_in(0), "before")], "zstd")
    send_payload(kafka, topics.usage, [0], "zstd", bomb("zstd"))
    send(kafka, topics.usage, 1, [use(operated.account_in(1), "other")], "zstd")

    why = f"{topics.usage}/0 {UNREADABLE}"

    async def decide() -> None:
        async with operated.processor():
            await operated.until(lambda: len(decided(operated)) == 2)
            await operated.until(lambda: why in told(operated))

    asyncio.run(decide())


def test_an_operator_gets_past_an_input_batch_that_cannot_be_read(
    kafka: KafkaConnection, redis_url: str, prefix: str
) -> None:
    """Nothing but deleting records of the topic had helped, and then the audit was not clean."""
    made_by_others(kafka, prefix)
    operated, topics = Operated(kafka, redis_url, prefix), Topics(prefix)
    publish_shipped(kafka, prefix, datetime.now(UTC))
    account = operated.account_in(0)
    send(kafka, topics.usage, 0, [use(account, "before")], None)
    send_payload(kafka, topics.usage, [0], "zstd", bomb("zstd"))
    send(kafka, topics.usage, 0, [use(account, "after")], "zstd")
    skip = ("processor", "skip", "--topic", "usage", "--reason", "a bomb")

    async def decide() -> Any:
        async with operated.processor():
            await operated.until(lambda: "processor skip 0@1 --topic usage" in told(operated))
            wrong = await operated.run(*skip, "0@2")
            assert (wrong.exit_code, "name 0@1" in wrong.output) == (1, True)
            skipped = await operated.json(*skip, "0@1")
            await operated.until(lambda: ("usage", 0, 2) in decided(operated))
            return skipped

    skipped = asyncio.run(decide())
    assert (skipped["kind"], skipped["reason"]) == ("skip", "a bomb")
    assert skipped["run"] == {"first_offset": 1, "records": 1, "reasons": {}}
    assert "decompresses to more than" in skipped["detail"]
    report = verify(kafka, redis_url, prefix)
    assert report.is_clean, report.differences
    assert (report.counts.inputs, report.counts.skipped_inputs) == (3, 1)


def told(operated: Operated) -> str:
    """The words of `doctor` and `status` of the partitions, by what their owners have reported."""
    with lag_reader(operated.kafka, operated.redis_url, operated.prefix) as lags:
        states = partition_states(lags.look(), lags.owner_reports())
    return "; ".join(finding.what for finding in partition_findings(states, "usageledger up"))


def test_a_ledger_that_cannot_be_read_stops_its_partition_and_no_other(
    kafka: KafkaConnection, prefix: str, tmp_path: Path
) -> None:
    topics, ledger = Topics(prefix), ledger_records()
    send(kafka, topics.ledger, 1, ledger[:1], "zstd")
    send_payload(kafka, topics.ledger, [1], "zstd", bomb("zstd"))
    send(kafka, topics.ledger, 0, ledger, "zstd")
    path = tmp_path / HISTORY_FILE
    with following(kafka, prefix, path) as health:
        assert is_true_within(lambda: reached(path, 0) == len(ledger), DEADLINE_S)
        assert is_true_within(lambda: bool(health and health[-1].stopped), DEADLINE_S)
        reasons = health[-1].report().unready
    with pytest.raises(RecordsUnreadable, match=UNREADABLE):
        read_as_owner(kafka, topics.ledger, 2, partition=1, start=1)
    with pytest.raises(LogUnreadable, match=UNREADABLE):
        read_all(kafka, topics.ledger, 1)
    assert len(reasons) == 1 and "partition 1 stopped" in reasons[0]


def test_a_ledger_that_cannot_be_announced_stops_its_partition_and_no_other(
    kafka: KafkaConnection, prefix: str
) -> None:
    topics, count = Topics(prefix), len(limit_records())
    send(kafka, topics.ledger, 0, ledger_records(), "zstd")
    send_payload(kafka, topics.ledger, [1], "zstd", bomb("zstd"))
    with running_limits(kafka, prefix) as running:
        assert is_true_within(lambda: len(read_all(kafka, topics.limit)) == count, DEADLINE_S)
        assert is_true_within(
            lambda: 1 in running.health and running.health[1].state == "stopped", DEADLINE_S
        )
        assert "cannot be read from offset 0 on: a zstd batch" in running.health[1].detail
        assert running.health[0].state == "announcing"


def test_limit_events_that_cannot_be_read_end_a_subscriber_that_says_where(
    kafka: KafkaConnection, prefix: str
) -> None:
    topic, limits = Topics(prefix).limit, limit_records()
    send(kafka, topic, 0, limits[:1], "zstd")
    send_payload(kafka, topic, [0], "zstd", bomb("zstd"))
    where = f"{topic}, partition 0, offset 1: a zstd batch decompresses to more than"
    for group in (None, "app"):
        subscriber = LimitSubscriber(kafka=kafka, prefix=prefix, group=group).start()
        with pytest.raises(SubscriberFailed, match=where):
            subscriber.wait_ready(DEADLINE_S)
    with pytest.raises(TailFailed, match=where):
        list(tail(kafka, prefix, True, 5.0))


@contextmanager
def running_limits(kafka: KafkaConnection, prefix: str) -> Iterator[Running]:
    running = Running(kafka, prefix)
    try:
        yield running
    finally:
        running.end()


def decided(operated: Operated) -> set[tuple[str, int, int]]:
    """The usage and account events that were decided."""
    places = [entry.input for entry in operated.entries() if entry.input is not None]
    return {
        (place.topic, place.partition, place.offset) for place in places if place.topic != "catalog"
    }


def read_all(kafka: KafkaConnection, topic: str, partition: int = 0) -> list[Record]:
    with log_reader(kafka) as reader:
        return list(reader.read(topic, partition, 0, reader.end_offset(topic, partition)))


def read_following(kafka: KafkaConnection, topic: str) -> list[Record]:
    """As the gateway reads limit events, the history the ledger, and a processor the catalogs."""

    async def follow() -> list[Record]:
        follower = TopicFollower(kafka, topic, client_id="test", answer_within_s=DEADLINE_S)
        async with aclosing(follower):
            bounds = await follower.connect(1)
            follower.seek(0, 0)
            found: list[Record] = []
            async with asyncio.timeout(DEADLINE_S):
                while len(found) < bounds[0].end:
                    found += (await follower.poll(500)).get(0, [])
            return found

    return asyncio.run(follow())


def read_as_owner(
    kafka: KafkaConnection, topic: str, stop: int, *, partition: int = 0, start: int = 0
) -> list[bytes | None]:
    async def read() -> list[bytes | None]:
        ledger = KafkaLedgerPartition(kafka=kafka, topic=topic, partition=partition)
        return [record.value async for chunk in ledger.read(start, stop) for record in chunk]

    return asyncio.run(read())


def codecs_of(kafka: KafkaConnection, topic: str) -> set[str]:
    """The codecs of the batches of partition 0."""
    found: set[str] = set()
    consumer = KafkaConsumer(**kafka.for_kafka_python(), auto_offset_reset="earliest")
    unpack = consumer._fetcher.PartitionRecords._unpack_records

    def noting(records: Any, place: Any, batches: Any, *more: Any) -> Any:
        data = bytes(batches._buffer)
        while data:
            found.add(("none", "gzip", "snappy", "lz4", "zstd")[data[22] & 7])
            data = data[12 + int.from_bytes(data[8:12], "big") :]
        return unpack(records, place, batches, *more)

    with patch.object(consumer._fetcher.PartitionRecords, "_unpack_records", noting):
        consumer.assign([TopicPartition(topic, 0)])
        assert is_true_within(lambda: bool(consumer.poll(timeout_ms=500)), DEADLINE_S)
    consumer.close()
    return found
