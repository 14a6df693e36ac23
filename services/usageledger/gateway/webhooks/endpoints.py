"""Webhook endpoints in ``gateway.db``, and their secrets.

Everything here blocks: an event loop calls it in a thread. A secret is stored in plain, because it
signs. Nobody else on the machine can read the file.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple, get_args

from usageledger.gateway.idempotency import answer_before, note_answer
from usageledger.gateway.store import transaction
from usageledger.gateway.webhooks.schedule import FAILING_AFTER
from usageledger.gateway.webhooks.signing import new_secret

LimitType = Literal["limit.threshold", "limit.reached", "limit.cleared"]
LIMIT_TYPES: tuple[LimitType, ...] = get_args(LimitType)
EndpointState = Literal["active", "failing", "disabled"]

ENDPOINTS_MAX = 100
"""Each endpoint has connections and a queue of its own."""

_COLUMNS = """
    id, url, types, accounts, description, created_at, disabled_because, failing_since,
    last_success_at, last_failure_at, last_failure
"""

_CHANGE = """
    UPDATE webhook_endpoints SET
      url = ifnull(:url, url),
      types = ifnull(:types, types),
      accounts = ifnull(:accounts, accounts),
      description = ifnull(:description, description),
      failing_since = CASE
        WHEN :is_enabled AND disabled_because IS NOT NULL THEN NULL
        ELSE failing_since
      END,
      disabled_because = CASE
        WHEN :is_enabled IS NULL THEN disabled_because
        WHEN NOT :is_enabled THEN ifnull(disabled_because, 'it was switched off')
      END
    WHERE id = :id
"""


class TooManyEndpoints(Exception):
    """There are ENDPOINTS_MAX endpoints already."""


class NoLongerThere(Exception):
    """The endpoint that this idempotency key made was deleted, or has other secrets by now."""


class EndpointSettings(NamedTuple):
    """The settings of an endpoint to make. No accounts means all of them."""

    url: str
    types: tuple[LimitType, ...] = LIMIT_TYPES
    accounts: tuple[str, ...] = ()
    description: str = ""


class Change(NamedTuple):
    """A change of an endpoint. None leaves a setting as it is."""

    url: str | None = None
    types: tuple[LimitType, ...] | None = None
    accounts: tuple[str, ...] | None = None
    description: str | None = None
    is_enabled: bool | None = None


class Created(NamedTuple):
    """The id of a new endpoint, and its secret."""

    id: str
    secret: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A stored endpoint. ``secrets`` are those that sign now, the newest first."""

    id: str
    url: str
    types: tuple[LimitType, ...]
    accounts: tuple[str, ...]
    description: str
    created_at: datetime
    disabled_because: str | None
    failing_since: datetime | None
    last_success_at: datetime | None
    last_failure_at: datetime | None
    last_failure: str | None
    secrets: tuple[str, ...]

    def state_at(self, now: datetime) -> EndpointState:
        """The state of the endpoint at a moment."""
        if self.disabled_because is not None:
            return "disabled"
        return (
            "failing"
            if self.failing_since is not None and now - self.failing_since >= FAILING_AFTER
            else "active"
        )


def require_endpoint(store: sqlite3.Connection, endpoint_id: str) -> None:
    """Raises KeyError unless there is such an endpoint."""
    if (
        store.execute("SELECT 1 FROM webhook_endpoints WHERE id = ?", (endpoint_id,)).fetchone()
        is None
    ):
        raise KeyError(endpoint_id)


class EndpointStore:
    """The endpoints of one ``gateway.db``."""

    def __init__(self, store: sqlite3.Connection, turn: threading.Lock) -> None:
        self._store = store
        self._turn = turn

    def create(
        self,
        settings: EndpointSettings,
        now: datetime,
        *,
        caller: str,
        idempotency_key: str | None = None,
    ) -> Created:
        """Make an endpoint.

        The same request of the same caller under one idempotency key makes none again, and returns
        the first result. Raises TooManyEndpoints, KeyUsedBefore, NoLongerThere.
        """
        made = Created(f"wh_{secrets.token_hex(8)}", new_secret())
        with transaction(self._store, self._turn) as store:
            if idempotency_key is not None:
                before = answer_before(store, caller, idempotency_key, settings, now)
                if before is not None:
                    return _made_before(store, before)
                note_answer(store, caller, idempotency_key, settings, made.id, now)
            (count,) = store.execute("SELECT count(*) FROM webhook_endpoints").fetchone()
            if count >= ENDPOINTS_MAX:
                raise TooManyEndpoints
            listed = (json.dumps(settings.types), json.dumps(settings.accounts))
            store.execute(
                f"""
                INSERT INTO webhook_endpoints ({_COLUMNS})
                VALUES (?, ?, ?, ?, ?, ?, NULL, NULL, NULL, NULL, NULL)
                """,
                (made.id, settings.url, *listed, settings.description, _iso_text(now)),
            )
            store.execute(
                "INSERT INTO webhook_secrets VALUES (?, ?, ?, NULL)",
                (made.id, made.secret, _iso_text(now)),
            )
        return made

    def all(self, now: datetime) -> list[Endpoint]:
        """Every endpoint, the oldest first."""
        return self._select("1 ORDER BY created_at, id", (), now)

    def find(self, endpoint_id: str, now: datetime) -> Endpoint | None:
        """One endpoint."""
        found = self._select("id = ?", (endpoint_id,), now)
        return found[0] if found else None

    def change(self, endpoint_id: str, change: Change) -> None:
        """Change an endpoint. Raises KeyError.

        Deliveries to a disabled endpoint stay pending, and it gets no new ones until it is enabled.
        The change is one statement, so that concurrent changes do not undo each other.
        """
        listed = {
            name: None if some is None else json.dumps(some)
            for name, some in (("types", change.types), ("accounts", change.accounts))
        }
        with transaction(self._store, self._turn) as store:
            changed = store.execute(_CHANGE, {**change._asdict(), **listed, "id": endpoint_id})
            if changed.rowcount == 0:
                raise KeyError(endpoint_id)

    def rotate(self, endpoint_id: str, overlap: timedelta, now: datetime) -> str:
        """A new secret; the old ones sign too until ``overlap`` has passed. Raises KeyError."""
        secret, ends = new_secret(), _iso_text(now + overlap)
        with transaction(self._store, self._turn) as store:
            require_endpoint(store, endpoint_id)
            store.execute(
                "DELETE FROM webhook_secrets WHERE endpoint_id = ? AND expires_at <= ?",
                (endpoint_id, _iso_text(now)),
            )
            store.execute(
                """
                UPDATE webhook_secrets SET expires_at = ?
                WHERE endpoint_id = ? AND (expires_at IS NULL OR expires_at > ?)
                """,
                (ends, endpoint_id, ends),
            )
            store.execute(
                "INSERT INTO webhook_secrets VALUES (?, ?, ?, NULL)",
                (endpoint_id, secret, _iso_text(now)),
            )
        return secret

    def delete(self, endpoint_id: str) -> None:
        """Delete an endpoint, its secrets and its deliveries."""
        with transaction(self._store, self._turn) as store:
            store.execute("DELETE FROM webhook_endpoints WHERE id = ?", (endpoint_id,))

    def _select(self, where: str, values: Sequence[object], now: datetime) -> list[Endpoint]:
        query = """
            SELECT secret FROM webhook_secrets
            WHERE endpoint_id = ? AND (expires_at IS NULL OR expires_at > ?)
            ORDER BY rowid DESC
        """
        with self._turn:
            rows = self._store.execute(
                f"SELECT {_COLUMNS} FROM webhook_endpoints WHERE {where}", values
            ).fetchall()
            signing = [
                tuple(secret for (secret,) in self._store.execute(query, (row[0], _iso_text(now))))
                for row in rows
            ]
        return [_endpoint(row, some) for row, some in zip(rows, signing, strict=True)]


def _made_before(store: sqlite3.Connection, endpoint_id: str) -> Created:
    """The endpoint with its first secret, which the record of the request does not repeat."""
    query = """
        SELECT secret FROM webhook_secrets
        JOIN webhook_endpoints ON webhook_endpoints.id = endpoint_id
        WHERE endpoint_id = ? AND webhook_secrets.created_at = webhook_endpoints.created_at
        ORDER BY webhook_secrets.rowid LIMIT 1
    """
    found = store.execute(query, (endpoint_id,)).fetchone()
    if found is None:
        raise NoLongerThere
    return Created(endpoint_id, found[0])


def _endpoint(row: Sequence[str | None], signing: tuple[str, ...]) -> Endpoint:
    id_, url, types, accounts, description, created_at, because, *times, failure = row
    failing_since, last_success_at, last_failure_at = (
        None if at is None else datetime.fromisoformat(at) for at in times
    )
    assert id_ and url and types and accounts and created_at and description is not None, (
        "columns that are never null"
    )
    return Endpoint(
        id=id_,
        url=url,
        types=tuple(json.loads(types)),
        accounts=tuple(json.loads(accounts)),
        description=description,
        created_at=datetime.fromisoformat(created_at),
        disabled_because=because,
        failing_since=failing_since,
        last_success_at=last_success_at,
        last_failure_at=last_failure_at,
        last_failure=failure,
        secrets=signing,
    )


def _iso_text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
