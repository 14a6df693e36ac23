"""A partition's view in memory, for our tests and for those of programs that build on us.

It can fall back to an earlier moment, as a Redis does that fails over.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

from usageledger.counters.calling import Call
from usageledger.counters.holding import (
    REMEMBERED_MS,
    FindHold,
    Held,
    Hold,
    PlaceHold,
    ReleaseHold,
    holder_of_source,
)
from usageledger.counters.reading import AccountReading, ReadAccount, ReadAccounts
from usageledger.counters.view import Fetched, HeadMoved, Position, Snapshot, StoredHead, ViewChange

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySnapshot(Snapshot):
    """A snapshot to which a view can fall back: it has the identities and the holds too."""

    remembered: Mapping[int, Mapping[bytes, bytes]]
    holds: Mapping[tuple[str, str], Hold]


@dataclass(slots=True)
class MemoryView:
    """See ``counters.view.PartitionView``.

    The fields are public: a test may read and change them.
    """

    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    stored_head: StoredHead | None = None
    stored_accounts: dict[str, bytes] = field(default_factory=dict)
    due_ms: dict[str, int] = field(default_factory=dict)
    identities: dict[int, dict[bytes, bytes]] = field(default_factory=dict)
    holds: dict[tuple[str, str], Hold] = field(default_factory=dict)
    """By account and hold id."""
    view_beside: MemoryView | None = None

    async def head(self) -> StoredHead | None:
        return self.stored_head

    async def fetch(
        self,
        expected: Position | None,
        accounts: Sequence[str],
        identities: Sequence[tuple[int, bytes]],
    ) -> Fetched:
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
        self.settle(change.settled_holds)
        for window, found in change.identities.items():
            if found:
                self.identities.setdefault(window, {}).update(found)
        if change.drop_windows_before is not None:
            self.identities = {
                window: found
                for window, found in self.identities.items()
                if window >= change.drop_windows_before
            }
        self.stored_head = StoredHead(
            change.position,
            change.head,
            self.now_ms() if change.as_of_ms is None else change.as_of_ms,
        )

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
        """Everything that ``restore`` needs to take this view back to this moment."""
        return MemorySnapshot(
            head=self.stored_head,
            accounts=dict(self.stored_accounts),
            due_ms=dict(self.due_ms),
            identities={window: len(found) for window, found in self.identities.items()},
            remembered=copy.deepcopy(self.identities),
            holds=dict(self.holds),
        )

    def restore(self, snapshot: MemorySnapshot) -> None:
        """Fall back to an earlier moment as a whole."""
        self.stored_head = snapshot.head
        self.stored_accounts = dict(snapshot.accounts)
        self.due_ms = dict(snapshot.due_ms)
        self.identities = {window: dict(found) for window, found in snapshot.remembered.items()}
        self.holds = dict(snapshot.holds)

    async def clear(self) -> None:
        self.stored_head = None
        for part in (self.stored_accounts, self.due_ms, self.identities):
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

    def settle(self, holds: Sequence[tuple[str, str, str]]) -> None:
        """Settle holds by account, id and the use's source, as a commit does."""
        for account, id, source in holds:
            key = (account, id)
            hold = self._live_hold(key)
            if hold is None or hold.state == "settled":
                continue
            if not hold.holder.startswith("source:") or hold.holder == holder_of_source(source):
                self.holds[key] = self._ended(hold._replace(state="settled"))

    def ask(self, call: Call[_T]) -> _T:
        """Answer a call of a reader or a holder of credits: see ``counters.calling.ask``."""
        if isinstance(call, ReadAccount):
            return cast(_T, self._reading(call.account))
        if isinstance(call, ReadAccounts):
            return cast(
                _T, [self._reading(account)._replace(read_at_ms=None) for account in call.accounts]
            )
        if isinstance(call, PlaceHold):
            return cast(_T, self._place(call))
        if isinstance(call, ReleaseHold):
            return cast(_T, self._release(call))
        assert isinstance(call, FindHold)
        return cast(_T, self._live_hold((call.account, call.id)))

    def _reading(self, account: str) -> AccountReading:
        """As read_account.lua does."""
        is_open = [hold.state == "open" for hold in self._live_holds(account)]
        state = self.stored_accounts.get(account)
        return AccountReading(
            self.stored_head, state, self._held(account), sum(is_open), self.now_ms()
        )

    def _place(self, call: PlaceHold) -> Held:
        """As hold.lua does."""
        key, held = (call.account, call.id), self._held(call.account)
        found = self._live_hold(key)
        if found is not None and found.state != "released":
            return Held(
                "held" if found.content == call.content else "id_holds_something_else", held, found
            )
        stored = self.stored_accounts.get(call.account)
        if stored != call.seen:
            return Held("account_moved", held, account=stored)
        if call.credits > 0 and call.credits > call.remaining - held:
            return Held("insufficient_credits", held)
        if self._has_too_many(call):
            return Held("too_many_open_holds", held)
        hold = Hold("open", call.credits, self.now_ms() + call.life_ms, call.holder, call.content)
        self.holds = {
            key: kept for key, kept in self.holds.items() if self._live_hold(key) is not None
        }
        self.holds[key] = hold
        return Held("held", held + call.credits, hold)

    def _has_too_many(self, call: PlaceHold) -> bool:
        live = {key: hold for key in self.holds if (hold := self._live_hold(key)) is not None}
        is_open = [(account, hold) for (account, _), hold in live.items() if hold.state == "open"]
        return (
            sum(account == call.account for account, _ in is_open) >= call.open_max
            or sum(hold.holder == call.holder for _, hold in is_open) >= call.open_of_holder_max
            or len(is_open) >= call.open_in_partition_max
        )

    def _release(self, call: ReleaseHold) -> Hold | None:
        key = (call.account, call.id)
        hold = self._live_hold(key)
        may_release = hold is not None and (
            call.holders is None or hold.holder in ("", *call.holders)
        )
        if hold is not None and hold.state == "open" and may_release:
            hold = self.holds[key] = self._ended(hold._replace(state="released"))
        return hold

    def _ended(self, hold: Hold) -> Hold:
        return hold._replace(
            counts_until_ms=min(hold.counts_until_ms, self.now_ms() + REMEMBERED_MS)
        )

    def _held(self, account: str) -> int:
        return sum(hold.credits for hold in self._live_holds(account) if hold.state == "open")

    def _live_holds(self, account: str) -> list[Hold]:
        found = [self._live_hold(key) for key in self.holds if key[0] == account]
        return [hold for hold in found if hold is not None]

    def _live_hold(self, key: tuple[str, str]) -> Hold | None:
        """The hold under this account and id, unless it has expired."""
        hold = self.holds.get(key)
        return None if hold is None or hold.counts_until_ms <= self.now_ms() else hold

    def _check_head(self, expected: Position | None) -> None:
        found = self.stored_head.position if self.stored_head else None
        if found != expected:
            raise HeadMoved(found)

    def _find(self, window: int, identity: bytes) -> bytes | None:
        newer = self.identities.get(window, {}).get(identity)
        return newer if newer is not None else self.identities.get(window - 1, {}).get(identity)
