"""Following limit events: which are announced, and which health is reported while Kafka is away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError

from tests.worlds.gateway_events import Announced
from usageledger.gateway.stores import Stores
from usageledger.gateway.streams.limit_follower import (
    QUIET_S,
    LimitFollower,
    limit_topic,
)
from usageledger.gateway.streams.limit_store import LimitRecord
from usageledger.gateway.streams.limits_health import SILENT_MAX_S, LimitsHealth
from usageledger.log import follower as log_follower
from usageledger.log.bounded_codecs import BatchUnreadable, current_decoding
from usageledger.runtime.backoff import Backoff
from usageledger.runtime.kafka_connection import KafkaConnection

DEADLINE_S = 10.0
TOPIC = TopicPartition("limit.events", 0)


class Stored(NamedTuple):
    """A record as aiokafka gives it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes


class Topic:
    """A partition in memory, and its consumer.

    Each request that finds no record lasts a second.
    """

    def __init__(self) -> None:
        self.records: list[LimitRecord] = []
        self.now_s = 0.0
        self.is_away = False
        self.fails_with: BaseException | None = None
        self.unreadable_from: int | None = None
        self.paused: list[TopicPartition] = []
        self.asked = asyncio.Event()
        self._next_offset = 0

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        assert list(partitions) == [TOPIC]

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def seek(self, place: TopicPartition, offset: int) -> None:
        self._next_offset = offset

    def pause(self, place: TopicPartition) -> None:
        self.paused.append(place)

    async def beginning_offsets(
        self, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int]:
        self._answer()
        return dict.fromkeys(partitions, 0)

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        self._answer()
        return dict.fromkeys(partitions, len(self.records))

    async def getmany(
        self, timeout_ms: int, max_records: int
    ) -> dict[TopicPartition, list[Stored]]:
        self.asked.set()
        await asyncio.sleep(0)
        if self._next_offset == self.unreadable_from and not self.paused:
            decoding = current_decoding()
            assert decoding is not None
            decoding.note(TOPIC, self._next_offset, BatchUnreadable("a zstd batch is broken"))
            return {}
        is_silent = self.is_away or bool(self.paused)
        found = [] if is_silent else self.records[self._next_offset : self._next_offset + 1]
        self._next_offset += len(found)
        self.now_s += 0 if found else timeout_ms / 1_000
        return (
            {
                TOPIC: [
                    Stored(record.offset, record.announced_ms, None, record.value)
                    for record in found
                ]
            }
            if found
            else {}
        )

    def _answer(self) -> None:
        self.asked.set()
        if self.fails_with is not None:
            failure, self.fails_with = self.fails_with, None
            raise failure
        if self.is_away:
            self.now_s += 1
            raise KafkaConnectionError("nobody answers")


class Following:
    """A follower of a topic in memory.

    ``heard`` lists the events that it has passed on, each with whether clients could listen then.
    """

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.topic = Topic()
        self.stores = Stores(path)
        self.heard: list[tuple[str, bool]] = []
        self.has_stopped = False
        self.health = LimitsHealth()
        monkeypatch.setattr(log_follower, "new_consumer", lambda *_, **__: self.topic)
        self.follower = LimitFollower(
            limit_topic(KafkaConnection(servers="nowhere:9092"), TOPIC.topic),
            1,
            self.stores.limits,
            self.stores.thread,
            self.health,
            on_events=self._hear,
            on_stopped=self._stop,
        )
        for module in ("limit_follower", "limits_health"):
            monkeypatch.setattr(
                f"usageledger.gateway.streams.{module}.now_s", lambda: self.topic.now_s
            )
        monkeypatch.setattr("usageledger.gateway.streams.limit_follower.RECONNECT", Backoff((0.0,)))

    def _hear(self, events: Sequence[LimitRecord]) -> None:
        self.heard += [(event.event_id, self.health.stream_trouble() is None) for event in events]

    def _stop(self) -> None:
        self.has_stopped = self.health.stream_trouble() is not None

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not what():
                self.topic.asked.clear()
                await self.topic.asked.wait()


@pytest.fixture
def following(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Following]:
    made = Following(tmp_path / "gateway.db", monkeypatch)
    yield made
    made.stores.close()


def test_streams_get_new_events_and_not_the_past(following: Following) -> None:
    """A gateway on a new data directory sent its streams all limit events since the beginning.

    They looked as if they had just happened. A client that did not read a hundred of them in time
    was cut off.
    """
    announced, follower = Announced(), following.follower
    following.topic.records = announced.crossing("limit.reached") + announced.crossing(
        "limit.cleared"
    )

    async def scenario() -> None:
        running = asyncio.create_task(follower.run())
        assert following.health.stream_trouble() is not None
        await following.until(lambda: following.health.stream_trouble() is None)
        following.topic.records += announced.crossing("limit.reached")
        await following.until(lambda: len(following.heard) == 3)
        running.cancel()

    asyncio.run(scenario())
    assert following.heard == [("0-0-0", False), ("0-1-0", False), ("0-2-0", True)]


def test_a_cancellation_that_nobody_has_asked_for_ends_no_following(following: Following) -> None:
    """After ten seconds without a broker aiokafka let a cancellation of its own out.

    The follower's task was then cancelled, which its task group treats as a requested end. The
    gateway went on, and no client received a limit event any more.
    """
    announced, follower = Announced(), following.follower
    following.topic.fails_with = asyncio.CancelledError()
    following.topic.records = announced.crossing("limit.reached")

    async def scenario() -> None:
        running = asyncio.create_task(follower.run())
        await following.until(lambda: len(following.heard) == 1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(scenario())


def test_who_listens_is_told_when_following_stops(following: Following) -> None:
    """Another log stopped the follower.

    New streams were accepted as before, and open streams stayed open, but none received a limit
    event.
    """
    announced, follower = Announced(), following.follower
    following.topic.records = announced.crossing("limit.reached")

    async def scenario() -> None:
        running = asyncio.create_task(follower.run())
        await following.until(lambda: following.health.stream_trouble() is None)
        running.cancel()
        following.topic.records = [
            record._replace(value=b"garbage") for record in following.topic.records
        ]
        async with asyncio.timeout(DEADLINE_S):
            await follower.run()

    asyncio.run(scenario())
    assert following.has_stopped
    assert "another log" in str(following.health.stream_trouble())


def test_a_record_that_is_no_limit_event_stops_nothing(following: Following) -> None:
    """One record that a stranger wrote ended the streams and webhooks of every partition."""
    announced, follower = Announced(), following.follower
    following.topic.records = announced.crossing("limit.reached")

    async def scenario() -> None:
        running = asyncio.create_task(follower.run())
        await following.until(lambda: following.health.stream_trouble() is None)
        junk = [record._replace(value=b"junk") for record in announced.crossing("limit.cleared")]
        following.topic.records += junk
        following.topic.records += announced.crossing("limit.cleared")
        await following.until(lambda: len(following.heard) == 2)
        running.cancel()

    asyncio.run(scenario())
    assert not following.has_stopped


def test_a_partition_that_cannot_be_read_is_stopped_and_named(following: Following) -> None:
    """The events before it are announced, and the follower goes on without that partition."""
    announced, follower, topic = Announced(), following.follower, following.topic
    topic.records = announced.crossing("limit.reached") + announced.crossing("limit.cleared")
    topic.unreadable_from = 1
    why = "limit.events, partition 0 cannot be read from offset 1 on: a zstd batch is broken"

    async def scenario() -> None:
        running = asyncio.create_task(follower.run())
        await following.until(lambda: following.health.trouble() == why)
        asked_s = topic.now_s
        await following.until(lambda: topic.now_s > asked_s + 2 * QUIET_S)
        assert following.health.trouble() == why
        assert not running.done()
        running.cancel()

    asyncio.run(scenario())
    assert following.heard == [("0-0-0", False)]
    assert topic.paused == [TOPIC]
    assert not following.has_stopped


def test_who_is_blocked_is_not_known_while_kafka_is_silent(following: Following) -> None:
    """A gateway had caught up, and then its Kafka was gone.

    It went on listing blocked accounts and reporting that it was ready, for as long as it ran.
    """
    announced, follower = Announced(), following.follower
    following.topic.records = announced.crossing("limit.reached")

    async def scenario() -> None:
        running = asyncio.create_task(follower.run())
        await following.until(lambda: following.health.trouble() is None)
        following.topic.is_away = True
        gone_at_s = following.topic.now_s
        await following.until(lambda: following.health.trouble() is not None)
        assert following.topic.now_s - gone_at_s <= QUIET_S + SILENT_MAX_S
        following.topic.records += announced.crossing("limit.cleared") + announced.crossing(
            "limit.reached"
        )
        following.topic.is_away = False
        await following.until(lambda: following.health.trouble() is None)
        assert [event for event, _ in following.heard] == ["0-0-0", "0-1-0", "0-2-0"]
        running.cancel()

    asyncio.run(scenario())


def test_a_quiet_topic_is_no_trouble(following: Following) -> None:
    """Nothing is announced for an hour, and Kafka confirms it whenever it is asked."""
    follower = following.follower
    troubles: set[str | None] = set()

    async def scenario() -> None:
        running = asyncio.create_task(follower.run())
        await following.until(lambda: following.health.trouble() is None)

        def has_been_quiet() -> bool:
            troubles.add(following.health.trouble())
            return following.topic.now_s > 3_600

        await following.until(has_been_quiet)
        running.cancel()

    asyncio.run(scenario())
    assert troubles == {None}
