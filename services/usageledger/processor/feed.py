"""The feed of one owner: the worker's side of `InputControl`.

Fetches arrive by way of Faust, but nothing here knows Faust. The package's docstring draws the way
of a fetch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from usageledger.ledger.records import Bounds, LedgerError, Record
from usageledger.log.topics import Topics
from usageledger.processor.catch_up import PartitionStopped
from usageledger.processor.inputs import InputBuffer, Source


class TopicPartition(NamedTuple):
    """One partition of an input topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


class Fetch(NamedTuple):
    """Records of one topic partition that were fetched together.

    ``epoch`` names the seek that they were read after. ``serial`` counts the fetches since that
    seek, from 1.
    """

    topic_partition: TopicPartition
    epoch: int
    serial: int
    records: Sequence[Record]


class FetchSource(Protocol):
    """The consumer that all feeds of a worker share."""

    async def rewind(self, positions: Mapping[TopicPartition, int], epoch: int) -> None:
        """Read on from these offsets, mark each fetch with ``epoch``, and resume.

        Raises LedgerError if it cannot.
        """
        ...

    def known_end_offset(self, topic_partition: TopicPartition) -> int | None:
        """The end offset that a recent fetch brought; None if there was none."""
        ...

    def end_before_marks(self, topic_partition: TopicPartition, end: int) -> int:
        """The offset after the last record below ``end``.

        It differs from ``end`` where only a transaction's marks are known to follow that record.
        """
        ...

    def pause(self, topic_partition: TopicPartition) -> None:
        """Fetch nothing more for now. Fetches on their way still arrive."""
        ...

    def resume(self, topic_partition: TopicPartition) -> None:
        """Fetch again."""
        ...

    def note_decided(self, topic_partition: TopicPartition, next_offset: int) -> None:
        """Commit this offset to the consumer group when a commit is next due."""
        ...


class Offsets(Protocol):
    """The broker's word on what topic partitions hold.

    Raises LedgerError when it does not answer in time.
    """

    async def bounds(self, topic_partitions: Sequence[TopicPartition]) -> Sequence[Bounds]: ...

    async def end_offset(self, topic_partition: TopicPartition) -> int: ...


class FetchLost(Exception):
    """A fetch did not reach its owner, or not in order.

    The worker must end: what follows would be decided without it.
    """


class PartitionFeed:
    """Feeds one owner's `InputBuffer` and is its `InputControl`.

    After ``close()`` an owner that still runs reaches nothing.
    """

    def __init__(
        self,
        partition: int,
        topics: Topics,
        source: FetchSource,
        offsets: Offsets,
        *,
        next_epoch: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        self.topic_partitions = {
            Source.USAGE: TopicPartition(topics.usage, partition),
            Source.ACCOUNT: TopicPartition(topics.account, partition),
        }
        self.is_flowing = False
        """Whether the owner has said where to begin. Until then its inputs stay paused."""
        self._source = source
        self._offsets = offsets
        self._next_epoch = next_epoch
        self._clock = clock
        self._epoch = 0
        self._serials = dict.fromkeys(Source, 0)
        self._fed = dict.fromkeys(Source, 0)
        self._decided = dict.fromkeys(Source, 0)
        self._unacked: dict[Source, deque[tuple[int, Callable[[], object]]]] = {
            source: deque() for source in Source
        }
        self._paused: set[Source] = set()
        self._moved_at = clock()
        self._is_closed = False

    def accept(self, fetch: Fetch, inputs: InputBuffer, ack: Callable[[], object]) -> None:
        """Put a fetch into the owner's buffer; ``ack`` is called once all of it is committed.

        Fetches from before the last seek are dropped. Raises FetchLost if the one before is
        missing.
        """
        if self._is_closed or fetch.epoch != self._epoch:
            return
        source = self._source_of(fetch.topic_partition)
        if fetch.serial != self._serials[source] + 1:
            raise FetchLost(
                f"{fetch.topic_partition}: fetch {fetch.serial} came after fetch "
                f"{self._serials[source]}"
            )
        self._serials[source] = fetch.serial
        self._fed[source] = fetch.records[-1].offset + 1
        self._unacked[source].append((self._fed[source], ack))
        inputs.put(source, fetch.records)

    def close(self) -> None:
        """Feed nothing more: the partition is no longer ours, or its owner has ended."""
        self._is_closed = True

    def lag_records(self, source: Source) -> int | None:
        """How many records of an input are known to await a decision; None if unknown."""
        end = (
            self._source.known_end_offset(self.topic_partitions[source])
            if self.is_flowing
            else None
        )
        return None if end is None else max(0, end - self._decided[source])

    def next_offset(self, source: Source) -> int:
        """The offset of the record of an input that is decided next."""
        return self._decided[source]

    def stuck_s(self, inputs: InputBuffer) -> float:
        """For how long there was something to do and nothing was done, in seconds.

        Records that are buffered and not yet popped do not count: an import waits for its other
        input as long as necessary.
        """
        now = self._clock()
        if not any(self._is_owed(source, inputs) for source in Source):
            self._moved_at = now
        return now - self._moved_at

    async def seek(self, positions: dict[Source, int]) -> None:
        """Begin to feed each input at the given offset.

        Raises PartitionStopped if the topic does not hold it, or LedgerError.
        """
        # The epoch changes before anything is awaited. Otherwise fetches of the last seek that
        # arrive meanwhile would be buffered as if they followed this one.
        self._epoch = self._next_epoch()
        topic_partitions = [self.topic_partitions[source] for source in positions]
        for topic_partition, position, bounds in zip(
            topic_partitions,
            positions.values(),
            await self._offsets.bounds(topic_partitions),
            strict=True,
        ):
            _require_within(topic_partition, position, bounds)
        if self._is_closed:
            raise LedgerError("the partition is no longer this worker's")
        self._paused.clear()
        for source, position in positions.items():
            self._serials[source] = 0
            self._fed[source] = self._decided[source] = position
            self._unacked[source].clear()
        await self._source.rewind(
            {self.topic_partitions[source]: position for source, position in positions.items()},
            self._epoch,
        )
        for source, position in positions.items():
            # Lag tools read the truth from the first moment, even on a partition that stays idle.
            self._source.note_decided(self.topic_partitions[source], position)
        self.is_flowing = True
        self._moved_at = self._clock()

    async def end_offset(self, source: Source) -> int:
        """Ask the broker for the end of an input. Raises LedgerError."""
        topic_partition = self.topic_partitions[source]
        return self._source.end_before_marks(
            topic_partition, await self._offsets.end_offset(topic_partition)
        )

    def known_end_offset(self, source: Source) -> int | None:
        """The end of an input that a recent fetch brought; None if there was none."""
        return self._source.known_end_offset(self.topic_partitions[source])

    def acknowledge(self, source: Source, next_offset: int) -> None:
        """Acknowledge the fetches that are wholly below ``next_offset``."""
        if self._is_closed:
            return
        self._decided[source] = next_offset
        self._moved_at = self._clock()
        unacked = self._unacked[source]
        while unacked and unacked[0][0] <= next_offset:
            unacked.popleft()[1]()
        self._source.note_decided(self.topic_partitions[source], next_offset)

    def pause(self, source: Source) -> None:
        """Pause fetching: the owner's buffer is full."""
        if not self._is_closed:
            self._paused.add(source)
            self._source.pause(self.topic_partitions[source])

    def resume(self, source: Source) -> None:
        """Resume fetching: the owner's buffer has room again."""
        if not self._is_closed and source in self._paused:
            self._paused.discard(source)
            self._source.resume(self.topic_partitions[source])

    def _is_owed(self, source: Source, inputs: InputBuffer) -> bool:
        is_popped_and_uncommitted = inputs.position(source) > self._decided[source]
        known_end = self._source.known_end_offset(self.topic_partitions[source])
        is_appended_and_unfed = (
            known_end is not None and known_end > self._fed[source] and source not in self._paused
        )
        return is_popped_and_uncommitted or is_appended_and_unfed

    def _source_of(self, topic_partition: TopicPartition) -> Source:
        return next(
            source for source, own in self.topic_partitions.items() if own == topic_partition
        )


def _require_within(topic_partition: TopicPartition, position: int, bounds: Bounds) -> None:
    if not bounds.start <= position <= bounds.end:
        raise PartitionStopped(
            f"{topic_partition} holds offsets {bounds.start} to {bounds.end}, and the ledger has "
            f"decided up to {position}: the topic was truncated or made anew"
        )
