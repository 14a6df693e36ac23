"""How far each partition of a ledger is behind: what is still to decide and still to announce."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from usageledger.counters.connection import connect_blocking
from usageledger.counters.owner_reports import OwnerReport, read_reports
from usageledger.counters.reading import read_heads
from usageledger.counters.view import ViewError
from usageledger.counters.write_probe import refusal
from usageledger.domain.encoding import decode_head
from usageledger.domain.head import Head
from usageledger.history.reading import HistoryAbsent, reach_of
from usageledger.log.partition_counts import PartitionCounts, ledger_partition_count
from usageledger.log.reading import LogReader, log_reader
from usageledger.log.topics import Topics, limits_group
from usageledger.operations.kafka_probe import admin_client
from usageledger.operations.ledger_entries import ledger_partitions
from usageledger.runtime.kafka_connection import KafkaConnection

What = Literal["usage", "account", "catalog", "limits"]


@dataclass(frozen=True, slots=True)
class Lag:
    """Records that wait in one ledger partition.

    ``what`` says for what: to be decided (``usage``, ``account``, ``catalog``) or to be announced
    (``limits``).
    """

    what: What
    partition: int
    records: int

    def __str__(self) -> str:
        records = f"{self.records:,} record{'' if self.records == 1 else 's'}"
        if self.what == "limits":
            return f"limit events: partition {self.partition} has {records} still to announce"
        return f"{self.what}: partition {self.partition} has {records} still to decide"


@dataclass(frozen=True, slots=True)
class LedgerLags:
    """All lags of a ledger, seen in one look.

    ``ends`` are the end offsets that they were computed from, by topic and partition.
    """

    lags: tuple[Lag, ...]
    ends: Mapping[tuple[str, int], int]
    difference: str | None = None
    """How the topics' partition counts differ from the ledger's."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits."""
        return all(lag.records == 0 for lag in self.lags)

    @property
    def waiting(self) -> list[Lag]:
        """The lags above 0, the longest first."""
        return sorted((lag for lag in self.lags if lag.records > 0), key=lambda lag: -lag.records)

    def uncovered(self, topics: Topics) -> dict[tuple[str, int], int]:
        """How many input records no entry covers, by topic and partition."""
        names = {"usage": topics.usage, "account": topics.account}
        return {
            (names[lag.what], lag.partition): lag.records
            for lag in self.lags
            if lag.what in names and lag.records
        }

    def records(self, *what: What) -> int:
        """How many records wait for one of these."""
        return sum(lag.records for lag in self.lags if lag.what in what)

    def beyond(self, topic: str, reached: Mapping[int, int]) -> int:
        """How many records of a topic are at or after ``reached``, an offset for each partition.

        For a reader of the log that none of the lags is about, such as the history.
        """
        return sum(
            max(0, end - reached.get(partition, 0))
            for (name, partition), end in self.ends.items()
            if name == topic
        )


LookAtLags = Callable[[], LedgerLags]


class LagReader:
    """Reads one ledger's lags, as often as it is asked. Raises ViewError, kafka-python's errors."""

    def __init__(
        self, reader: LogReader, redis: Any, connect_admin: Callable[[], Any], prefix: str
    ) -> None:
        self._reader = reader
        self._redis = redis
        self._connect_admin = connect_admin
        self._admin = connect_admin()
        self._prefix = prefix
        self._topics = Topics(prefix)
        self._count = ledger_partition_count(reader, self._topics)

    def look(self) -> LedgerLags:
        """The lags now.

        End offsets are read before the progress that is subtracted from them. So a lag of 0 means
        that every record up to that end has been handled.
        """
        topics, partitions = self._topics, range(self._count)
        counts = self._counts_now()
        inputs = self._reader.end_offsets([topics.catalog], 1)
        for topic in (topics.usage, topics.account):
            there = max(self._count, counts.by_topic[topic])
            inputs |= self._reader.end_offsets([topic], there)
        heads = read_heads(self._redis, self._prefix, partitions)
        ledger = self._reader.end_offsets([topics.ledger], self._count)
        announced = self.announced()
        lags: list[Lag] = []
        for partition in partitions:
            stored = heads[partition]
            head = Head(ledger="") if stored is None else decode_head(stored.value)
            lags += _undecided(head, partition, topics, inputs)
            unannounced = ledger[topics.ledger, partition] - announced.get(partition, 0)
            lags.append(Lag("limits", partition, max(0, unannounced)))
        lags += self._beyond_the_ledger(inputs)
        return LedgerLags(tuple(lags), inputs | ledger, counts.difference())

    def _counts_now(self) -> PartitionCounts:
        """The counts as the broker describes them now; the reader's may be older."""
        described = self._admin.describe_topics(list(self._topics.partitioned))
        found = {
            each["name"]: len(each["partitions"]) for each in described if not each["error_code"]
        }
        return PartitionCounts(
            self._count, {topic: found.get(topic, 0) for topic in self._topics.partitioned}
        )

    def _beyond_the_ledger(self, ends: Mapping[tuple[str, int], int]) -> Iterator[Lag]:
        """Records in partitions of the inputs that the ledger does not have."""
        whats: tuple[tuple[What, str], ...] = (
            ("usage", self._topics.usage),
            ("account", self._topics.account),
        )
        for what, topic in whats:
            for (name, partition), end in ends.items():
                if name == topic and partition >= self._count:
                    start = self._reader.start_offset(topic, partition)
                    yield Lag(what, partition, max(0, end - start))

    def owner_reports(self) -> dict[int, OwnerReport | None]:
        """The report of each partition's owner; None where a partition has no owner."""
        return read_reports(self._redis, self._prefix, range(self._count))

    def redis_refusal(self) -> ViewError | None:
        """Why Redis accepts no writes; None if it does."""
        return refusal(self._redis, self._prefix, self._count)

    def close(self) -> None:
        """Close the admin client."""
        self._admin.close()

    def announced(self) -> dict[int, int]:
        """The offset up to which each ledger partition is announced, as the limits consumer has it.

        Empty while the consumer group's coordinator does not answer.
        """
        from kafka.errors import (
            CoordinatorLoadInProgressError,
            CoordinatorNotAvailableError,
            NotCoordinatorError,
        )

        group = limits_group(self._prefix)
        try:
            offsets = self._admin.list_group_offsets(group)[group]
        except (CoordinatorLoadInProgressError, CoordinatorNotAvailableError, NotCoordinatorError):
            # The broker has just started, or no longer coordinates the group. kafka-python 3.0.12
            # never forgets a coordinator: only a new client finds another one.
            # Until the next look nothing counts as announced.
            self._admin.close()
            self._admin = self._connect_admin()
            return {}
        return {
            partition.partition: int(found.offset)
            for partition, found in offsets.items()
            if partition.topic == self._topics.ledger
        }


@contextmanager
def lag_reader(
    kafka: KafkaConnection, redis_url: str, prefix: str, *, timeout_ms: int = 30_000
) -> Iterator[LagReader]:
    """A lag reader with connections of its own.

    Raises OperatorError where there is no ledger, or no broker answers within ``timeout_ms``.
    """
    redis = connect_blocking(redis_url)
    try:
        connect_admin = partial(admin_client, kafka, timeout_ms=timeout_ms)
        with log_reader(kafka) as reader:
            ledger_partitions(reader, prefix)
            with closing(LagReader(reader, redis, connect_admin, prefix)) as lags:
                yield lags
    finally:
        redis.close()


def service_lags(lags: LedgerLags) -> dict[str, int | None]:
    """How many records each service of the stack has still to handle; None for the servers."""
    return {
        "kafka": None,
        "redis": None,
        "processor": lags.records("usage", "account", "catalog"),
        "limits": lags.records("limits"),
    }


def history_lag(lags: LedgerLags, prefix: str, history: Path) -> int | None:
    """How many ledger records this ``history.db`` does not hold yet; None where there is none.

    The ledger counts as idle whatever this lag is: the history decides nothing, and every page of
    it says how far it reaches.
    """
    try:
        reached = reach_of(history)
    except HistoryAbsent:
        return None
    return lags.beyond(Topics(prefix).ledger, reached)


def _undecided(
    head: Head, partition: int, topics: Topics, ends: Mapping[tuple[str, int], int]
) -> Iterable[Lag]:
    yield Lag("usage", partition, max(0, ends[topics.usage, partition] - head.usage_next))
    yield Lag("account", partition, max(0, ends[topics.account, partition] - head.account_next))
    yield Lag("catalog", partition, max(0, ends[topics.catalog, 0] - head.catalog_next))
