"""The batches of a fetched partition, whose records must be in the order of their offsets.

In a batch a record has no offset of its own, but a distance from the batch's first one. The
producer writes it, and a broker need not check it. kafka-python returns whatever it says, and
aiokafka leaves such records out. A record far ahead would have an owner pass over others' events.

Needs nothing but the standard library: the SDKs use it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from usageledger.log.bounded_codecs import BatchUnreadable

_WITH_DISTANCES = 2
"""The version of Kafka's format since which a record has a distance and no offset of its own."""


class CheckedBatches:
    """See either library's ``MemoryRecords``. It remembers the batch that is being unpacked."""

    def __init__(self, records: Any) -> None:
        self._records = records
        self._batch: Any = None

    def has_next(self) -> bool:
        return bool(self._records.has_next())

    def next_batch(self) -> Any:
        batch = self._records.next_batch()
        self._batch = None if batch is None else _CheckedBatch(batch)
        return self._batch

    def last_offset(self, offset: int) -> int | None:
        """The last offset of the batch that has ``offset``, by its header; None if none has."""
        batch = self._batch
        if batch is None or batch.magic < _WITH_DISTANCES or batch.next_offset <= offset:
            return None
        return int(batch.next_offset) - 1


class _CheckedBatch:
    """A batch whose iteration raises BatchUnreadable at a record that is out of order."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batch) if self._batch.magic < _WITH_DISTANCES else self._in_order()

    def __next__(self) -> Any:
        return next(self._batch)

    def _in_order(self) -> Iterator[Any]:
        last, end = self._batch.base_offset - 1, self._batch.next_offset
        for record in self._batch:
            if not last < record.offset < end:
                raise BatchUnreadable(
                    f"in a batch of the offsets {self._batch.base_offset} to {end - 1}, a record "
                    f"says that it is at {record.offset}, behind {last}"
                )
            last = record.offset
            yield record
