"""The two inputs of one ledger partition, buffered between whoever feeds them and their owner."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from typing import Protocol

from usageledger.ledger.records import Record


class Source(str, Enum):
    """Which input topic a record comes from."""

    USAGE = "usage"
    ACCOUNT = "account"


BYTES_MAX = 4 * 1024 * 1024
"""Of keys and values that are buffered for one input: about 14,000 events."""


class InputControl(Protocol):
    """The feed as its owner sees it: the Faust worker, or a list in tests."""

    async def seek(self, positions: dict[Source, int]) -> None:
        """Begin to feed each input at the given offset.

        The buffer drops what it is fed before this returns.
        """
        ...

    async def end_offset(self, source: Source) -> int:
        """Ask the broker, now, for the offset that the next record of this input will have."""
        ...

    def known_end_offset(self, source: Source) -> int | None:
        """The end offset that the last fetch brought; None before the first. Asks nobody."""
        ...

    def acknowledge(self, source: Source, next_offset: int) -> None:
        """Acknowledge the fetches below ``next_offset``: all their records are committed.

        Lag tools read it; recovery does not.
        """
        ...

    def pause(self, source: Source) -> None:
        """Stop feeding this input: its buffer is full."""
        ...

    def resume(self, source: Source) -> None:
        """Go on feeding this input: there is room again."""
        ...


class InputBuffer:
    """One partition's inputs. Not thread-safe: feeder and owner share one event loop."""

    def __init__(
        self, control: InputControl, *, records_max: int = 20_000, bytes_max: int = BYTES_MAX
    ) -> None:
        self.control = control
        self._records_max = records_max
        self._bytes_max = bytes_max
        self._bytes = dict.fromkeys(Source, 0)
        self._queues: dict[Source, deque[Record]] = {source: deque() for source in Source}
        self._next: dict[Source, int] = dict.fromkeys(Source, -1)
        self._paused: set[Source] = set()
        self._changed = asyncio.Event()

    async def seek(self, positions: dict[Source, int]) -> None:
        """Drop what is buffered and begin again at ``positions``."""
        for source, position in positions.items():
            self._queues[source].clear()
            self._bytes[source] = 0
            self._next[source] = position
        self._paused.clear()
        await self.control.seek(positions)

    def put(self, source: Source, records: Sequence[Record]) -> None:
        """Buffer the records of a fetch.

        Records below the expected offset, which were fetched before a seek, are dropped. Records
        beyond a gap are kept as they are: the owner looks for gaps.
        """
        queue = self._queues[source]
        expected = queue[-1].offset + 1 if queue else self._next[source]
        if expected < 0:
            return
        fresh = (
            records
            if records and records[0].offset >= expected
            else [record for record in records if record.offset >= expected]
        )
        queue.extend(fresh)
        self._bytes[source] += sum(map(_size_of, fresh))
        is_full = len(queue) >= self._records_max or self._bytes[source] >= self._bytes_max
        if is_full and source not in self._paused:
            self._paused.add(source)
            self.control.pause(source)
        self._changed.set()

    def peek(self, source: Source) -> Record | None:
        """The next record of an input; None if none is buffered."""
        queue = self._queues[source]
        return queue[0] if queue else None

    def pop(self, source: Source, *, until_ms: int | None, limit: int) -> list[Record]:
        """Remove and return up to ``limit`` records with timestamps up to ``until_ms``, in order.

        ``until_ms`` None: any timestamp.
        """
        queue = self._queues[source]
        popped: list[Record] = []
        while (
            queue
            and len(popped) < limit
            and (until_ms is None or queue[0].timestamp_ms <= until_ms)
        ):
            popped.append(queue.popleft())
        if popped:
            self._next[source] = popped[-1].offset + 1
        self._bytes[source] -= sum(map(_size_of, popped))
        has_room = (
            len(queue) < self._records_max // 2 and self._bytes[source] < self._bytes_max // 2
        )
        if source in self._paused and has_room:
            self._paused.discard(source)
            self.control.resume(source)
        return popped

    def buffered_count(self, source: Source) -> int:
        """How many records of an input are buffered."""
        return len(self._queues[source])

    def position(self, source: Source) -> int:
        """The offset after the last record that was popped."""
        return self._next[source]

    def is_known_to_be_at_end(self, source: Source) -> bool:
        """Whether nothing is buffered and the last fetch said that there is nothing more."""
        end = self.control.known_end_offset(source)
        return not self._queues[source] and end is not None and self._next[source] >= end

    async def wait_for_change(self, timeout_s: float) -> None:
        """Return when records were put, or after ``timeout_s``."""
        with suppress(TimeoutError):
            # `wait_for` can swallow a cancellation (cpython #86296)
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        self._changed.clear()


def _size_of(record: Record) -> int:
    return len(record.key or b"") + len(record.value or b"")
