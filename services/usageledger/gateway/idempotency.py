"""Requests that make something anew each time, and that may be sent again when their answer was
lost: known by an ``Idempotency-Key``.

A key is its caller's own and counts for a day. The same request under it makes nothing more;
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
        description="Sent again with it within a day, the request makes nothing new.",
    ),
]


class KeyUsedBefore(Exception):
    """The key came before, with another request."""


def answer_before(
    store: sqlite3.Connection, caller: str, key: str, request: object, now: datetime
) -> Any | None:
    """What the same request under this key was answered, None if it is new.

    In the transaction that carries it out.

    Raises KeyUsedBefore.
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
    """Note what a request under this key was answered. In the same transaction."""
    values = (caller, key, _digest(request), json.dumps(answer), milliseconds(now))
    store.execute("INSERT INTO idempotency_keys VALUES (?, ?, ?, ?, ?)", values)


def forget_old(store: sqlite3.Connection, now: datetime) -> None:
    """Forget the keys that are too old to be a retry's."""
    store.execute(
        "DELETE FROM idempotency_keys WHERE created_ms < ?", (milliseconds(now - KEPT_FOR),)
    )


def _digest(request: object) -> bytes:
    return hashlib.sha256(json.dumps(request).encode()).digest()
