"""The catalog topic as far as a worker has read it. Each owner adopts from here at its own pace."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from usageledger.ledger.records import LedgerError, Record


class CatalogUnread(LedgerError):
    """The catalog topic could not be read as far as the ledger has adopted it.

    Claiming again can help, because the topic is not known to end there.
    """


class CatalogLog:
    """All records of ``catalog.v1`` from its beginning.

    One task puts records and owners read them, all in one event loop.
    """

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._changed = asyncio.Event()
        self._end = 0
        self._ends_noted = 0

    @property
    def next_offset(self) -> int:
        """The offset after the last record that was read."""
        return self._records[-1].offset + 1 if self._records else 0

    def put(self, records: Sequence[Record]) -> None:
        """Add the records that were read next."""
        self._records.extend(records)
        if records:
            self._wake()

    def note_end(self, end: int) -> None:
        """Note the topic's end offset, which the broker has just said."""
        self._end = end
        self._ends_noted += 1
        self._wake()

    def before(self, offset: int) -> list[Record]:
        """The records below an offset, which a ledger whose head says ``offset`` has adopted."""
        return [record for record in self._records if record.offset < offset]

    def at_or_after(self, offset: int) -> Record | None:
        """The first record at or after an offset; None if it has not been read."""
        return next((record for record in self._records if record.offset >= offset), None)

    async def holds(self, offset: int, timeout_s: float) -> bool:
        """Wait until the records below ``offset`` have been read; False if the topic ends earlier.

        Raises CatalogUnread if neither is known after ``timeout_s``.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        # The next answer may be to a question that was asked earlier.
        fresh = self._ends_noted + 2
        while self.next_offset < offset:
            if self._ends_noted >= fresh and self._end < offset:
                return False
            remaining_s = deadline - asyncio.get_running_loop().time()
            if remaining_s <= 0:
                raise CatalogUnread(
                    f"the catalog topic was read up to offset {self.next_offset}, and the ledger "
                    f"has adopted it up to {offset}"
                )
            await self.wait_for_change(remaining_s)
        return True

    async def wait_for_change(self, timeout_s: float) -> None:
        """Return when records were put or an end was noted, or after ``timeout_s``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
