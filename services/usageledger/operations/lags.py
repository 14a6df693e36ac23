"""How far the processor and the limits consumer are behind, partition by partition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from usageledger.counters.owner_reports import OwnerReport, read_reports
from usageledger.counters.reading import read_heads
from usageledger.domain.encoding import decode_head
from usageledger.domain.head import Head
from usageledger.log.reading import LogReader
from usageledger.log.topics import Topics, limits_group

What = Literal["usage", "account", "catalog", "limits"]


@dataclass(frozen=True, slots=True)
class Lag:
    """Records of one ledger partition that wait: to be decided (of ``usage``, ``account``,
    ``catalog``) or to be announced (``limits``).
    """

    what: What
    partition: int
    records: int

    def __str__(self) -> str:
        records = f"{self.records:,} record{'' if self.records == 1 else 's'}"
        if self.what == "limits":
            return (
                f"limit events: partition {self.partition} has {records} of the ledger still to "
                "announce"
            )
        return f"{self.what}: partition {self.partition} has {records} still to decide"


@dataclass(frozen=True, slots=True)
class LedgerLags:
    """All lags of a ledger at one look.

    ``ends`` are the end offsets that they were reckoned from.
    """

    lags: tuple[Lag, ...]
    ends: Mapping[tuple[str, int], int]

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits."""
        return all(lag.records == 0 for lag in self.lags)

    @property
    def waiting(self) -> list[Lag]:
        """What waits, the longest queue first."""
        return sorted((lag for lag in self.lags if lag.records > 0), key=lambda lag: -lag.records)

    def records(self, *what: What) -> int:
        """How many records wait for this."""
        return sum(lag.records for lag in self.lags if lag.what in what)

    def beyond(self, topic: str, reached: Mapping[int, int]) -> int:
        """How many records of a topic lie beyond these offsets of its partitions, for who goes by
        none of the lags above.
        """
        return sum(
            max(0, end - reached.get(partition, 0))
            for (name, partition), end in self.ends.items()
            if name == topic
        )


class LagReader:
    """Looks at one ledger's lags, again and again. Raises ViewError, kafka-python's errors."""

    def __init__(
        self, reader: LogReader, redis: Any, connect_admin: Callable[[], Any], prefix: str
    ) -> None:
        self._reader = reader
        self._redis = redis
        self._connect_admin = connect_admin
        self._admin = connect_admin()
        self._prefix = prefix
        self._topics = Topics(prefix)
        self._count = reader.partition_count(self._topics.ledger)

    def look(self) -> LedgerLags:
        """The lags now.

        What is derived is read after what it is derived from, so a lag of 0 says that all of it has
        been dealt with.
        """
        topics, partitions = self._topics, range(self._count)
        inputs = self._reader.end_offsets(
            [topics.usage, topics.account], self._count
        ) | self._reader.end_offsets([topics.catalog], 1)
        heads = read_heads(self._redis, self._prefix, partitions)
        ledger = self._reader.end_offsets([topics.ledger], self._count)
        announced = self.announced()
        lags: list[Lag] = []
        for partition in partitions:
            stored = heads[partition]
            head = Head(ledger="") if stored is None else decode_head(stored.value)
            lags += _lags_behind(head, partition, topics, inputs)
            lags.append(
                Lag(
                    "limits",
                    partition,
                    max(0, ledger[topics.ledger, partition] - announced.get(partition, 0)),
                )
            )
        return LedgerLags(tuple(lags), inputs | ledger)

    def owner_reports(self) -> dict[int, OwnerReport | None]:
        """What the owner of each partition says of it."""
        return read_reports(self._redis, self._prefix, range(self._count))

    def close(self) -> None:
        """Let go of the admin client."""
        self._admin.close()

    def announced(self) -> dict[int, int]:
        """Up to where each ledger partition is announced: what the limits consumer has
        committed.
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
            # A broker that has just started, or one that no longer leads. kafka-python 3.0.12
            # remembers for good who a group's coordinator was, so only a new client asks another.
            # Until the next look nothing is known to be announced.
            self._admin.close()
            self._admin = self._connect_admin()
            return {}
        return {
            place.partition: int(found.offset)
            for place, found in offsets.items()
            if place.topic == self._topics.ledger
        }


def _lags_behind(
    head: Head, partition: int, topics: Topics, ends: Mapping[tuple[str, int], int]
) -> Iterable[Lag]:
    yield Lag("usage", partition, max(0, ends[topics.usage, partition] - head.usage_next))
    yield Lag("account", partition, max(0, ends[topics.account, partition] - head.account_next))
    yield Lag("catalog", partition, max(0, ends[topics.catalog, 0] - head.catalog_next))
