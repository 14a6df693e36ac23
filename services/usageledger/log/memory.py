"""A ledger partition in memory, with the faults that the real one has: for tests, ours and
users'.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import count

from usageledger.ledger.records import (
    AppendOutcomeUnknown,
    KeyedValue,
    LedgerError,
    Record,
    RecordsMissing,
    Superseded,
)
from usageledger.log.packing import pack

READ_CHUNK_RECORDS = 1_000


class MemoryLog:
    """The log that the handles of several workers share.

    ``clock_ms`` gives each record's timestamp; by default they count up from 0.
    """

    def __init__(self, clock_ms: Callable[[], int] | None = None) -> None:
        ticks: Iterator[int] = count()
        self._clock_ms = clock_ms or (lambda: next(ticks))
        self._start = 0
        self.records: list[Record] = []

    @property
    def start_offset(self) -> int:
        """The offset of the oldest record that is still there."""
        return self._start

    @property
    def end_offset(self) -> int:
        """The offset that the next record will have."""
        return self.records[-1].offset + 1 if self.records else self._start

    def append_as_another(self, *added: KeyedValue) -> int:
        """Append what another worker (or a stranger) would, and return the offset of the first."""
        first = self.end_offset
        last_ms = self.records[-1].timestamp_ms if self.records else 0
        self.records += [
            Record(first + n, max(last_ms, self._clock_ms()), key, value)
            for n, (key, value) in enumerate(added)
        ]
        return first

    def truncate_before(self, offset: int) -> None:
        """Lose the oldest records, as retention does."""
        self._start = min(offset, self.end_offset)
        self.records = [record for record in self.records if record.offset >= offset]

    def truncate_from(self, offset: int) -> None:
        """Lose the newest records, as an unclean election does."""
        self.records = [record for record in self.records if record.offset < offset]


class MemoryLedgerPartition:
    """One worker's handle on a MemoryLog: the in-memory adapter of
    ``ledger.records.LedgerPartition``.
    """

    def __init__(
        self, log: MemoryLog | None = None, *, group_bytes_max: int = 8 * 1024 * 1024 - 64 * 1024
    ) -> None:
        self.log = log or MemoryLog()
        self._group_bytes_max = group_bytes_max
        self._claimed = False
        self._lost_answers: list[bool] = []
        self._running = asyncio.Event()
        self._running.set()
        self._appending = asyncio.Lock()

    def lose_next_answer(self, *, appended: bool) -> None:
        """The next claim or append raises AppendOutcomeUnknown; ``appended`` says whether its
        records are in the log all the same.
        """
        self._lost_answers.append(appended)

    def freeze(self) -> None:
        """Hold what this handle sends until ``thaw()``, as a worker's machine does that stops for a
        while.
        """
        self._running.clear()

    def thaw(self) -> None:
        """Send what was held."""
        self._running.set()

    async def claim(self, claim: KeyedValue) -> int:
        """Append a claim and return its offset.

        Raises AppendOutcomeUnknown if the answer was made to be lost.
        """
        async with self._appending:
            self._claimed = False
            offset = await self._deliver([claim])
            self._claimed = True
            return offset

    async def append(self, expected_offset: int, groups: Sequence[Sequence[KeyedValue]]) -> None:
        """Append groups: see LedgerPartition.

        After a failure nothing is appended before a new claim, as with Kafka.
        """
        batches = pack(
            groups, batch_bytes=self._group_bytes_max, group_bytes_max=self._group_bytes_max
        )
        async with self._appending:
            if not self._claimed:
                raise LedgerError("nothing can be appended before a claim")
            self._claimed = False
            for batch in batches:
                offset = await self._deliver(batch)
                if offset != expected_offset:
                    raise Superseded(f"a batch for offset {expected_offset} is at {offset}")
                expected_offset += len(batch)
            self._claimed = True

    async def read(self, start: int, stop: int) -> AsyncIterator[Sequence[Record]]:
        """Yield chunks of the records with ``start <= offset < stop``.

        Raises RecordsMissing if ``start`` is no longer in the log.
        """
        if start >= stop:
            return
        if not self.log.start_offset <= start <= self.log.end_offset:
            raise RecordsMissing(f"offset {start} is not in the log")
        if stop > self.log.end_offset:
            raise LedgerError(f"no record came at offset {self.log.end_offset} of {stop}")
        records = [record for record in self.log.records if start <= record.offset < stop]
        for first in range(0, len(records), READ_CHUNK_RECORDS):
            await asyncio.sleep(0)
            yield records[first : first + READ_CHUNK_RECORDS]

    async def start_offset(self) -> int:
        """The offset of the oldest record that is still there."""
        return self.log.start_offset

    async def end_offset(self) -> int:
        """The offset that the next record will have."""
        return self.log.end_offset

    async def close(self) -> None:
        """Give up the claim."""
        self._claimed = False

    async def _deliver(self, batch: Sequence[KeyedValue]) -> int:
        await asyncio.sleep(0)
        await self._running.wait()
        answered = not self._lost_answers
        appended = answered or self._lost_answers.pop(0)
        offset = self.log.append_as_another(*batch) if appended else -1
        if not answered:
            raise AppendOutcomeUnknown("the answer was lost")
        return offset
