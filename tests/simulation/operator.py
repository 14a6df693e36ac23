"""An operator's rebuild of one partition's view, as a process beside the workers."""

from __future__ import annotations

import asyncio
from random import Random

from tests.simulation.inputs import ASK_TIMEOUT_S
from tests.simulation.network import Disconnected, Link
from tests.simulation.ports import LedgerHandle, ViewHandle
from tests.simulation.scheduler import Process
from tests.simulation.worker import Cluster
from usageledger.counters.view import ViewError
from usageledger.ledger.records import LedgerError
from usageledger.processor.catalog_log import CatalogLog
from usageledger.processor.catch_up import PartitionStopped
from usageledger.processor.rebuilding import ViewRebuild


class Rebuild:
    """One attempt. It can be killed anywhere; a later attempt goes on with what it has left."""

    def __init__(self, cluster: Cluster, name: str, partition: int, random: Random) -> None:
        self.process = Process(name)
        self._cluster = cluster
        self._partition = partition
        self._catalogs = CatalogLog()
        rebuild = ViewRebuild(
            partition,
            len(cluster.ledgers),
            ledger=LedgerHandle(
                cluster.network,
                cluster.kafka,
                self.process,
                cluster.ledgers[partition],
                batch_bytes=512 * 1024,
                chunk=random.choice((1, 2, 7, 1_000)),
            ),
            view=ViewHandle(
                cluster.network, cluster.store, self.process, lambda: cluster.views[partition]
            ),
            catalogs=self._catalogs,
            read_catalogs=self._read_catalogs,
            operator=name,
            on_progress=lambda done, of: None,
            settings=cluster.owner_settings,
        )
        self.task = cluster.loop.start_in(
            self.process, self._run(rebuild, anew=random.random() < 0.2)
        )
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

    async def _run(self, rebuild: ViewRebuild, *, anew: bool) -> None:
        faults = self._cluster.network.faults
        try:
            await rebuild.run(anew=anew)
        except (PartitionStopped, LedgerError, ViewError):
            faults["rebuild: failed"] += 1
        else:
            faults["rebuild: completed"] += 1

    async def _read_catalogs(self) -> None:
        cluster = self._cluster
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                records = await cluster.network.send(
                    Link(cluster.catalog_server, self.process),
                    lambda: cluster.catalogs[self._catalogs.next_offset :],
                )
        except (TimeoutError, Disconnected) as error:
            raise LedgerError(f"the catalogs cannot be read: {error!r}") from error
        self._catalogs.put(records)
        self._catalogs.note_end(self._catalogs.next_offset)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self.process.is_alive = False
        self.process.ready.clear()
        self._cluster.loop.forget(self.process)
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
