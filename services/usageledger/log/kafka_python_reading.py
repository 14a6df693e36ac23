"""Reading with kafka-python, where one partition that cannot be read does not keep others from it.

kafka-python 3.0.12 raises once for a batch that it cannot decode and does not say of which
partition. The next poll never returns. So a partition's records end here where they cannot be read
on, and the poll says where and why.

Needs kafka-python alone: the SDKs use it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from usageledger.log.bounded_codecs import Decoding, ReadFull, Unreadable, decoding_within
from usageledger.log.checked_batches import CheckedBatches

with warnings.catch_warnings():
    # kafka-python reads its message schemas by a call that Python 3.11 and 3.12 deprecate.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka import TopicPartition
    from kafka.consumer.fetcher import Fetcher


class Polled(NamedTuple):
    """The records of one poll by partition, and the partitions that cannot be read on.

    A consumer goes on to ask for an unreadable partition until it is paused.
    """

    records: dict[TopicPartition, list[Any]]
    unreadable: dict[TopicPartition, Unreadable]


class BoundedPolls:
    """A consumer's polls, within the bounds of `log.bounded_codecs`."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._decoding = Decoding()

        class PartitionRecords(_PartitionRecords):
            polls = self

        # One consumer's alone: an app's own consumers keep kafka-python's.
        consumer._fetcher.PartitionRecords = PartitionRecords

    def poll(self, timeout_ms: int, max_records: int | None = None) -> Polled:
        """As the consumer's ``poll``.

        Raises kafka-python's errors, but none that is about the bytes of a partition.
        """
        self._decoding = Decoding()
        records = self._consumer.poll(timeout_ms=timeout_ms, max_records=max_records)
        return Polled(
            records,
            {TopicPartition(*place): found for place, found in self._decoding.unreadable.items()},
        )


class _PartitionRecords(Fetcher.PartitionRecords):  # type: ignore[misc] # kafka-python has no types
    """A fetched partition's records, which end where they cannot be read on."""

    topic_partition: TopicPartition
    next_fetch_offset: int
    record_iterator: Iterator[Any] | None
    polls: BoundedPolls
    batches: CheckedBatches

    def _unpack_records(self, tp: Any, records: Any, *deserializers: Any) -> Any:
        self.batches = CheckedBatches(records)
        return super()._unpack_records(tp, self.batches, *deserializers)

    def take(self, n: int | None = None) -> list[Any]:
        """Up to ``n`` records; none once the partition cannot be read on."""
        records: list[Any] = []
        decoding = self.polls._decoding
        if tuple(self.topic_partition) in decoding.unreadable:
            self.drain()
        if self.record_iterator is None:
            return records
        try:
            with decoding_within("kafka", decoding):
                records.extend(map(_without_headers, islice(self.record_iterator, n)))
        except ReadFull:
            self.drain()
        except Exception as error:  # noqa: BLE001 - whatever a decoder raises is the reason
            decoding.note(
                self.topic_partition,
                self.next_fetch_offset,
                error,
                self.batches.last_offset(self.next_fetch_offset),
            )
            self.drain()
        return records


def _without_headers(record: Any) -> Any:
    """No reader of ours looks at headers, and as Python objects they are a hundred times their
    bytes.
    """
    return record._replace(headers=[]) if record.headers else record
