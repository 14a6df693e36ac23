"""Publishes the states of a worker's partitions in Redis, about once a second."""

from __future__ import annotations

import asyncio
import logging

from usageledger.counters.connection import AsyncClient
from usageledger.counters.owner_reports import OwnerReport, write_reports
from usageledger.counters.view import ViewError
from usageledger.processor.health import PartitionHealth, WorkerHealth

REPORT_INTERVAL_S = 1.0
WRITE_TIMEOUT_S = 3.0

log = logging.getLogger(__name__)


class OwnerReports:
    """Publishes the worker's latest health.

    A failure is only logged for debugging: the owners complain of a Redis that does not answer.
    """

    def __init__(self, redis: AsyncClient, prefix: str, worker: str) -> None:
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
            reports = {
                each.partition: _owner_report(each, self._worker)
                for each in self._health.partitions
            }
            try:
                async with asyncio.timeout(WRITE_TIMEOUT_S):
                    if reports:
                        await write_reports(self._redis, self._prefix, reports)
            except (ViewError, TimeoutError) as error:
                log.debug("the partitions' states were not published: %s", error)
            await asyncio.sleep(REPORT_INTERVAL_S)


def _owner_report(health: PartitionHealth, worker: str) -> OwnerReport:
    caught_up_to, end = health.catch_up or (None, None)
    return OwnerReport(
        worker=worker,
        state=health.state,
        stopped_because=health.stopped_because,
        no_progress_s=round(health.no_progress_s, 1),
        caught_up_to=caught_up_to,
        catch_up_end=end,
    )
