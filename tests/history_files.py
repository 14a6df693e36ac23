"""Shared by tests of the history: a database in memory, a ledger's records, and the tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from usageledger.domain.chain import SealedEntry
from usageledger.history.folding import HistoryFold
from usageledger.history.tables import TABLE_NAMES, TABLES
from usageledger.ledger.records import Record
from usageledger.ledger.timestamps import milliseconds


def memory_database() -> sqlite3.Connection:
    """An empty history in memory."""
    database = sqlite3.connect(":memory:", isolation_level=None)
    database.executescript(TABLES)
    return database


def records_of(entries: Iterable[SealedEntry]) -> list[Record]:
    """The records of these entries."""
    return [
        Record(
            item.entry.offset,
            milliseconds(item.entry.appended_at),
            item.entry.account.encode() or None,
            item.value,
        )
        for item in entries
    ]


def folded(
    records: Sequence[Record], sizes: Sequence[int], partition: int = 0
) -> sqlite3.Connection:
    """A history of these records, folded in batches of these sizes, over and over.

    Each batch is folded by a new reader that knows only what the database says.
    """
    database = memory_database()
    begin = turn = 0
    while begin < len(records):
        end = begin + sizes[turn % len(sizes)]
        HistoryFold(database).add(partition, records[begin:end])
        begin, turn = end, turn + 1
    return database


def content(database: sqlite3.Connection) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table."""
    return {
        table: sorted(database.execute(f"SELECT * FROM {table}").fetchall(), key=repr)
        for table in TABLE_NAMES
    }
