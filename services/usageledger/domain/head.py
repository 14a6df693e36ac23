"""The head of a ledger partition: how far its fold has come.

It is a fold of entries, like everything in the view.
"""

from __future__ import annotations

from datetime import datetime

import msgspec
from msgspec.structs import replace

from usageledger.domain.entry import LedgerEntry, Topic

_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


class Head(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """``ledger`` is the id from the partition's first claim; the offsets are the next ones."""

    ledger: str
    next_offset: int = 0
    hash: str = ""
    clock: datetime = _EPOCH
    """The ledger's time: the ``appended_at`` of the last entry. It never decreases."""
    usage_next: int = 0
    account_next: int = 0
    catalog_next: int = 0
    decide: int = 0
    tzdata: str = ""
    """The rules by which the view's owner decides: see `domain.claim`."""

    def next_of(self, topic: Topic) -> int:
        """The offset of the input's next record."""
        return {
            "usage": self.usage_next,
            "account": self.account_next,
            "catalog": self.catalog_next,
        }[topic]


def advance(head: Head, entry: LedgerEntry, hash_: str) -> Head:
    """The head after one valid entry."""
    decided = {} if entry.input is None else {f"{entry.input.topic}_next": entry.input.offset + 1}
    return replace(
        head, next_offset=entry.offset + 1, hash=hash_, clock=entry.appended_at, **decided
    )
