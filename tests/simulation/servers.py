"""Kafka's logs, which pass each record to a witness, and views that can fall back to any moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from usageledger.counters.memory import MemoryView
from usageledger.counters.view import Position, StoredHead, ViewChange
from usageledger.ledger.records import KeyedValue, Record
from usageledger.log.memory import MemoryLog


class Witness(Protocol):
    """Sees every change in one partition as it happens."""

    def ledger_appended(self, records: Sequence[Record]) -> None: ...

    def view_commits(
        self, position_before: Position | None, due_ms: Mapping[str, int], change: ViewChange
    ) -> None: ...


class SimulatedLog(MemoryLog):
    """One partition of the ledger."""

    def __init__(self, clock_ms: Callable[[], int], witness: Witness) -> None:
        super().__init__(clock_ms)
        self._witness = witness

    def append_batch(self, batch: Sequence[KeyedValue]) -> int:
        """Append a batch, whole."""
        first = self.append_as_another(*batch)
        self._witness.ledger_appended(self.records[first - self.start_offset :])
        return first


class SimulatedView(MemoryView):
    """One partition's view, with its past states."""

    def __init__(self, clock_ms: Callable[[], int], witness: Witness) -> None:
        super().__init__(clock_ms)
        self._witness = witness
        self._undo: list[Callable[[], None]] = []

    @property
    def position(self) -> Position | None:
        return self.stored_head.position if self.stored_head is not None else None

    @property
    def moments(self) -> int:
        """The number of changes that it can undo."""
        return len(self._undo)

    async def commit(self, expected: Position | None, change: ViewChange) -> None:
        self._check_head(expected)
        self._witness.view_commits(self.position, self.due_ms, change)
        head, accounts = (
            self.stored_head,
            {account: self.stored_accounts.get(account) for account in change.accounts},
        )
        due = {account: self.due_ms.get(account) for account in change.due_ms}
        windows, touched = (
            dict(self.identities),
            {window: dict(self.identities.get(window, {})) for window in change.identities},
        )
        await super().commit(expected, change)
        dropped = {
            window: found for window, found in windows.items() if window not in self.identities
        }
        self._undo.append(lambda: self._take_back(head, accounts, due, {**dropped, **touched}))

    async def clear(self) -> None:
        self.lose()

    def beside(self) -> SimulatedView:
        if not isinstance(self.view_beside, SimulatedView):
            self.view_beside = SimulatedView(self.now_ms, self._witness)
        return self.view_beside

    async def take_over(self, beside: Position) -> None:
        was = (self.stored_head, self.stored_accounts, self.due_ms, self.identities)
        await super().take_over(beside)
        self._undo.append(lambda: self._become(*was))

    def lose(self) -> None:
        """Empty the view."""
        self.view_beside = None
        was = (self.stored_head, self.stored_accounts, self.due_ms, self.identities)
        self.stored_head, self.stored_accounts, self.due_ms, self.identities = None, {}, {}, {}
        self._undo.append(lambda: self._become(*was))

    def fall_back(self, changes: int) -> None:
        """Undo the last changes."""
        for _ in range(min(changes, len(self._undo))):
            self._undo.pop()()

    def forget_moments(self) -> None:
        """Make the present state final: it can no longer fall back from here."""
        self._undo.clear()

    def _take_back(
        self,
        head: StoredHead | None,
        accounts: dict[str, bytes | None],
        due: dict[str, int | None],
        identities: dict[int, dict[bytes, bytes]],
    ) -> None:
        self.stored_head = head
        self.identities = {**self.identities, **identities}
        for account, state in accounts.items():
            if state is None:
                del self.stored_accounts[account]
            else:
                self.stored_accounts[account] = state
        for account, ms in due.items():
            if ms is None:
                self.due_ms.pop(account, None)
            else:
                self.due_ms[account] = ms

    def _become(
        self,
        head: StoredHead | None,
        accounts: dict[str, bytes],
        due: dict[str, int],
        identities: dict[int, dict[bytes, bytes]],
    ) -> None:
        self.stored_head, self.stored_accounts, self.due_ms, self.identities = (
            head,
            accounts,
            due,
            identities,
        )
