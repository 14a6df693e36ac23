"""What a ledger partition's view offers: to its owner, who alone moves it, and to readers.

The view is a fold of the ledger up to its head, never ahead of it. Accounts and identities are opaque bytes here: `domain` knows them.
Adapters: ``counters.redis_view`` and ``counters.memory``; one contract suite runs against both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol


class Position(NamedTuple):
    """Where a view stands: the ledger offset it will fold next, and the hash of the last entry folded ("" before the first)."""

    next_offset: int
    hash: str


class StoredHead(NamedTuple):
    """A view's head: its position, the owner's encoded ``domain.head.Head``, and when it was last verified (ms since 1970 by the store's clock)."""

    position: Position
    value: bytes
    verified_at_ms: int


class Fetched(NamedTuple):
    """What a look-up found, in the order asked; None where the view has nothing."""

    accounts: Sequence[bytes | None]
    identities: Sequence[bytes | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewChange:
    """All that one commit writes. Identities are grouped by window (an integer that grows with time): see ``domain.identity``."""

    head: bytes
    position: Position
    accounts: Mapping[str, bytes] = field(default_factory=dict)
    identities: Mapping[int, Mapping[bytes, bytes]] = field(default_factory=dict)
    due_ms: Mapping[str, int | None] = field(default_factory=dict)
    """When each account is next due (ms since 1970), None where it no longer is."""
    settled_holds: Sequence[str] = ()
    drop_windows_before: int | None = None
    """Identity windows older than this are no longer needed."""


class ViewError(Exception):
    """The store did not do what was asked; nothing was changed. ``retriable`` says whether the same call can succeed later."""

    retriable = True


class HeadMoved(ViewError):
    """The head is not where the caller believes: it fell back, or another owner moved it. ``found`` is None where there is no head."""

    def __init__(self, found: Position | None) -> None:
        super().__init__(f"the view's head is at {found}")
        self.found = found


class PartitionView(Protocol):
    """One partition's view. Every call is bounded in time and raises ViewError when the store does not answer."""

    async def head(self) -> StoredHead | None:
        """Read the head, None where there is none. A write-class call, so a replica never answers it."""
        ...

    async def fetch(self, expected: Position | None, accounts: Sequence[str], identities: Sequence[tuple[int, bytes]]) -> Fetched:
        """Look up accounts and (newest window, identity) pairs if the head is as expected; else raise HeadMoved.

        An identity is looked for in the window given and in the one before it.
        """
        ...

    async def commit(self, expected: Position | None, change: ViewChange) -> None:
        """Write everything in ``change``, or nothing: raise HeadMoved if the head is not as expected. None expects an empty view."""
        ...

    async def verify(self, expected: Position) -> None:
        """Note that the head was seen where expected, now; raise HeadMoved otherwise. A write-class call."""
        ...

    async def due(self) -> Mapping[str, int]:
        """All accounts that are due some time, with when (ms since 1970)."""
        ...

    async def accounts(self) -> Mapping[str, bytes]:
        """Every account of this view (for the audit)."""
        ...

    async def clear(self) -> None:
        """Throw this view away. It can be rebuilt from the ledger at any time."""
        ...
