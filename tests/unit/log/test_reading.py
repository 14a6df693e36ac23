"""Reading a topic in spite of the faults of kafka-python's consumer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from kafka import TopicPartition

from usageledger.log.reading import LogReader, LogUnreadable


class ForgetfulConsumer:
    """Knows the leaders of the topic that it reads only.

    It looks up another topic's leaders only if it knows none of the partitions that are asked for.

    That is kafka-python 3.0.12: a partition whose leader is not known is left out of the answer
    when another's is known, and then missed.
    """

    def __init__(self, reads: str, leaderless: Sequence[TopicPartition] = ()) -> None:
        self._knows = reads
        self._leaderless = leaderless

    def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        answered = [
            there
            for there in partitions
            if there.topic == self._knows and there not in self._leaderless
        ]
        if not answered:
            self._knows = partitions[0].topic
            return self.end_offsets(partitions)
        offsets = dict.fromkeys(answered, 7)
        return {there: offsets[there] for there in partitions}


def reader_of(consumer: Any) -> LogReader:
    reader = LogReader.__new__(LogReader)
    reader._consumer = consumer
    return reader


def test_a_reader_of_one_topic_knows_the_ends_of_all() -> None:
    """Once a refused record had been read to be sent again, the gateway could report no lag."""
    ends = reader_of(ForgetfulConsumer("usage")).end_offsets(["usage", "account"], 2)
    assert ends == {("usage", 0): 7, ("usage", 1): 7, ("account", 0): 7, ("account", 1): 7}


def test_a_partition_without_a_leader_is_named_in_the_error() -> None:
    consumer = ForgetfulConsumer("usage", [TopicPartition("usage", 1)])
    with pytest.raises(LogUnreadable, match="usage: a partition has no leader"):
        reader_of(consumer).end_offsets(["usage"], 2)
