"""Reading with aiokafka, where one partition that cannot be read does not keep others from it.

aiokafka decodes a batch only when its records are asked for, and raises then. That loses what the
same call had taken from other partitions before. So a partition's records end here where they
cannot be read on, and the call says where and why.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.consumer import fetcher

from usageledger.log.bounded_codecs import (
    Decoding,
    ReadFull,
    Unreadable,
    current_decoding,
    decoding_within,
)
from usageledger.log.checked_batches import CheckedBatches


class Fetched(NamedTuple):
    """The records of one read by partition, and the partitions that cannot be read on.

    A consumer goes on to ask for an unreadable partition until it is paused.
    """

    records: dict[TopicPartition, list[Any]]
    unreadable: dict[TopicPartition, Unreadable]


async def read_fetched(
    consumer: Any, *partitions: TopicPartition, timeout_ms: int, max_records: int | None = None
) -> Fetched:
    """As the consumer's ``getmany``, within the bounds of `log.bounded_codecs`.

    Raises aiokafka's errors, but none that is about the bytes of a partition.
    """
    with decoding_within("aiokafka", Decoding()) as decoding:
        records = await consumer.getmany(
            *partitions, timeout_ms=timeout_ms, max_records=max_records
        )
    return Fetched(
        records or {},
        {TopicPartition(*place): found for place, found in decoding.unreadable.items()},
    )


class _PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc] # aiokafka has no types
    """A fetched partition's records, which end where they cannot be read on."""

    _records: Any

    def _unpack_records(self) -> Iterator[ConsumerRecord]:
        decoding = current_decoding()
        if decoding is None:
            yield from super()._unpack_records()
        elif self._tp not in decoding.unreadable:
            self._records = CheckedBatches(self._records)
            try:
                yield from super()._unpack_records()
            except ReadFull:
                return
            except Exception as error:  # noqa: BLE001 - whatever a decoder raises is the reason
                # Perhaps a later read than the one that began with these records.
                offset = self.next_fetch_offset
                (current_decoding() or decoding).note(
                    self._tp, offset, error, self._records.last_offset(offset)
                )

    def _consumer_record(self, tp: TopicPartition, record: Any) -> ConsumerRecord:
        # No reader of ours looks at headers, and a batch of nothing else is a hundred times its
        # bytes as Python objects.
        return ConsumerRecord(
            tp.topic,
            tp.partition,
            record.offset,
            record.timestamp,
            record.timestamp_type,
            record.key,
            record.value,
            record.checksum,
            -1,
            -1,
            (),
        )


# The consumer takes no class of ours, so the name under which it finds its own is replaced.
fetcher.PartitionRecords = _PartitionRecords
