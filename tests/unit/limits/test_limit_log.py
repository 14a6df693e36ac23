"""How the limits consumer reads its own topic backwards, past batches that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from usageledger.ledger.records import Record
from usageledger.limits.consumer import KafkaLimitLog
from usageledger.log.bounded_codecs import Unreadable
from usageledger.log.reading import BatchUnreadable, LogReader
from usageledger.log.topics import Topics
from usageledger.runtime.kafka_connection import KafkaConnection


class LogWithBombs:
    """See `LogReader`: a partition of ``end`` records that is unreadable at ``bombs``."""

    def __init__(self, end: int, bombs: set[int]) -> None:
        self._end, self._bombs = end, bombs

    def start_offset(self, topic: str, partition: int) -> int:
        return 0

    def end_offset(self, topic: str, partition: int) -> int:
        return self._end

    def read(self, topic: str, partition: int, start: int, stop: int) -> Iterator[Record]:
        for offset in range(start, stop):
            if offset in self._bombs:
                raise BatchUnreadable(topic, partition, Unreadable(offset, "a bomb"))
            yield Record(offset, 0, None, b"")


def offsets_newest_first(end: int, bombs: set[int]) -> list[int]:
    reader = cast(LogReader, LogWithBombs(end, bombs))
    log = KafkaLimitLog(KafkaConnection(servers="127.0.0.1:1"), Topics("t"), reader)
    return [record.offset for record in log.newest_first(0)]


def test_without_bombs_every_record_is_read_once_and_backwards() -> None:
    assert offsets_newest_first(25, set()) == list(range(24, -1, -1))


def test_an_unreadable_batch_at_the_end_hides_nothing_before_it() -> None:
    """A stranger's batch delayed all partitions of the consumer, and its own for good."""
    assert offsets_newest_first(25, {24}) == list(range(23, -1, -1))


def test_behind_an_unreadable_batch_no_record_is_out_of_order() -> None:
    found = offsets_newest_first(25, {20})
    assert found == sorted(found, reverse=True)
    assert found[0] == 24
    assert set(range(20)) <= set(found)


def test_a_topic_of_unreadable_batches_says_nothing() -> None:
    assert offsets_newest_first(25, set(range(25))) == []
