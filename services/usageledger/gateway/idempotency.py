"""Idempotency keys: a request that makes something can be sent again if its answer was lost.

A key belongs to one caller and is kept for a day; of a caller, the newest KEPT_OF_A_CALLER_MAX are
kept. The same request under it makes nothing more; another request under it is refused.

A record has the id of the thing that was made and a hash of the request: it has no secret.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Header

from usageledger.ledger.timestamps import milliseconds

KEPT_FOR = timedelta(days=1)
KEPT_OF_A_CALLER_MAX = 1_000

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        max_length=200,
        description="With it, the same request makes nothing new if it is sent again within a day.",
    ),
]


class KeyUsedBefore(Exception):
    """The caller used the key before, for another request."""


class MadeBefore(Exception):
    """The same request made this before. Its secret was shown then, and is not stored with it."""

    def __init__(self, made_id: str) -> None:
        super().__init__(made_id)
        self.made_id = made_id


def make_once(
    store: sqlite3.Connection, caller: str, key: str, request: object, made_id: str, now: datetime
) -> None:
    """Note what a request under this key makes. Call it in the transaction that makes it.

    Raises MadeBefore for the same request, KeyUsedBefore for another one.
    """
    forget_old(store, now)
    row = store.execute(
        "SELECT digest, made_id FROM idempotency_keys WHERE caller = ? AND key = ?", (caller, key)
    ).fetchone()
    if row is not None:
        if row[0] != _digest(request):
            raise KeyUsedBefore
        raise MadeBefore(row[1])
    store.execute(
        "INSERT INTO idempotency_keys VALUES (?, ?, ?, ?, ?)",
        (caller, key, _digest(request), made_id, milliseconds(now)),
    )
    store.execute(
        """
        DELETE FROM idempotency_keys WHERE caller = ? AND rowid NOT IN (
          SELECT rowid FROM idempotency_keys WHERE caller = ? ORDER BY rowid DESC LIMIT ?
        )
        """,
        (caller, caller, KEPT_OF_A_CALLER_MAX),
    )


def forget_old(store: sqlite3.Connection, now: datetime) -> None:
    """Delete the keys that are older than KEPT_FOR."""
    store.execute(
        "DELETE FROM idempotency_keys WHERE created_ms < ?", (milliseconds(now - KEPT_FOR),)
    )


def _digest(request: object) -> bytes:
    return hashlib.sha256(json.dumps(request).encode()).digest()
