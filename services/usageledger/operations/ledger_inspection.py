"""Looks at a running ledger in Kafka and Redis: its lags, partitions, catalogs and records.

Blocking, over connections that are kept: the gateway asks in a thread, for its console.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

from kafka.errors import KafkaError

from usageledger.counters.connection import Client, connect_blocking
from usageledger.counters.reading import read_heads
from usageledger.counters.view import ViewError
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.encoding import decode_head
from usageledger.ledger.records import Record
from usageledger.ledger.refused_input import RefusedInput
from usageledger.log.admin import connect_admin
from usageledger.log.partition_counts import ledger_partition_count
from usageledger.log.published_catalogs import PublishedCatalogs
from usageledger.log.reading import LogReader
from usageledger.log.topics import Topics
from usageledger.operations.lags import LagReader, LedgerLags
from usageledger.operations.partition_states import PartitionState, partition_states
from usageledger.operations.refusals import refused_records
from usageledger.runtime.kafka_connection import KafkaConnection

KAFKA_TIMEOUT_MS = 4_000


class LedgerProgress(NamedTuple):
    """The lags of a ledger at a moment, and the states of its partitions in their order."""

    at: datetime
    lags: LedgerLags
    partitions: Sequence[PartitionState]


class PublishedAndAdopted(NamedTuple):
    """The catalogs in the topic, and those that each partition has adopted.

    ``adopted`` is None while the counters cannot be read.
    """

    published: AdoptedCatalogs
    adopted: Mapping[int, AdoptedCatalogs] | None


class LedgerConnections:
    """One thread's connections to a ledger's Kafka and Redis.

    Raises KafkaError where no broker answers, LogUnreadable, ViewError.
    """

    def __init__(
        self, kafka: KafkaConnection, redis_url: str, prefix: str, catalogs: PublishedCatalogs
    ) -> None:
        self._prefix = prefix
        self._topics = Topics(prefix)
        self._catalogs = catalogs
        with ExitStack() as stack:
            self._redis: Client = connect_blocking(redis_url)
            stack.callback(self._redis.close)
            self._reader = LogReader(kafka, timeout_ms=KAFKA_TIMEOUT_MS)
            stack.callback(self._reader.close)
            self._lags = LagReader(
                self._reader,
                self._redis,
                partial(connect_admin, kafka, timeout_ms=KAFKA_TIMEOUT_MS),
                prefix,
            )
            stack.callback(self._lags.close)
            self._stack = stack.pop_all()

    def progress(self) -> LedgerProgress:
        """How far the services are, and what each partition is doing."""
        lags = self._lags.look()
        states = partition_states(lags, self._lags.owner_reports(), self._lags.redis_refusal())
        return LedgerProgress(datetime.now(UTC), lags, states)

    def catalogs(self) -> PublishedAndAdopted:
        """The published catalogs, and which of them each partition has adopted."""
        end = self._reader.end_offset(self._topics.catalog, 0)
        published = self._catalogs.before(end)
        partitions = range(ledger_partition_count(self._reader, self._topics))
        try:
            heads = read_heads(self._redis, self._prefix, partitions)
        except ViewError:
            return PublishedAndAdopted(published, None)
        adopted_before = {
            partition: 0 if head is None else decode_head(head.value).catalog_next
            for partition, head in heads.items()
        }
        return PublishedAndAdopted(
            published,
            {partition: self._catalogs.before(end) for partition, end in adopted_before.items()},
        )

    def refused_records(self, refused: Sequence[RefusedInput]) -> list[list[Record]]:
        """The refused records of each refusal; none where they are gone."""
        return list(refused_records(self._reader, self._topics, refused))

    def close(self) -> None:
        """Close the connections."""
        with suppress(KafkaError, OSError):
            self._stack.close()
