"""``processor skip --topic ledger|limit``: gets readers past a record that a stranger wrote.

The skip is a record in the ledger, so every reader sees the same one. It is refused for a record
that is part of the ledger's truth.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from usageledger.counters.connection import connect
from usageledger.counters.redis_view import RedisView
from usageledger.domain.chain import entry_at
from usageledger.domain.claim import decode_claim, knows_rules_of
from usageledger.domain.record_skip import (
    RecordSkip,
    SkippedPlace,
    SkippedTopic,
    encode_skip,
    place_of,
)
from usageledger.ledger.limit_address import NotALimitEvent, limit_event_in
from usageledger.ledger.reader_rule import RecordStops, kind_of_record, next_entry
from usageledger.ledger.records import KeyedValue, LedgerError, Record
from usageledger.log.kafka_ledger import KafkaLedgerPartition
from usageledger.log.reading import LogReader, log_reader, skips_after
from usageledger.log.topics import Topics
from usageledger.operations.actors import system_user
from usageledger.operations.errors import OperatorError
from usageledger.operations.ledger_entries import ledger_partitions, require_partition
from usageledger.processor.catch_up import head_of
from usageledger.runtime.kafka_connection import KafkaConnection


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordToSkip:
    """A record as an operator names it."""

    topic: SkippedTopic
    partition: int
    offset: int


def skip_record(
    kafka: KafkaConnection, redis_url: str, prefix: str, named: RecordToSkip, reason: str
) -> int:
    """Append the skip of a record to its ledger partition; return the skip's offset there.

    Raises OperatorError where the record may not be skipped, ViewError, LogUnreadable,
    kafka-python's errors.
    """
    if not reason.strip():
        raise OperatorError("a record is skipped with a reason only: give one with --reason")
    topics = Topics(prefix)
    with log_reader(kafka) as reader:
        require_partition(named.partition, len(ledger_partitions(reader, prefix)))
        place = _place_in_log(reader, topics, named)
        skipped = skips_after(reader, topics.ledger, named.partition, -1)
        if place in skipped:
            raise OperatorError(f"{_name_of(named)} is skipped already")
        if named.topic == "ledger":
            counted = asyncio.run(_counted_before(redis_url, prefix, named.partition))
            _LedgerCheck(reader, topics, named, skipped, counted).require_not_the_ledgers()
    operator = f"skip/{system_user()}@{socket.gethostname()}/{os.getpid()}"
    skip = RecordSkip(place=place, reason=reason, operator=operator)
    try:
        return asyncio.run(_append(kafka, topics, named.partition, skip))
    except LedgerError as error:
        raise OperatorError(f"nothing was skipped: {error}") from error


def _place_in_log(reader: LogReader, topics: Topics, named: RecordToSkip) -> SkippedPlace:
    """The record's place, once nothing in the record itself says that it is ours."""
    topic = topics.ledger if named.topic == "ledger" else topics.limit
    start = reader.start_offset(topic, named.partition)
    end = reader.end_offset(topic, named.partition)
    if not start <= named.offset < end:
        raise OperatorError(f"{topic}/{named.partition} has the offsets {start} to {end - 1}")
    (record,) = reader.read(topic, named.partition, named.offset, named.offset + 1)
    if named.topic == "limit":
        try:
            limit_event_in(record.value, named.partition)
        except NotALimitEvent:
            return place_of("limit", named.partition, record.offset, record.value)
        raise OperatorError(f"{_name_of(named)} is a limit event: it cannot be skipped")
    return place_of("ledger", named.partition, record.offset, record.value)


class _LedgerCheck:
    """Whether a record of the ledger may be skipped."""

    def __init__(
        self,
        reader: LogReader,
        topics: Topics,
        named: RecordToSkip,
        skipped: frozenset[SkippedPlace],
        counted_before: int,
    ) -> None:
        self._counted_before = counted_before
        self._reader = reader
        self._topic = topics.ledger
        self._named = named
        self._skipped = skipped

    def require_not_the_ledgers(self) -> None:
        """Raise OperatorError for a record that is part of the ledger, or that harms no reader."""
        record = next(self._records(self._named.offset, self._named.offset + 1))
        kind = kind_of_record(record)
        if kind == "skip":
            raise self._refused("is a skip")
        if kind == "elsewhere":
            raise self._refused("is an entry of a superseded owner: readers pass it over anyhow")
        if kind == "claim":
            self._check_claim(record)
        if kind == "entry":
            self._require_not_in_chain(record)

    def _check_claim(self, record: Record) -> None:
        claim = decode_claim(record.value)
        assert claim is not None
        if knows_rules_of(claim):
            raise self._refused("is a claim under rules that this release knows")
        for later in self._records(record.offset + 1):
            if entry_at(later.offset, later.value) is not None:
                raise self._refused(
                    f"is a claim whose worker has decided (offset {later.offset}): upgrade this "
                    "release instead"
                )
            if decode_claim(later.value) is not None:
                return

    def _require_not_in_chain(self, record: Record) -> None:
        """Raise OperatorError where the chain, Redis or a later entry shows it to be ours."""
        hash_ = ""
        for earlier in self._records(0, record.offset):
            with suppress(RecordStops):
                sealed = next_entry(earlier, self._named.partition, hash_, self._skipped)
                hash_ = hash_ if sealed is None else sealed.hash
        with suppress(RecordStops):
            next_entry(record, self._named.partition, hash_)
            raise self._refused("is an entry of the ledger: correct it with a void or a grant")
        lost = "so the log has lost an entry before it: restore the log"
        if self._counted_before > record.offset:
            raise self._refused(f"is an entry that Redis has counted, {lost}")
        own = entry_at(record.offset, record.value)
        for later in self._records(record.offset + 1):
            sealed = entry_at(later.offset, later.value)
            if own is not None and sealed is not None and sealed.entry.previous_hash == own.hash:
                raise self._refused(f"is continued by the entry at {later.offset}, {lost}")

    def _records(self, start: int, stop: int | None = None) -> Iterator[Record]:
        partition = self._named.partition
        end = self._reader.end_offset(self._topic, partition) if stop is None else stop
        return self._reader.read(self._topic, partition, start, end)

    def _refused(self, why: str) -> OperatorError:
        return OperatorError(f"nothing was skipped: {_name_of(self._named)} {why}")


async def _counted_before(redis_url: str, prefix: str, partition: int) -> int:
    """The offset before which the view has counted every entry; 0 without a view."""
    redis = connect(redis_url)
    try:
        head = await head_of(RedisView(redis, prefix, partition))
    finally:
        await redis.aclose()
    return 0 if head is None else head.next_offset


async def _append(kafka: KafkaConnection, topics: Topics, partition: int, skip: RecordSkip) -> int:
    ledger = KafkaLedgerPartition(kafka=kafka, topic=topics.ledger, partition=partition)
    try:
        # As a claim does, it makes the owner look at the log again, also one that has stopped.
        return await ledger.claim(KeyedValue(None, encode_skip(skip)))
    finally:
        await ledger.close()


def _name_of(named: RecordToSkip) -> str:
    return f"{named.topic} record {named.partition}@{named.offset}"
