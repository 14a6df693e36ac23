"""The catalog topic as a worker has read it so far: every owner adopts from here, each at its own pace."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from usageledger.log.records import Record


class CatalogLog:
    """All records of ``catalog.v1`` from its beginning. One task puts, owners read; all in one event loop."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._changed = asyncio.Event()

    @property
    def next_offset(self) -> int:
        """The offset after the last record that was read."""
        return self._records[-1].offset + 1 if self._records else 0

    def put(self, records: Sequence[Record]) -> None:
        """Add what was read next."""
        self._records.extend(records)
        if records:
            self._changed.set()
            self._changed = asyncio.Event()

    def before(self, offset: int) -> list[Record]:
        """The records below an offset: those that a ledger whose head says so has decided on."""
        return [record for record in self._records if record.offset < offset]

    def at_or_after(self, offset: int) -> Record | None:
        """The first record that lies at an offset or beyond it, None if it has not been read."""
        return next((record for record in self._records if record.offset >= offset), None)

    async def holds(self, offset: int, timeout_s: float) -> bool:
        """Wait until the records below ``offset`` have been read; False if they were not in time."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while self.next_offset < offset:
            remaining_s = deadline - asyncio.get_running_loop().time()
            if remaining_s <= 0:
                return False
            await self.changed(remaining_s)
        return True

    async def changed(self, timeout_s: float) -> None:
        """Return when something was put, or after ``timeout_s``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
