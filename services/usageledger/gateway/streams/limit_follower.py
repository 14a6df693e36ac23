"""Follows ``limit.events``: all partitions, from where ``gateway.db`` last stood, and from the
beginning when there was nothing yet.

What comes is taken into ``gateway.db`` first and handed on afterwards, so nobody has heard of an
event that a restart would bring again as a new one.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime

from usageledger.gateway.metrics import FOLLOWED, FOLLOWED_TO
from usageledger.gateway.store import StoreThread
from usageledger.gateway.streams.limit_store import LimitRecord, LimitStore, Position, limit_record
from usageledger.ledger.limit_address import NotALimitEvent
from usageledger.ledger.records import Bounds, Record
from usageledger.ledger.timestamps import milliseconds
from usageledger.log.follower import TRANSIENT, Stalled, TopicFollower
from usageledger.runtime.backoff import Backoff

POLL_MS = 1_000
RECORDS_PER_POLL_MAX = 2_000
RECONNECT = Backoff((1.0,))
ANSWER_WITHIN_S = 10.0
QUIET_S = 5.0
"""After so long without a record Kafka is asked whether there is one: a consumer that has lost its
way says nothing.
"""
SILENT_MAX_S = 10.0
"""After so long without an answer from Kafka it is not known any more who is blocked."""

logger = logging.getLogger(__name__)


class FollowingStopped(Exception):
    """The limit events are not what they were, and nothing resets by itself.

    The message says what to do.
    """


_CATCHING_UP = "limit events that are there already are still being read"


def limit_topic(kafka: str, topic: str) -> TopicFollower:
    """The topic that a `LimitFollower` follows."""
    return TopicFollower(
        kafka,
        topic,
        client_id="usageledger-gateway",
        answer_within_s=ANSWER_WITHIN_S,
        records_per_poll_max=RECORDS_PER_POLL_MAX,
    )


class LimitFollower:
    """``on_events`` is called in the event loop with what is new, in each partition's order;
    ``on_stopped`` when nothing more will come.
    """

    def __init__(
        self,
        topic: TopicFollower,
        partition_count: int,
        limits: LimitStore,
        thread: StoreThread,
        on_events: Callable[[Sequence[LimitRecord]], None],
        on_stopped: Callable[[], None],
    ) -> None:
        self._topic = topic
        self._partition_count = partition_count
        self._limits = limits
        self._thread = thread
        self._on_events = on_events
        self._on_stopped = on_stopped
        self._next: dict[int, int] = {}
        self._awaited: dict[int, int] | None = None
        """The ends that there were when Kafka was first heard, or heard again.

        Once they are reached, it is known who is blocked.
        """
        self._heard_at_s = -math.inf
        self._trouble: str | None = "limit events have not been read yet"
        self._tells = False
        """Whether what is handed on is new, and not the past that is still being read."""

    def trouble(self) -> str | None:
        """Why who is blocked is not known, None if it is."""
        if self._trouble is None and self._is_silent():
            return f"Kafka has not said for {SILENT_MAX_S:.0f} s whether there are limit events"
        return self._trouble

    def untold(self) -> str | None:
        """Why nobody may listen to what is handed on, None if they may."""
        return None if self._tells else self._trouble

    async def run(self) -> None:
        """Follow for as long as it is not cancelled.

        Returns only where it must not go on, which it has logged.
        """
        while True:
            try:
                async with aclosing(self._topic):
                    await self._follow()
            except FollowingStopped as error:
                self._trouble = str(error)
                self._tells = False
                logger.critical("limit events are not followed any more: %s", error)
                self._on_stopped()
                return
            except TRANSIENT as error:
                delay_s = RECONNECT.delay_s(1)
                if self._awaited is None or not self._has_caught_up():
                    self._trouble = f"limit events cannot be read ({type(error).__name__}: {error})"
                logger.warning(
                    "limit events cannot be read, connecting anew in %g s: %s: %s",
                    delay_s,
                    type(error).__name__,
                    error,
                )
                await asyncio.sleep(delay_s)

    async def _follow(self) -> None:
        positions = await self._thread.run(self._limits.positions)
        bounds = await self._topic.connect(self._partition_count)
        was_silent = self._is_silent()
        self._heard_at_s = _now_s()
        self._next = self._begin(positions, bounds)
        if self._awaited is None or was_silent:
            self._awaited = {partition: end for partition, (_, end) in bounds.items()}
            self._trouble = _CATCHING_UP
        to_check = {
            partition: position
            for partition, position in positions.items()
            if self._next[partition] < position.next_offset
        }
        self._look_whether_ready()
        quiet_since_s = _now_s()
        while True:
            records = await self._poll(to_check)
            if records:
                await self._take(records)
                quiet_since_s = _now_s()
            elif _now_s() - quiet_since_s >= QUIET_S:
                if await self._is_behind():
                    # A record that was appended while Kafka was asked comes with the next poll. One
                    # that was there before does not.
                    records = await self._poll(to_check)
                    if not records:
                        raise Stalled(f"nothing came in {QUIET_S:.0f} s, though there are records")
                    await self._take(records)
                quiet_since_s = _now_s()

    def _begin(
        self, positions: Mapping[int, Position], bounds: Mapping[int, Bounds]
    ) -> dict[int, int]:
        """Go to where each partition is read from: one record before the position, for it says
        whether this is the same log.
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
                    logger.error(
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
            self._heard_at_s = _now_s()
        for partition, records in polled.items():
            some = [self._read(partition, record) for record in records]
            position = to_check.pop(partition, None)
            if position is not None and some and some[0].offset == position.next_offset - 1:
                if some[0].place.id != position.last_record:
                    raise FollowingStopped(
                        f"{self._topic.topic}, partition {partition}, offset {some[0].offset} "
                        f"holds {some[0].place.id} and held "
                        f"{position.last_record}: it is another log. Give the gateway another data "
                        "directory if this is another ledger"
                    )
                del some[0]
                self._next[partition] = position.next_offset
            if some:
                read[partition] = some
        self._look_whether_ready()
        return read

    def _read(self, partition: int, record: Record) -> LimitRecord:
        try:
            found = limit_record(record.offset, record.timestamp_ms, record.value)
            if found.place.partition != partition:
                raise NotALimitEvent(f"it is of partition {found.place.partition}")
        except NotALimitEvent as error:
            raise FollowingStopped(
                f"{self._topic.topic}, partition {partition}, offset {record.offset}: {error}. "
                "Only the limits consumer may write to that topic"
            ) from error
        return found

    async def _take(self, records: Mapping[int, Sequence[LimitRecord]]) -> None:
        # Whole even when the gateway is stopped meanwhile: what has been written has been handed
        # on.
        taking = asyncio.ensure_future(
            self._thread.run(self._limits.take, records, milliseconds(datetime.now(UTC)))
        )
        new = await asyncio.shield(taking)
        self._on_events(new)
        for record in new:
            FOLLOWED.labels(record.type).inc()
        for partition, some in records.items():
            self._next[partition] = some[-1].offset + 1
            FOLLOWED_TO.labels(partition).set(self._next[partition])
        self._look_whether_ready()

    def _look_whether_ready(self) -> None:
        if self._has_caught_up():
            self._trouble = None
            self._tells = True
        elif self._trouble is not None:
            self._trouble = _CATCHING_UP

    def _is_silent(self) -> bool:
        return _now_s() - self._heard_at_s > SILENT_MAX_S

    def _has_caught_up(self) -> bool:
        return self._awaited is not None and all(
            self._next.get(partition, 0) >= end for partition, end in self._awaited.items()
        )

    async def _is_behind(self) -> bool:
        bounds = await self._topic.bounds()
        self._heard_at_s = _now_s()
        return any(self._next[partition] < end for partition, (_, end) in bounds.items())


def _now_s() -> float:
    return asyncio.get_running_loop().time()
