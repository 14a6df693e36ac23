"""``rebuild``: rebuilds a partition's view on the real Kafka and Redis."""

from __future__ import annotations

import asyncio
import os
import socket

from usageledger.counters.connection import connect
from usageledger.counters.redis_view import RedisView
from usageledger.ledger.records import LedgerError
from usageledger.log.kafka_ledger import KafkaLedgerPartition
from usageledger.log.reading import LogReader
from usageledger.log.topics import Topics
from usageledger.operations.errors import OperatorError
from usageledger.processor.catalog_log import CatalogLog
from usageledger.processor.catch_up import PartitionStopped
from usageledger.processor.rebuilding import OnProgress, Rebuilt, ViewRebuild
from usageledger.runtime.kafka_connection import KafkaConnection


def rebuild(
    reader: LogReader,
    kafka: KafkaConnection,
    redis_url: str,
    prefix: str,
    partition: int,
    *,
    partition_count: int,
    anew: bool,
    on_progress: OnProgress,
) -> Rebuilt:
    """Rebuild one partition's view from its ledger.

    The time grows with the ledger's length and has no bound, but it ends with an error if Kafka or
    Redis stops answering. Raises OperatorError where the ledger does not allow a rebuild,
    ViewError, LogUnreadable, kafka-python's errors.
    """
    topics = Topics(prefix)
    catalogs = CatalogLog()

    async def read_catalogs() -> None:
        end = reader.end_offset(topics.catalog, 0)
        catalogs.put(list(reader.read(topics.catalog, 0, catalogs.next_offset, end)))

    async def run() -> Rebuilt:
        ledger = KafkaLedgerPartition(kafka=kafka, topic=topics.ledger, partition=partition)
        redis = connect(redis_url)
        try:
            view = RedisView(redis, prefix, partition)
            operator = f"rebuild/{socket.gethostname()}/{os.getpid()}"
            work = ViewRebuild(
                partition,
                partition_count,
                ledger=ledger,
                view=view,
                catalogs=catalogs,
                read_catalogs=read_catalogs,
                operator=operator,
                on_progress=on_progress,
            )
            return await work.run(anew=anew)
        finally:
            await ledger.close()
            await redis.aclose()

    try:
        return asyncio.run(run())
    except (PartitionStopped, LedgerError) as error:
        raise OperatorError(
            f"partition {partition} was not rebuilt, and its view is as it was: {error}"
        ) from error
