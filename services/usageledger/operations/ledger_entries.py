"""The ledger's entries for apps and people: in the ledger's order, with credits as decimals."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from usageledger.domain.chain import SealedEntry
from usageledger.domain.credits import format_credits
from usageledger.ledger.partitioning import partition_of
from usageledger.log.partition_counts import ledger_partition_count
from usageledger.log.reading import LogReader, entries_in
from usageledger.log.topics import Topics
from usageledger.operations.errors import OperatorError

_AMOUNTS = frozenset(
    {"credits", "allotment", "granted", "used", "remaining", "settled", "free_left", "left"}
)


def ledger_partitions(reader: LogReader, prefix: str, account: str | None = None) -> list[int]:
    """The partitions of a ledger, or the one that an account belongs to.

    Raises OperatorError where there is no such ledger, LogUnreadable.
    """
    topics = Topics(prefix)
    count = ledger_partition_count(reader, topics)
    if count == 0:
        raise OperatorError(
            f"there is no topic {topics.ledger}: is the prefix {prefix!r} right? `usageledger up` "
            "makes a ledger"
        )
    return list(range(count)) if account is None else [partition_of(account.encode(), count)]


def require_partition(partition: int, count: int) -> None:
    """Return if a ledger of ``count`` partitions has this one. Raises OperatorError otherwise."""
    if not 0 <= partition < count:
        raise OperatorError(
            f"there is no partition {partition}: this ledger has partitions 0 to {count - 1}, so "
            "name one of those"
        )


def ledger_entries(
    reader: LogReader, prefix: str, account: str | None = None
) -> Iterator[SealedEntry]:
    """The ledger's valid entries now, of all accounts or of one, partition after partition.

    Raises OperatorError, LogUnreadable.
    """
    topic = Topics(prefix).ledger
    key = None if account is None else account.encode()
    for partition in ledger_partitions(reader, prefix, account):
        start, end = reader.start_offset(topic, partition), reader.end_offset(topic, partition)
        yield from entries_in(
            record
            for record in reader.read(topic, partition, start, end)
            if key is None or record.key == key
        )


def newest(entries: Iterable[SealedEntry], count: int) -> list[SealedEntry]:
    """The last ``count`` entries by the ledger's time, the newest last."""
    return heapq.nlargest(
        count,
        entries,
        key=lambda sealed: (sealed.entry.appended_at, sealed.entry.partition, sealed.entry.offset),
    )[::-1]


def readable_entry(sealed: SealedEntry) -> dict[str, Any]:
    """An entry and its hash as JSON values, with every amount as a decimal string of credits."""
    plain = {"credits": 0} | msgspec.to_builtins(sealed.entry) | {"hash": sealed.hash}
    return {name: _in_credits(name, value) for name, value in plain.items()}


def _in_credits(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        if name == "by_feature":
            return {feature: format_credits(credits) for feature, credits in value.items()}
        return {inner: _in_credits(inner, item) for inner, item in value.items()}
    if name in _AMOUNTS and type(value) is int:
        return format_credits(value)
    if name == "announced":
        return [[share, format_credits(size)] for share, size in value]
    if name == "settled":
        return [[source, grant, format_credits(credits)] for source, grant, credits in value]
    if isinstance(value, (list, tuple)):
        return [_in_credits("", item) for item in value]
    return value
