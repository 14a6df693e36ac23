"""A view in memory that fails before or after a call took effect, and falls back as Redis does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from usageledger.counters.memory import MemorySnapshot, MemoryView
from usageledger.counters.view import Fetched, Position, StoredHead, ViewChange, ViewError

T = TypeVar("T")


class HostileView(MemoryView):
    """``moved_to`` and ``past`` keep what each commit made of it; ``before`` is called once, before
    the next call of that name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.moved_to: list[Position] = []
        self.past: list[MemorySnapshot] = []
        self.before: dict[str, Callable[[], None]] = {}
        self._failing: dict[str, bool] = {}
        self._refusal: tuple[frozenset[str], str] = frozenset(), ""

    def refuse(self, *calls: str, why: str) -> None:
        """Refuse every call of these names, as a store that is full or read-only does."""
        self._refusal = frozenset(calls), why

    def fail_next(self, call: str, *, applied: bool) -> None:
        """The next call of that name is not answered; ``applied`` says whether it is carried out
        all the same.
        """
        self._failing[call] = applied

    def mend(self) -> None:
        """Nothing fails any more."""
        self.before.clear()
        self._failing.clear()
        self._refusal = frozenset(), ""

    async def head(self) -> StoredHead | None:
        return await self._attempt("head", super().head)

    async def fetch(
        self,
        expected: Position | None,
        accounts: Sequence[str],
        identities: Sequence[tuple[int, bytes]],
    ) -> Fetched:
        fetch = super().fetch
        return await self._attempt("fetch", lambda: fetch(expected, accounts, identities))

    async def commit(self, expected: Position | None, change: ViewChange) -> None:
        commit = super().commit

        async def commit_and_keep() -> None:
            await commit(expected, change)
            self.moved_to.append(change.position)
            self.past.append(self.snapshot_for_rollback())

        await self._attempt("commit", commit_and_keep)

    async def verify(self, expected: Position) -> None:
        verify = super().verify
        await self._attempt("verify", lambda: verify(expected))

    async def due(self, expected: Position | None = None) -> Mapping[str, int]:
        due = super().due
        return await self._attempt("due", lambda: due(expected))

    def beside(self) -> MemoryView:
        if self.view_beside is None:
            self.view_beside = other = HostileView()
            other.moved_to = self.moved_to
        return self.view_beside

    async def take_over(self, beside: Position) -> None:
        take_over = super().take_over

        async def take_over_and_keep() -> None:
            await take_over(beside)
            self.past.append(self.snapshot_for_rollback())

        await self._attempt("take_over", take_over_and_keep)

    async def _attempt(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        self.before.pop(name, lambda: None)()
        refused, why = self._refusal
        if name in refused:
            raise ViewError(why)
        applied = self._failing.pop(name, None)
        if applied is False:
            raise ViewError(f"{name} did not arrive")
        answer = await call()
        if applied is True:
            raise ViewError(f"the answer to {name} was lost")
        return answer
