"""A worker's partitions, told to whoever looks: about once a second, in Redis."""

from __future__ import annotations

import asyncio
import logging

from usageledger.counters.connection import AsyncClient
from usageledger.counters.owner_reports import OwnerReport, write_reports
from usageledger.counters.view import ViewError
from usageledger.processor.health import PartitionHealth, WorkerHealth

REPORT_INTERVAL_S = 1.0
WRITE_TIMEOUT_S = 3.0

logger = logging.getLogger(__name__)


class OwnerReports:
    """Takes the worker's health as it is told, and publishes the latest.

    A Redis that does not take it is the owners' to complain of.
    """

    def __init__(self, redis: AsyncClient, prefix: str, worker: str) -> None:
        self._redis = redis
        self._prefix = prefix
        self._worker = worker
        self._health = WorkerHealth(partitions=())

    def note(self, health: WorkerHealth) -> None:
        """What the partitions are like now."""
        self._health = health

    async def publish(self) -> None:
        """Publish until cancelled."""
        while True:
            reports = {
                each.partition: _report(each, self._worker) for each in self._health.partitions
            }
            try:
                async with asyncio.timeout(WRITE_TIMEOUT_S):
                    if reports:
                        await write_reports(self._redis, self._prefix, reports)
            except (ViewError, TimeoutError) as error:
                logger.debug("the partitions' states were not published: %s", error)
            await asyncio.sleep(REPORT_INTERVAL_S)


def _report(health: PartitionHealth, worker: str) -> OwnerReport:
    caught_up_to, end = health.catch_up or (None, None)
    return OwnerReport(
        worker=worker,
        state=health.state,
        stopped_because=health.stopped_because,
        no_progress_s=round(health.no_progress_s, 1),
        caught_up_to=caught_up_to,
        catch_up_end=end,
    )
