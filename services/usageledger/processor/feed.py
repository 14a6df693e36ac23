"""What feeds one owner: the worker's side of `InputControl`.

Chunks come in by way of Faust; nothing here knows it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from usageledger.ledger.records import Bounds, LedgerError, Record
from usageledger.log.topics import Topics
from usageledger.processor.catch_up import PartitionStopped
from usageledger.processor.inputs import InputBuffer, Source


class Place(NamedTuple):
    """One partition of an input topic."""

    topic: str
    partition: int


class Chunk(NamedTuple):
    """Records fetched together.

    ``epoch`` names the seek that they were read after, ``serial`` counts the chunks since, from 1.
    """

    place: Place
    epoch: int
    serial: int
    records: Sequence[Record]


class ChunkSource(Protocol):
    """The consumer that all feeds of a worker share."""

    async def rewind(self, positions: Mapping[Place, int], epoch: int) -> None:
        """Read on from these offsets, marking what is read with ``epoch``, and let it flow.

        Raises LedgerError if it cannot.
        """
        ...

    def known_end_offset(self, place: Place) -> int | None: ...

    def end_before_marks(self, place: Place, end: int) -> int:
        """The offset after the last record below ``end``, where it is known that only marks of
        transactions follow; else ``end``.
        """
        ...

    def hold(self, place: Place) -> None:
        """Fetch nothing more for now; what was fetched still comes."""
        ...

    def release(self, place: Place) -> None: ...

    def decided(self, place: Place, next_offset: int) -> None:
        """Commit this offset to the consumer group when it is next due."""
        ...


class Offsets(Protocol):
    """What the broker says that topic partitions hold.

    Raises LedgerError when it does not answer in time.
    """

    async def bounds(self, places: Sequence[Place]) -> Sequence[Bounds]: ...

    async def end_offset(self, place: Place) -> int: ...


class ChunkLost(Exception):
    """A chunk did not reach its owner, or not in order.

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
        source: ChunkSource,
        offsets: Offsets,
        *,
        next_epoch: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        self.places = {
            Source.USAGE: Place(topics.usage, partition),
            Source.ACCOUNT: Place(topics.account, partition),
        }
        self.is_flowing = False
        """Whether the owner has said where to begin. Until then its places stay paused."""
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
        self._held: set[Source] = set()
        self._moved_at = clock()
        self._closed = False

    def take(self, chunk: Chunk, inputs: InputBuffer, ack: Callable[[], object]) -> None:
        """Put a chunk into the owner's buffer; ``ack`` is called once all of it is committed.

        Chunks read before the last seek are dropped.

        Raises ChunkLost if one before it is missing.
        """
        if self._closed or chunk.epoch != self._epoch:
            return
        source = self._source_of(chunk.place)
        if chunk.serial != self._serials[source] + 1:
            raise ChunkLost(
                f"{_named(chunk.place)}: chunk {chunk.serial} came after chunk "
                f"{self._serials[source]}"
            )
        self._serials[source] = chunk.serial
        self._fed[source] = chunk.records[-1].offset + 1
        self._unacked[source].append((self._fed[source], ack))
        inputs.put(source, chunk.records)

    def close(self) -> None:
        """The partition is no longer ours, or its owner has ended."""
        self._closed = True

    def lag_records(self, source: Source) -> int | None:
        """How many records of an input are known to wait for their decision; None if that is not
        known.
        """
        end = self._source.known_end_offset(self.places[source]) if self.is_flowing else None
        return None if end is None else max(0, end - self._decided[source])

    def decided(self, source: Source) -> int:
        """The offset of the record of an input that is decided next."""
        return self._decided[source]

    def stuck_s(self, inputs: InputBuffer) -> float:
        """For how long there has been something to do and nothing was done, in seconds.

        Records that are buffered and not taken do not count: an import waits for its other input as
        long as it takes.
        """
        now = self._clock()
        if not any(self._is_owed(source, inputs) for source in Source):
            self._moved_at = now
        return now - self._moved_at

    async def seek(self, positions: dict[Source, int]) -> None:
        """Begin to feed each input at the given offset.

        Raises PartitionStopped if the topic does not hold it, or LedgerError.
        """
        # Before anything is waited for: what the last seek still brings meanwhile would lie in the
        # buffer as if it followed on this one.
        self._epoch = self._next_epoch()
        places = [self.places[source] for source in positions]
        for place, position, bounds in zip(
            places, positions.values(), await self._offsets.bounds(places), strict=True
        ):
            _refuse_outside(place, position, bounds)
        if self._closed:
            raise LedgerError("the partition is no longer this worker's")
        self._held.clear()
        for source, position in positions.items():
            self._serials[source] = 0
            self._fed[source] = self._decided[source] = position
            self._unacked[source].clear()
        await self._source.rewind(
            {self.places[source]: position for source, position in positions.items()}, self._epoch
        )
        for source, position in positions.items():
            # Lag tools read the truth from the first moment, also on a partition where nothing more
            # comes.
            self._source.decided(self.places[source], position)
        self.is_flowing = True
        self._moved_at = self._clock()

    async def end_offset(self, source: Source) -> int:
        """Ask the broker for the end of an input. Raises LedgerError."""
        place = self.places[source]
        return self._source.end_before_marks(place, await self._offsets.end_offset(place))

    def known_end_offset(self, source: Source) -> int | None:
        """The end of an input as a fetch told lately; None if none did."""
        return self._source.known_end_offset(self.places[source])

    def committed(self, source: Source, next_offset: int) -> None:
        """Acknowledge the chunks that lie wholly below ``next_offset``."""
        if self._closed:
            return
        self._decided[source] = next_offset
        self._moved_at = self._clock()
        unacked = self._unacked[source]
        while unacked and unacked[0][0] <= next_offset:
            unacked.popleft()[1]()
        self._source.decided(self.places[source], next_offset)

    def pause(self, source: Source) -> None:
        """The owner's buffer is full."""
        if not self._closed:
            self._held.add(source)
            self._source.hold(self.places[source])

    def resume(self, source: Source) -> None:
        """The owner's buffer has room again."""
        if not self._closed and source in self._held:
            self._held.discard(source)
            self._source.release(self.places[source])

    def _is_owed(self, source: Source, inputs: InputBuffer) -> bool:
        taken_and_not_committed = inputs.position(source) > self._decided[source]
        known_end = self._source.known_end_offset(self.places[source])
        there_and_not_fed = (
            known_end is not None and known_end > self._fed[source] and source not in self._held
        )
        return taken_and_not_committed or there_and_not_fed

    def _source_of(self, place: Place) -> Source:
        return next(source for source, own in self.places.items() if own == place)


def _refuse_outside(place: Place, position: int, bounds: Bounds) -> None:
    if not bounds.start <= position <= bounds.end:
        raise PartitionStopped(
            f"{_named(place)} holds offsets {bounds.start} to {bounds.end}, and the ledger has "
            f"decided up to {position}:"
            " the topic was truncated or made anew"
        )


def _named(place: Place) -> str:
    return f"{place.topic}/{place.partition}"
