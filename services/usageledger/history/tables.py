"""``history.db``: its tables, and how its one writer opens it.

Amounts are micro-credits and times are microseconds since 1970 in UTC. An ``entry_number`` is an
entry's address as one number that rises within a partition.

``positions`` says how far each partition is folded. It changes in the same transaction as the other
tables. So the file holds each entry once, even if the service is killed at any moment.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

HISTORY_FILE = "history.db"
VERSION = 3
"""The version of the tables and of the fold. A file of another version is built anew."""

BUSY_TIMEOUT_S = 30.0
CACHE_KIB = 64 * 1024
WAL_BYTES_MAX = 64 * 1024 * 1024

_OFFSET_BITS = 40
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

TABLES = """
CREATE TABLE positions (
  partition INTEGER PRIMARY KEY,
  next_offset INTEGER NOT NULL,     -- everything before it is folded
  entry_offset INTEGER NOT NULL,    -- the last valid entry
  entry_hash TEXT NOT NULL,
  clock_us INTEGER NOT NULL         -- its appended_at: how far the history reaches
) STRICT;

-- Entries that changed an account, without the fields that only decisions need.
-- `date`: the day of a use, in the account's time zone.
CREATE TABLE charges (
  entry_number INTEGER PRIMARY KEY, account TEXT NOT NULL, period INTEGER, date TEXT,
  entry BLOB NOT NULL
) STRICT;
CREATE INDEX charges_of_account ON charges (account, entry_number);

-- Uses that were not voided. A quantity is kept as whole units and millionths of a unit, so that
-- no sum overflows.
CREATE TABLE daily_use (
  account TEXT NOT NULL, period INTEGER NOT NULL, date TEXT NOT NULL, feature TEXT NOT NULL,
  model TEXT NOT NULL, uses INTEGER NOT NULL, units INTEGER NOT NULL, millionths INTEGER NOT NULL,
  credits INTEGER NOT NULL,
  PRIMARY KEY (account, period, date, feature, model)
) STRICT, WITHOUT ROWID;

CREATE TABLE periods (
  account TEXT NOT NULL, number INTEGER NOT NULL, start_us INTEGER NOT NULL, end_us INTEGER,
  plan TEXT NOT NULL, allotment INTEGER NOT NULL, granted INTEGER NOT NULL, used INTEGER NOT NULL,
  by_feature TEXT NOT NULL,
  opened_by INTEGER NOT NULL,   -- the number of the entry that opened it
  PRIMARY KEY (account, number)
) STRICT, WITHOUT ROWID;

-- `state`: the fold of the account's entries, in the bytes of Redis's counters. The figures beside
-- it are those of the account's last entry.
CREATE TABLE accounts (
  account TEXT PRIMARY KEY, state BLOB NOT NULL, plan TEXT NOT NULL, used INTEGER NOT NULL,
  remaining INTEGER NOT NULL, is_blocked INTEGER NOT NULL, blocked_since_us INTEGER,
  blocked_reason TEXT, last_used_at_us INTEGER
) STRICT;

CREATE TABLE refusals (
  entry_number INTEGER PRIMARY KEY, appended_at_us INTEGER NOT NULL, account TEXT NOT NULL,
  reason TEXT NOT NULL, detail TEXT NOT NULL, topic TEXT NOT NULL,
  input_partition INTEGER NOT NULL, input_offset INTEGER NOT NULL, source TEXT, id TEXT,
  feature TEXT, model TEXT,
  run TEXT,                                 -- of several malformed records, as JSON
  is_resolved INTEGER NOT NULL DEFAULT 0    -- the same event has been accepted since
) STRICT;
CREATE INDEX refusals_by_time ON refusals (appended_at_us, entry_number);
CREATE INDEX refusals_unresolved ON refusals (account, source, id) WHERE is_resolved = 0;
"""
TABLE_NAMES = ("positions", "charges", "daily_use", "periods", "accounts", "refusals")

log = logging.getLogger(__name__)


def open_for_writing(path: Path) -> sqlite3.Connection:
    """Open ``history.db``, and create it if it is missing.

    A file that cannot be used is deleted first. Raises sqlite3.Error, OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _open(path)
    except UnusableFile as error:
        log.warning("%s: it is built anew from the ledger", error)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        log.error("%s cannot be read (%s): it is built anew from the ledger", path, error)
    throw_away(path)
    return _open(path)


def throw_away(path: Path) -> None:
    """Delete the file and the two that SQLite keeps beside it."""
    for name in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
        name.unlink(missing_ok=True)


def empty(database: sqlite3.Connection) -> None:
    """Forget everything, in one transaction: readers see all of it or nothing."""
    with database:
        database.execute("BEGIN IMMEDIATE")
        for table in TABLE_NAMES:
            database.execute(f"DELETE FROM {table}")


class UnusableFile(Exception):
    """The file was written by another release, whose tables differ."""


def _open(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    database = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        # A power cut can undo the last transactions, positions included. Their entries are folded
        # again.
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(f"PRAGMA cache_size = {-CACHE_KIB}")
        database.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_MAX}")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == 0:
            database.executescript(
                f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;"
            )
        elif version != VERSION:
            raise UnusableFile(f"{path} has version {version}, and this release writes {VERSION}")
    except BaseException:
        database.close()
        raise
    return database


def entry_number_of(partition: int, offset: int) -> int:
    """An entry's address as one number, which rises within a partition."""
    return (partition << _OFFSET_BITS) + offset


def address_of(entry_number: int) -> tuple[int, int]:
    """The partition and the offset of an entry number."""
    return entry_number >> _OFFSET_BITS, entry_number & ((1 << _OFFSET_BITS) - 1)


def microseconds(at: datetime) -> int:
    """A time as the tables hold it."""
    return (at - _EPOCH) // _MICROSECOND


def moment_of(microseconds_: int) -> datetime:
    """The time that a table holds."""
    return _EPOCH + timedelta(microseconds=microseconds_)
