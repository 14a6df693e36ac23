"""Resharding on real servers: the ledgers in Kafka and Redis, and the new ledger's topics."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from datetime import UTC, datetime

from usageledger.counters.calling import ask_async
from usageledger.counters.connection import AsyncClient, connect
from usageledger.counters.holding import Hold, PlaceHold, parse_hold
from usageledger.counters.keys import PartitionKeys
from usageledger.counters.redis_view import RedisView
from usageledger.counters.replies import REDIS_FAILURES, view_error
from usageledger.ledger.records import LedgerPartition
from usageledger.log.kafka_ledger import KafkaLedgerPartition
from usageledger.log.partition_counts import PartitionCounts, partition_counts
from usageledger.log.reading import LogReader, log_reader
from usageledger.log.topics import Topics
from usageledger.operations.catalogs import append_catalog, catalog_connector
from usageledger.operations.errors import OperatorError
from usageledger.operations.record_sender import kafka_connector
from usageledger.operations.resharding.running import (
    Progress,
    ReshardReport,
    fill_and_compare,
)
from usageledger.operations.topics import create_topics
from usageledger.runtime.kafka_connection import KafkaConnection

ANY_AMOUNT = 2**52
"""Lets a hold be placed whatever the account has left: it was granted before."""


class ServerPorts:
    """See `deciding.LedgerPorts`. Belongs to one event loop; close it."""

    def __init__(
        self, kafka: KafkaConnection, redis: AsyncClient, prefix: str, reader: LogReader
    ) -> None:
        self.topics = Topics(prefix)
        self.reader = reader
        self._kafka = kafka
        self._redis = redis
        self._prefix = prefix
        self._ledgers: list[KafkaLedgerPartition] = []
        self.connect = kafka_connector(kafka, prefix)

    def ledger(self, partition: int) -> LedgerPartition:
        ledger = KafkaLedgerPartition(
            kafka=self._kafka, topic=self.topics.ledger, partition=partition
        )
        self._ledgers.append(ledger)
        return ledger

    def view(self, partition: int) -> RedisView:
        return RedisView(self._redis, self._prefix, partition)

    def publish_catalog(self, value: bytes) -> None:
        append_catalog(catalog_connector(self._kafka, self._prefix), value)

    async def open_holds(self, partition: int) -> dict[tuple[str, str], Hold]:
        start = PartitionKeys(self._prefix, partition).holds("")
        now_ms = time.time_ns() // 1_000_000
        holds: dict[tuple[str, str], Hold] = {}
        try:
            # The tag has braces, but no characters that a pattern gives a meaning to.
            async for key in self._redis.scan_iter(match=f"{start}*", count=1_000):
                account = key.decode().removeprefix(start)
                for id_, text in (await self._fields(key)).items():
                    hold = parse_hold(text) if id_ else None
                    if hold is not None and hold.state == "open" and hold.counts_until_ms > now_ms:
                        holds[account, id_.decode()] = hold
        except REDIS_FAILURES as error:
            raise view_error(error) from error
        return holds

    async def _fields(self, key: bytes) -> dict[bytes, bytes]:
        fields: dict[bytes, bytes] = await self._redis.hgetall(key)  # type: ignore[assignment]
        return fields

    async def place_hold(
        self, partition: int, account: str, id: str, hold: Hold, seen: bytes | None
    ) -> None:
        life_ms = hold.counts_until_ms - time.time_ns() // 1_000_000
        if life_ms <= 0:
            return
        held = await ask_async(
            self._redis,
            PartitionKeys(self._prefix, partition),
            PlaceHold(
                account=account,
                seen=seen,
                remaining=ANY_AMOUNT,
                id=id,
                credits=hold.credits,
                life_ms=life_ms,
                content=hold.content,
                holder=hold.holder,
            ),
        )
        if held.outcome != "held":
            raise OperatorError(
                f"hold {id} of account {account!r} could not be copied: {held.outcome}. Is a "
                "processor of the new ledger running? Stop it, and repeat with another prefix"
            )

    async def close(self) -> None:
        for ledger in self._ledgers:
            await ledger.close()


def reshard(
    kafka: KafkaConnection,
    redis_url: str,
    prefix: str,
    to_prefix: str,
    partitions: int,
    *,
    replication_factor: int = -1,
    on_progress: Progress = lambda done: None,
) -> ReshardReport:
    """Fill a new ledger of ``partitions`` partitions from the one with the prefix ``prefix``.

    The old ledger is only read. Raises OperatorError, LogUnreadable, ViewError, KafkaError.
    """
    if to_prefix == prefix:
        raise OperatorError(
            f"the new ledger needs a prefix of its own, and {prefix!r} is the old one's: name "
            "another --to-prefix"
        )
    with ExitStack() as stack:
        old_reader = stack.enter_context(log_reader(kafka))
        new_reader = stack.enter_context(log_reader(kafka))
        counts = _counts_of(old_reader, prefix)
        _require_empty(new_reader, to_prefix)
        asyncio.run(_require_no_counters(redis_url, to_prefix, partitions))
        create_topics(
            kafka,
            to_prefix,
            partitions=partitions,
            importing=True,
            replication_factor=replication_factor,
        )

        async def run() -> ReshardReport:
            redis = connect(redis_url)
            old = ServerPorts(kafka, redis, prefix, old_reader)
            new = ServerPorts(kafka, redis, to_prefix, new_reader)
            try:
                return await fill_and_compare(
                    old,
                    new,
                    old_partitions=counts.of_ledger,
                    new_partitions=partitions,
                    input_counts={
                        "usage": counts.by_topic[old.topics.usage],
                        "account": counts.by_topic[old.topics.account],
                    },
                    now=lambda: datetime.now(UTC),
                    on_progress=on_progress,
                )
            finally:
                await new.close()
                await redis.aclose()

        return asyncio.run(run())


def _counts_of(reader: LogReader, prefix: str) -> PartitionCounts:
    """The partition counts of a ledger's topics. Raises OperatorError where one is missing."""
    counts = partition_counts(reader, Topics(prefix))
    if counts.missing:
        raise OperatorError(
            f"there is no topic {counts.missing[0]}: is the prefix {prefix!r} right?"
        )
    return counts


def _require_empty(reader: LogReader, prefix: str) -> None:
    """Return if no topic of a ledger has records. Raises OperatorError."""
    topics = Topics(prefix)
    for topic in (*topics.partitioned, topics.catalog):
        for partition in range(reader.partition_count(topic)):
            if reader.end_offset(topic, partition) > 0:
                raise OperatorError(
                    f"{topic} has records already, of a ledger or of a reshard that was cut "
                    "short. Only an empty ledger can be filled. Name another --to-prefix; an "
                    "unfinished copy does no harm, and its topics can be deleted"
                )


async def _require_no_counters(redis_url: str, prefix: str, partitions: int) -> None:
    """Return if Redis has no counters of a ledger. Raises OperatorError, ViewError."""
    redis = connect(redis_url)
    try:
        for partition in range(partitions):
            if await RedisView(redis, prefix, partition).head() is not None:
                raise OperatorError(
                    f"Redis has counters of the prefix {prefix!r} already, of a ledger that was "
                    "there before: name another --to-prefix"
                )
    finally:
        await redis.aclose()
