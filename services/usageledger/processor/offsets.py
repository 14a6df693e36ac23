"""What the input topics hold, asked of the broker.

Over a connection of its own: behind a fetch that waits for records, a question waits as long (0.1
s, in a consumer that reads).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from usageledger.ledger.records import Bounds, LedgerError
from usageledger.processor.feed import Place

ANSWER_TIMEOUT_S = 10.0

T = TypeVar("T")


class KafkaOffsets:
    """Answers for all partitions of a worker.

    Connects when first asked, and again after a failure; ``close()`` it at the end.
    """

    def __init__(self, kafka: str) -> None:
        self._kafka = kafka
        self._consumer: Any = None
        self._connecting = asyncio.Lock()

    async def bounds(self, places: Sequence[Place]) -> list[Bounds]:
        """What each of these topic partitions holds, in their order.

        Raises LedgerError when there is no answer in time.
        """
        asked = [TopicPartition(*place) for place in places]

        async def ask(consumer: Any) -> list[Bounds]:
            starts, ends = await asyncio.gather(
                consumer.beginning_offsets(asked), consumer.end_offsets(asked)
            )
            return [Bounds(starts[place], ends[place]) for place in asked]

        return await self._answered(ask)

    async def end_offset(self, place: Place) -> int:
        """The offset that the next record of a topic partition will have.

        Raises LedgerError when there is no answer in time.
        """
        asked = TopicPartition(*place)

        async def ask(consumer: Any) -> int:
            ends: dict[TopicPartition, int] = await consumer.end_offsets([asked])
            return ends[asked]

        return await self._answered(ask)

    async def close(self) -> None:
        """Close the connections."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with suppress(TimeoutError, KafkaError):
                await asyncio.wait_for(consumer.stop(), 1.0)

    async def _answered(self, ask: Callable[[Any], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await ask(await self._connected())
        except (TimeoutError, KafkaError, OSError) as error:
            await self.close()
            raise LedgerError(f"Kafka did not say what the input topics hold: {error!r}") from error

    async def _connected(self) -> Any:
        async with self._connecting:
            if self._consumer is None:
                consumer = AIOKafkaConsumer(
                    bootstrap_servers=self._kafka,
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
