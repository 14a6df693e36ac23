"""`Broadcast`: each instance reads all limit events, to know which accounts are blocked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from usageledger.log.admin import connect_admin
from usageledger.log.kafka_python_reading import BoundedPolls
from usageledger.log.missing_rights import is_refused, missing_right
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.sdk.kafka_python import TopicPartition
from usageledger.sdk.limits.consuming import require_readable
from usageledger.sdk.limits.errors import SubscriberFailed

ANSWER_TIMEOUT_MS = 10_000


class Broadcast:
    """All partitions of the topic from their beginnings, for this instance alone.

    ``known_ends`` has the end offset of each partition at the start. Raises SubscriberFailed if the
    topic does not exist, or if the user may not know.
    """

    def __init__(self, consumer: Any, topic: str, kafka: KafkaConnection) -> None:
        self._consumer = consumer
        self._polls = BoundedPolls(consumer)
        numbers = consumer.partitions_for_topic(topic)
        if not numbers:
            with connect_admin(kafka, timeout_ms=ANSWER_TIMEOUT_MS) as admin:
                if is_refused(admin.describe_topics([topic])):
                    raise SubscriberFailed(missing_right(kafka, "read", topic, "subscriber"))
            raise SubscriberFailed(
                f"there is no topic {topic}: are the address and the prefix right?"
            )
        partitions = [TopicPartition(topic, number) for number in sorted(numbers)]
        ends = consumer.end_offsets(partitions)
        starts = consumer.beginning_offsets(partitions)
        consumer.assign(partitions)
        for partition in partitions:
            consumer.seek(partition, starts[partition])
        self.known_ends = {each.partition: int(ends[each]) for each in partitions}
        self._next_offsets = {each.partition: int(starts[each]) for each in partitions}
        self._starts = dict(self._next_offsets)

    def is_at_known_end(self) -> bool:
        """Whether everything that was there at the start has been read."""
        return all(self._next_offsets[number] >= end for number, end in self.known_ends.items())

    def read_again_from(self, offsets: Mapping[int, int]) -> None:
        """Seek to these offsets, and to the beginning of each partition without one."""
        for partition in self._consumer.assignment():
            number = partition.partition
            self._consumer.seek(partition, offsets.get(number, self._starts[number]))

    def has_read(self, record: Any) -> bool:
        """Whether this consumer has read that record."""
        return self._next_offsets[record.partition] > int(record.offset)

    def poll(self, timeout_ms: int) -> Iterator[Any]:
        """Yield the records that have come, in order within each partition.

        Raises SubscriberFailed where a partition cannot be read on.
        """
        polled, unreadable = self._polls.poll(timeout_ms)
        for partition, records in polled.items():
            for record in records:
                yield record
                self._next_offsets[partition.partition] = record.offset + 1
        require_readable(unreadable)
