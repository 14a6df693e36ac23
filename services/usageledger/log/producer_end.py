"""How an aiokafka producer is let go of, whatever it still has on its way."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from aiokafka.errors import KafkaError, ProducerClosed

# A worker that must end has two seconds for its partitions.
FAREWELL_S = 0.5


async def end_producer(producer: Any) -> None:
    """Stop a producer: what it has on its way may arrive within a moment, and is then given up.

    An idempotent aiokafka producer never gives up a batch, and its ``stop()`` waits for them all;
    the pinned version has no public way out.
    """
    with suppress(TimeoutError):
        await asyncio.wait_for(producer.flush(), FAREWELL_S)
    sending = producer._sender.sender_task
    if sending is not None:
        sending.cancel()
    accumulator = producer._message_accumulator
    for batch in [batch for batches in accumulator._batches.values() for batch in batches]:
        # Nobody waits for its turn to be sent, and asyncio would complain of an error that nobody
        # hears.
        batch._drain_waiter.cancel()
    accumulator.fail_all(ProducerClosed())
    with suppress(TimeoutError, KafkaError, asyncio.CancelledError):
        async with asyncio.timeout(2 * FAREWELL_S):
            # With its connections closed the sender's last requests end at once.
            await producer.client.close()
            await producer.stop()
