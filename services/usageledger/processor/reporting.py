"""Publishes the states of a worker's partitions in Redis, about once a second."""

from __future__ import annotations

import asyncio

from usageledger.counters.connection import AsyncClient
from usageledger.counters.owner_reports import OwnerReport, write_reports
from usageledger.counters.replies import view_error
from usageledger.counters.view import ViewError
from usageledger.counters.write_probe import refusal_async
from usageledger.processor.health import PartitionHealth, WorkerHealth

REPORT_INTERVAL_S = 1.0
WRITE_TIMEOUT_S = 3.0


class OwnerReports:
    """Publishes the worker's latest health.

    A failure shows that Redis accepts no writes, though no partition may have anything to write.
    """

    def __init__(self, redis: AsyncClient, prefix: str, worker: str) -> None:
        self.trouble: str | None = None
        """Why the last reports were refused, and what to do; None if they were written."""
        self._redis = redis
        self._prefix = prefix
        self._worker = worker
        self._health = WorkerHealth(partitions=())

    def note(self, health: WorkerHealth) -> None:
        """Remember the worker's health, to be published next."""
        self._health = health

    async def publish(self) -> None:
        """Publish until cancelled."""
        while True:
            try:
                async with asyncio.timeout(WRITE_TIMEOUT_S):
                    self.trouble = await self._trouble_of_writing()
            except TimeoutError as error:
                self.trouble = str(view_error(error))
            await asyncio.sleep(REPORT_INTERVAL_S)

    async def _trouble_of_writing(self) -> str | None:
        reports = {
            each.partition: _owner_report(each, self._worker) for each in self._health.partitions
        }
        if not reports:
            return None
        try:
            await write_reports(self._redis, self._prefix, reports)
        except ViewError as error:
            # It knows figures too.
            refusal = await refusal_async(self._redis, self._prefix, 1)
            return str(refusal if refusal is not None and refusal.cause == error.cause else error)
        return None


def _owner_report(health: PartitionHealth, worker: str) -> OwnerReport:
    caught_up_to, end = health.catch_up or (None, None)
    return OwnerReport(
        worker=worker,
        state=health.state,
        stopped_because=health.stopped_because,
        waiting_because=health.waiting_because,
        no_progress_s=round(health.no_progress_s, 1),
        caught_up_to=caught_up_to,
        catch_up_end=end,
        ids_reused=health.ids_reused,
        last_id_reused=health.last_id_reused,
    )
