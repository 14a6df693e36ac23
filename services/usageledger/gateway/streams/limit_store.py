"""Limit events in ``gateway.db``: the position in the topic, recent events, blocked accounts.

A batch of events is written in one transaction with the position after it and the webhook
deliveries that it causes. So however the process ends, every limit event is written once: each
endpoint has one delivery of it, and each stream can resume after it.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

from usageledger.gateway.store import transaction
from usageledger.gateway.webhooks.deliveries import add_deliveries
from usageledger.ledger.limit_address import LimitAddress, limit_event_in
from usageledger.ledger.records import Record

KEPT_FOR = timedelta(days=35)
"""How long a stream can resume after an event, from when the event was announced."""

_PRUNED_AT_ONCE = 1_000
_INSERT_EVENT = "INSERT OR IGNORE INTO limit_events VALUES (?, ?, ?, ?, ?, ?)"
_BLOCK = (
    "INSERT INTO blocked_accounts VALUES (?, ?) ON CONFLICT (account) DO UPDATE SET event = "
    "excluded.event"
)
_MOVE = "INSERT OR REPLACE INTO limit_positions VALUES (?, ?, ?, ?, ?, ?)"


class Position(NamedTuple):
    """How far a partition of ``limit.events`` was followed.

    ``last_record`` is the id of the record before ``next_offset``, ``address`` the greatest address
    so far. They differ after a repeat, which does not move the address.
    """

    next_offset: int
    last_record: str
    address: LimitAddress


class LimitRecord(NamedTuple):
    """A decoded record of ``limit.events``."""

    offset: int
    announced_ms: int
    address: LimitAddress
    type: str
    account: str
    time: str
    value: bytes

    @property
    def event_id(self) -> str:
        """The id of the limit event, made from its address in the ledger."""
        return self.address.id


class BlockedAccount(NamedTuple):
    """A blocked account and its `limit.reached` event."""

    account: str
    event: bytes


def limit_record(partition: int, record: Record) -> LimitRecord:
    """Decode a record of a partition. Raises NotALimitEvent."""
    event, address = limit_event_in(record.value, partition)
    return LimitRecord(
        record.offset,
        record.timestamp_ms,
        address,
        event["type"],
        event["data"]["account"],
        str(event.get("time")),
        record.value or b"",
    )


def before_all(partition: int) -> LimitAddress:
    """The address before the first limit event of a partition."""
    return LimitAddress(partition, 0, -1, 0)


class LimitStore:
    """The limit events of one ``gateway.db``. Blocking: an event loop calls it in a thread."""

    def __init__(self, store: sqlite3.Connection, turn: threading.Lock) -> None:
        self._store = store
        self._turn = turn

    def positions(self) -> dict[int, Position]:
        """How far each partition was followed, without those of which nothing was read."""
        with self._turn:
            rows = self._store.execute("SELECT * FROM limit_positions").fetchall()
        return {row[0]: Position(row[1], row[2], LimitAddress(row[0], *row[3:])) for row in rows}

    def last_address(self, partition: int) -> LimitAddress:
        """The address of a partition's last limit event, or the one before all of them."""
        position = self.positions().get(partition)
        return before_all(partition) if position is None else position.address

    def add(self, records: Mapping[int, Sequence[LimitRecord]], now_ms: int) -> list[LimitRecord]:
        """Write each partition's records, in order, and return those that are no repeats."""
        known = self.positions()
        new: list[LimitRecord] = []
        moves: list[tuple[object, ...]] = []
        for partition, some in records.items():
            last = None if partition not in known else known[partition].address
            for record in some:
                if record.address.is_beyond(last):
                    new.append(record)
                    last = record.address
            assert last is not None, "the first record of a partition is beyond nothing"
            moves.append(
                (
                    partition,
                    some[-1].offset + 1,
                    some[-1].address.id,
                    last.offset,
                    last.index,
                    last.crossings,
                )
            )
        kept_from_ms = now_ms - int(KEPT_FOR.total_seconds()) * 1_000
        # A power cut undoes the position, the events and the deliveries together. All come again
        # from Kafka, under the same ids.
        with transaction(self._store, self._turn, waits_for_disk=False) as store:
            store.executemany(
                _INSERT_EVENT,
                (_row(record) for record in new if record.announced_ms >= kept_from_ms),
            )
            _note_blocked(store, new)
            add_deliveries(store, new, now_ms)
            store.executemany(_MOVE, moves)
        return new

    def after(
        self, account: str, address: LimitAddress, limit: int = 200
    ) -> list[tuple[LimitAddress, str, bytes]]:
        """Up to ``limit`` events of an account after an address, the oldest first.

        Each with its address, its type and the event.
        """
        query = (
            "SELECT entry_offset, entry_index, event FROM limit_events WHERE account = ? AND "
            "partition = ?"
            " AND (entry_offset, entry_index) > (?, ?) ORDER BY entry_offset, entry_index LIMIT ?"
        )
        with self._turn:
            rows = self._store.execute(
                query, (account, address.partition, address.offset, address.index, limit)
            ).fetchall()
        return [
            (
                LimitAddress(address.partition, row[0], row[1], row[1] + 1),
                json.loads(row[2])["type"],
                row[2],
            )
            for row in rows
        ]

    def block_of(self, account: str) -> bytes | None:
        """The `limit.reached` that blocks an account; None if no limit event does."""
        with self._turn:
            row = self._store.execute(
                "SELECT event FROM blocked_accounts WHERE account = ?", (account,)
            ).fetchone()
        return None if row is None else bytes(row[0])

    def blocked(self, after: str, limit: int) -> list[BlockedAccount]:
        """Up to ``limit`` blocked accounts after a name, in the order of their names."""
        query = (
            "SELECT account, event FROM blocked_accounts WHERE account > ? ORDER BY account LIMIT ?"
        )
        with self._turn:
            return [BlockedAccount(*row) for row in self._store.execute(query, (after, limit))]

    def count(self) -> int:
        """How many accounts are blocked."""
        with self._turn:
            (count,) = self._store.execute("SELECT count(*) FROM blocked_accounts").fetchone()
        return int(count)

    def prune(self, now_ms: int) -> int:
        """Delete some events that are older than KEPT_FOR; return how many.

        Few at once, because other calls wait meanwhile.
        """
        before_ms = now_ms - int(KEPT_FOR.total_seconds()) * 1_000
        query = (
            "DELETE FROM limit_events WHERE (partition, entry_offset, entry_index) IN"
            " (SELECT partition, entry_offset, entry_index FROM limit_events WHERE announced_ms < "
            "? LIMIT ?)"
        )
        with transaction(self._store, self._turn, waits_for_disk=False) as store:
            return store.execute(query, (before_ms, _PRUNED_AT_ONCE)).rowcount


def _row(record: LimitRecord) -> tuple[object, ...]:
    address = record.address
    return (
        address.partition,
        address.offset,
        address.index,
        record.account,
        record.announced_ms,
        record.value,
    )


def _note_blocked(store: sqlite3.Connection, records: Iterable[LimitRecord]) -> None:
    """Note which accounts are blocked now.

    All events of an account come from one partition, in order, so its last one decides.
    """
    for record in records:
        if record.type == "limit.reached":
            store.execute(_BLOCK, (record.account, record.value))
        elif record.type == "limit.cleared":
            store.execute("DELETE FROM blocked_accounts WHERE account = ?", (record.account,))
