"""The limit events of a ledger entry."""

from __future__ import annotations

import json

from tests.worlds.limits_world import Ledger
from usageledger.domain.chain import entry_at
from usageledger.ledger.limit_events import limit_events


def test_the_same_entry_gives_the_same_bytes() -> None:
    ledger = Ledger()
    ledger.entry("limit.threshold", "limit.reached")
    entry = entry_at(0, ledger.records[0].value)
    assert entry is not None
    assert limit_events(entry.entry) == limit_events(entry.entry)
    assert [json.loads(message.value)["id"] for message in limit_events(entry.entry)] == [
        "0-0-0",
        "0-0-1",
    ]
    assert {message.key for message in limit_events(entry.entry)} == {b"acct"}
