"""Follows all partitions of ``limit.events``, from the positions in ``gateway.db``.

A partition without a position is read from its beginning. Events are written to ``gateway.db``
first and announced afterwards. So no client has seen an event that a restart would bring again as
a new one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime

from usageledger.gateway.metrics import FOLLOWED, FOLLOWED_TO, IGNORED
from usageledger.gateway.store import StoreThread
from usageledger.gateway.streams.limit_store import LimitRecord, LimitStore, Position, limit_record
from usageledger.gateway.streams.limits_health import LimitsHealth, now_s
from usageledger.ledger.limit_address import NotALimitEvent
from usageledger.ledger.records import Bounds, Record
from usageledger.ledger.timestamps import milliseconds
from usageledger.log.follower import TRANSIENT, Stalled, TopicFollower
from usageledger.runtime.backoff import Backoff
from usageledger.runtime.kafka_connection import KafkaConnection

POLL_MS = 1_000
RECORDS_PER_POLL_MAX = 2_000
RECONNECT = Backoff((1.0,))
ANSWER_WITHIN_S = 10.0
QUIET_S = 5.0
"""After so long without a record, Kafka is asked for its end offsets.

A consumer that has lost its way only returns nothing.
"""

log = logging.getLogger(__name__)


class FollowingStopped(Exception):
    """The topic is not the one that was followed before. The message says what to do."""


def limit_topic(kafka: KafkaConnection, topic: str) -> TopicFollower:
    """The topic that a `LimitFollower` follows."""
    return TopicFollower(
        kafka,
        topic,
        client_id="usageledger-gateway",
        answer_within_s=ANSWER_WITHIN_S,
        records_per_poll_max=RECORDS_PER_POLL_MAX,
    )


class LimitFollower:
    """Follows one topic, and keeps ``health`` up to date.

    ``on_events`` is called in the event loop with the new events, in the order of each partition;
    ``on_stopped`` when no more will come.
    """

    def __init__(
        self,
        topic: TopicFollower,
        partition_count: int,
        limits: LimitStore,
        thread: StoreThread,
        health: LimitsHealth,
        *,
        on_events: Callable[[Sequence[LimitRecord]], None],
        on_stopped: Callable[[], None],
    ) -> None:
        self._topic = topic
        self._partition_count = partition_count
        self._limits = limits
        self._thread = thread
        self._health = health
        self._on_events = on_events
        self._on_stopped = on_stopped
        self._next: dict[int, int] = {}
        self._unreadable: dict[int, str] = {}
        """Why partitions are not followed. The others are."""
        self._read_to: dict[int, int] = {}
        """Where each partition's last poll ended: its events may not be written yet."""
        self._awaited: dict[int, int] | None = None
        """The end offsets when Kafka first answered, or answered again after a silence.

        Once they are reached, it is known which accounts are blocked.
        """

    async def run(self) -> None:
        """Follow until cancelled. Returns early, after logging why, only if it must not go on."""
        while True:
            try:
                async with aclosing(self._topic):
                    await self._follow()
            except FollowingStopped as error:
                self._health.note_stopped(str(error))
                log.critical("limit events are not followed any more: %s", error)
                self._on_stopped()
                return
            except TRANSIENT as error:
                delay_s = RECONNECT.delay_s(1)
                if self._awaited is None or not self._has_caught_up():
                    self._health.note_failure(
                        f"limit events cannot be read ({type(error).__name__}: {error})"
                    )
                log.warning(
                    "limit events cannot be read, connecting anew in %g s: %s: %s",
                    delay_s,
                    type(error).__name__,
                    error,
                )
                await asyncio.sleep(delay_s)

    async def _follow(self) -> None:
        positions = await self._thread.run(self._limits.positions)
        bounds = await self._topic.connect(self._partition_count)
        was_silent = self._health.is_silent()
        self._health.note_answer()
        self._next = self._begin(positions, bounds)
        self._unreadable.clear()
        if self._awaited is None or was_silent:
            self._awaited = {partition: end for partition, (_, end) in bounds.items()}
            self._health.note_catching_up()
        to_check = {
            partition: position
            for partition, position in positions.items()
            if self._next[partition] < position.next_offset
        }
        self._note_progress()
        quiet_since_s = now_s()
        while True:
            records = await self._poll(to_check)
            if records:
                await self._write(records)
                quiet_since_s = now_s()
            elif now_s() - quiet_since_s >= QUIET_S:
                if await self._is_behind():
                    # A record that was appended while Kafka was asked comes with the next poll. One
                    # that was there before does not.
                    records = await self._poll(to_check)
                    if not records:
                        raise Stalled(f"nothing came in {QUIET_S:.0f} s, though there are records")
                    await self._write(records)
                quiet_since_s = now_s()

    def _begin(
        self, positions: Mapping[int, Position], bounds: Mapping[int, Bounds]
    ) -> dict[int, int]:
        """Seek in each partition to one record before its position; return where that is.

        That record shows whether this is the same log.
        """
        begins: dict[int, int] = {}
        for partition, (start, end) in bounds.items():
            position = positions.get(partition)
            if position is None:
                begins[partition] = start
            elif end < position.next_offset:
                raise FollowingStopped(
                    f"{self._topic.topic}, partition {partition} ends at offset {end}, and was "
                    f"followed up to {position.next_offset}: it was truncated or made anew. "
                    "Restore it, or give the gateway another data directory if this is another "
                    "ledger"
                )
            else:
                if start > position.next_offset:
                    log.error(
                        "%s, partition %d: records %d to %d were deleted unread",
                        self._topic.topic,
                        partition,
                        position.next_offset,
                        start - 1,
                    )
                begins[partition] = max(start, position.next_offset - 1)
            self._topic.seek(partition, begins[partition])
        return begins

    async def _poll(self, to_check: dict[int, Position]) -> dict[int, list[LimitRecord]]:
        polled = await self._topic.poll(POLL_MS)
        read: dict[int, list[LimitRecord]] = {}
        if polled:
            self._health.note_answer()
        for partition, records in polled.items():
            read_here = [self._read(partition, record) for record in records]
            some = [record for record in read_here if record is not None]
            position = to_check.pop(partition, None)
            if position is not None and records[0].offset == position.next_offset - 1:
                self._check_same_log(partition, position, read_here[0])
                del some[0]
            self._read_to[partition] = records[-1].offset + 1
            if some:
                read[partition] = some
            else:
                self._next[partition] = self._read_to[partition]
        for partition, found in self._topic.unreadable.items():
            if partition not in self._unreadable:
                self._unreadable[partition] = (
                    f"{self._topic.topic}, partition {partition} cannot be read from offset "
                    f"{found.offset} on: {found.why}"
                )
                log.error("limit events stop: %s", self._unreadable[partition])
        self._note_progress()
        return read

    def _check_same_log(
        self, partition: int, position: Position, found: LimitRecord | None
    ) -> None:
        """Raise FollowingStopped unless the record before a position is the one that was there."""
        if found is None or found.address.id != position.last_record:
            raise FollowingStopped(
                f"{self._topic.topic}, partition {partition}, offset {position.next_offset - 1} "
                f"holds {'no limit event' if found is None else found.address.id} and held "
                f"{position.last_record}: it is another log. Give the gateway another data "
                "directory if this is another ledger"
            )

    def _read(self, partition: int, record: Record) -> LimitRecord | None:
        """Decode a record; None for bytes that are no limit event, which is logged.

        They say nothing about any account, so every reader goes on after them.
        """
        try:
            return limit_record(partition, record)
        except NotALimitEvent as error:
            IGNORED.labels(partition).inc()
            log.error(
                "%s, partition %d, offset %d is no limit event, and is ignored (%s): only the "
                "limits consumer may write to that topic, see `usageledger audit verify`",
                self._topic.topic,
                partition,
                record.offset,
                error,
            )
            return None

    async def _write(self, records: Mapping[int, Sequence[LimitRecord]]) -> None:
        # Shielded, because an event that has been written must also be announced, even if the
        # gateway is stopped in between.
        writing = asyncio.ensure_future(
            self._thread.run(self._limits.add, records, milliseconds(datetime.now(UTC)))
        )
        new = await asyncio.shield(writing)
        self._on_events(new)
        for record in new:
            FOLLOWED.labels(record.type).inc()
        for partition in records:
            self._next[partition] = self._read_to[partition]
            FOLLOWED_TO.labels(partition).set(self._next[partition])
        self._note_progress()

    def _note_progress(self) -> None:
        if self._has_caught_up():
            self._health.note_caught_up()
            if self._unreadable:
                self._health.note_failure("; ".join(self._unreadable.values()))
        elif self._health.trouble() is not None:
            self._health.note_catching_up()

    def _has_caught_up(self) -> bool:
        return self._awaited is not None and all(
            partition in self._unreadable or self._next.get(partition, 0) >= end
            for partition, end in self._awaited.items()
        )

    async def _is_behind(self) -> bool:
        bounds = await self._topic.bounds()
        self._health.note_answer()
        return any(
            self._next[partition] < end
            for partition, (_, end) in bounds.items()
            if partition not in self._unreadable
        )
