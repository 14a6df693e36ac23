"""A partition's view in memory, for tests of ours and of whoever builds on us. It can fall back, as a Redis does that fails over."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from usageledger.counters.view import Fetched, HeadMoved, Position, Snapshot, StoredHead, ViewChange


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySnapshot(Snapshot):
    """A snapshot that a view can be taken back to: it holds the identities and the holds too."""

    remembered: Mapping[int, Mapping[bytes, bytes]]
    holds: Mapping[str, bytes]


@dataclass(slots=True)
class MemoryView:
    """See ``counters.view.PartitionView``. The fields are open: a test may look, and may spoil them."""

    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    stored_head: StoredHead | None = None
    stored_accounts: dict[str, bytes] = field(default_factory=dict)
    due_ms: dict[str, int] = field(default_factory=dict)
    identities: dict[int, dict[bytes, bytes]] = field(default_factory=dict)
    holds: dict[str, bytes] = field(default_factory=dict)
    view_beside: MemoryView | None = None

    async def head(self) -> StoredHead | None:
        return self.stored_head

    async def fetch(self, expected: Position | None, accounts: Sequence[str], identities: Sequence[tuple[int, bytes]]) -> Fetched:
        self._check_head(expected)
        if expected is None:
            return Fetched([None] * len(accounts), [None] * len(identities))
        states = [self.stored_accounts.get(account) for account in accounts]
        return Fetched(states, [self._find(window, identity) for window, identity in identities])

    async def commit(self, expected: Position | None, change: ViewChange) -> None:
        self._check_head(expected)
        self.stored_accounts.update(change.accounts)
        for account, ms in change.due_ms.items():
            if ms is None:
                self.due_ms.pop(account, None)
            else:
                self.due_ms[account] = ms
        for hold in change.settled_holds:
            self.holds.pop(hold, None)
        for window, found in change.identities.items():
            if found:
                self.identities.setdefault(window, {}).update(found)
        if change.drop_windows_before is not None:
            self.identities = {window: found for window, found in self.identities.items() if window >= change.drop_windows_before}
        self.stored_head = StoredHead(change.position, change.head, self.now_ms())

    async def verify(self, expected: Position) -> None:
        self._check_head(expected)
        assert self.stored_head is not None
        self.stored_head = self.stored_head._replace(verified_at_ms=self.now_ms())

    async def due(self, expected: Position | None = None) -> Mapping[str, int]:
        if expected is not None:
            self._check_head(expected)
        return dict(self.due_ms)

    async def snapshot(self) -> Snapshot:
        return self.snapshot_for_rollback()

    def snapshot_for_rollback(self) -> MemorySnapshot:
        """All that ``restore`` needs to take this view back to now."""
        return MemorySnapshot(
            head=self.stored_head,
            accounts=dict(self.stored_accounts),
            due_ms=dict(self.due_ms),
            identities={window: len(found) for window, found in self.identities.items()},
            remembered=copy.deepcopy(self.identities),
            holds=dict(self.holds),
        )

    def restore(self, snapshot: MemorySnapshot) -> None:
        """Fall back to an earlier moment, whole."""
        self.stored_head = snapshot.head
        self.stored_accounts = dict(snapshot.accounts)
        self.due_ms = dict(snapshot.due_ms)
        self.identities = {window: dict(found) for window, found in snapshot.remembered.items()}
        self.holds = dict(snapshot.holds)

    async def clear(self) -> None:
        self.stored_head = None
        for part in (self.stored_accounts, self.due_ms, self.identities, self.holds):
            part.clear()

    def beside(self) -> MemoryView:
        if self.view_beside is None:
            self.view_beside = MemoryView(self.now_ms)
        return self.view_beside

    async def take_over(self, beside: Position) -> None:
        other = self.beside()
        other._check_head(beside)
        self.stored_head, self.stored_accounts = other.stored_head, other.stored_accounts
        self.due_ms, self.identities = other.due_ms, other.identities
        self.view_beside = None

    def _check_head(self, expected: Position | None) -> None:
        found = self.stored_head.position if self.stored_head else None
        if found != expected:
            raise HeadMoved(found)

    def _find(self, window: int, identity: bytes) -> bytes | None:
        newer = self.identities.get(window, {}).get(identity)
        return newer if newer is not None else self.identities.get(window - 1, {}).get(identity)
