"""An owner's feed: fetches in order, none from before a seek, acknowledged once committed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from itertools import count
from typing import Any

import pytest

from usageledger.ledger.records import Bounds, LedgerError, Record
from usageledger.log.topics import Topics
from usageledger.processor.catch_up import PartitionStopped
from usageledger.processor.feed import Fetch, FetchLost, PartitionFeed, TopicPartition
from usageledger.processor.inputs import InputBuffer, Source

TOPICS = Topics()
USAGE, ACCOUNT = TopicPartition(TOPICS.usage, 3), TopicPartition(TOPICS.account, 3)


class FakeSource:
    """A consumer that remembers what it was asked.

    ``ends`` are the broker's end offsets, ``heard`` those that fetches brought.
    """

    def __init__(self) -> None:
        self.starts = {USAGE: 0, ACCOUNT: 0}
        self.ends = {USAGE: 1_000, ACCOUNT: 1_000}
        self.heard: dict[TopicPartition, int] = {}
        self.rewound: list[tuple[dict[TopicPartition, int], int]] = []
        self.held: set[TopicPartition] = set()
        self.next_offsets: dict[TopicPartition, int] = {}

    async def rewind(self, positions: Mapping[TopicPartition, int], epoch: int) -> None:
        self.rewound.append((dict(positions), epoch))
        self.held -= set(positions)

    async def bounds(self, topic_partitions: Sequence[TopicPartition]) -> list[Bounds]:
        return [
            Bounds(self.starts[topic_partition], self.ends[topic_partition])
            for topic_partition in topic_partitions
        ]

    async def end_offset(self, topic_partition: TopicPartition) -> int:
        return self.ends[topic_partition]

    def end_before_marks(self, topic_partition: TopicPartition, end: int) -> int:
        return end

    def known_end_offset(self, topic_partition: TopicPartition) -> int | None:
        return self.heard.get(topic_partition)

    def pause(self, topic_partition: TopicPartition) -> None:
        self.held.add(topic_partition)

    def resume(self, topic_partition: TopicPartition) -> None:
        self.held.discard(topic_partition)

    def note_decided(self, topic_partition: TopicPartition, next_offset: int) -> None:
        self.next_offsets[topic_partition] = next_offset


class Fed:
    """A feed with its buffer, on a clock that is moved by hand."""

    def __init__(self, *, records_max: int = 1_000) -> None:
        self.source = FakeSource()
        self.now_s = 0.0
        epochs = count(1)
        self.feed = PartitionFeed(
            3,
            TOPICS,
            self.source,
            self.source,
            next_epoch=lambda: next(epochs),
            clock=lambda: self.now_s,
        )
        self.inputs = InputBuffer(self.feed, records_max=records_max)
        self.acked: list[tuple[str, int]] = []

    async def seek(self, usage: int, account: int) -> None:
        await self.inputs.seek({Source.USAGE: usage, Source.ACCOUNT: account})

    def take(
        self, topic_partition: TopicPartition, serial: int, offsets: range, *, epoch: int = 1
    ) -> None:
        records = [Record(offset, offset, b"acct", b"{}") for offset in offsets]
        self.feed.accept(
            Fetch(topic_partition, epoch, serial, records),
            self.inputs,
            self.acker(topic_partition, offsets[-1]),
        )

    def acker(self, topic_partition: TopicPartition, last: int) -> Callable[[], object]:
        return lambda: self.acked.append((topic_partition.topic, last))

    def taken(self, source: Source) -> list[int]:
        return [record.offset for record in self.inputs.pop(source, until_ms=None, limit=1_000)]


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_nothing_flows_before_the_owner_has_said_where_to_begin() -> None:
    async def work() -> None:
        fed = Fed()
        fed.take(USAGE, 1, range(5), epoch=0)
        assert not fed.feed.is_flowing and fed.taken(Source.USAGE) == []
        await fed.seek(2, 0)
        assert fed.feed.is_flowing
        assert fed.source.rewound == [({USAGE: 2, ACCOUNT: 0}, 1)]

    run(work())


def test_fetches_reach_the_buffer_in_order() -> None:
    async def work() -> None:
        fed = Fed()
        await fed.seek(2, 0)
        fed.take(USAGE, 1, range(2, 5))
        fed.take(ACCOUNT, 1, range(2))
        fed.take(USAGE, 2, range(5, 6))
        assert fed.taken(Source.USAGE) == [2, 3, 4, 5]
        assert fed.taken(Source.ACCOUNT) == [0, 1]

    run(work())


def test_a_fetch_that_is_missing_is_an_error_and_not_a_gap() -> None:
    async def work() -> None:
        fed = Fed()
        await fed.seek(0, 0)
        fed.take(USAGE, 1, range(5))
        with pytest.raises(FetchLost, match="fetch 3 came after fetch 1"):
            fed.take(USAGE, 3, range(10, 15))

    run(work())


def test_offsets_may_have_holes_where_no_fetch_is_missing() -> None:
    """A transaction's markers take offsets and are never fed."""

    async def work() -> None:
        fed = Fed()
        await fed.seek(0, 0)
        fed.take(USAGE, 1, range(5))
        fed.take(USAGE, 2, range(6, 8))
        assert fed.taken(Source.USAGE) == [0, 1, 2, 3, 4, 6, 7]

    run(work())


def test_fetches_from_before_a_seek_are_dropped_on_whichever_side_of_it_they_lie() -> None:
    async def work() -> None:
        fed = Fed()
        await fed.seek(100, 0)
        fed.take(USAGE, 1, range(100, 110))
        await fed.seek(50, 0)
        fed.take(USAGE, 2, range(110, 120), epoch=1)
        fed.take(USAGE, 1, range(50, 55), epoch=2)
        fed.take(USAGE, 3, range(120, 130), epoch=1)
        assert fed.taken(Source.USAGE) == [50, 51, 52, 53, 54]

    run(work())


def test_a_fetch_that_comes_while_a_seek_asks_the_broker_is_dropped() -> None:
    """Redis was emptied while 800 records a second came in. The owner went back to record 2206.

    While it asked for the topic's bounds, an earlier fetch came with record 2322. The owner
    accepted it as the next one, and the 116 records between were never decided.
    """

    async def work() -> None:
        fed = Fed()
        await fed.seek(0, 0)
        fed.take(USAGE, 1, range(10))
        answer = fed.source.bounds

        async def late(topic_partitions: Sequence[TopicPartition]) -> list[Bounds]:
            fed.take(USAGE, 2, range(10, 20))
            return await answer(topic_partitions)

        # The broker's answer takes its time.
        fed.source.bounds = late  # type: ignore[method-assign]
        await fed.seek(5, 0)
        fed.take(USAGE, 1, range(5, 12), epoch=2)
        assert fed.taken(Source.USAGE) == [5, 6, 7, 8, 9, 10, 11]

    run(work())


def test_a_fetch_is_acknowledged_once_all_of_it_is_committed() -> None:
    async def work() -> None:
        fed = Fed()
        await fed.seek(0, 0)
        fed.take(USAGE, 1, range(5))
        fed.take(USAGE, 2, range(5, 10))
        fed.feed.acknowledge(Source.USAGE, 4)
        assert fed.acked == [] and fed.source.next_offsets[USAGE] == 4
        fed.feed.acknowledge(Source.USAGE, 7)
        assert fed.acked == [(TOPICS.usage, 4)] and fed.source.next_offsets[USAGE] == 7
        fed.feed.acknowledge(Source.USAGE, 10)
        assert fed.acked == [(TOPICS.usage, 4), (TOPICS.usage, 9)]

    run(work())


def test_the_group_learns_where_the_ledger_stands_before_anything_new_comes() -> None:
    async def work() -> None:
        fed = Fed()
        await fed.seek(17, 4)
        assert fed.source.next_offsets == {USAGE: 17, ACCOUNT: 4}

    run(work())


@pytest.mark.parametrize(("position", "holds"), [(9, False), (10, True), (20, True), (21, False)])
def test_a_position_must_lie_within_what_the_topic_holds(position: int, holds: bool) -> None:
    async def work() -> None:
        fed = Fed()
        fed.source.starts[ACCOUNT], fed.source.ends[ACCOUNT] = 10, 20
        if holds:
            await fed.seek(0, position)
        else:
            with pytest.raises(PartitionStopped, match="holds offsets 10 to 20"):
                await fed.seek(0, position)
            assert fed.source.rewound == []

    run(work())


def test_a_full_buffer_holds_its_own_input_and_lets_it_go_again_when_there_is_room() -> None:
    async def work() -> None:
        fed = Fed(records_max=10)
        await fed.seek(0, 0)
        fed.take(USAGE, 1, range(12))
        assert fed.source.held == {USAGE}
        fed.inputs.pop(Source.USAGE, until_ms=None, limit=6)
        assert fed.source.held == {USAGE}
        fed.inputs.pop(Source.USAGE, until_ms=None, limit=2)
        assert fed.source.held == set()

    run(work())


def test_an_owner_that_outlives_its_tenancy_reaches_nothing() -> None:
    async def work() -> None:
        fed = Fed(records_max=10)
        await fed.seek(0, 0)
        fed.take(USAGE, 1, range(5))
        fed.feed.close()
        fed.take(USAGE, 2, range(5, 30))
        fed.feed.acknowledge(Source.USAGE, 5)
        fed.feed.pause(Source.USAGE)
        assert (fed.acked, fed.source.held, fed.source.next_offsets[USAGE]) == ([], set(), 0)
        with pytest.raises(LedgerError, match="no longer this worker's"):
            await fed.seek(5, 0)
        assert len(fed.source.rewound) == 1

    run(work())


def test_lag_is_what_is_known_to_wait_for_its_decision() -> None:
    async def work() -> None:
        fed = Fed()
        assert fed.feed.lag_records(Source.USAGE) is None
        await fed.seek(0, 0)
        assert fed.feed.lag_records(Source.USAGE) is None
        fed.source.heard[USAGE] = 30
        fed.feed.acknowledge(Source.USAGE, 12)
        assert fed.feed.lag_records(Source.USAGE) == 18

    run(work())


def stuck_after_a_minute(fed: Fed) -> bool:
    fed.feed.stuck_s(fed.inputs)
    fed.now_s += 60
    return fed.feed.stuck_s(fed.inputs) >= 60


def test_with_nothing_to_do_time_passes_and_nothing_is_stuck() -> None:
    async def work() -> None:
        fed = Fed()
        await fed.seek(5, 0)
        fed.source.heard = {USAGE: 5, ACCOUNT: 0}
        assert not stuck_after_a_minute(fed)

    run(work())


def test_records_known_to_be_there_and_never_fed_are_a_feed_that_is_stuck() -> None:
    async def work() -> None:
        fed = Fed()
        await fed.seek(5, 0)
        fed.source.heard = {USAGE: 6}
        assert stuck_after_a_minute(fed)

    run(work())


def test_records_taken_and_never_committed_are_an_owner_that_is_stuck() -> None:
    async def work() -> None:
        fed = Fed()
        await fed.seek(0, 0)
        fed.take(USAGE, 1, range(5))
        assert fed.taken(Source.USAGE)
        assert stuck_after_a_minute(fed)
        fed.feed.acknowledge(Source.USAGE, 5)
        assert not stuck_after_a_minute(fed)

    run(work())


def test_records_that_wait_in_the_buffer_for_the_other_input_are_not_stuck() -> None:
    """An import waits for its other input as long as it takes."""

    async def work() -> None:
        fed = Fed(records_max=10)
        await fed.seek(0, 0)
        fed.take(USAGE, 1, range(12))
        fed.source.heard = {USAGE: 500}
        assert fed.source.held == {USAGE}
        assert not stuck_after_a_minute(fed)

    run(work())
