"""Reads the catalog topic from its beginning into a `CatalogLog`, for as long as the worker
runs.
"""

from __future__ import annotations

import asyncio
import logging

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from usageledger.ledger.records import Record
from usageledger.processor.catalog_log import CatalogLog

POLL_MS = 1_000
START_TIMEOUT_S = 30.0
RETRY_S = 1.0
LOST_RETRY_S = 30.0

logger = logging.getLogger(__name__)


async def read_catalogs(kafka: str, topic: str, catalogs: CatalogLog) -> None:
    """Read until cancelled.

    A broker that does not answer is asked again: what was read so far stays in force.
    """
    while True:
        try:
            await _read_on(kafka, topic, catalogs)
        except OffsetOutOfRangeError:
            logger.error(
                "%s no longer holds offset %d: it was truncated or made anew; restore it. What was "
                "read before stays in force",
                topic,
                catalogs.next_offset,
            )
            await asyncio.sleep(LOST_RETRY_S)
        except (KafkaError, OSError, TimeoutError) as error:
            logger.warning("the catalog topic cannot be read, trying again: %s", error)
            await asyncio.sleep(RETRY_S)


async def _read_on(kafka: str, topic: str, catalogs: CatalogLog) -> None:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka,
        enable_auto_commit=False,
        auto_offset_reset="none",
        fetch_max_wait_ms=200,
    )
    there = TopicPartition(topic, 0)
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            await consumer.start()
        consumer.assign([there])
        consumer.seek(there, catalogs.next_offset)
        while True:
            records = (await consumer.getmany(there, timeout_ms=POLL_MS)).get(there, [])
            catalogs.put(
                [
                    Record(record.offset, record.timestamp, record.key, record.value)
                    for record in records
                ]
            )
            if not records:
                # Nothing came: the topic ends here, or the broker does not answer. The two are told
                # apart by asking.
                catalogs.told_end((await consumer.end_offsets([there]))[there])
    finally:
        await consumer.stop()
