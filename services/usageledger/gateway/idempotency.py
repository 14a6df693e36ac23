"""Idempotency keys: a request that makes something can be sent again if its answer was lost.

A key belongs to one caller and is kept for a day. The same request under it makes nothing more;
another request under it is refused.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import Header

from usageledger.ledger.timestamps import milliseconds

KEPT_FOR = timedelta(days=1)

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


def answer_before(
    store: sqlite3.Connection, caller: str, key: str, request: object, now: datetime
) -> Any | None:
    """The answer to the same request under this key, None if the request is new.

    Call it in the transaction that carries out the request. Raises KeyUsedBefore.
    """
    forget_old(store, now)
    row = store.execute(
        "SELECT digest, answer FROM idempotency_keys WHERE caller = ? AND key = ?", (caller, key)
    ).fetchone()
    if row is None:
        return None
    if row[0] != _digest(request):
        raise KeyUsedBefore
    return json.loads(row[1])


def note_answer(
    store: sqlite3.Connection, caller: str, key: str, request: object, answer: object, now: datetime
) -> None:
    """Store the answer to a request under this key, in the same transaction."""
    values = (caller, key, _digest(request), json.dumps(answer), milliseconds(now))
    store.execute("INSERT INTO idempotency_keys VALUES (?, ?, ?, ?, ?)", values)


def forget_old(store: sqlite3.Connection, now: datetime) -> None:
    """Delete the keys that are older than KEPT_FOR."""
    store.execute(
        "DELETE FROM idempotency_keys WHERE created_ms < ?", (milliseconds(now - KEPT_FOR),)
    )


def _digest(request: object) -> bytes:
    return hashlib.sha256(json.dumps(request).encode()).digest()
