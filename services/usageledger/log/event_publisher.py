"""Publishes events over asyncio, and says of each whether Kafka has acknowledged it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from aiokafka.errors import (
    BrokerResponseError,
    KafkaError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
)

from usageledger.log.aiokafka_clients import new_producer
from usageledger.log.producer_end import end_producer
from usageledger.runtime.kafka_connection import KafkaConnection

ACKNOWLEDGED_WITHIN_S = 5.0
LINGER_MS = 2

log = logging.getLogger(__name__)

# These errors are about one record; the producer is still good.
_OF_ONE_RECORD = (MessageSizeTooLargeError, TopicAuthorizationFailedError)


class Outgoing(NamedTuple):
    """A record to publish. ``timestamp_ms`` is None if Kafka dates it."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes
    timestamp_ms: int | None


class Sent(NamedTuple):
    """The outcome for a record: its offset, or why Kafka is not known to have it."""

    offset: int | None
    why: str = ""


Publish = Callable[[Sequence[Outgoing]], Awaitable[Sequence[Sent]]]
"""Publishes records and says what became of each, in their order: `EventPublisher.publish`."""


class EventPublisher:
    """One idempotent producer, made with the first event and made anew after it has failed."""

    def __init__(self, kafka: KafkaConnection) -> None:
        self._kafka = kafka
        self._producer: Any = None
        self._starting = asyncio.Lock()
        self._endings: set[asyncio.Task[None]] = set()

    async def publish(self, records: Sequence[Outgoing]) -> list[Sent]:
        """Publish these, and wait at most ACKNOWLEDGED_WITHIN_S for Kafka's acknowledgements.

        Kafka may nevertheless have a record that it has not acknowledged by then.
        """
        futures: list[Any] = []
        producer = None
        try:
            async with asyncio.timeout(ACKNOWLEDGED_WITHIN_S):
                producer = await self._ready_producer()
                for record in records:
                    futures.append(await _send(producer, record))
                await asyncio.wait(futures)
        except (TimeoutError, KafkaError, OSError) as error:
            trouble = (
                f"Kafka did not answer within {ACKNOWLEDGED_WITHIN_S:.0f} s"
                if isinstance(error, TimeoutError)
                else _failure_text(error)
            )
        else:
            trouble = ""
        sent = [_outcome(future, trouble) for future in futures]
        sent += [Sent(None, trouble)] * (len(records) - len(sent))
        if producer is not None and (trouble or any(_ends_producer(future) for future in futures)):
            self._discard(producer)
        return sent

    async def close(self) -> None:
        """Close the producer."""
        if self._producer is not None:
            self._discard(self._producer)
        while self._endings:
            await asyncio.wait(self._endings)

    async def _ready_producer(self) -> Any:
        async with self._starting:
            if self._producer is None:
                producer = new_producer(
                    self._kafka,
                    client_id="usageledger-gateway",
                    acks="all",
                    enable_idempotence=True,
                    linger_ms=LINGER_MS,
                    request_timeout_ms=int(ACKNOWLEDGED_WITHIN_S * 1_000),
                    retry_backoff_ms=50,
                )
                try:
                    await producer.start()
                except BaseException:
                    self._end_later(producer)
                    raise
                self._producer = producer
            return self._producer

    def _discard(self, producer: Any) -> None:
        """End a producer that has failed: it may still hold records that nobody waits for.

        Other calls that wait for it learn that their records are not acknowledged.
        """
        if producer is self._producer:
            self._producer = None
            self._end_later(producer)

    def _end_later(self, producer: Any) -> None:
        task = asyncio.get_running_loop().create_task(end_producer(producer))
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)


async def _send(producer: Any, record: Outgoing) -> Any:
    """The future of a record. It fails if the producer refuses the record; the others go on."""
    try:
        future = await producer.send(
            record.topic,
            value=record.value,
            key=record.key,
            partition=record.partition,
            timestamp_ms=record.timestamp_ms,
        )
    except KafkaError as error:
        future = asyncio.get_running_loop().create_future()
        future.set_exception(error)
    # Retrieves the exception of a record that nobody waits for, or asyncio would log it.
    future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    return future


def _outcome(future: Any, trouble: str) -> Sent:
    if not future.done() or future.cancelled():
        return Sent(None, trouble or "Kafka did not answer")
    error = future.exception()
    return Sent(int(future.result().offset)) if error is None else Sent(None, _failure_text(error))


def _ends_producer(future: Any) -> bool:
    return (
        not future.done()
        or future.cancelled()
        or not isinstance(future.exception(), (*_OF_ONE_RECORD, type(None)))
    )


def _failure_text(error: BaseException) -> str:
    """A failure in a few words: a broker's own message is long and of no use to the client."""
    words = error.description if isinstance(error, BrokerResponseError) else str(error)
    return f"Kafka did not accept it ({type(error).__name__}{f': {words}' if words else ''})"
