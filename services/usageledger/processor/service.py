"""The processor as a service: partition owners on the real Kafka and Redis, in a Faust worker."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, closing
from datetime import UTC, datetime
from typing import Any

from usageledger.counters.connection import AsyncClient, connect, connect_blocking
from usageledger.counters.redis_view import RedisView
from usageledger.counters.server_check import check_server
from usageledger.domain.claim import decode_claim
from usageledger.log.import_mode import ImportMode
from usageledger.log.kafka_ledger import KafkaLedgerPartition
from usageledger.log.reading import log_reader
from usageledger.log.topics import Topics
from usageledger.processor.catalog_log import CatalogLog
from usageledger.processor.catalog_reader import read_catalogs
from usageledger.processor.health import WorkerHealth
from usageledger.processor.inputs import InputBuffer, InputControl
from usageledger.processor.owner import PartitionOwner
from usageledger.processor.owner_settings import DEFAULT_SETTINGS
from usageledger.processor.reporting import OwnerReports
from usageledger.processor.worker import run_worker
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

    Raises LedgerMissing, ServerUnfit for a Redis that would lose charges, ViewError, KafkaError,
    and WorkerFailed as `run_worker` does.
    """
    topics = Topics(prefix)
    partition_count, made_with = await asyncio.to_thread(_partition_counts, kafka, topics)
    await asyncio.to_thread(_check_redis, redis_url)
    catalogs, import_mode = CatalogLog(), ImportMode(kafka, topics)
    await import_mode.ask()
    async with AsyncExitStack() as stack:
        redis = connect(redis_url)
        stack.push_async_callback(redis.aclose)
        work = [
            asyncio.create_task(read_catalogs(kafka, topics.catalog, catalogs)),
            asyncio.create_task(import_mode.watch()),
        ]

        def owner_of(partition: int, control: InputControl) -> PartitionOwner:
            unfit = _repartition_reason(partition, partition_count, made_with)
            return _ServedOwner(
                partition,
                partition_count,
                control,
                catalogs,
                import_mode,
                unfit,
                kafka=kafka,
                topics=topics,
                redis=redis,
            )

        reports = OwnerReports(redis, prefix, _worker_name())
        work.append(asyncio.create_task(reports.publish()))

        def note(health: WorkerHealth) -> None:
            reports.note(health)
            if on_health is not None:
                on_health(health)

        running = run_worker(
            kafka=kafka, prefix=prefix, owner_factory=owner_of, stop=stop, on_partitions=note
        )
        await _run_beside(work, running, stop)


class _ServedOwner(PartitionOwner):
    """An owner with a ledger partition of its own, which it closes when it ends.

    If ``unfit`` gives a reason, the owner stops with it and does nothing else.
    """

    def __init__(
        self,
        partition: int,
        partition_count: int,
        control: InputControl,
        catalogs: CatalogLog,
        import_mode: ImportMode,
        unfit: str | None,
        *,
        kafka: KafkaConnection,
        topics: Topics,
        redis: AsyncClient,
    ) -> None:
        self._unfit = unfit
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
        if self._unfit is not None:
            return self.stop(self._unfit)
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


def _repartition_reason(partition: int, partition_count: int, made_with: int) -> str | None:
    """The reason why a partition must not run; None if it may.

    With another partition count, accounts would be looked up in partitions that never had them.
    They would begin again on Free.
    """
    wanted, found = made_with or partition_count, max(partition_count, partition + 1)
    if found == wanted:
        return None
    return (
        f"the ledger was made with {wanted} partitions and its topics now have {found}: an "
        "account's partition depends on their number;"
        " make topics of another prefix and send the history there, or restore these"
    )


def _partition_counts(kafka: KafkaConnection, topics: Topics) -> tuple[int, int]:
    """How many partitions the topics have, and how many the ledger was made with.

    The second number is from the ledger's first claim; 0 if that does not say.
    """
    with log_reader(kafka) as reader:
        counts = {topic: reader.partition_count(topic) for topic in topics.partitioned}
        is_begun = (
            reader.start_offset(topics.ledger, 0) == 0 < reader.end_offset(topics.ledger, 0)
            if counts[topics.ledger]
            else False
        )
        first = next(iter(reader.read(topics.ledger, 0, 0, 1)), None) if is_begun else None
    missing = [topic for topic, count in counts.items() if count == 0]
    if missing:
        raise LedgerMissing(
            f"there is no topic {missing[0]} at {kafka}: make the ledger with `usageledger up`, or "
            "correct the prefix"
        )
    if len(set(counts.values())) > 1:
        raise LedgerMissing(
            f"the topics of a ledger have one partition count, but there is {counts}"
        )
    claim = None if first is None else decode_claim(first.value)
    return counts[topics.ledger], 0 if claim is None else claim.partitions


def _check_redis(redis_url: str) -> None:
    with closing(connect_blocking(redis_url)) as redis:
        for warning in check_server(redis):
            logger.warning("%s", warning)
