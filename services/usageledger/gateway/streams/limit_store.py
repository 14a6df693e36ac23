"""Limit events in ``gateway.db``: how far they were followed, those of the last weeks for streams
that resume, and who is blocked.

A batch of them is taken in one transaction with the position after it and with the webhook
deliveries that it makes. So whatever ends the process, every limit event is taken once: each
endpoint has one delivery of it, and each stream can go on after it.
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
from usageledger.ledger.limit_address import LimitAddress, read_limit_event

KEPT_FOR = timedelta(days=35)
"""For how long a stream can resume, counted from when the event was announced."""

_PRUNED_AT_ONCE = 1_000
_INSERT_EVENT = "INSERT OR IGNORE INTO limit_events VALUES (?, ?, ?, ?, ?, ?)"
_BLOCK = (
    "INSERT INTO blocked_accounts VALUES (?, ?) ON CONFLICT (account) DO UPDATE SET event = "
    "excluded.event"
)
_MOVE = "INSERT OR REPLACE INTO limit_positions VALUES (?, ?, ?, ?, ?, ?)"


class Position(NamedTuple):
    """How far a partition of ``limit.events`` was followed: the offset to go on from, the id in the
    record before it, and the last place.

    A repeat does not move the place, so the two can differ.
    """

    next_offset: int
    last_record: str
    place: LimitAddress


class LimitRecord(NamedTuple):
    """A record of ``limit.events``, read."""

    offset: int
    announced_ms: int
    place: LimitAddress
    type: str
    account: str
    time: str
    value: bytes

    @property
    def event_id(self) -> str:
        """The id of the limit event: its place in the ledger."""
        return self.place.id


class BlockedAccount(NamedTuple):
    """An account, and the `limit.reached` that says so."""

    account: str
    event: bytes


def limit_record(offset: int, timestamp_ms: int, value: bytes | None) -> LimitRecord:
    """Read a record. Raises NotALimitEvent."""
    event, place = read_limit_event(value)
    return LimitRecord(
        offset,
        timestamp_ms,
        place,
        event["type"],
        event["data"]["account"],
        str(event.get("time")),
        value or b"",
    )


def before_all(partition: int) -> LimitAddress:
    """The place before the first limit event of a partition."""
    return LimitAddress(partition, 0, -1, 0)


class LimitStore:
    """Blocking: an event loop calls it in a thread."""

    def __init__(self, store: sqlite3.Connection, turn: threading.Lock) -> None:
        self._store = store
        self._turn = turn

    def positions(self) -> dict[int, Position]:
        """How far each partition was followed; none is named of which nothing was."""
        with self._turn:
            rows = self._store.execute("SELECT * FROM limit_positions").fetchall()
        return {row[0]: Position(row[1], row[2], LimitAddress(row[0], *row[3:])) for row in rows}

    def last_place(self, partition: int) -> LimitAddress:
        """The last limit event that was taken of a partition; if there was none, a place that every
        one is beyond.
        """
        position = self.positions().get(partition)
        return before_all(partition) if position is None else position.place

    def take(self, records: Mapping[int, Sequence[LimitRecord]], now_ms: int) -> list[LimitRecord]:
        """Take what was read of each partition, in order; return what was new in it: repeats are
        dropped.
        """
        known = self.positions()
        new: list[LimitRecord] = []
        moves: list[tuple[object, ...]] = []
        for partition, some in records.items():
            last = None if partition not in known else known[partition].place
            for record in some:
                if record.place.is_beyond(last):
                    new.append(record)
                    last = record.place
            assert last is not None, "the first record of a partition is beyond nothing"
            moves.append(
                (
                    partition,
                    some[-1].offset + 1,
                    some[-1].place.id,
                    last.offset,
                    last.index,
                    last.crossings,
                )
            )
        kept_from_ms = now_ms - int(KEPT_FOR.total_seconds()) * 1_000
        # A power cut takes back position, events and deliveries together, and all come again from
        # Kafka, under the same ids.
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
        self, account: str, place: LimitAddress, limit: int = 200
    ) -> list[tuple[LimitAddress, str, bytes]]:
        """The account's events beyond a place, the oldest first, at most ``limit``: place, type,
        event.
        """
        query = (
            "SELECT entry_offset, entry_index, event FROM limit_events WHERE account = ? AND "
            "partition = ?"
            " AND (entry_offset, entry_index) > (?, ?) ORDER BY entry_offset, entry_index LIMIT ?"
        )
        with self._turn:
            rows = self._store.execute(
                query, (account, place.partition, place.offset, place.index, limit)
            ).fetchall()
        return [
            (
                LimitAddress(place.partition, row[0], row[1], row[1] + 1),
                json.loads(row[2])["type"],
                row[2],
            )
            for row in rows
        ]

    def block_of(self, account: str) -> bytes | None:
        """The `limit.reached` under which an account is blocked; None if it is not, by the limit
        events.
        """
        with self._turn:
            row = self._store.execute(
                "SELECT event FROM blocked_accounts WHERE account = ?", (account,)
            ).fetchone()
        return None if row is None else bytes(row[0])

    def blocked(self, after: str, limit: int) -> list[BlockedAccount]:
        """Who is blocked, by name, from after ``after`` on."""
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
        """Let go of some events that are older than KEPT_FOR; return how many.

        Few at once: others wait for their turn.
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
    place = record.place
    return (
        place.partition,
        place.offset,
        place.index,
        record.account,
        record.announced_ms,
        record.value,
    )


def _note_blocked(store: sqlite3.Connection, records: Iterable[LimitRecord]) -> None:
    """An account lives in one partition, whose events come in order: the last one says whether it
    is blocked.
    """
    for record in records:
        if record.type == "limit.reached":
            store.execute(_BLOCK, (record.account, record.value))
        elif record.type == "limit.cleared":
            store.execute("DELETE FROM blocked_accounts WHERE account = ?", (record.account,))
