"""The names of one partition's keys.

All have the same hash tag, so they are in one slot of a Redis Cluster and fall back together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

DEFAULT_PREFIX = "ul"

_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,100}", re.ASCII)


@dataclass(frozen=True, slots=True)
class PartitionKeys:
    """The keys of one partition of one ledger.

    ``prefix`` lets several ledgers share one Redis; an empty one means ``ul``. Raises ValueError
    for a prefix that could end the hash tag early or coincide with another ledger's.
    """

    prefix: str
    partition: int
    is_beside: bool = False
    """Whether the keys are of the view that is being built beside the one that readers see."""

    def __post_init__(self) -> None:
        if self.prefix and not _PREFIX.fullmatch(self.prefix):
            raise ValueError(
                "a prefix has up to 100 letters, digits, dots, dashes and underscores, unlike "
                f"{self.prefix!r}"
            )
        if self.partition < 0:
            raise ValueError(f"partitions are counted from 0, unlike {self.partition}")

    @property
    def tag(self) -> str:
        return f"{{{self.prefix or DEFAULT_PREFIX}:{self.partition}}}"

    @property
    def root(self) -> str:
        """The beginning of the names of all keys of the view."""
        return f"{self.tag}:beside" if self.is_beside else self.tag

    @property
    def beside(self) -> PartitionKeys:
        """The keys of the view that is being built beside this one, in the same slot."""
        return replace(self, is_beside=True)

    @property
    def head(self) -> str:
        """Hash: ``token`` ("next_offset:hash"), ``value``, ``verified_at_ms`` and ``windows``.

        The last lists the windows that have identities, such as "566 567".
        """
        return f"{self.root}:head"

    @property
    def accounts(self) -> str:
        """Hash: account → encoded state."""
        return f"{self.root}:accounts"

    @property
    def due(self) -> str:
        """Sorted set: account → when it is due (ms since 1970)."""
        return f"{self.root}:due"

    def holds(self, account: str) -> str:
        """Hash: hold id → the account's hold; the field "" has the sum of the open ones.

        It is no part of a view: the ledger does not know holds.
        """
        return f"{self.tag}:holds:{account}"

    def hold_ends(self, account: str) -> str:
        """Sorted set: hold id → until when the hold counts, or is remembered (ms since 1970).

        2**52 is subtracted for a hold that has ended: see ``scripts/prelude.lua``.
        """
        return f"{self.tag}:hold_ends:{account}"

    @property
    def placed(self) -> str:
        """Sorted set: account and id of a hold that was placed → until when it counts.

        Some of them are settled or released: see ``scripts/hold.lua``.
        """
        return f"{self.tag}:placed"

    def placed_by(self, holder: str) -> str:
        """As ``placed``, of one holder."""
        return f"{self.tag}:placed_by:{holder}"

    @property
    def owner(self) -> str:
        """String: the report of the partition's owner, which expires. It is no part of the view."""
        return f"{self.tag}:owner"

    def identities(self, window: int) -> str:
        """Hash: 16 bytes of identity → what is remembered about it.

        Each window has a key of its own, so that it can be dropped at once.
        """
        return f"{self.root}:identities:{window}"
