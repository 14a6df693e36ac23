"""A ledger of several partitions in memory, with its owners as they are live."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from usageledger.counters.holding import Hold, PlaceHold
from usageledger.counters.memory import MemoryView
from usageledger.domain.catalog_document import catalog_document, load_shipped_catalog
from usageledger.domain.chain import SealedEntry, entry_at
from usageledger.ledger.partitioning import partition_of
from usageledger.ledger.records import Record
from usageledger.ledger.timestamps import milliseconds
from usageledger.log.memory import MemoryLedgerPartition, MemoryLog
from usageledger.log.topics import Topics
from usageledger.operations.event_file import Input
from usageledger.processor.catalog_log import CatalogLog
from usageledger.processor.inputs import InputBuffer, Source
from usageledger.processor.owner import PartitionOwner
from usageledger.sdk.producer.publisher import Done

DEADLINE_S = 30.0


class MemoryLedger:
    """See `deciding.LedgerPorts`. ``partitions`` is the count of the ledger's claims."""

    def __init__(self, prefix: str, partitions: int) -> None:
        self.topics = Topics(prefix)
        self.partitions = partitions
        self.records: dict[tuple[str, int], list[Record]] = defaultdict(list)
        self.logs = [MemoryLog() for _ in range(partitions)]
        self.views = [MemoryView() for _ in range(partitions)]
        self.garbles: set[bytes] = set()
        """The values of inputs of which a broken broker keeps other bytes."""

    @property
    def reader(self) -> MemoryLedger:
        return self

    def start_offset(self, topic: str, partition: int) -> int:
        return 0

    def end_offset(self, topic: str, partition: int) -> int:
        found = self._of(topic, partition)
        return found[-1].offset + 1 if found else 0

    def read(self, topic: str, partition: int, start: int, stop: int) -> Iterator[Record]:
        yield from [
            record for record in self._of(topic, partition) if start <= record.offset < stop
        ]

    def _of(self, topic: str, partition: int) -> list[Record]:
        if topic == self.topics.ledger:
            return self.logs[partition].records
        return self.records[topic, partition]

    def append(
        self, topic: str, partition: int, key: bytes | None, value: bytes, at_ms: int
    ) -> None:
        there = self.records[topic, partition]
        there.append(Record(len(there), at_ms, key, value))

    def ledger(self, partition: int) -> MemoryLedgerPartition:
        return MemoryLedgerPartition(self.logs[partition])

    def view(self, partition: int) -> MemoryView:
        return self.views[partition]

    def connect(self, input: Input) -> MemoryPublisher:
        return MemoryPublisher(self, self.topics.usage if input == "usage" else self.topics.account)

    def publish_catalog(self, value: bytes) -> None:
        self.append(self.topics.catalog, 0, None, value, 0)

    async def open_holds(self, partition: int) -> dict[tuple[str, str], Hold]:
        return {
            key: hold for key, hold in self.views[partition].holds.items() if hold.state == "open"
        }

    async def place_hold(
        self, partition: int, account: str, id: str, hold: Hold, seen: bytes | None
    ) -> None:
        self.views[partition].ask(
            PlaceHold(
                account=account,
                seen=seen,
                remaining=2**52,
                id=id,
                credits=hold.credits,
                life_ms=hold.counts_until_ms - time.time_ns() // 1_000_000,
                content=hold.content,
                holder=hold.holder,
            )
        )

    def entries(self) -> list[SealedEntry]:
        return [
            sealed
            for log in self.logs
            for record in log.records
            if (sealed := entry_at(record.offset, record.value)) is not None
        ]

    def decided(self) -> int:
        """How many input records have an entry."""
        return len(
            {
                (address.topic, address.partition, offset)
                for sealed in self.entries()
                if (address := sealed.entry.input) is not None and address.topic != "catalog"
                for offset in sealed.entry.input_offsets
            }
        )


class MemoryPublisher:
    """See `record_sender.RecordPublisher`."""

    def __init__(self, ledger: MemoryLedger, topic: str) -> None:
        self._ledger = ledger
        self._topic = topic

    def send(
        self,
        key: bytes | None,
        value: bytes,
        done: Done,
        *,
        partition: int | None,
        timestamp_ms: int | None,
    ) -> None:
        assert partition is not None
        assert timestamp_ms is not None
        kept = b"garbled" if value in self._ledger.garbles else value
        self._ledger.append(self._topic, partition, key, kept, timestamp_ms)
        done(None)

    def close(self) -> None: ...


class LiveLedger(MemoryLedger):
    """A ledger whose owners run as in production: the wall clock says which accounts are due."""

    def __init__(self, prefix: str, partitions: int) -> None:
        super().__init__(prefix, partitions)
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.topic_partitions = partitions
        """How many partitions the usage topic has; it may have grown."""
        self._catalogs = CatalogLog()
        self._feeds: list[_Feed] = []
        self._count = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self._feeds = [_Feed(self, partition) for partition in range(self.partitions)]
        owners = [
            PartitionOwner(
                partition=feed.partition,
                partition_count=self.partitions,
                ledger=self.ledger(feed.partition),
                view=self.view(feed.partition),
                inputs=feed.buffer,
                catalogs=self._catalogs,
                worker="worker",
                is_importing=lambda: False,
                now=lambda: self.now,
                new_ledger_id=lambda: "old",
            )
            for feed in self._feeds
        ]
        tasks = [asyncio.create_task(owner.run()) for owner in owners]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._feeds = []

    def publish(self, **changes: Any) -> None:
        """Publish the shipped catalog with changes, and have it adopted."""
        document = {**catalog_document(load_shipped_catalog()), **changes}
        event = {
            "specversion": "1.0",
            "type": "catalog.published",
            "id": document["version"],
            "source": "/catalog",
            "data": document,
        }
        self.publish_catalog(json.dumps(event).encode())
        self._catalogs.put(self.records[self.topics.catalog, 0][-1:])

    def send(
        self,
        type_: str,
        time: str,
        account: str,
        *,
        event_id: str | None = None,
        appended: str | None = None,
        **data: Any,
    ) -> None:
        """Append an event at ``appended`` (its own time unless given)."""
        self._count += 1
        event = {
            "specversion": "1.0",
            "type": type_,
            "id": event_id or f"event-{self._count}",
            "source": "/test",
            "subject": account,
            "time": time,
            "data": data,
        }
        is_usage = type_ == "usage.recorded"
        key = account.encode()
        count = self.topic_partitions if is_usage else self.partitions
        self.append(
            self.topics.usage if is_usage else self.topics.account,
            partition_of(key, count),
            key,
            json.dumps(event).encode(),
            milliseconds(datetime.fromisoformat(appended or time)),
        )

    def use(self, time: str, account: str, *, quantity: str = "1", **rest: Any) -> None:
        """Append a use of a video model, 32 credits a generation."""
        data = {"feature": "genai_video", "model": "veo_3", **rest}
        self.send("usage.recorded", time, account, quantity=quantity, **data)

    async def settle(self, now: str | None = None) -> None:
        """Have everything decided that was sent, and every account that is due by ``now``."""
        if now is not None:
            self.now = datetime.fromisoformat(now)
        for feed in self._feeds:
            feed.feed()
        due_ms = milliseconds(self.now) - 1_000

        def is_settled() -> bool:
            heads = [view.stored_head for view in self.views]
            return (
                all(feed.is_decided for feed in self._feeds)
                and None not in heads
                and all(due > due_ms for view in self.views for due in view.due_ms.values())
            )

        async with asyncio.timeout(DEADLINE_S):
            while not is_settled():  # noqa: ASYNC110 - it waits for any state of the world
                await asyncio.sleep(0.005)


class _Feed:
    """An `InputControl` over one partition of the live ledger's topics."""

    def __init__(self, ledger: LiveLedger, partition: int) -> None:
        self.partition = partition
        self.buffer = InputBuffer(self)
        self._ledger = ledger
        self._topics = {Source.USAGE: ledger.topics.usage, Source.ACCOUNT: ledger.topics.account}
        self._fed: dict[Source, int] = {}
        self._decided: dict[Source, int] = {}

    @property
    def is_decided(self) -> bool:
        ends = {source: self._end(source) for source in Source}
        return self._decided == ends

    def feed(self) -> None:
        for source, position in self._fed.items():
            records: Sequence[Record] = self._ledger.records[self._topics[source], self.partition]
            self.buffer.put(source, records[position:])
            self._fed[source] = len(records)

    def _end(self, source: Source) -> int:
        return self._ledger.end_offset(self._topics[source], self.partition)

    async def seek(self, positions: dict[Source, int]) -> None:
        self._fed, self._decided = dict(positions), dict(positions)
        self.feed()

    async def end_offset(self, source: Source) -> int:
        return self._fed.get(source, 0)

    def known_end_offset(self, source: Source) -> int | None:
        return self._fed.get(source)

    def acknowledge(self, source: Source, next_offset: int) -> None:
        self._decided[source] = next_offset

    def pause(self, source: Source) -> None: ...

    def resume(self, source: Source) -> None: ...
