"""The input topics, and the consumer that feeds a worker's owners from them.

Its chunks arrive late, twice, in another order, or never.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TypeVar

from tests.simulation.network import Disconnected, Link, Network, Server
from tests.simulation.scheduler import Process
from usageledger.ledger.records import Bounds, LedgerError, Record
from usageledger.log.topics import Topics
from usageledger.processor.feed import Fetch, PartitionFeed, TopicPartition
from usageledger.processor.inputs import InputBuffer

T = TypeVar("T")

TOPICS = Topics()
ASK_TIMEOUT_S = 10.0
POLL_S = 5.0


class InputTopic:
    """One partition of an input. Offsets can be missing, as where producers use transactions."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    @property
    def end_offset(self) -> int:
        return self.records[-1].offset + 1 if self.records else 0

    def record_at_or_after(self, offset: int) -> Record | None:
        """The first record at ``offset`` or beyond."""
        found = self.records_from(offset, 1)
        return found[0] if found else None

    def records_from(self, offset: int, limit: int) -> list[Record]:
        """Up to ``limit`` records, in order."""
        start = bisect_left(self.records, offset, key=lambda record: record.offset)
        return self.records[start : start + limit]


@dataclass(slots=True)
class FeedFaults:
    """The probability of each fault of a fetch, and how long a fetch can take."""

    chunk_lost: float = 0.0
    chunk_repeated: float = 0.0
    chunks_swapped: float = 0.0
    records_lost: float = 0.0
    fetch_s: float = 0.0


@dataclass(slots=True, eq=False)
class _Flow:
    epoch: int
    next_offset: int
    serial: int = 0
    withheld: Fetch | None = None


class Consumer:
    """A worker's `FetchSource` and `Offsets`."""

    def __init__(
        self,
        network: Network,
        kafka: Server,
        process: Process,
        topics: Mapping[TopicPartition, InputTopic],
        random: Random,
        faults: FeedFaults,
    ) -> None:
        self._network = network
        self._kafka = kafka
        self._process = process
        self._topics = topics
        self._random = random
        self._faults = faults
        self._count: Counter[str] = network.faults
        self._feeds: dict[TopicPartition, tuple[PartitionFeed, InputBuffer]] = {}
        self._flows: dict[TopicPartition, _Flow] = {}
        self._paused: set[TopicPartition] = set()
        self._ends: dict[TopicPartition, int] = {}
        self._lost_at: set[tuple[TopicPartition, int]] = set()
        self.woken = asyncio.Event()

    def add(self, feed: PartitionFeed, inputs: InputBuffer) -> None:
        for topic_partition in feed.topic_partitions.values():
            self._feeds[topic_partition] = (feed, inputs)

    async def rewind(self, positions: Mapping[TopicPartition, int], epoch: int) -> None:
        await self._ask(lambda: None)
        for topic_partition, offset in positions.items():
            self._flows[topic_partition] = _Flow(epoch, offset)
            self._paused.discard(topic_partition)
        self.woken.set()

    def known_end_offset(self, topic_partition: TopicPartition) -> int | None:
        return self._ends.get(topic_partition)

    def end_before_marks(self, topic_partition: TopicPartition, end: int) -> int:
        return end

    def pause(self, topic_partition: TopicPartition) -> None:
        self._paused.add(topic_partition)

    def resume(self, topic_partition: TopicPartition) -> None:
        self._paused.discard(topic_partition)
        self.woken.set()

    def note_decided(self, topic_partition: TopicPartition, next_offset: int) -> None: ...

    async def bounds(self, topic_partitions: Sequence[TopicPartition]) -> Sequence[Bounds]:
        return await self._ask(
            lambda: [
                Bounds(0, self._topics[topic_partition].end_offset)
                for topic_partition in topic_partitions
            ]
        )

    async def end_offset(self, topic_partition: TopicPartition) -> int:
        return await self._ask(lambda: self._topics[topic_partition].end_offset)

    async def run(self) -> None:
        """Fetch for as long as the worker runs. Raises FetchLost where the worker must end."""
        while True:
            self.woken.clear()
            came = [
                await self._fetch(topic_partition, flow)
                for topic_partition, flow in list(self._flows.items())
                if topic_partition not in self._paused
            ]
            if not any(came):
                try:
                    async with asyncio.timeout(POLL_S):
                        await self.woken.wait()
                except TimeoutError:
                    continue

    async def _fetch(self, topic_partition: TopicPartition, flow: _Flow) -> bool:
        if self._faults.fetch_s and self._random.random() < 0.3:
            await asyncio.sleep(self._random.random() * self._faults.fetch_s)
        limit = self._random.choice((1, 2, 5, 30, 500))
        try:
            end, records = await self._ask(
                partial(self._read, topic_partition, flow.next_offset, limit)
            )
        except LedgerError:
            await asyncio.sleep(0.2)
            return True
        if self._flows.get(topic_partition) is flow:
            self._ends[topic_partition] = end
        if records:
            flow.next_offset = records[-1].offset + 1
            flow.serial += 1
            self._deliver(
                Fetch(
                    topic_partition,
                    flow.epoch,
                    flow.serial,
                    self._records_left(topic_partition, records),
                ),
                flow,
            )
        return bool(records)

    def _read(
        self, topic_partition: TopicPartition, offset: int, limit: int
    ) -> tuple[int, list[Record]]:
        topic = self._topics[topic_partition]
        return topic.end_offset, topic.records_from(offset, limit)

    def _deliver(self, fetch: Fetch, flow: _Flow) -> None:
        faults, fate = self._faults, self._random.random()
        withheld, flow.withheld = flow.withheld, None
        if fate < faults.chunk_lost:
            self._count["feed: chunk lost"] += 1
        elif fate < faults.chunk_lost + faults.chunk_repeated:
            self._count["feed: chunk repeated"] += 1
            self._hand_over(fetch)
            self._hand_over(fetch)
        elif (
            withheld is None
            and fate < faults.chunk_lost + faults.chunk_repeated + faults.chunks_swapped
        ):
            self._count["feed: chunks swapped"] += 1
            flow.withheld = fetch
        else:
            self._hand_over(fetch)
        if withheld is not None:
            self._hand_over(withheld)

    def _hand_over(self, fetch: Fetch) -> None:
        feed, inputs = self._feeds[fetch.topic_partition]
        feed.accept(fetch, inputs, lambda: None)

    def _records_left(self, topic_partition: TopicPartition, records: list[Record]) -> list[Record]:
        """The records, perhaps without one of them. The same record is never left out twice.

        A record that is missing again when it is read anew counts as missing in the topic.
        """
        lost = self._random.randrange(len(records))
        if (
            self._random.random() >= self._faults.records_lost
            or len(records) < 2
            or (topic_partition, records[lost].offset) in self._lost_at
        ):
            return records
        self._lost_at.add((topic_partition, records[lost].offset))
        self._count["feed: record lost"] += 1
        return records[:lost] + records[lost + 1 :]

    async def _ask(self, question: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                return await self._network.send(Link(self._kafka, self._process), question)
        except (TimeoutError, Disconnected) as error:
            raise LedgerError(f"Kafka did not answer: {error!r}") from error
