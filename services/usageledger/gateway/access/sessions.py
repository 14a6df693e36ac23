"""Sessions of our own pages: whoever signs in with a key gets a cookie, which scripts cannot read.

A session is a random value, and ``gateway.db`` has its hash alone. It works at the origin where it
was begun, until it is signed out, is idle for an hour, or is twelve hours old. It ends at once with
the secret of its key.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta

from usageledger.gateway.access.app_keys import Caller, Keys, NotAuthentic
from usageledger.gateway.store import transaction
from usageledger.ledger.timestamps import milliseconds

SESSION_LIFETIME = timedelta(hours=12)
IDLE_MAX = timedelta(hours=1)
SESSIONS_OF_A_KEY_MAX = 100
"""The oldest one ends when another begins."""


@dataclass(slots=True)
class _Session:
    key_id: str
    secret_digest: bytes
    origin: str
    begun_ms: int
    used_ms: int

    def works_at(self, now_ms: int) -> bool:
        age_ms, idle_ms = now_ms - self.begun_ms, now_ms - self.used_ms
        return timedelta(milliseconds=age_ms) < SESSION_LIFETIME and (
            timedelta(milliseconds=idle_ms) < IDLE_MAX
        )


class Sessions:
    """The sessions of one ``gateway.db``. They are kept in memory, because requests need them.

    `caller` does not block. The others do: an event loop calls them in a thread.
    """

    def __init__(self, store: sqlite3.Connection, turn: threading.Lock, keys: Keys) -> None:
        self._store = store
        self._turn = turn
        self._keys = keys
        with turn:
            rows = store.execute(
                "SELECT digest, key_id, secret_digest, origin, begun_ms, used_ms "
                "FROM page_sessions ORDER BY begun_ms"
            ).fetchall()
        self._by_digest = {digest: _Session(*row) for digest, *row in rows}

    def begin(self, key: str, origin: str, now: datetime) -> str:
        """A new session for the holder of a key: its cookie's value. Raises NotAuthentic."""
        caller, secret_digest = self._keys.caller_with_digest(key, now)
        value, now_ms = secrets.token_urlsafe(32), milliseconds(now)
        session = _Session(caller.key_id, secret_digest, origin, now_ms, now_ms)
        for digest in self._too_many(caller.key_id):
            self._end(digest)
        with transaction(self._store, self._turn) as store:
            store.execute(
                "INSERT INTO page_sessions VALUES (?, ?, ?, ?, ?, ?)",
                (_digest(value), caller.key_id, secret_digest, origin, now_ms, now_ms),
            )
        self._by_digest[_digest(value)] = session
        return value

    def caller(self, value: str, host: str, now: datetime) -> tuple[Caller, str]:
        """The caller that signed in, and the origin where that was. Raises NotAuthentic.

        ``host`` is that of the request, with its port.
        """
        session, now_ms = self._by_digest.get(_digest(value)), milliseconds(now)
        if session is None:
            raise NotAuthentic("there is no such session: sign in")
        if not session.works_at(now_ms):
            raise NotAuthentic("the session has ended: sign in again", is_guess=False)
        if session.origin.partition("://")[2] != host:
            raise NotAuthentic("the session belongs to another origin: sign in here")
        caller = self._keys.caller_of_secret(session.key_id, session.secret_digest, now)
        session.used_ms = now_ms
        return caller, session.origin

    def end(self, value: str) -> None:
        """End a session at once."""
        self._end(_digest(value))

    def prune(self, now: datetime) -> None:
        """Delete the sessions that have ended, and store when the others were last used."""
        now_ms = milliseconds(now)
        known = list(self._by_digest.items())
        for digest, session in known:
            if not session.works_at(now_ms):
                self._end(digest)
        with transaction(self._store, self._turn, waits_for_disk=False) as store:
            store.executemany(
                "UPDATE page_sessions SET used_ms = ? WHERE digest = ?",
                [(session.used_ms, digest) for digest, session in known],
            )

    def _too_many(self, key_id: str) -> list[bytes]:
        """The oldest sessions of a key, which end so that another may begin."""
        of_key = [digest for digest, one in list(self._by_digest.items()) if one.key_id == key_id]
        return of_key[: max(0, len(of_key) - SESSIONS_OF_A_KEY_MAX + 1)]

    def _end(self, digest: bytes) -> None:
        # Whoever sends a value that is no session's causes no write.
        if self._by_digest.pop(digest, None) is None:
            return
        with transaction(self._store, self._turn) as store:
            store.execute("DELETE FROM page_sessions WHERE digest = ?", (digest,))


def _digest(value: str) -> bytes:
    return hashlib.sha256(value.encode()).digest()
