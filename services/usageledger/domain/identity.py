"""Which events are one event: those with the same account + source + id.

An identity counts for 35 days and 5 minutes from when its event was first appended.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Literal, assert_never

import msgspec

from usageledger.domain.bounds import CLOCK_AHEAD_MAX, LATENESS_MAX
from usageledger.domain.entry import LedgerEntry

IDENTITY_LIFE = LATENESS_MAX + CLOCK_AHEAD_MAX
"""How long an identity counts.

A duplicate that is appended later occurred more than LATENESS_MAX ago, so it is refused as too old.
"""

WINDOW = timedelta(days=36)
"""The view keeps identities in windows of this length, and drops whole windows.

It is longer than IDENTITY_LIFE, so the identities that count are in two windows.
"""

Namespace = Literal["usage", "account"]

_json = msgspec.json.Encoder()
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


class IdentityRecord(msgspec.Struct, frozen=True, gc=False, array_like=True, omit_defaults=True):
    """The view's memory of an event.

    It is enough to distinguish a duplicate from a reused id, and to void a charge.
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


@lru_cache(maxsize=16_384)  # each is needed a few times within one chunk
def identity_of(namespace: Namespace, account: str, source: str, event_id: str) -> bytes:
    """16 bytes that identify account + source + id.

    Usage and account events have a namespace each, so that a reporter of usage cannot use up
    billing's ids.
    """
    return hashlib.sha256(_json.encode([namespace, account, source, event_id])).digest()[:16]


def window_of(at: datetime) -> int:
    """The number of the window that keeps identities first appended at that time (in UTC)."""
    return (at.toordinal() - _EPOCH.toordinal()) // WINDOW.days


def identity_changes(
    entry: LedgerEntry, voided: IdentityRecord | None
) -> list[tuple[bytes, IdentityRecord]]:
    """The identities that an entry changes in the view, with their new records.

    ``voided`` is the record of the usage event that a void entry names.
    """
    event = entry.event
    if event is None or event.content is None:
        return []
    own = IdentityRecord(entry.appended_at, "decided", event.content, entry_offset=entry.offset)
    match entry.kind:
        case "refusal" | "duplicate" | "skip" | "catalog_adopted":
            return []
        case "usage":
            usage = identity_of("usage", entry.account, event.source, event.id)
            return [(usage, _usage_record(entry, event.content))]
        case "void":
            assert entry.voids is not None
            usage = identity_of("usage", entry.account, entry.voids.source, entry.voids.id)
            account = identity_of("account", entry.account, event.source, event.id)
            return [(account, own), (usage, _voided_record(voided, entry))]
        case (
            "grant"
            | "grant_expired"
            | "renewal"
            | "plan_change"
            | "account_opened"
            | "suspension"
            | "resumption"
            | "thresholds_set"
        ):
            return [(identity_of("account", entry.account, event.source, event.id), own)]
        case _:
            assert_never(entry.kind)


def _usage_record(entry: LedgerEntry, content: str) -> IdentityRecord:
    assert entry.period is not None and entry.feature is not None
    return IdentityRecord(
        entry.appended_at,
        "voided" if entry.is_void_on_arrival else "decided",
        content,
        entry.credits,
        entry.feature,
        entry.period.number,
        entry.offset,
    )


def _voided_record(usage: IdentityRecord | None, void: LedgerEntry) -> IdentityRecord:
    assert void.voids is not None
    if void.voids.awaits_usage:
        return IdentityRecord(void.appended_at, "void_awaits_usage")
    return (
        IdentityRecord(void.appended_at, "voided")
        if usage is None
        else msgspec.structs.replace(usage, state="voided")
    )
