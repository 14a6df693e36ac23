"""Limit events as the gateway follows them."""

from __future__ import annotations

from collections.abc import Sequence

from tests.worlds.limits_world import Kind, Ledger
from usageledger.domain.chain import entry_at
from usageledger.gateway.streams.limit_store import LimitRecord, limit_record
from usageledger.ledger.limit_events import limit_events
from usageledger.ledger.records import Record

NOW_MS = 1_795_000_000_000


class Announced:
    """The limit events of one partition, as the topic has them.

    Each record lies at the next offset.
    """

    def __init__(self, partition: int = 0) -> None:
        self.partition = partition
        self._ledger = Ledger(partition)
        self._next_offset = 0

    def crossing(
        self, *kinds: Kind, account: str = "acct", announced_ms: int = NOW_MS
    ) -> list[LimitRecord]:
        """The records of an entry that crosses these limits."""
        record = self._ledger.entry(*kinds, account=account)
        sealed = entry_at(record.offset, record.value)
        assert sealed is not None
        return self.again(
            [
                limit_record(self.partition, Record(0, announced_ms, message.key, message.value))
                for message in limit_events(sealed.entry)
            ]
        )

    def again(self, records: Sequence[LimitRecord]) -> list[LimitRecord]:
        """The same events, announced once more."""
        first, self._next_offset = self._next_offset, self._next_offset + len(records)
        return [record._replace(offset=first + number) for number, record in enumerate(records)]
