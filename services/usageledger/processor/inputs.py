"""The two inputs of one ledger partition, buffered: a feeder puts chunks in, the owner takes
records out in the ledger's order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from typing import Protocol

from usageledger.ledger.records import Record


class Source(str, Enum):
    """Which input topic a record lies in."""

    USAGE = "usage"
    ACCOUNT = "account"


class InputControl(Protocol):
    """What the owner asks of whoever feeds it (the Faust worker; a list in tests)."""

    async def seek(self, positions: dict[Source, int]) -> None:
        """Begin to feed each input at the given offset.

        Records fed before this returns are dropped by the buffer.
        """
        ...

    async def end_offset(self, source: Source) -> int:
        """Ask the broker, now, for the offset that the next record of this input will have."""
        ...

    def known_end_offset(self, source: Source) -> int | None:
        """The end offset that the last fetch told, without asking; None before the first fetch."""
        ...

    def committed(self, source: Source, next_offset: int) -> None:
        """All records below ``next_offset`` are committed: acknowledge their chunks (lag tools read
        this; recovery does not).
        """
        ...

    def pause(self, source: Source) -> None:
        """The buffer of this input is full: stop feeding it."""
        ...

    def resume(self, source: Source) -> None:
        """There is room again."""
        ...


class InputBuffer:
    """One partition's inputs. Not thread-safe: feeder and owner share one event loop."""

    def __init__(self, control: InputControl, *, records_max: int = 20_000) -> None:
        self.control = control
        self._records_max = records_max
        self._queues: dict[Source, deque[Record]] = {source: deque() for source in Source}
        self._next: dict[Source, int] = dict.fromkeys(Source, -1)
        self._paused: set[Source] = set()
        self._changed = asyncio.Event()

    async def seek(self, positions: dict[Source, int]) -> None:
        """Drop what is buffered and begin again at ``positions``."""
        for source, position in positions.items():
            self._queues[source].clear()
            self._next[source] = position
        self._paused.clear()
        await self.control.seek(positions)

    def put(self, source: Source, records: Sequence[Record]) -> None:
        """Take a fetched chunk.

        What lies before the expected offset (fetched before a seek) is dropped; a chunk beyond a
        gap is kept as it is.
        """
        queue = self._queues[source]
        expected = queue[-1].offset + 1 if queue else self._next[source]
        if expected < 0:
            return
        fresh = (
            records
            if records and records[0].offset >= expected
            else [r for r in records if r.offset >= expected]
        )
        queue.extend(fresh)
        if len(queue) >= self._records_max and source not in self._paused:
            self._paused.add(source)
            self.control.pause(source)
        self._changed.set()

    def peek(self, source: Source) -> Record | None:
        """The next record of an input that has not been taken, None if none is buffered."""
        queue = self._queues[source]
        return queue[0] if queue else None

    def take(self, source: Source, *, until_ms: int | None, limit: int) -> list[Record]:
        """Take up to ``limit`` records whose timestamp is at most ``until_ms`` (None: any), in
        order.
        """
        queue = self._queues[source]
        taken: list[Record] = []
        while (
            queue and len(taken) < limit and (until_ms is None or queue[0].timestamp_ms <= until_ms)
        ):
            taken.append(queue.popleft())
        if taken:
            self._next[source] = taken[-1].offset + 1
        if source in self._paused and len(queue) < self._records_max // 2:
            self._paused.discard(source)
            self.control.resume(source)
        return taken

    def buffered(self, source: Source) -> int:
        """How many records of an input are waiting to be taken."""
        return len(self._queues[source])

    def position(self, source: Source) -> int:
        """The offset after the last record taken."""
        return self._next[source]

    def is_known_to_be_at_end(self, source: Source) -> bool:
        """Whether nothing is buffered and the last fetch told of nothing more."""
        end = self.control.known_end_offset(source)
        return not self._queues[source] and end is not None and self._next[source] >= end

    async def changed(self, timeout_s: float) -> None:
        """Return when something was put, or after ``timeout_s``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(
                timeout_s
            ):  # `wait_for` can swallow a cancellation (cpython #86296)
                await self._changed.wait()
        self._changed.clear()
