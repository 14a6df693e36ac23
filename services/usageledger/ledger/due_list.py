"""When accounts are next due without an input of their own."""

from __future__ import annotations

import heapq
from datetime import datetime

from usageledger.ledger.timestamps import whole_milliseconds_up

_OUTDATED_MAX = 100


class DueList:
    """When accounts are next due, in whole milliseconds like the ledger's time.

    It is a heap in which only an account's newest date counts.
    """

    def __init__(self) -> None:
        self._dates: dict[str, datetime] = {}
        self._heap: list[tuple[datetime, str]] = []
        self._changed: dict[str, datetime | None] = {}

    def set(self, account: str, at: datetime | None) -> None:
        """Note when an account is due, or that it is not.

        The time is rounded up to the millisecond, so that nobody acts too early.
        """
        date = None if at is None else whole_milliseconds_up(at)
        if self._dates.get(account) == date:
            return
        self._changed[account] = date
        if date is None:
            del self._dates[account]
        else:
            self._dates[account] = date
            heapq.heappush(self._heap, (date, account))
        if len(self._heap) > 2 * len(self._dates) + _OUTDATED_MAX:
            self._heap = [(date, account) for account, date in self._dates.items()]
            heapq.heapify(self._heap)

    def all(self) -> dict[str, datetime]:
        """Every account that will be due, with its time."""
        return dict(self._dates)

    def take_changed(self) -> dict[str, datetime | None]:
        """Return the dates that were set or removed since the last call."""
        changed, self._changed = self._changed, {}
        return changed

    def until(self, at: datetime, limit: int) -> list[str]:
        """Up to ``limit`` accounts that are due at or before that time, the soonest first.

        The cost depends on ``limit`` and hardly on how many accounts are due.
        """
        found: dict[tuple[datetime, str], None] = {}
        while len(found) < limit and (due := self.next()) is not None and due[0] <= at:
            found[heapq.heappop(self._heap)] = None
        for due in found:
            heapq.heappush(self._heap, due)
        return [account for _, account in found]

    def get(self, account: str) -> datetime | None:
        """When that account is due, or None."""
        return self._dates.get(account)

    def next(self) -> tuple[datetime, str] | None:
        """The soonest date and its account, or None. Of equal dates, the lowest id comes first."""
        while self._heap and self._dates.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None

    def __len__(self) -> int:
        return len(self._dates)
