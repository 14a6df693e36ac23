"""The next step of a partition: records of its inputs, due accounts or a published catalog.

The two inputs are merged by timestamp.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from usageledger.ledger.partition_book import PartitionBook
from usageledger.ledger.records import Record
from usageledger.ledger.timestamps import milliseconds, time_of
from usageledger.processor.catalog_log import CatalogLog
from usageledger.processor.inputs import InputBuffer, Source
from usageledger.processor.owner_settings import DEFAULT_SETTINGS

OTHER_INPUT_WAIT_S = 1.0
"""How long a live ledger waits for an input that has more records than were fetched.

A ledger in import waits as long as necessary.
"""

DUE_GRACE = timedelta(seconds=1)
"""How long after an account is due, by the wall clock, an idle ledger acts on it.

By then it has seen all that was appended before.
"""

IDLE_WAIT_S = 0.5


@dataclass(frozen=True, slots=True)
class NextRecords:
    """Decide these records of one input."""

    source: Source
    records: list[Record]


@dataclass(frozen=True, slots=True)
class NextDue:
    """Act on the accounts that are due at or before ``until``."""

    until: datetime


@dataclass(frozen=True, slots=True)
class NextCatalog:
    """Adopt this record of the catalog topic."""

    record: Record


NextStep = NextRecords | NextDue | NextCatalog


class Merge:
    """Chooses what one partition decides next.

    On a live ledger the choice need not be repeatable: the log records the order of decisions.
    """

    def __init__(
        self,
        inputs: InputBuffer,
        catalogs: CatalogLog,
        *,
        is_importing: Callable[[], bool],
        now: Callable[[], datetime],
        records_per_step: int = DEFAULT_SETTINGS.records_per_step,
    ) -> None:
        self._inputs = inputs
        self._catalogs = catalogs
        self._is_importing = is_importing
        self._now = now
        self._records_per_step = records_per_step
        self._waiting_since: float | None = None

    async def next(self, book: PartitionBook) -> NextStep:
        """Wait for the next step. Before any other, a catalog is adopted.

        Raises LedgerError where the end of an input cannot be asked for.
        """
        while True:
            record = self._catalogs.at_or_after(book.head.catalog_next)
            if record is not None:
                return NextCatalog(record)
            if not book.catalogs:
                await self._catalogs.wait_for_change(IDLE_WAIT_S)
                continue
            step = await self._choose(book)
            if step is not None:
                self._waiting_since = None
                return step
            await self._inputs.wait_for_change(self._wait_s(book))

    async def next_buffered(self, book: PartitionBook) -> NextStep | None:
        """The next step with what is buffered, without waiting for more; None if there is none.

        Raises LedgerError as `next` does.
        """
        if not book.catalogs or not any(self._inputs.buffered_count(source) for source in Source):
            return None
        step = await self._choose(book)
        if step is not None:
            self._waiting_since = None
        return step

    async def _choose(self, book: PartitionBook) -> NextStep | None:
        usage, account = self._inputs.peek(Source.USAGE), self._inputs.peek(Source.ACCOUNT)
        due = book.due.next()
        if usage is None and account is None:
            return await self._due_by_wall_clock(due)
        if account is not None and (usage is None or account.timestamp_ms <= usage.timestamp_ms):
            source, first, other = Source.ACCOUNT, account, usage
        else:
            assert usage is not None
            source, first, other = Source.USAGE, usage, account
        buffered = self._inputs.buffered_count(source)
        if other is None and not await self._waited_enough_for(
            Source.USAGE if source is Source.ACCOUNT else Source.ACCOUNT
        ):
            return None
        at = max(book.head.clock, time_of(first.timestamp_ms))
        if due is not None and due[0] <= at:
            return NextDue(at)
        until_ms = _last_timestamp_ms(source, first, other, due)
        return NextRecords(
            source,
            self._inputs.pop(
                source, until_ms=until_ms, limit=min(buffered, self._records_per_step)
            ),
        )

    async def _waited_enough_for(self, other: Source) -> bool:
        """Return whether the merge may go on without a record of the other input.

        It may if that input is at its end; on a live ledger also after `OTHER_INPUT_WAIT_S`, which
        the first call begins.
        """
        if self._is_importing():
            end = await self._inputs.control.end_offset(other)
            return self._inputs.peek(other) is None and self._inputs.position(other) >= end
        if self._inputs.is_known_to_be_at_end(other):
            return True
        clock = asyncio.get_running_loop().time()
        if self._waiting_since is None:
            self._waiting_since = clock
        return clock - self._waiting_since >= OTHER_INPUT_WAIT_S

    async def _due_by_wall_clock(self, due: tuple[datetime, str] | None) -> NextDue | None:
        """With both inputs read to their end, the wall clock says what is due.

        A ledger in import has no clock but its records.
        """
        if due is None or self._is_importing() or due[0] > self._now() - DUE_GRACE:
            return None
        until = self._now() - DUE_GRACE
        for source in Source:
            if await self._inputs.control.end_offset(source) > self._inputs.position(source):
                return None
        return NextDue(until)

    def _wait_s(self, book: PartitionBook) -> float:
        due = book.due.next()
        if due is None or self._is_importing():
            return IDLE_WAIT_S
        return min(IDLE_WAIT_S, max(0.01, (due[0] + DUE_GRACE - self._now()).total_seconds()))


def _last_timestamp_ms(
    source: Source, first: Record, other: Record | None, due: tuple[datetime, str] | None
) -> int | None:
    """The last timestamp of records that come next; None if there is no bound.

    Account events come before usage of the same millisecond, and due accounts before both.
    ``first`` comes in any case: its own timestamp may be beyond the last representable time (see
    `time_of`).
    """
    bounds = []
    if other is not None:
        bounds.append(other.timestamp_ms if source is Source.ACCOUNT else other.timestamp_ms - 1)
    if due is not None:
        bounds.append(milliseconds(due[0]) - 1)
    return max(first.timestamp_ms, min(bounds)) if bounds else None
