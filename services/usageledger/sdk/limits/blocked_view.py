"""`BlockedView`: which accounts are blocked, by the limit events read so far."""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Mapping
from typing import Any

from usageledger.ledger.limit_address import LimitAddress
from usageledger.sdk.limits.limit_event import LimitEvent, kind_of, parse_limit_event


class BlockedView:
    """Which accounts are blocked, and why. Thread-safe; a repeated event changes nothing.

    It keeps the blocking event of every blocked account. Events are compressed: a million of them
    use 0.3 GB instead of 0.8 GB.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocked: dict[str, bytes] = {}
        self._last_addresses: dict[int, LimitAddress] = {}

    def apply(self, event: Mapping[str, Any], address: LimitAddress, value: bytes) -> None:
        """Apply an event, unless its address is not beyond the partition's last one.

        ``value`` is the event in its record's bytes.
        """
        with self._lock:
            if not address.is_beyond(self._last_addresses.get(address.partition)):
                return
            self._last_addresses[address.partition] = address
            kind = kind_of(event)
            if kind == "reached":
                self._blocked[event["data"]["account"]] = _compress(value)
            elif kind == "cleared":
                self._blocked.pop(event["data"]["account"], None)

    def is_blocked(self, account: str) -> bool:
        """Whether the account's limit is reached and has not been cleared since."""
        with self._lock:
            return account in self._blocked

    def why_blocked(self, account: str) -> LimitEvent | None:
        """Return the event that blocked the account; None if it is not blocked.

        Raises NotALimitEvent.
        """
        with self._lock:
            compressed = self._blocked.get(account)
        return None if compressed is None else parse_limit_event(json.loads(_expand(compressed)))

    def blocked(self) -> set[str]:
        """Return all blocked accounts."""
        with self._lock:
            return set(self._blocked)

    def last_address(self, partition: int) -> LimitAddress | None:
        """Return the address of a partition's last event; None if it has had none."""
        with self._lock:
            return self._last_addresses.get(partition)


# The bytes that events have in common. With them as zlib's dictionary, an event needs a fifth of
# its bytes.
_TYPICAL_EVENT = (
    b'{"specversion":"1.0","type":"limit.reached","source":"/usageledger/limits","id":"0-0-0",'
    b'"subject":"acct_","time":"2026-01-01T00:00:00.000000Z",'
    b'"datacontenttype":"application/json","data":{"account":"acct_","plan":"pro",'
    b'"period":{"start":"2026-01-01T00:00:00Z","end":"2026-02-01T00:00:00Z"},"used":"200",'
    b'"remaining":"0","allotment":"200","granted":"0","threshold":null,"reason":"usage",'
    b'"action":"block","upgrade":{"plan":"max","name":"Max","price_cents":2499,'
    b'"allotment":"500"},"suspension":null,"resets_at":"2026-02-01T00:00:00Z",'
    b'"crossed_by":{"source":"/render","id":"gen_","occurred_at":"2026-01-01T00:00:00.000000Z"},'
    b'"entry":{"partition":0,"offset":0,"index":0,"crossings":1}}}'
)


def _compress(value: bytes) -> bytes:
    compressor = zlib.compressobj(level=1, zdict=_TYPICAL_EVENT)
    return compressor.compress(value) + compressor.flush()


def _expand(compressed: bytes) -> bytes:
    return zlib.decompressobj(zdict=_TYPICAL_EVENT).decompress(compressed)
