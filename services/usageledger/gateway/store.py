"""``gateway.db``: what only the gateway knows, and what no log can bring back: app keys, webhook endpoints and their deliveries.

SQLite, in a file that nobody else on the machine can read. One gateway process writes it.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

BUSY_TIMEOUT_S = 5.0

# Each brings the database from the version before it to the next. One that has been released is never changed.
_MIGRATIONS = (
    """
    CREATE TABLE keys (
      id TEXT PRIMARY KEY, name TEXT NOT NULL, scopes TEXT NOT NULL, created_at TEXT NOT NULL, revoked_at TEXT
    ) STRICT;
    CREATE TABLE key_secrets (
      key_id TEXT NOT NULL REFERENCES keys (id), digest BLOB NOT NULL, token_key BLOB NOT NULL, created_at TEXT NOT NULL, expires_at TEXT,
      PRIMARY KEY (key_id, digest)
    ) STRICT;
    """,
)


def open_store(path: Path) -> sqlite3.Connection:
    """Open ``gateway.db``, making it or bringing it up to date. Raises sqlite3.Error, and StoreTooNew for a later release's.

    The connection may be used by any thread, one at a time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    store = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    store.execute("PRAGMA journal_mode = WAL")
    store.execute("PRAGMA synchronous = FULL")
    store.execute("PRAGMA foreign_keys = ON")
    _bring_up_to_date(store)
    return store


class StoreTooNew(Exception):
    """A later release has written this file."""


def _bring_up_to_date(store: sqlite3.Connection) -> None:
    (version,) = store.execute("PRAGMA user_version").fetchone()
    if version > len(_MIGRATIONS):
        raise StoreTooNew(f"gateway.db has version {version}, and this release knows {len(_MIGRATIONS)}: use the release that wrote it")
    for number, migration in enumerate(_MIGRATIONS[version:], start=version + 1):
        store.executescript(f"BEGIN; {migration} PRAGMA user_version = {number}; COMMIT;")
