"""A processor's worker as a process: it owns partitions, is fed from the input topics and reads the
catalog topic, until it is killed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from random import Random
from typing import Any

from tests.simulation.inputs import ASK_TIMEOUT_S, TOPICS, Consumer, FeedFaults, InputTopic
from tests.simulation.invariants import Broken
from tests.simulation.network import Disconnected, Link, Network, Server
from tests.simulation.ports import LedgerHandle, ViewHandle
from tests.simulation.scheduler import Process, SimulatedLoop
from tests.simulation.servers import SimulatedLog, SimulatedView
from usageledger.ledger.records import Record
from usageledger.processor.catalog_log import CatalogLog
from usageledger.processor.feed import FetchLost, PartitionFeed, TopicPartition
from usageledger.processor.inputs import InputBuffer
from usageledger.processor.owner import PartitionOwner
from usageledger.processor.owner_settings import OwnerSettings
from usageledger.processor.worker import STUCK_S, WATCH_INTERVAL_S, WorkerFailed

CATALOG_POLL_S = 1.0


@dataclass(slots=True)
class Cluster:
    """The servers, clocks and settings that all processes share."""

    loop: SimulatedLoop
    network: Network
    kafka: Server
    store: Server
    catalog_server: Server
    ledgers: Mapping[int, SimulatedLog]
    views: Mapping[int, SimulatedView]
    topics: Mapping[TopicPartition, InputTopic]
    catalogs: list[Record]
    feed_faults: FeedFaults
    owner_settings: OwnerSettings
    now: Callable[[], datetime]
    is_importing: Callable[[float], bool]
    """Whether it is importing, as seen by a worker that learns of it this many seconds late."""


class Worker:
    """Owners of some partitions, with handles of their own on everything."""

    def __init__(
        self, cluster: Cluster, name: str, partitions: Sequence[int], random: Random
    ) -> None:
        self.name = name
        self.process = Process(name)
        self.partitions = frozenset(partitions)
        self.clock_skew = timedelta(0)
        self.catalog_lag_s = random.choice((0.0, 0.0, 0.0, 1.0, 12.0))
        self.handles: dict[int, LedgerHandle] = {}
        self.owners: dict[int, PartitionOwner] = {}
        self._feeds: dict[int, PartitionFeed] = {}
        self._cluster = cluster
        self._catalogs = CatalogLog()
        self._random = random
        self._epochs = count(1)
        self._consumer = Consumer(
            cluster.network,
            cluster.kafka,
            self.process,
            cluster.topics,
            random,
            cluster.feed_faults,
        )
        self._learns_s = random.random() * 2
        for partition in partitions:
            self._add_owner(partition)
        self.task = cluster.loop.start_in(self.process, self._run())
        self.task.add_done_callback(
            self._note_end, context=cluster.loop.context_of(cluster.loop.outside)
        )

    @property
    def is_alive(self) -> bool:
        return self.process.is_alive and not self.task.done()

    def kill(self) -> None:
        """End it wherever it is. Requests that it has sent still arrive."""
        self.process.is_alive = False
        self.process.frozen_until = 0.0
        self.task.cancel()

    def wake(self) -> None:
        """Say that the input topics have new records."""
        self._consumer.woken.set()

    def borrow_claims_of(self, other: Worker) -> None:
        """Go on from the other's claims, as its copy would."""
        for partition, handle in self.handles.items():
            if partition in other.handles:
                handle.borrowed_claim = other.handles[partition].claimed_at

    def _add_owner(self, partition: int) -> None:
        cluster, random = self._cluster, self._random
        clock = cluster.loop.time
        feed = PartitionFeed(
            partition,
            TOPICS,
            self._consumer,
            self._consumer,
            next_epoch=lambda: next(self._epochs),
            clock=clock,
        )
        self._feeds[partition] = feed
        inputs = InputBuffer(feed, records_max=random.choice((4, 50, 20_000)))
        self._consumer.add(feed, inputs)
        sizes = {
            "batch_bytes": random.choice((2_000, 512 * 1024)),
            "chunk": random.choice((1, 2, 7, 1_000)),
        }
        self.handles[partition] = LedgerHandle(
            cluster.network, cluster.kafka, self.process, cluster.ledgers[partition], **sizes
        )
        self.owners[partition] = PartitionOwner(
            partition=partition,
            partition_count=len(cluster.ledgers),
            ledger=self.handles[partition],
            view=ViewHandle(
                cluster.network, cluster.store, self.process, lambda: cluster.views[partition]
            ),
            inputs=inputs,
            catalogs=self._catalogs,
            worker=self.name,
            is_importing=lambda: cluster.is_importing(self._learns_s),
            now=lambda: cluster.now() + self.clock_skew,
            new_ledger_id=lambda: f"ledger-of-{self.name}",
            settings=cluster.owner_settings,
        )

    async def _run(self) -> None:
        works: list[Coroutine[Any, Any, None]] = [
            self._own(owner) for owner in self.owners.values()
        ]
        tasks = [
            asyncio.create_task(work)
            for work in (self._consumer.run(), self._read_catalogs(), self._watch(), *works)
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _own(self, owner: PartitionOwner) -> None:
        try:
            await owner.run()
        except Exception as error:
            raise Broken("the code fails on nothing", repr(error)) from error
        raise Broken("no partition stops", str(owner.stopped_because))

    async def _watch(self) -> None:
        """End a worker that has input and makes no progress for a minute; another then starts.

        A worker's real process does the same.
        """
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            for partition, owner in self.owners.items():
                if (
                    owner.state == "running"
                    and self._feeds[partition].stuck_s(owner.inputs) > STUCK_S
                ):
                    raise WorkerFailed("a partition has input and makes no progress")

    async def _read_catalogs(self) -> None:
        cluster, link = self._cluster, Link(self._cluster.catalog_server, self.process)
        while True:
            try:
                async with asyncio.timeout(ASK_TIMEOUT_S):
                    records = await cluster.network.send(
                        link, lambda: cluster.catalogs[self._catalogs.next_offset :]
                    )
                    end = (
                        0
                        if records
                        else await cluster.network.send(link, lambda: len(cluster.catalogs))
                    )
            except (TimeoutError, Disconnected):
                link = Link(cluster.catalog_server, self.process)
            else:
                await asyncio.sleep(self.catalog_lag_s)
                self._catalogs.put(records)
                if not records:
                    self._catalogs.note_end(end)
            await asyncio.sleep(CATALOG_POLL_S)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self.process.is_alive = False
        self.process.ready.clear()
        self._cluster.loop.forget(self.process)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, FetchLost | WorkerFailed):
            self._cluster.network.faults["worker: ended by itself"] += 1
        elif error is not None:
            raise error
