"""Whether a ledger's topics still have the number of partitions that it was made with."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from kafka.errors import KafkaConnectionError

from usageledger.domain.claim import claim_of, encode_claim
from usageledger.ledger.records import Record
from usageledger.log import partition_counts as watched
from usageledger.log.partition_counts import (
    PartitionCounts,
    PartitionCountsDiffer,
    PartitionCountWatch,
    ledger_partition_count,
    partition_counts,
)
from usageledger.log.topics import Topics
from usageledger.runtime.kafka_connection import KafkaConnection

TOPICS = Topics("t")
KAFKA = KafkaConnection(servers="localhost:1")
EIGHT = dict.fromkeys(TOPICS.partitioned, 8)


class Log:
    """Topics with their partition counts, and the first record of some ledger partitions."""

    def __init__(self, counts: dict[str, int], first: dict[int, bytes]) -> None:
        self._counts = counts
        self._first = first

    def partition_count(self, topic: str) -> int:
        return self._counts.get(topic, 0)

    def start_offset(self, topic: str, partition: int) -> int:
        return 0

    def end_offset(self, topic: str, partition: int) -> int:
        return int(topic == TOPICS.ledger and partition in self._first)

    def read(self, topic: str, partition: int, start: int, stop: int) -> list[Record]:
        return [Record(0, 0, None, self._first[partition])]


def claim(partitions: int, partition: int = 0) -> bytes:
    return encode_claim(claim_of(partition, "ledger", "worker", partitions))


@pytest.mark.parametrize("topic", TOPICS.partitioned)
def test_each_topic_is_compared_with_the_claim(topic: str) -> None:
    counts = PartitionCounts(8, EIGHT | {topic: 12})
    difference = counts.difference()
    assert difference is not None
    assert difference.startswith(f"the ledger was made with 8 partitions, and {topic} has 12: ")
    with pytest.raises(PartitionCountsDiffer):
        counts.check()
    assert counts.of_ledger == 8


def test_topics_that_all_grew_alike_differ_from_the_claim() -> None:
    assert PartitionCounts(8, dict.fromkeys(EIGHT, 12)).difference() is not None
    assert PartitionCounts(8, EIGHT).difference() is None


def test_before_the_first_claim_the_topics_are_compared_with_each_other() -> None:
    assert PartitionCounts(0, EIGHT).difference() is None
    assert PartitionCounts(0, EIGHT | {TOPICS.usage: 12}).difference() is not None


def test_a_missing_topic_is_no_other_count() -> None:
    counts = PartitionCounts(8, EIGHT | {TOPICS.limit: 0})
    assert (counts.difference(), counts.missing) == (None, (TOPICS.limit,))


def test_any_partitions_first_claim_says_the_count() -> None:
    log: Any = Log(dict.fromkeys(EIGHT, 12), {0: b"junk", 3: claim(8, 3)})
    assert partition_counts(log, TOPICS) == PartitionCounts(8, dict.fromkeys(EIGHT, 12))
    assert ledger_partition_count(log, TOPICS) == 8


def test_a_ledger_without_a_claim_has_its_topics_count() -> None:
    log: Any = Log(EIGHT, {})
    assert ledger_partition_count(log, TOPICS) == 8


def test_a_watch_finds_a_difference_and_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that does not answer has not said that anything is different."""
    grown = EIGHT | {TOPICS.usage: 12}
    answers: Iterator[dict[str, int] | Exception] = iter(
        [KafkaConnectionError("down"), EIGHT, grown]
    )

    def described(*_: object) -> dict[str, int]:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(watched, "described_counts", described)
    watch = PartitionCountWatch(KAFKA, TOPICS, 8)
    assert (watch.look(), watch.look()) == (None, None)
    watch.check()
    watch.run(threading.Event(), every_s=0.0)
    assert "usage.events.v1 has 12" in str(watch.difference)
    assert watch.look() == watch.difference
    with pytest.raises(PartitionCountsDiffer):
        watch.check()
