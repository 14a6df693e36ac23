"""``gateway.db``: the data that only the gateway has and that no log can bring back.

It holds app keys, sessions of our pages, webhook endpoints and their deliveries. It also holds how
far the limit events were followed, because events and the deliveries that they cause are written in
one transaction.

It is a SQLite file that nobody else on the machine can read. One gateway process writes it.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

BUSY_TIMEOUT_S = 5.0

# Each migration upgrades the database by one version. A released one never changes.
_MIGRATIONS = (
    """
    CREATE TABLE keys (
      id TEXT PRIMARY KEY,
      name TEXT NOT NULL,
      scopes TEXT NOT NULL,
      created_at TEXT NOT NULL,
      revoked_at TEXT
    ) STRICT;
    CREATE TABLE key_secrets (
      key_id TEXT NOT NULL REFERENCES keys (id),
      digest BLOB NOT NULL,
      token_key BLOB NOT NULL,
      created_at TEXT NOT NULL,
      expires_at TEXT,
      PRIMARY KEY (key_id, digest)
    ) STRICT;
    CREATE TABLE page_sessions (
      digest BLOB PRIMARY KEY,
      key_id TEXT NOT NULL,
      secret_digest BLOB NOT NULL,
      origin TEXT NOT NULL,
      begun_ms INTEGER NOT NULL,
      used_ms INTEGER NOT NULL,
      FOREIGN KEY (key_id, secret_digest) REFERENCES key_secrets (key_id, digest) ON DELETE CASCADE
    ) STRICT;
    """,
    """
    CREATE TABLE limit_positions (
      partition INTEGER PRIMARY KEY,
      next_offset INTEGER NOT NULL,
      last_record TEXT NOT NULL,
      entry_offset INTEGER NOT NULL,
      entry_index INTEGER NOT NULL,
      entry_crossings INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE limit_events (
      partition INTEGER NOT NULL,
      entry_offset INTEGER NOT NULL,
      entry_index INTEGER NOT NULL,
      account TEXT NOT NULL,
      announced_ms INTEGER NOT NULL,
      event BLOB NOT NULL,
      PRIMARY KEY (partition, entry_offset, entry_index)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX limit_events_by_account
      ON limit_events (account, partition, entry_offset, entry_index);
    CREATE INDEX limit_events_by_age ON limit_events (announced_ms);
    CREATE TABLE blocked_accounts (
      account TEXT PRIMARY KEY,
      event BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE webhook_endpoints (
      id TEXT PRIMARY KEY,
      url TEXT NOT NULL,
      types TEXT NOT NULL,
      accounts TEXT NOT NULL,
      description TEXT NOT NULL,
      created_at TEXT NOT NULL,
      disabled_because TEXT,
      failing_since TEXT,
      last_success_at TEXT,
      last_failure_at TEXT,
      last_failure TEXT
    ) STRICT;
    CREATE TABLE webhook_secrets (
      endpoint_id TEXT NOT NULL REFERENCES webhook_endpoints (id) ON DELETE CASCADE,
      secret TEXT NOT NULL,
      created_at TEXT NOT NULL,
      expires_at TEXT,
      PRIMARY KEY (endpoint_id, secret)
    ) STRICT;
    CREATE TABLE webhook_deliveries (
      number INTEGER PRIMARY KEY,
      id TEXT NOT NULL UNIQUE,
      endpoint_id TEXT NOT NULL REFERENCES webhook_endpoints (id) ON DELETE CASCADE,
      event_id TEXT NOT NULL,
      type TEXT NOT NULL,
      account TEXT NOT NULL,
      body BLOB NOT NULL,
      state TEXT NOT NULL,
      attempts INTEGER NOT NULL,
      tries INTEGER NOT NULL,
      next_attempt_ms INTEGER,
      last_status INTEGER,
      last_error TEXT,
      created_ms INTEGER NOT NULL,
      ended_ms INTEGER,
      UNIQUE (endpoint_id, event_id)
    ) STRICT;
    CREATE INDEX webhook_deliveries_by_state
      ON webhook_deliveries (endpoint_id, state, next_attempt_ms, number);
    CREATE INDEX webhook_deliveries_by_age
      ON webhook_deliveries (ended_ms) WHERE ended_ms IS NOT NULL;
    CREATE TABLE idempotency_keys (
      caller TEXT NOT NULL,
      key TEXT NOT NULL,
      digest BLOB NOT NULL,
      made_id TEXT NOT NULL,
      created_ms INTEGER NOT NULL,
      PRIMARY KEY (caller, key)
    ) STRICT;
    """,
    """
    ALTER TABLE keys ADD COLUMN sources TEXT NOT NULL DEFAULT '[]';
    ALTER TABLE keys ADD COLUMN accounts TEXT NOT NULL DEFAULT '[]';
    ALTER TABLE keys ADD COLUMN events_per_second INTEGER;
    """,
)


def open_store(path: Path) -> sqlite3.Connection:
    """Open ``gateway.db``; create it or upgrade it if need be.

    The connection may be used by any thread, one at a time. Raises sqlite3.Error, and StoreTooNew
    for the file of a later release.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    store = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    store.execute("PRAGMA journal_mode = WAL")
    store.execute("PRAGMA synchronous = FULL")
    store.execute("PRAGMA foreign_keys = ON")
    _bring_up_to_date(store)
    return store


@contextmanager
def transaction(
    store: sqlite3.Connection, turn: threading.Lock, *, waits_for_disk: bool = True
) -> Iterator[sqlite3.Connection]:
    """Everything that is written inside, or nothing. Blocking: an event loop calls it in a thread.

    Without ``waits_for_disk``, a power cut can undo the last transactions, the later ones first; a
    crash of the process cannot. That suits rows that Kafka brings again, or that may be repeated.
    """
    with turn:
        store.execute(f"PRAGMA synchronous = {'FULL' if waits_for_disk else 'NORMAL'}")
        store.execute("BEGIN IMMEDIATE")
        try:
            yield store
        except BaseException:
            store.execute("ROLLBACK")
            raise
        else:
            store.execute("COMMIT")
        finally:
            store.execute("PRAGMA synchronous = FULL")


class StoreThread:
    """The thread in which an event loop reads and writes ``gateway.db``.

    It has no other work, so nothing else can delay it.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "gateway-store")

    async def run(self, call: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Call it in the thread, and return or raise what it does."""
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, partial(call, *arguments, **named)
        )

    def close(self) -> None:
        """End the thread after the call that it is in. Calls that have not begun are dropped."""
        self._executor.shutdown(wait=True, cancel_futures=True)


class StoreTooNew(Exception):
    """A later release wrote this file."""


def _bring_up_to_date(store: sqlite3.Connection) -> None:
    (version,) = store.execute("PRAGMA user_version").fetchone()
    if version > len(_MIGRATIONS):
        raise StoreTooNew(
            f"gateway.db has version {version}, and this release knows {len(_MIGRATIONS)}: use the "
            "release that wrote it"
        )
    for number, migration in enumerate(_MIGRATIONS[version:], start=version + 1):
        store.executescript(f"BEGIN; {migration} PRAGMA user_version = {number}; COMMIT;")
