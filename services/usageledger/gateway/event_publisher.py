"""Puts events that were reported over HTTP, or are sent again, on Kafka, and says of each whether
Kafka has it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    BrokerResponseError,
    KafkaError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
)

from usageledger.log.producer_end import end_producer

ACKNOWLEDGED_WITHIN_S = 5.0
LINGER_MS = 2

logger = logging.getLogger(__name__)

# These are of one record, and say nothing of the producer.
_OF_ONE_RECORD = (MessageSizeTooLargeError, TopicAuthorizationFailedError)


class Outgoing(NamedTuple):
    """A record to be sent. ``timestamp_ms`` is None where Kafka dates it."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes
    timestamp_ms: int | None


class Sent(NamedTuple):
    """What became of a record: its offset, or why it is not known to be taken."""

    offset: int | None
    why: str = ""


Report = Callable[[Sequence[Outgoing]], Awaitable[Sequence[Sent]]]
"""Sends records and says what became of each, in their order: `Reporter.report`."""


async def without_kafka(records: Sequence[Outgoing]) -> Sequence[Sent]:
    """A `Report` where there is no Kafka."""
    return [Sent(None, "this gateway has no Kafka") for _ in records]


class Reporter:
    """One idempotent producer, made when the first event comes and made anew after it has
    failed.
    """

    def __init__(self, kafka: str) -> None:
        self._kafka = kafka
        self._producer: Any = None
        self._starting = asyncio.Lock()
        self._endings: set[asyncio.Task[None]] = set()

    async def report(self, records: Sequence[Outgoing]) -> list[Sent]:
        """Send these, and wait for Kafka's word within ACKNOWLEDGED_WITHIN_S.

        One that has none may have been taken all the same.
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
                else _told(error)
            )
        else:
            trouble = ""
        sent = [_outcome(future, trouble) for future in futures]
        sent += [Sent(None, trouble)] * (len(records) - len(sent))
        if producer is not None and (trouble or any(_ends_producer(future) for future in futures)):
            self._discard(producer)
        return sent

    async def close(self) -> None:
        """Let go of the producer."""
        if self._producer is not None:
            self._discard(self._producer)
        while self._endings:
            await asyncio.wait(self._endings)

    async def _ready_producer(self) -> Any:
        async with self._starting:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    bootstrap_servers=self._kafka,
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
        """What has failed may hold what nobody waits for any more.

        Others that wait for it are told that they do not know.
        """
        if producer is self._producer:
            self._producer = None
            self._end_later(producer)

    def _end_later(self, producer: Any) -> None:
        task = asyncio.get_running_loop().create_task(end_producer(producer))
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)


async def _send(producer: Any, record: Outgoing) -> Any:
    """The future of a record.

    One that the producer does not take has failed, and the others go on.
    """
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
    # When nobody waits for it any more, what becomes of it is nobody's, and asyncio need not
    # complain.
    future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    return future


def _outcome(future: Any, trouble: str) -> Sent:
    if not future.done() or future.cancelled():
        return Sent(None, trouble or "Kafka did not answer")
    error = future.exception()
    return Sent(int(future.result().offset)) if error is None else Sent(None, _told(error))


def _ends_producer(future: Any) -> bool:
    return (
        not future.done()
        or future.cancelled()
        or not isinstance(future.exception(), (*_OF_ONE_RECORD, type(None)))
    )


def _told(error: BaseException) -> str:
    """A failure in a few words. A broker's own words are long, and of no use to who reports."""
    words = error.description if isinstance(error, BrokerResponseError) else str(error)
    return f"Kafka did not take it ({type(error).__name__}{f': {words}' if words else ''})"
