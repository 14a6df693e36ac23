"""What a ledger partition's view offers: to its owner, who alone moves it, and to readers.

The view is a fold of the ledger up to its head, never ahead of it. Accounts and identities are
opaque bytes here: `domain` knows them. Adapters: ``counters.redis_view`` and ``counters.memory``;
one contract suite runs against both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol


class Position(NamedTuple):
    """Where a view stands: the ledger offset it will fold next, and the hash of the last entry
    folded ("" before the first).
    """

    next_offset: int
    hash: str


class StoredHead(NamedTuple):
    """A view's head: its position, the owner's encoded ``domain.head.Head``, and when it was last
    verified (ms by the store's clock).
    """

    position: Position
    value: bytes
    verified_at_ms: int


class Fetched(NamedTuple):
    """What a look-up found, in the order asked; None where the view has nothing."""

    accounts: Sequence[bytes | None]
    identities: Sequence[bytes | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewChange:
    """All that one commit writes.

    Identities are grouped by window (an integer that grows with time): see ``domain.identity``.
    """

    head: bytes
    position: Position
    accounts: Mapping[str, bytes] = field(default_factory=dict)
    identities: Mapping[int, Mapping[bytes, bytes]] = field(default_factory=dict)
    due_ms: Mapping[str, int | None] = field(default_factory=dict)
    """When each account is next due (ms since 1970), None where it no longer is."""
    settled_holds: Sequence[tuple[str, str]] = ()
    """Holds that their uses have settled: account and id.

    No view is made of them, so one beside leaves them alone.
    """
    as_of_ms: int | None = None
    """Of when the view then is (ms since 1970), where that is not now: while it is caught up.

    Readers say so.
    """
    drop_windows_before: int | None = None
    """Identity windows older than this are no longer needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A whole view at one moment. ``identities`` says how many there are in each window."""

    head: StoredHead | None
    accounts: Mapping[str, bytes]
    due_ms: Mapping[str, int]
    identities: Mapping[int, int]


class ViewError(Exception):
    """The store did not do what was asked.

    ``retriable`` says whether the same call can succeed later.

    Nothing was changed, unless it is the answer that was lost: only the head, read again, tells
    whether a commit was applied.
    """

    def __init__(self, message: str, *, retriable: bool = True) -> None:
        super().__init__(message)
        self.retriable = retriable


class HeadMoved(ViewError):
    """The head is not where the caller believes: it fell back, or another owner moved it.

    ``found`` is None where there is no head.
    """

    def __init__(self, found: Position | None) -> None:
        super().__init__(f"the view's head is at {found}")
        self.found = found


class PartitionView(Protocol):
    """One partition's view.

    Every call is bounded in time and raises ViewError when the store does not answer.

    Calls on one view are carried out in the order in which they were made, so a look-up made while
    a commit is on its way expects its head.
    """

    async def head(self) -> StoredHead | None:
        """Read the head, None where there is none.

        A write-class call, so a replica never answers it.
        """
        ...

    async def fetch(
        self,
        expected: Position | None,
        accounts: Sequence[str],
        identities: Sequence[tuple[int, bytes]],
    ) -> Fetched:
        """Look up accounts and (newest window, identity) pairs if the head is as expected; else
        raise HeadMoved.

        An identity is looked for in the window given and in the one before it. Where None is
        expected nothing is found.
        """
        ...

    async def commit(self, expected: Position | None, change: ViewChange) -> None:
        """Write everything in ``change``, or nothing: raise HeadMoved if the head is not as
        expected. None expects an empty view.

        It verifies the head as well, unless the change says of when it is. A hold is settled once,
        whether it is open or was released; one that has run out, or that is not there, is no
        matter. Identities in a window that is to be dropped are not kept. An answer lost and the
        commit repeated: HeadMoved, with ``found`` where this change was to move it.
        """
        ...

    async def verify(self, expected: Position) -> None:
        """Note that the head was seen where expected, now; raise HeadMoved otherwise.

        A write-class call.
        """
        ...

    async def due(self, expected: Position | None = None) -> Mapping[str, int]:
        """All accounts that are due some time, with when (ms since 1970); if a position is given
        and the head is not there, HeadMoved.
        """
        ...

    async def snapshot(self) -> Snapshot:
        """Read all accounts with the head that they belong to (for the audit).

        Holds up the store for as long as that takes.
        """
        ...

    async def clear(self) -> None:
        """Throw this view away.

        It can be rebuilt from the ledger at any time. Holds stay, for they are of no ledger.
        """
        ...

    def beside(self) -> PartitionView:
        """A second view of the same partition, which no reader sees: to build anew in what this one
        is then to be.
        """
        ...

    async def take_over(self, beside: Position) -> None:
        """Put the view beside in the place of this one, if it stands there; else HeadMoved.

        Readers see the old one, then the new one.

        It does not matter what this one was. Holds stay, for they are of no ledger. An answer lost
        and the call repeated: HeadMoved.
        """
        ...
