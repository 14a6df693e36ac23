"""What the console asks Kafka itself: how far everybody is behind, which catalogs there are, a
refused record where it lies.

kafka-python's clients block, so they have a thread of their own, and one question is answered at a
time, within a bound. What many may ask at once is answered by the same look for a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple, TypeVar

from kafka.errors import KafkaError

from usageledger.counters.connection import Client, connect_blocking
from usageledger.counters.reading import read_heads
from usageledger.counters.view import ViewError
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.encoding import decode_head
from usageledger.domain.entry import InputAddress
from usageledger.gateway.problems import Problem
from usageledger.gateway.shared_answer import Fresh
from usageledger.ledger.records import Record
from usageledger.log.admin import connect_admin
from usageledger.log.published_catalogs import PublishedCatalogs
from usageledger.log.reading import LogReader, LogUnreadable
from usageledger.log.topics import Topics
from usageledger.operations.lags import LagReader, LedgerLags
from usageledger.operations.partition_states import PartitionState, partition_states
from usageledger.operations.refusals import refused_records

ANSWER_WITHIN_S = 5.0
KAFKA_TIMEOUT_MS = 4_000

_T = TypeVar("_T")


class Look(NamedTuple):
    """How a ledger was doing at a moment. ``partitions`` are in their order."""

    at: datetime
    lags: LedgerLags
    partitions: Sequence[PartitionState]


class CatalogsThere(NamedTuple):
    """The catalogs that lie in the topic, and those that each partition has adopted; None while the
    counters cannot be asked.
    """

    published: AdoptedCatalogs
    adopted: Mapping[int, AdoptedCatalogs] | None


class Inspector:
    """Looks into one ledger's Kafka.

    Every method raises Problem `log_unavailable` where no answer comes in time; ``look`` raises
    ViewError too.
    """

    def __init__(
        self,
        connect: Callable[[], Connections],
        prefix: str,
        catalogs: PublishedCatalogs,
        *,
        answer_within_s: float = ANSWER_WITHIN_S,
    ) -> None:
        self._connect = connect
        self._answer_within_s = answer_within_s
        self._prefix = prefix
        self._topics = Topics(prefix)
        self._published = catalogs
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inspector")
        self._connections: Connections | None = None  # the thread's own
        self._looked = Fresh(lambda: self._ask(_look))
        self._catalogs = Fresh(lambda: self._ask(self._catalogs_there))

    async def look(self) -> Look:
        """How the ledger is doing, a second ago at most."""
        async with _within(self._answer_within_s):
            return await self._looked.get()

    async def catalogs(self) -> CatalogsThere:
        """The catalogs, a second ago at most."""
        async with _within(self._answer_within_s):
            return await self._catalogs.get()

    async def records(self, addresses: Sequence[InputAddress]) -> list[Record | None]:
        """The records of the two input topics at these addresses; None for one that is no longer
        there.
        """
        async with _within(self._answer_within_s):
            return await self._ask(
                lambda connections: list(
                    refused_records(connections.reader, self._topics, addresses)
                )
            )

    def close(self) -> None:
        """Let go of the connections.

        A question that is still being answered ends by its own bound.
        """
        self._thread.submit(self._disconnect)
        self._thread.shutdown(wait=False)

    async def _ask(self, question: Callable[[Connections], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, self._answer, question
        )

    def _answer(self, question: Callable[[Connections], _T]) -> _T:
        if self._connections is None:
            self._connections = self._connect()
        try:
            return question(self._connections)
        except ViewError:
            raise
        except BaseException:
            self._disconnect()  # who has failed may remember what is no longer so
            raise

    def _disconnect(self) -> None:
        connections, self._connections = self._connections, None
        if connections is not None:
            connections.close()

    def _catalogs_there(self, connections: Connections) -> CatalogsThere:
        end = connections.reader.end_offset(self._topics.catalog, 0)
        published = self._published.before(end)
        partitions = range(connections.reader.partition_count(self._topics.ledger))
        try:
            heads = read_heads(connections.redis, self._prefix, partitions)
        except ViewError:
            return CatalogsThere(published, None)
        adopted_before = {
            partition: 0 if head is None else decode_head(head.value).catalog_next
            for partition, head in heads.items()
        }
        return CatalogsThere(
            published,
            {partition: self._published.before(end) for partition, end in adopted_before.items()},
        )


class Connections:
    """What the inspector's thread asks by. Raises KafkaError where no broker answers."""

    def __init__(self, kafka: str, redis_url: str, prefix: str) -> None:
        with ExitStack() as stack:
            self.redis: Client = connect_blocking(redis_url)
            stack.callback(self.redis.close)
            self.reader = LogReader(kafka, timeout_ms=KAFKA_TIMEOUT_MS)
            stack.callback(self.reader.close)
            self.lags = LagReader(
                self.reader,
                self.redis,
                partial(connect_admin, kafka, timeout_ms=KAFKA_TIMEOUT_MS),
                prefix,
            )
            stack.callback(self.lags.close)
            self._stack = stack.pop_all()

    def close(self) -> None:
        with suppress(KafkaError, OSError):
            self._stack.close()


@asynccontextmanager
async def _within(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except (KafkaError, LogUnreadable, OSError) as error:  # a TimeoutError is an OSError
        told = (
            f"no answer within {seconds:.0f} s"
            if isinstance(error, TimeoutError)
            else f"{type(error).__name__}: {error}"
        )
        raise Problem(
            "log_unavailable",
            f"Kafka cannot be asked ({told}): try again in a moment",
            headers={"Retry-After": "1"},
        ) from error


def _look(connections: Connections) -> Look:
    lags = connections.lags.look()
    reports = connections.lags.owner_reports()
    return Look(datetime.now(UTC), lags, partition_states(lags, reports))
