"""The port of a ledger partition's view: for its owner, who alone changes it, and for readers.

The view is a fold of the ledger up to its head, never ahead of it. Accounts and identities are
opaque bytes here; `domain` knows their meaning. The adapters are ``counters.redis_view`` and
``counters.memory``; one contract suite runs against both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

Cause = Literal[
    "full",
    "read_only",
    "cannot_persist",
    "too_few_replicas",
    "loading",
    "busy",
    "slow",
    "cluster_down",
    "slots_move",
    "too_many_clients",
    "unreachable",
    "wrong_password",
    "no_permission",
]
"""What keeps a store from doing what it is asked: see ``counters.troubles``."""


class Position(NamedTuple):
    """How far a view has come: the next ledger offset to fold, and the last folded entry's hash.

    The hash is "" before the first entry.
    """

    next_offset: int
    hash: str


class StoredHead(NamedTuple):
    """A view's head: its position, the owner's encoded ``domain.head.Head``, and its verification.

    ``verified_at_ms`` is when the head was last verified, in ms since 1970 by the store's clock.
    """

    position: Position
    value: bytes
    verified_at_ms: int


class Fetched(NamedTuple):
    """The result of a look-up, in the order of the request; None for what does not exist."""

    accounts: Sequence[bytes | None]
    identities: Sequence[bytes | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewChange:
    """Everything that one commit writes.

    Identities are grouped by window, an integer that grows with time: see ``domain.identity``.
    """

    head: bytes
    position: Position
    accounts: Mapping[str, bytes] = field(default_factory=dict)
    identities: Mapping[int, Mapping[bytes, bytes]] = field(default_factory=dict)
    due_ms: Mapping[str, int | None] = field(default_factory=dict)
    """When each account is next due (ms since 1970), None for one that is due no more."""
    settled_holds: Sequence[tuple[str, str, str]] = ()
    """The holds to settle: account, id, and the source of the use that names it.

    A hold of another source stays open: see `counters.holding.Holder`.

    Holds are no part of a view, so a view beside leaves them alone.
    """
    as_of_ms: int | None = None
    """The view's as-of time after the commit (ms since 1970), None for now.

    A time is given while the view is being caught up; readers say "as of" it.
    """
    drop_windows_before: int | None = None
    """Identity windows older than this are no longer needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A whole view at one moment. ``identities`` has the number of identities in each window."""

    head: StoredHead | None
    accounts: Mapping[str, bytes]
    due_ms: Mapping[str, int]
    identities: Mapping[int, int]


class ViewError(Exception):
    """The store did not do what was asked. ``retriable``: the same call can succeed later.

    ``cause`` is the store's; None where the store itself is well.

    Nothing was changed, unless only the answer was lost: then the head, read again, says whether a
    commit was applied.
    """

    def __init__(self, message: str, *, retriable: bool = True, cause: Cause | None = None) -> None:
        super().__init__(message)
        self.retriable = retriable
        self.cause = cause


class HeadMoved(ViewError):
    """The head is not where the caller expects it: it fell back, or another owner moved it.

    ``found`` is None if there is no head.
    """

    def __init__(self, found: Position | None) -> None:
        super().__init__(f"the view's head is at {found}")
        self.found = found


class PartitionView(Protocol):
    """One partition's view.

    Every call is bounded in time, and raises ViewError if the store does not answer. Calls on one
    view are carried out in the order in which they were made. So a look-up that is made while a
    commit is under way expects the head of that commit.
    """

    async def head(self) -> StoredHead | None:
        """Read the head; None if there is none.

        It counts as a write, so a replica never answers it.
        """
        ...

    async def fetch(
        self,
        expected: Position | None,
        accounts: Sequence[str],
        identities: Sequence[tuple[int, bytes]],
    ) -> Fetched:
        """Look up accounts and (newest window, identity) pairs if the head is as expected.

        An identity is searched in the given window and in the one before it. If None is expected,
        nothing is found. Raises HeadMoved if the head is elsewhere.
        """
        ...

    async def commit(self, expected: Position | None, change: ViewChange) -> None:
        """Write everything in ``change`` if the head is as expected, otherwise nothing.

        None expects an empty view. A commit also verifies the head, unless the change has an as-of
        time. A hold is settled once, whether it is open or was released; one that has expired or
        does not exist is ignored. Identities in a window that is to be dropped are not kept. Raises
        HeadMoved if the head is elsewhere. If the answer was lost and the commit is repeated, its
        ``found`` is this change's own position.
        """
        ...

    async def verify(self, expected: Position) -> None:
        """Note that the head is where it is expected now; raise HeadMoved if it is not.

        It counts as a write, so a replica never answers it.
        """
        ...

    async def due(self, expected: Position | None = None) -> Mapping[str, int]:
        """Every account that will be due, with its time (ms since 1970).

        Raises HeadMoved if a position is given and the head is elsewhere.
        """
        ...

    async def snapshot(self) -> Snapshot:
        """Read all accounts with the head that they belong to, for the audit.

        The store answers nothing else meanwhile.
        """
        ...

    async def clear(self) -> None:
        """Delete this view, which can be rebuilt from the ledger at any time.

        Holds stay: they belong to no ledger.
        """
        ...

    def beside(self) -> PartitionView:
        """A second view of the same partition that no reader sees: the next one is built in it."""
        ...

    async def take_over(self, beside: Position) -> None:
        """Replace this view by the one beside, if that one is at the expected position.

        Readers see the old one, then the new one, whatever the old one was. Holds stay: they belong
        to no ledger. Raises HeadMoved if the view beside is elsewhere, and if the call is repeated
        because its answer was lost.
        """
        ...
