"""Reads the catalog topic into a `CatalogLog` from its beginning, as long as the worker runs."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing

from aiokafka.errors import OffsetOutOfRangeError

from usageledger.log.bounded_codecs import Unreadable
from usageledger.log.follower import TRANSIENT, TopicFollower
from usageledger.processor.catalog_log import CatalogLog
from usageledger.runtime.backoff import Backoff
from usageledger.runtime.kafka_connection import KafkaConnection

POLL_MS = 1_000
FETCH_WAIT_MS = 200
ANSWER_WITHIN_S = 30.0
RECONNECT = Backoff((1.0,))
TRUNCATED_RETRY = Backoff((30.0,))

log = logging.getLogger(__name__)


class _CatalogUnreadable(Exception):
    def __init__(self, found: Unreadable) -> None:
        super().__init__(found.why)
        self.found = found


async def read_catalogs(kafka: KafkaConnection, topic: str, catalogs: CatalogLog) -> None:
    """Read until cancelled.

    A broker that does not answer is asked again. Meanwhile the catalogs read so far stay in force.
    """
    while True:
        try:
            await _read_on(kafka, topic, catalogs)
        except OffsetOutOfRangeError:
            log.error(
                "%s no longer holds offset %d: it was truncated or made anew; restore it. The "
                "catalogs that were read before stay in force",
                topic,
                catalogs.next_offset,
            )
            await asyncio.sleep(TRUNCATED_RETRY.delay_s(1))
        except _CatalogUnreadable as error:
            log.error(
                "%s cannot be read from offset %d on: %s. The catalogs that were read before stay "
                "in force",
                topic,
                error.found.offset,
                error.found.why,
            )
            await asyncio.sleep(TRUNCATED_RETRY.delay_s(1))
        except TRANSIENT as error:
            log.warning("the catalog topic cannot be read, trying again: %s", error)
            await asyncio.sleep(RECONNECT.delay_s(1))


async def _read_on(kafka: KafkaConnection, topic: str, catalogs: CatalogLog) -> None:
    follower = TopicFollower(
        kafka,
        topic,
        client_id="usageledger-processor-catalogs",
        answer_within_s=ANSWER_WITHIN_S,
        fetch_wait_ms=FETCH_WAIT_MS,
    )
    async with aclosing(follower):
        await follower.connect(partition_count=1)
        follower.seek(0, catalogs.next_offset)
        while True:
            records = (await follower.poll(POLL_MS)).get(0, [])
            catalogs.put(records)
            if follower.unreadable:
                raise _CatalogUnreadable(follower.unreadable[0])
            if not records:
                # Either the topic ends here or the broker does not answer. Asking tells which.
                catalogs.note_end((await follower.bounds())[0].end)
