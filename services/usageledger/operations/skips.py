"""``processor skip``: claims a partition for the operator and skips the input it stopped at."""

from __future__ import annotations

import asyncio
import os
import socket
from datetime import UTC, datetime

from usageledger.counters.connection import connect
from usageledger.counters.redis_view import RedisView
from usageledger.domain.chain import SealedEntry
from usageledger.domain.entry import InputAddress
from usageledger.ledger.records import LedgerError, Record
from usageledger.log.kafka_ledger import KafkaLedgerPartition
from usageledger.log.reading import BatchUnreadable, LogReader, log_reader
from usageledger.log.topics import Topics
from usageledger.operations.actors import system_user
from usageledger.operations.errors import OperatorError
from usageledger.operations.ledger_entries import ledger_partitions, require_partition
from usageledger.operations.topics import is_importing
from usageledger.processor.catalog_log import CatalogLog
from usageledger.processor.catch_up import PartitionStopped
from usageledger.processor.inputs import InputBuffer, Source
from usageledger.processor.skipping import SkipRefused, UnreadableBatch, skip_input
from usageledger.runtime.kafka_connection import KafkaConnection

SKIP_TIMEOUT_S = 120.0


def skip(
    kafka: KafkaConnection, redis_url: str, prefix: str, address: InputAddress, reason: str
) -> SealedEntry:
    """Skip the input that a partition has stopped at; return the entry that records the skip.

    Raises OperatorError where the input may not be skipped, ViewError, LogUnreadable,
    kafka-python's errors.
    """
    importing = is_importing(kafka, prefix)
    with log_reader(kafka) as reader:
        count = len(ledger_partitions(reader, prefix))
        require_partition(address.partition, count)
        try:
            return asyncio.run(
                _skip(reader, kafka, redis_url, prefix, address, reason, count, importing)
            )
        except (SkipRefused, PartitionStopped, LedgerError) as error:
            raise OperatorError(
                f"nothing was skipped: {error}" if isinstance(error, SkipRefused) else str(error)
            ) from error
        except TimeoutError:
            raise OperatorError(
                f"not done within {SKIP_TIMEOUT_S:.0f} s: see `usageledger ledger show` for "
                "whether the skip was written, and repeat the command if it was not"
            ) from None


async def _skip(
    reader: LogReader,
    kafka: KafkaConnection,
    redis_url: str,
    prefix: str,
    address: InputAddress,
    reason: str,
    partition_count: int,
    importing: bool,
) -> SealedEntry:
    topics = Topics(prefix)
    control = _FirstRecords(reader, topics, address.partition)
    catalogs = CatalogLog()
    start, end = reader.start_offset(topics.catalog, 0), reader.end_offset(topics.catalog, 0)
    catalogs.put(list(reader.read(topics.catalog, 0, start, end)))
    ledger = KafkaLedgerPartition(kafka=kafka, topic=topics.ledger, partition=address.partition)
    redis = connect(redis_url)
    try:
        async with asyncio.timeout(SKIP_TIMEOUT_S):
            return await skip_input(
                address,
                reason,
                partition_count=partition_count,
                ledger=ledger,
                view=RedisView(redis, prefix, address.partition),
                inputs=control.buffer,
                catalogs=catalogs,
                operator=f"skip/{system_user()}@{socket.gethostname()}/{os.getpid()}",
                is_importing=importing,
                now=lambda: datetime.now(UTC),
                unreadable=control.unreadable.get,
            )
    finally:
        await ledger.close()
        await redis.aclose()


class _FirstRecords:
    """An `InputControl` that feeds the first record of each input after a seek, and no more.

    That is enough to decide which input the partition has stopped at.
    """

    def __init__(self, reader: LogReader, topics: Topics, partition: int) -> None:
        self.buffer = InputBuffer(self)
        self._reader = reader
        self._topics = {Source.USAGE: topics.usage, Source.ACCOUNT: topics.account}
        self._partition = partition
        self._ends: dict[Source, int] = {}
        self.unreadable: dict[Source, UnreadableBatch] = {}
        """The inputs that cannot be read from where they were sought to."""

    async def seek(self, positions: dict[Source, int]) -> None:
        for source, position in positions.items():
            topic = self._topics[source]
            start, self._ends[source] = (
                self._reader.start_offset(topic, self._partition),
                self._reader.end_offset(topic, self._partition),
            )
            if not start <= position <= self._ends[source]:
                raise PartitionStopped(
                    f"{topic}/{self._partition} holds offsets {start} to {self._ends[source]}, and "
                    f"the ledger has decided up to {position}: the topic was truncated or made "
                    "anew. Restore it from a backup"
                )
            first = self._first(source, position)
            if first is not None:
                self.buffer.put(source, [first])

    def _first(self, source: Source, position: int) -> Record | None:
        self.unreadable.pop(source, None)
        topic, end = self._topics[source], self._ends[source]
        try:
            return next(iter(self._reader.read(topic, self._partition, position, end)), None)
        except BatchUnreadable as error:
            last = error.place.last_offset
            if last is None:
                raise OperatorError(
                    f"{error}, and its header is broken too: restore {topic} from a backup"
                ) from error
            self.unreadable[source] = UnreadableBatch(range(position, last + 1), error.place.why)
            return None

    async def end_offset(self, source: Source) -> int:
        return self._ends[source]

    def known_end_offset(self, source: Source) -> int | None:
        return self._ends.get(source)

    def acknowledge(self, source: Source, next_offset: int) -> None: ...

    def pause(self, source: Source) -> None: ...

    def resume(self, source: Source) -> None: ...
