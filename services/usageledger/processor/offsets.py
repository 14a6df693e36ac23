"""The offsets that input topics hold, asked of the broker over a connection of its own.

A question behind a fetch waits as long as that fetch does: 0.1 s in a consumer that reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import aiokafka
from aiokafka.errors import KafkaError

from usageledger.ledger.records import Bounds, LedgerError
from usageledger.log.aiokafka_clients import new_consumer
from usageledger.processor.feed import TopicPartition
from usageledger.runtime.kafka_connection import KafkaConnection

ANSWER_TIMEOUT_S = 10.0

T = TypeVar("T")


class KafkaOffsets:
    """Answers for all partitions of a worker.

    Connects when first asked, and again after a failure; ``close()`` it at the end.
    """

    def __init__(self, kafka: KafkaConnection) -> None:
        self._kafka = kafka
        self._consumer: Any = None
        self._connecting = asyncio.Lock()

    async def bounds(self, topic_partitions: Sequence[TopicPartition]) -> list[Bounds]:
        """The bounds of each of these topic partitions, in their order.

        Raises LedgerError when there is no answer in time.
        """
        asked = [aiokafka.TopicPartition(*each) for each in topic_partitions]

        async def ask(consumer: Any) -> list[Bounds]:
            starts, ends = await asyncio.gather(
                consumer.beginning_offsets(asked), consumer.end_offsets(asked)
            )
            return [Bounds(starts[each], ends[each]) for each in asked]

        return await self._ask(ask)

    async def end_offset(self, topic_partition: TopicPartition) -> int:
        """The offset that the next record of a topic partition will have.

        Raises LedgerError when there is no answer in time.
        """
        asked = aiokafka.TopicPartition(*topic_partition)

        async def ask(consumer: Any) -> int:
            ends: dict[aiokafka.TopicPartition, int] = await consumer.end_offsets([asked])
            return ends[asked]

        return await self._ask(ask)

    async def close(self) -> None:
        """Close the connections."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with suppress(TimeoutError, KafkaError):
                await asyncio.wait_for(consumer.stop(), 1.0)

    async def _ask(self, ask: Callable[[Any], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await ask(await self._connect())
        except (TimeoutError, KafkaError, OSError) as error:
            await self.close()
            raise LedgerError(f"Kafka did not say what the input topics hold: {error!r}") from error

    async def _connect(self) -> Any:
        async with self._connecting:
            if self._consumer is None:
                consumer = new_consumer(
                    self._kafka,
                    client_id="usageledger-processor-offsets",
                    enable_auto_commit=False,
                    request_timeout_ms=int(ANSWER_TIMEOUT_S * 1000),
                )
                try:
                    await consumer.start()
                except BaseException:
                    await consumer.stop()
                    raise
                self._consumer = consumer
            return self._consumer
