"""The processor as a service: partition owners on the real Kafka and Redis, in a Faust worker."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from usageledger.counters.connection import AsyncClient, connect, connect_blocking
from usageledger.counters.redis_view import RedisView
from usageledger.counters.server_check import check_server
from usageledger.log.import_mode import ImportMode
from usageledger.log.kafka_ledger import KafkaLedgerPartition
from usageledger.log.partition_counts import (
    PartitionCounts,
    PartitionCountsDiffer,
    PartitionCountWatch,
    partition_counts,
    watched_partition_counts,
)
from usageledger.log.reading import log_reader
from usageledger.log.topics import Topics
from usageledger.processor.catalog_log import CatalogLog
from usageledger.processor.catalog_reader import read_catalogs
from usageledger.processor.health import PartitionHealth, WorkerHealth
from usageledger.processor.inputs import InputBuffer, InputControl
from usageledger.processor.owner import PartitionOwner
from usageledger.processor.owner_settings import DEFAULT_SETTINGS
from usageledger.processor.reporting import REPORT_INTERVAL_S, OwnerReports
from usageledger.processor.worker import WorkerFailed, run_worker
from usageledger.runtime.kafka_connection import KafkaConnection

logger = logging.getLogger(__name__)


class LedgerMissing(Exception):
    """There is no ledger to process. The message says what to do."""


async def run_processor(
    *,
    kafka: KafkaConnection,
    redis_url: str,
    prefix: str,
    stop: asyncio.Event,
    on_health: Callable[[WorkerHealth], None] | None = None,
) -> None:
    """Process a share of a ledger's partitions until ``stop`` is set.

    ``on_health`` is called about once a second.

    Where the topics' partition counts differ from the ledger's, nothing more is decided, and the
    health says why. Raises LedgerMissing, ServerUnfit for a Redis that would lose charges,
    ViewError, KafkaError, and WorkerFailed as `run_worker` does.
    """
    topics = Topics(prefix)
    counts = await asyncio.to_thread(_existing_partition_counts, kafka, topics)
    await asyncio.to_thread(_check_redis, redis_url)
    async with AsyncExitStack() as stack:
        redis = connect(redis_url)
        stack.push_async_callback(redis.aclose)
        reports = OwnerReports(redis, prefix, _worker_name())

        def note(health: WorkerHealth) -> None:
            reports.note(health)
            if on_health is not None:
                on_health(replace(health, redis_trouble=reports.trouble))

        try:
            counts.check()
            await _decide(kafka, topics, counts.of_ledger, redis, reports, note, stop)
        except PartitionCountsDiffer as differ:
            stopped = _stay_stopped(str(differ), counts.of_ledger, note, stop)
            await _run_beside([asyncio.create_task(reports.publish())], stopped, stop)


async def _decide(
    kafka: KafkaConnection,
    topics: Topics,
    partition_count: int,
    redis: AsyncClient,
    reports: OwnerReports,
    note: Callable[[WorkerHealth], None],
    stop: asyncio.Event,
) -> None:
    """Run a worker until ``stop`` is set.

    Raises PartitionCountsDiffer as soon as the topics have another partition count.
    """
    catalogs, import_mode = CatalogLog(), ImportMode(kafka, topics)
    await import_mode.ask()
    ending = asyncio.Event()
    with watched_partition_counts(kafka, topics, partition_count) as watch:
        work = [
            asyncio.create_task(_end_once(ending, stop, watch)),
            asyncio.create_task(reports.publish()),
            asyncio.create_task(read_catalogs(kafka, topics.catalog, catalogs)),
            asyncio.create_task(import_mode.watch()),
        ]

        def owner_of(partition: int, control: InputControl) -> PartitionOwner:
            return _ServedOwner(
                partition,
                partition_count,
                control,
                catalogs,
                import_mode,
                kafka=kafka,
                topics=topics,
                redis=redis,
            )

        running = run_worker(
            kafka=kafka,
            prefix=topics.prefix,
            owner_factory=owner_of,
            stop=ending,
            on_partitions=note,
        )
        try:
            await _run_beside(work, running, ending)
        except WorkerFailed:
            # A worker fails too when it is assigned partitions of one input alone.
            await asyncio.to_thread(watch.look)
            watch.check()
            raise
        watch.check()


async def _end_once(ending: asyncio.Event, stop: asyncio.Event, watch: PartitionCountWatch) -> None:
    """Set ``ending`` once ``stop`` is set or the partition counts differ."""
    while not stop.is_set() and watch.difference is None:
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), REPORT_INTERVAL_S)
    ending.set()


async def _stay_stopped(
    difference: str,
    partition_count: int,
    note: Callable[[WorkerHealth], None],
    stop: asyncio.Event,
) -> None:
    """Report every partition as stopped until ``stop`` is set: each account's home is unknown."""
    logger.error("every partition has stopped: %s", difference)
    stopped = tuple(
        PartitionHealth(
            partition=partition,
            state="stopped",
            stopped_because=difference,
            usage_lag_records=None,
            account_lag_records=None,
        )
        for partition in range(partition_count)
    )
    while not stop.is_set():
        note(WorkerHealth(partitions=stopped))
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), REPORT_INTERVAL_S)


class _ServedOwner(PartitionOwner):
    """An owner with a ledger partition of its own, which it closes when it ends."""

    def __init__(
        self,
        partition: int,
        partition_count: int,
        control: InputControl,
        catalogs: CatalogLog,
        import_mode: ImportMode,
        *,
        kafka: KafkaConnection,
        topics: Topics,
        redis: AsyncClient,
    ) -> None:
        self._kafka_partition = KafkaLedgerPartition(
            kafka=kafka, topic=topics.ledger, partition=partition
        )
        super().__init__(
            partition=partition,
            partition_count=partition_count,
            ledger=self._kafka_partition,
            view=RedisView(redis, topics.prefix, partition),
            inputs=InputBuffer(control),
            catalogs=catalogs,
            worker=_worker_name(),
            is_importing=import_mode.is_on,
            now=lambda: datetime.now(UTC),
            new_ledger_id=lambda: uuid.uuid4().hex,
            settings=DEFAULT_SETTINGS,
        )

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            await self._kafka_partition.close()


def _worker_name() -> str:
    return f"{socket.gethostname()}/{os.getpid()}"


async def _run_beside(
    work: Sequence[asyncio.Task[None]], worker: Coroutine[Any, Any, None], stop: asyncio.Event
) -> None:
    """Run the worker until it ends.

    The tasks beside it end with it. If one of them fails, the worker is stopped and the failure is
    raised. Otherwise the worker would decide by outdated catalogs, and nobody would notice.
    """
    running = asyncio.create_task(worker)
    pending = {running, *work}
    try:
        while running in pending and not any(
            task.done() and not task.cancelled() and task.exception() for task in work
        ):
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.set()
        for task in work:
            task.cancel()
        ended = await asyncio.gather(running, *work, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            raise error


def _existing_partition_counts(kafka: KafkaConnection, topics: Topics) -> PartitionCounts:
    with log_reader(kafka) as reader:
        counts = partition_counts(reader, topics)
    if counts.missing:
        raise LedgerMissing(
            f"there is no topic {counts.missing[0]} at {kafka}: make the ledger with `usageledger "
            "up` or `usageledger topics create`, or correct the prefix"
        )
    return counts


def _check_redis(redis_url: str) -> None:
    with closing(connect_blocking(redis_url)) as redis:
        for warning in check_server(redis):
            logger.warning("%s", warning)
