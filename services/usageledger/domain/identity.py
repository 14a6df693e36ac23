"""Which events are one event: account + source + id, for 35 days and 5 minutes from when it was
first appended.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Literal

import msgspec

from usageledger.domain.entry import LedgerEntry

LATENESS_MAX = timedelta(days=35)
"""An event whose ``occurred_at`` lies further back than this from its ``appended_at`` is refused.
"""

CLOCK_AHEAD_MAX = timedelta(minutes=5)
"""A worker's clock may run ahead of the ledger's by this much."""

IDENTITY_LIFE = LATENESS_MAX + CLOCK_AHEAD_MAX
"""How long an identity counts.

A duplicate that comes later than this occurred more than LATENESS_MAX ago, so it is refused as too
old.
"""

WINDOW = timedelta(days=36)
"""The view keeps identities in windows of this length and drops whole windows.

Longer than IDENTITY_LIFE, so two hold all that count.
"""

Namespace = Literal["usage", "account"]

_json = msgspec.json.Encoder()
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


class IdentityRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, omit_defaults=True):
    """What the view remembers of an event: enough to tell a duplicate from a reused id, and to void
    a charge.
    """

    first_appended_at: datetime
    state: Literal["decided", "voided", "void_awaits_usage"]
    content: str = ""
    credits: int = 0
    feature: str = ""
    period: int = -1
    entry_offset: int = -1

    def counts_at(self, appended_at: datetime) -> bool:
        """Whether this identity still counts at that time.

        The last instant is included: a duplicate there is not yet too old.
        """
        return appended_at - self.first_appended_at <= IDENTITY_LIFE


@lru_cache(maxsize=16_384)  # each is asked for a few times, within one chunk
def identity_of(namespace: Namespace, account: str, source: str, event_id: str) -> bytes:
    """16 bytes that stand for account + source + id.

    Usage and account events have a namespace each: who may report usage cannot take billing's ids.
    """
    return hashlib.sha256(_json.encode([namespace, account, source, event_id])).digest()[:16]


def window_of(at: datetime) -> int:
    """The number of the window in which an identity first appended at that time, in UTC, is
    kept.
    """
    return (at.toordinal() - _EPOCH.toordinal()) // WINDOW.days


def identity_changes(
    entry: LedgerEntry, voided: IdentityRecord | None
) -> list[tuple[bytes, IdentityRecord]]:
    """What an entry makes the view remember of identities.

    ``voided`` is what is remembered of the usage that a void entry names.
    """
    event = entry.event
    if event is None or event.content is None or entry.kind in ("refusal", "duplicate"):
        return []
    if entry.kind == "usage":
        assert entry.period is not None and entry.feature is not None
        state: Literal["decided", "voided"] = "voided" if entry.is_void_on_arrival else "decided"
        record = IdentityRecord(
            entry.appended_at,
            state,
            event.content,
            entry.credits,
            entry.feature,
            entry.period.number,
            entry.offset,
        )
        return [(identity_of("usage", entry.account, event.source, event.id), record)]
    record = IdentityRecord(entry.appended_at, "decided", event.content, entry_offset=entry.offset)
    changes = [(identity_of("account", entry.account, event.source, event.id), record)]
    if entry.voids is not None:
        usage = identity_of("usage", entry.account, entry.voids.source, entry.voids.id)
        changes.append((usage, _voided(voided, entry)))
    return changes


def _voided(usage: IdentityRecord | None, void: LedgerEntry) -> IdentityRecord:
    assert void.voids is not None
    if void.voids.awaits_usage:
        return IdentityRecord(void.appended_at, "void_awaits_usage")
    return (
        IdentityRecord(void.appended_at, "voided")
        if usage is None
        else msgspec.structs.replace(usage, state="voided")
    )
