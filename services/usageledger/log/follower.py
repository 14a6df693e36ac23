"""Following all partitions of a topic, in no consumer group, over one connection at a time.

A follower keeps its own positions and seeks to them after each `TopicFollower.connect`. The
consumer never jumps to another offset by itself: an offset that the topic does not hold is an
error.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import kafka.errors
from aiokafka import TopicPartition
from aiokafka.errors import (
    AuthenticationFailedError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
)

from usageledger.ledger.records import Bounds, Record
from usageledger.log.aiokafka_clients import new_consumer
from usageledger.log.aiokafka_reading import read_fetched
from usageledger.log.bounded_codecs import FETCH_BYTES_MAX, Unreadable
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.runtime.tasks import is_being_cancelled

CLOSE_TIMEOUT_S = 1.0


class Stalled(Exception):
    """There are records, but the connection does not deliver them."""


TRANSIENT: tuple[type[Exception], ...] = (
    KafkaError,
    kafka.errors.KafkaError,
    OSError,
    TimeoutError,
    Stalled,
)
"""Errors that pass by themselves or with a new connection.

Catch `NOT_LET_IN` first where it must end the caller.
"""

NOT_LET_IN: tuple[type[Exception], ...] = (
    AuthenticationFailedError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
)
"""Kafka refuses this client, and goes on doing so until an operator changes something."""


class TopicFollower:
    """One topic's partitions. Belongs to one event loop; close it with `aclose`.

    ``answer_within_s`` bounds each question to Kafka. ``fetch_wait_ms`` is how long a broker that
    has nothing new holds a fetch. ``fetch_bytes_max`` and ``records_per_poll_max`` bound what a
    fetch brings of one partition and what a poll returns of all.

    ``unreadable`` has the partitions that this connection cannot read on, by number. Nothing more
    comes of them.

    Every method that asks Kafka raises one of `TRANSIENT`.
    """

    def __init__(
        self,
        kafka: KafkaConnection,
        topic: str,
        *,
        client_id: str,
        answer_within_s: float,
        fetch_wait_ms: int = 500,
        fetch_bytes_max: int = 1024 * 1024,
        records_per_poll_max: int | None = None,
    ) -> None:
        self.kafka = kafka
        self.topic = topic
        self.unreadable: dict[int, Unreadable] = {}
        self._answer_within_s = answer_within_s
        self._records_per_poll_max = records_per_poll_max
        self._options = {
            "client_id": client_id,
            "auto_offset_reset": "none",
            "enable_auto_commit": False,
            "check_crcs": True,
            "fetch_max_wait_ms": fetch_wait_ms,
            "max_partition_fetch_bytes": fetch_bytes_max,
            "fetch_max_bytes": FETCH_BYTES_MAX,
            # After a failover another broker leads a partition. The client must soon learn which.
            "metadata_max_age_ms": 2_000,
            "request_timeout_ms": int(answer_within_s * 1_000),
        }
        self._consumer: Any = None
        self._connected_s = 0.0
        self._partitions: list[TopicPartition] = []

    async def connect(self, partition_count: int) -> dict[int, Bounds]:
        """Connect anew and return what each partition holds. Then `seek` in each of them."""
        await self.aclose()
        self.unreadable.clear()
        self._partitions = [
            TopicPartition(self.topic, partition) for partition in range(partition_count)
        ]
        self._consumer = new_consumer(self.kafka, **self._options)
        self._consumer.assign(self._partitions)
        self._connected_s = time.time()
        with _stalled_if_cancelled():
            async with asyncio.timeout(self._answer_within_s):
                await self._consumer.start()
        return await self.bounds()

    async def bounds(self) -> dict[int, Bounds]:
        """Ask Kafka what each partition holds."""
        with _stalled_if_cancelled():
            async with asyncio.timeout(self._answer_within_s):
                starts = await self._consumer.beginning_offsets(self._partitions)
                ends = await self._consumer.end_offsets(self._partitions)
        return {each.partition: Bounds(starts[each], ends[each]) for each in self._partitions}

    def known_ends(self) -> dict[int, int]:
        """The end offsets that polls have learned, by partition. Asks nobody."""
        ends = {each.partition: self._consumer.highwater(each) for each in self._partitions}
        return {partition: end for partition, end in ends.items() if end is not None}

    def silent_s(self) -> float:
        """For how long Kafka has answered no fetch, in seconds; 0 without a connection.

        A poll cannot say that: it only returns nothing.
        """
        if self._consumer is None:
            return 0.0
        heard_ms = max(
            (self._consumer.last_poll_timestamp(each) or 0 for each in self._partitions), default=0
        )
        return time.time() - (heard_ms / 1_000 if heard_ms else self._connected_s)

    def seek(self, partition: int, offset: int) -> None:
        """Read the partition on from this offset."""
        self._consumer.seek(TopicPartition(self.topic, partition), offset)

    def pause(self, partition: int) -> None:
        """Read no more of the partition over this connection."""
        self._consumer.pause(TopicPartition(self.topic, partition))

    async def poll(self, timeout_ms: int) -> dict[int, list[Record]]:
        """Wait up to ``timeout_ms`` for records, and return some of each partition, in order."""
        with _stalled_if_cancelled():
            polled, unreadable = await read_fetched(
                self._consumer, timeout_ms=timeout_ms, max_records=self._records_per_poll_max
            )
        for each, found in unreadable.items():
            self.unreadable[each.partition] = found
            self.pause(each.partition)
        return {
            each.partition: [
                Record(record.offset, record.timestamp, record.key, record.value)
                for record in records
            ]
            for each, records in polled.items()
        }

    async def aclose(self) -> None:
        """Close the connection, if there is one."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with suppress(TimeoutError, KafkaError, Stalled), _stalled_if_cancelled():
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await consumer.stop()


@contextmanager
def _stalled_if_cancelled() -> Iterator[None]:
    """Raise Stalled for a cancellation that aiokafka lets out by itself after a long outage.

    Uncaught, that cancellation would silently end the task that follows the topic.
    """
    try:
        yield
    except asyncio.CancelledError:
        if is_being_cancelled():
            raise
        raise Stalled("aiokafka cancelled a call on the connection") from None
