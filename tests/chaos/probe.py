"""Whether events flow end to end: a canary account in every partition uses a feature all the time.

The clock starts at the call of ``UsageMeter``. It stops once when the use's entry is in the ledger,
by Kafka's own timestamp, and once when the counters have it.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from kafka import KafkaConsumer, TopicPartition

from tests.chaos.stage import PARTITIONS, PREFIX, Stage
from usageledger import UsageMeter
from usageledger.counters.connection import connect_blocking
from usageledger.counters.reading import read_heads
from usageledger.domain.chain import entry_at
from usageledger.ledger.partitioning import partition_of

SOURCE = "probe"
EVERY_S = 0.4
HEADS_EVERY_S = 0.1
FLOWING_WITHIN_S = 3.0


class Followed(NamedTuple):
    """A canary's use: when it was recorded, when its entry was appended, and when the counters had
    it.
    """

    partition: int
    sent: float
    in_ledger: float | None
    in_counters: float | None


class Probe:
    """Runs in threads of the harness, and uses none of the links between parties."""

    def __init__(self, stage: Stage, spool: Path) -> None:
        self._stage = stage
        self._accounts = [_canary(partition) for partition in range(PARTITIONS)]
        self._meter = UsageMeter(
            source=SOURCE,
            kafka=stage.kafka,
            prefix=PREFIX,
            spool_directory=spool,
            stuck_after_s=20.0,
        )
        self._sent: dict[str, tuple[int, float]] = {}
        self._landed: dict[str, tuple[int, float]] = {}
        self._flow = [0.0] * PARTITIONS
        """By partition: when the newest use was recorded of those whose entries were seen."""
        self._heads: list[list[tuple[float, int]]] = [[] for _ in range(PARTITIONS)]
        self._is_ending = threading.Event()
        self._stops_sending = threading.Event()
        self._threads = [
            threading.Thread(target=work, daemon=True)
            for work in (self._send, self._watch_ledger, self._watch_heads)
        ]

    def start(self) -> None:
        """Begin to send and to watch."""
        for thread in self._threads:
            thread.start()

    def lag_s(self) -> float:
        """The age of the newest use that reached the ledger, in the slowest partition."""
        return time.time() - min(self._flow)

    def wait_flowing(self, since: float, timeout_s: float) -> bool:
        """Wait until uses recorded after ``since`` reach the ledger without delay.

        They must do so in every partition. False if that took too long.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if min(self._flow) > since and self.lag_s() < FLOWING_WITHIN_S:
                return True
            time.sleep(0.05)
        return False

    def end(self, timeout_s: float) -> bool:
        """Stop sending, and wait until all has been sent."""
        self._stops_sending.set()
        self._threads[0].join(10.0)
        return self._meter.close(timeout_s)

    def close(self) -> None:
        """Stop watching."""
        self._stops_sending.set()
        self._is_ending.set()
        for thread in self._threads:
            thread.join(15.0)

    def followed(self) -> list[Followed]:
        """The result of each use."""
        found = []
        for id, (partition, sent) in list(self._sent.items()):
            landed = self._landed.get(id)
            counted = (
                None
                if landed is None
                else next(
                    (
                        at
                        for at, head in self._heads[partition]
                        if head > landed[0] and at >= landed[1]
                    ),
                    None,
                )
            )
            found.append(Followed(partition, sent, None if landed is None else landed[1], counted))
        return found

    def _send(self) -> None:
        number = 0
        while not self._stops_sending.wait(EVERY_S):
            number += 1
            for partition, account in enumerate(self._accounts):
                id = f"{partition}-{number}"
                self._sent[id] = (partition, time.time())
                self._meter.record(account=account, feature="genai_sound", model="mmaudio", id=id)

    def _watch_ledger(self) -> None:
        positions = dict.fromkeys(range(PARTITIONS), 0)
        while not self._is_ending.is_set():
            # A consumer may fail in any way while brokers restart: a new one goes on from there.
            with suppress(Exception):
                self._read_ledger(positions)
            self._is_ending.wait(0.3)

    def _read_ledger(self, positions: dict[int, int]) -> None:
        topic = self._stage.topics.ledger
        consumer = KafkaConsumer(
            **self._stage.kafka.for_kafka_python(),
            enable_auto_commit=False,
            fetch_max_wait_ms=100,
            reconnect_backoff_max_ms=500,
            request_timeout_ms=10_000,
            metadata_max_age_ms=5_000,
        )
        try:
            consumer.assign([TopicPartition(topic, partition) for partition in positions])
            for partition, offset in positions.items():
                consumer.seek(TopicPartition(topic, partition), offset)
            while not self._is_ending.is_set():
                for place, records in consumer.poll(timeout_ms=100).items():
                    for record in records:
                        self._note_entry(place.partition, record)
                        positions[place.partition] = record.offset + 1
        finally:
            consumer.close(autocommit=False)

    def _note_entry(self, partition: int, record: Any) -> None:
        sealed = entry_at(record.offset, record.value)
        if (
            sealed is None
            or sealed.entry.event is None
            or sealed.entry.event.source != SOURCE
            or sealed.entry.kind != "usage"
        ):
            return
        id = sealed.entry.event.id
        self._landed.setdefault(id, (record.offset, record.timestamp / 1000))
        self._flow[partition] = max(self._flow[partition], self._sent[id][1])

    def _watch_heads(self) -> None:
        while not self._is_ending.is_set():
            with suppress(Exception):  # a store that is down is asked again
                self._read_heads()
            self._is_ending.wait(HEADS_EVERY_S)

    def _read_heads(self) -> None:
        client = connect_blocking(self._stage.store.url, timeout_s=1.0)
        try:
            while not self._is_ending.wait(HEADS_EVERY_S):
                for partition, stored in read_heads(client, PREFIX, range(PARTITIONS)).items():
                    heads = self._heads[partition]
                    offset = 0 if stored is None else stored.position.next_offset
                    if not heads or heads[-1][1] != offset:
                        heads.append((time.time(), offset))
        finally:
            client.close()


def _canary(partition: int) -> str:
    accounts = (f"canary_{number}" for number in range(10_000))
    return next(
        account for account in accounts if partition_of(account.encode(), PARTITIONS) == partition
    )
