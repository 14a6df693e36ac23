"""The input topics, and the consumer that feeds a worker's owners from them: chunks that come late,
twice, in another order, or never.
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
from usageledger.processor.feed import Chunk, PartitionFeed, Place
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

    def at_or_after(self, offset: int) -> Record | None:
        """The first record there or beyond."""
        found = self.from_(offset, 1)
        return found[0] if found else None

    def from_(self, offset: int, limit: int) -> list[Record]:
        """Some records, in order."""
        start = bisect_left(self.records, offset, key=lambda record: record.offset)
        return self.records[start : start + limit]


@dataclass(slots=True)
class FeedFaults:
    """How likely it is that a chunk meets each misfortune, and how long a fetch can take."""

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
    withheld: Chunk | None = None


class Consumer:
    """A worker's `ChunkSource` and `Offsets`."""

    def __init__(
        self,
        network: Network,
        kafka: Server,
        process: Process,
        topics: Mapping[Place, InputTopic],
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
        self._feeds: dict[Place, tuple[PartitionFeed, InputBuffer]] = {}
        self._flows: dict[Place, _Flow] = {}
        self._held: set[Place] = set()
        self._ends: dict[Place, int] = {}
        self._lost_at: set[tuple[Place, int]] = set()
        self.woken = asyncio.Event()

    def add(self, feed: PartitionFeed, inputs: InputBuffer) -> None:
        for place in feed.places.values():
            self._feeds[place] = (feed, inputs)

    async def rewind(self, positions: Mapping[Place, int], epoch: int) -> None:
        await self._asked(lambda: None)
        for place, offset in positions.items():
            self._flows[place] = _Flow(epoch, offset)
            self._held.discard(place)
        self.woken.set()

    def known_end_offset(self, place: Place) -> int | None:
        return self._ends.get(place)

    def end_before_marks(self, place: Place, end: int) -> int:
        return end

    def hold(self, place: Place) -> None:
        self._held.add(place)

    def release(self, place: Place) -> None:
        self._held.discard(place)
        self.woken.set()

    def decided(self, place: Place, next_offset: int) -> None: ...

    async def bounds(self, places: Sequence[Place]) -> Sequence[Bounds]:
        return await self._asked(
            lambda: [Bounds(0, self._topics[place].end_offset) for place in places]
        )

    async def end_offset(self, place: Place) -> int:
        return await self._asked(lambda: self._topics[place].end_offset)

    async def run(self) -> None:
        """Fetch for as long as the worker runs. Raises ChunkLost where the worker must end."""
        while True:
            self.woken.clear()
            came = [
                await self._fetch(place, flow)
                for place, flow in list(self._flows.items())
                if place not in self._held
            ]
            if not any(came):
                try:
                    async with asyncio.timeout(POLL_S):
                        await self.woken.wait()
                except TimeoutError:
                    continue

    async def _fetch(self, place: Place, flow: _Flow) -> bool:
        if self._faults.fetch_s and self._random.random() < 0.3:
            await asyncio.sleep(self._random.random() * self._faults.fetch_s)
        limit = self._random.choice((1, 2, 5, 30, 500))
        try:
            end, records = await self._asked(partial(self._read, place, flow.next_offset, limit))
        except LedgerError:
            await asyncio.sleep(0.2)
            return True
        if self._flows.get(place) is flow:
            self._ends[place] = end
        if records:
            flow.next_offset = records[-1].offset + 1
            flow.serial += 1
            self._deliver(
                Chunk(place, flow.epoch, flow.serial, self._some_lost(place, records)), flow
            )
        return bool(records)

    def _read(self, place: Place, offset: int, limit: int) -> tuple[int, list[Record]]:
        topic = self._topics[place]
        return topic.end_offset, topic.from_(offset, limit)

    def _deliver(self, chunk: Chunk, flow: _Flow) -> None:
        faults, fate = self._faults, self._random.random()
        withheld, flow.withheld = flow.withheld, None
        if fate < faults.chunk_lost:
            self._count["feed: chunk lost"] += 1
        elif fate < faults.chunk_lost + faults.chunk_repeated:
            self._count["feed: chunk repeated"] += 1
            self._take(chunk)
            self._take(chunk)
        elif (
            withheld is None
            and fate < faults.chunk_lost + faults.chunk_repeated + faults.chunks_swapped
        ):
            self._count["feed: chunks swapped"] += 1
            flow.withheld = chunk
        else:
            self._take(chunk)
        if withheld is not None:
            self._take(withheld)

    def _take(self, chunk: Chunk) -> None:
        feed, inputs = self._feeds[chunk.place]
        feed.take(chunk, inputs, lambda: None)

    def _some_lost(self, place: Place, records: list[Record]) -> list[Record]:
        """Leave one out, never the same twice: what is missing again when it is read anew is
        missing in the topic.
        """
        lost = self._random.randrange(len(records))
        if (
            self._random.random() >= self._faults.records_lost
            or len(records) < 2
            or (place, records[lost].offset) in self._lost_at
        ):
            return records
        self._lost_at.add((place, records[lost].offset))
        self._count["feed: record lost"] += 1
        return records[:lost] + records[lost + 1 :]

    async def _asked(self, question: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                return await self._network.send(Link(self._kafka, self._process), question)
        except (TimeoutError, Disconnected) as error:
            raise LedgerError(f"Kafka did not answer: {error!r}") from error
