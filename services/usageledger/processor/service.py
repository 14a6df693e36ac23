"""The processor as a service: partition owners on the real Kafka and Redis, in a Faust worker."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Coroutine
from contextlib import AsyncExitStack, closing
from datetime import UTC, datetime
from typing import Any

from usageledger.counters.connection import AsyncClient, connect, connect_blocking
from usageledger.counters.redis_view import RedisView
from usageledger.counters.server_check import check_server
from usageledger.log.kafka_ledger import KafkaLedgerPartition
from usageledger.log.reading import log_reader
from usageledger.log.topics import Topics
from usageledger.processor.catalog_log import CatalogLog
from usageledger.processor.catalog_reader import read_catalogs
from usageledger.processor.import_mode import ImportMode
from usageledger.processor.inputs import InputBuffer, InputControl
from usageledger.processor.owner import PartitionOwner
from usageledger.processor.worker import run_worker

logger = logging.getLogger(__name__)


class LedgerMissing(Exception):
    """There is no ledger to process. The message says what to do."""


async def run_processor(*, kafka: str, redis_url: str, prefix: str, stop: asyncio.Event) -> None:
    """Process a share of a ledger's partitions until ``stop`` is set.

    Raises LedgerMissing, ServerUnfit for a Redis that would lose charges, ViewError, KafkaError, and WorkerFailed as `run_worker` does.
    """
    topics = Topics(prefix)
    partition_count = await asyncio.to_thread(_partition_count, kafka, topics)
    await asyncio.to_thread(_check_redis, redis_url)
    catalogs, import_mode = CatalogLog(), ImportMode(kafka, topics)
    await import_mode.ask()
    async with AsyncExitStack() as stack:
        redis = connect(redis_url)
        stack.push_async_callback(redis.aclose)
        await _in_background(stack, read_catalogs(kafka, topics.catalog, catalogs))
        await _in_background(stack, import_mode.watch())

        def owner_of(partition: int, control: InputControl) -> PartitionOwner:
            return _ServedOwner(partition, partition_count, control, catalogs, import_mode, kafka=kafka, topics=topics, redis=redis)

        await run_worker(kafka=kafka, prefix=prefix, owner_factory=owner_of, stop=stop)


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
        kafka: str,
        topics: Topics,
        redis: AsyncClient,
    ) -> None:
        self._kafka_partition = KafkaLedgerPartition(kafka=kafka, topic=topics.ledger, partition=partition)
        super().__init__(
            partition=partition,
            partition_count=partition_count,
            ledger=self._kafka_partition,
            view=RedisView(redis, topics.prefix, partition),
            inputs=InputBuffer(control),
            catalogs=catalogs,
            worker=f"{socket.gethostname()}/{os.getpid()}",
            is_importing=import_mode.is_on,
            now=lambda: datetime.now(UTC),
            new_ledger_id=lambda: uuid.uuid4().hex,
        )

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            await self._kafka_partition.close()


async def _in_background(stack: AsyncExitStack, work: Coroutine[Any, Any, None]) -> None:
    """Run beside the worker, and cancel at the end."""
    task = asyncio.create_task(work)

    async def end() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    stack.push_async_callback(end)


def _partition_count(kafka: str, topics: Topics) -> int:
    with log_reader(kafka) as reader:
        counts = {topic: reader.partition_count(topic) for topic in topics.partitioned}
    missing = [topic for topic, count in counts.items() if count == 0]
    if missing:
        raise LedgerMissing(f"there is no topic {missing[0]} at {kafka}: make the ledger with `usageledger up`, or correct the prefix")
    if len(set(counts.values())) > 1:
        raise LedgerMissing(f"the topics of a ledger have one partition count, but there is {counts}")
    return counts[topics.ledger]


def _check_redis(redis_url: str) -> None:
    with closing(connect_blocking(redis_url)) as redis:
        for warning in check_server(redis):
            logger.warning("%s", warning)
