"""Measures an event's way from the broker to its owner, by `getmany` and by the record iterator.

`python -m tests.benchmarks.chunk_transport [EVENTS]` starts a broker of its own, fills one
partition, and reads it in both ways by turns, through the whole Faust app. It prints the µs of this
process's CPU per event, as the median of the turns, and the ratio. On a shared machine absolute
figures drift by a factor of two, so trust only the ratio of one run. The iterator way uses private
parts of aiokafka's fetcher.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import CorruptRecordException
from faust.types import TP
from kafka import KafkaProducer

from usageledger.ledger.records import Record
from usageledger.local.progress import Silent
from usageledger.local.servers import make_kafka, start_all
from usageledger.log.bounded_codecs import Unreadable
from usageledger.log.topics import Topics
from usageledger.operations.topics import create_topics
from usageledger.processor.feed import Fetch, TopicPartition
from usageledger.processor.transport import (
    RECORDS_PER_FETCH,
    FetchConsumer,
    FetchThread,
    FetchTransport,
    LedgerApp,
    new_app,
)
from usageledger.runtime.kafka_connection import KafkaConnection

EVENT = (
    b'{"specversion":"1.0","type":"usage.recorded","id":"gen_%012d","source":"/render",'
    b'"subject":"acct_%05d",'
    b'"time":"2026-11-22T10:15:30.250Z","recordedtime":"2026-11-22T10:15:31Z",'
    b'"datacontenttype":"application/json",'
    b'"data":{"feature":"genai_video","model":"veo_3","quantity":"1","hold_id":null,'
    b'"dimensions":{"project":"p_77"}}}'
)
TURNS = 3
DEADLINE_S = 180.0


class IteratorThread(FetchThread):
    """Takes records straight from aiokafka's Cython iterator, without a ConsumerRecord for each."""

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: set[TP],
        timeout: float | None = None,  # noqa: ASYNC109 - Faust's signature
        max_records: int | None = None,
    ) -> Mapping[TP, list[Any]]:
        if not self.consumer.flow_active or not active_partitions:
            return {}
        fetcher = consumer._fetcher
        deadline = time.monotonic() + (timeout or 0)
        with fetcher._subscriptions.fetch_context():
            while True:
                fetches = self._take_all(fetcher, active_partitions)
                left = deadline - time.monotonic()
                if fetches or left <= 0:
                    return fetches
                await asyncio.wait([fetcher._create_fetch_waiter()], timeout=left)

    def _take_all(self, fetcher: Any, active: set[TP]) -> dict[TP, list[Any]]:
        fetches: dict[TP, list[Any]] = {}
        for place in list(fetcher._records):
            result = fetcher._records[place]
            if place not in active or type(result) is not FetchResult:
                continue
            records = _unread_records(result, place)
            if not result.has_more():
                del fetcher._records[place]
                fetcher._notify(fetcher._wait_consume_future)
            if records:
                tp = TP(*place)
                self._serials[tp] += 1
                fetches[tp] = [
                    Fetch(TopicPartition(*place), self._epochs[tp], self._serials[tp], records)
                ]
        return fetches


def _unread_records(result: Any, place: TopicPartition) -> list[Record]:
    if not result.check_assignment(place) or not result.has_more():
        return []
    partition_records = result._partition_records
    batches, start = partition_records._records, partition_records.next_fetch_offset
    records: list[Record] = []
    while batches.has_next() and len(records) < RECORDS_PER_FETCH:
        batch = batches.next_batch()
        if not batch.validate_crc():
            raise CorruptRecordException(f"invalid CRC - {place}")
        if not batch.is_control_batch:
            records += [
                Record(found.offset, found.timestamp, found.key, found.value)
                for found in batch
                if found.offset >= start
            ]
        partition_records.next_fetch_offset = batch.next_offset
    result._update_position()
    if not batches.has_next():
        result._partition_records = None
    return records


class IteratorConsumer(FetchConsumer):
    def _new_consumer_thread(self) -> FetchThread:
        return IteratorThread(self, loop=self.loop, beacon=self.beacon)


class IteratorTransport(FetchTransport):
    Consumer = IteratorConsumer


class FromTheStart:
    """Owners without a backlog: every partition flows from offset 0 as soon as it is assigned."""

    def __init__(self, app: LedgerApp) -> None:
        self._app = app
        self._flowing: set[TopicPartition] = set()
        self._begin: asyncio.Task[None] | None = None

    def on_assigned(self, places: set[TopicPartition]) -> None:
        self._begin = asyncio.get_running_loop().create_task(self._rewind(places))

    async def _rewind(self, places: set[TopicPartition]) -> None:
        consumer = self._app.consumer
        assert isinstance(consumer, FetchConsumer)
        await consumer.rewind(dict.fromkeys(places, 0), 1)
        self._flowing = places

    async def on_revoked(self) -> None:
        self._flowing = set()

    def is_flowing(self, place: TopicPartition) -> bool:
        return place in self._flowing

    def on_unreadable(self, place: TopicPartition, found: Unreadable) -> None:
        raise AssertionError(f"{place} cannot be read: {found}")

    def on_truncated(self, place: TopicPartition, offset: int) -> None:
        raise AssertionError(f"{place} has no offset {offset}")


async def read_all(
    kafka: KafkaConnection, topics: Topics, group: str, events: int, transport: type[FetchTransport]
) -> tuple[float, float]:
    """Read every event once. Return the µs of CPU and of wall clock per event.

    They are measured from the first chunk to the last.
    """
    seen = 0
    first: tuple[float, float] | None = None
    finished = asyncio.Event()

    def on_fetch(fetch: Fetch, ack: Callable[[], object]) -> None:
        nonlocal seen, first
        if first is None:
            first = time.process_time(), time.perf_counter()
            seen -= len(fetch.records)
        seen += len(fetch.records)
        ack()
        if fetch.records[-1].offset + 1 >= events:
            finished.set()

    app = new_app(
        kafka=kafka, group=group, topics=[topics.usage, topics.account], on_fetch=on_fetch
    )
    app.transport = transport(app.conf.broker_consumer, app)
    app.assignments = FromTheStart(app)
    starting = asyncio.create_task(app.start())
    await asyncio.wait_for(finished.wait(), DEADLINE_S)
    assert first is not None
    cpu_us, wall_us = (
        (now - then) / seen * 1e6
        for now, then in zip((time.process_time(), time.perf_counter()), first, strict=True)
    )
    await app.stop()
    await starting
    return cpu_us, wall_us


def produce(kafka: KafkaConnection, topic: str, events: int) -> None:
    producer = KafkaProducer(**kafka.for_kafka_python(), linger_ms=20, batch_size=256 * 1024)
    for number in range(events):
        producer.send(
            topic,
            key=b"acct_%05d" % (number % 5_000),
            value=EVENT % (number, number % 5_000),
            partition=0,
        )
    producer.flush(timeout=120)
    producer.close(timeout=10)


def main() -> None:
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 300_000
    ways: dict[str, type[FetchTransport]] = {
        "getmany": FetchTransport,
        "iterator": IteratorTransport,
    }
    figures: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as directory:
        broker = make_kafka(Path(directory), "packages")
        start_all([broker], Silent())
        try:
            create_topics(KafkaConnection(servers=broker.address), "bench", partitions=1)
            topics = Topics("bench")
            produce(KafkaConnection(servers=broker.address), topics.usage, events)
            groups = count()
            for _ in range(TURNS):
                for way, transport in ways.items():
                    figures[way].append(
                        asyncio.run(
                            read_all(
                                KafkaConnection(servers=broker.address),
                                topics,
                                f"bench{next(groups)}",
                                events,
                                transport,
                            )
                        )
                    )
        finally:
            broker.stop(10)
    medians = {way: statistics.median(cpu for cpu, _ in turns) for way, turns in figures.items()}
    for way, turns in figures.items():
        each = ", ".join(f"{cpu:.2f}" for cpu, _ in turns)
        wall = statistics.median(wall for _, wall in turns)
        print(
            f"{way:9} {medians[way]:5.2f} µs of CPU an event (turns: {each}), {1e6 / wall:,.0f} "
            "events a second"
        )
    dearer_us = medians["getmany"] - medians["iterator"]
    print(
        f"getmany costs {medians['getmany'] / medians['iterator']:.2f} times the iterator: "
        f"{dearer_us:+.2f} µs an event"
    )


if __name__ == "__main__":
    main()
