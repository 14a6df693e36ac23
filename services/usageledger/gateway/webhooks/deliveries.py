"""Deliveries in ``gateway.db``: one for each endpoint and event.

Everything here blocks: an event loop calls it in a thread.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Protocol

from usageledger.gateway.store import transaction
from usageledger.gateway.webhooks.endpoints import require_endpoint
from usageledger.gateway.webhooks.schedule import Attempt, Outcome, State
from usageledger.gateway.webhooks.signing import TEST_TYPE, body_of, message_id
from usageledger.ledger.timestamps import milliseconds

DELIVERED_KEPT_FOR = timedelta(days=7)
DEAD_KEPT_FOR = timedelta(days=35)
_PRUNED_AT_ONCE = 1_000
_LOOKED_THROUGH = 10_000
_ERROR_LENGTH_MAX = 300

_COLUMNS = """
    number, id, endpoint_id, event_id, type, account, body, state, attempts, tries,
    next_attempt_ms, last_status, last_error, created_ms
"""
_INSERT = f"""
    INSERT OR IGNORE INTO webhook_deliveries ({_COLUMNS})
    VALUES (NULL, ?, ?, ?, ?, ?, ?, 'pending', 0, 0, ?, NULL, NULL, ?)
"""
_NOTE_SUCCESS = """
    UPDATE webhook_endpoints SET last_success_at = ?, failing_since = NULL WHERE id = ?
"""
_NOTE_FAILURE = """
    UPDATE webhook_endpoints
    SET last_failure_at = ?, last_failure = ?, failing_since = ifnull(failing_since, ?)
    WHERE id = ?
"""


class AnnouncedEvent(Protocol):
    """The parts of a limit event that make a delivery."""

    @property
    def type(self) -> str: ...
    @property
    def account(self) -> str: ...
    @property
    def time(self) -> str: ...
    @property
    def value(self) -> bytes: ...
    @property
    def event_id(self) -> str: ...


class Delivery(NamedTuple):
    """The delivery of one event to one endpoint.

    ``attempts`` counts all attempts, ``tries`` those since somebody last had it sent again.
    """

    number: int
    id: str
    endpoint_id: str
    event_id: str
    type: str
    account: str
    body: bytes
    state: State
    attempts: int
    tries: int
    next_attempt_ms: int | None
    last_status: int | None
    last_error: str | None
    created_ms: int

    @property
    def is_test(self) -> bool:
        """Whether it only tests the endpoint."""
        return self.type == TEST_TYPE


class Counts(NamedTuple):
    """How many deliveries of an endpoint are pending, and how many are dead."""

    pending: int
    dead: int


def add_deliveries(
    store: sqlite3.Connection, events: Sequence[AnnouncedEvent], now_ms: int
) -> None:
    """Add a delivery of each event to each endpoint that wants it.

    Call it in the transaction that writes the events.
    """
    if not events:
        return
    rows = store.execute(
        "SELECT id, types, accounts FROM webhook_endpoints WHERE disabled_because IS NULL"
    ).fetchall()
    for endpoint_id, types, accounts in (
        (row[0], set(json.loads(row[1])), set(json.loads(row[2]))) for row in rows
    ):
        for event in events:
            if event.type in types and (not accounts or event.account in accounts):
                body = body_of(event.type, event.time, event.value)
                identity = (
                    message_id(endpoint_id, event.event_id),
                    endpoint_id,
                    event.event_id,
                    event.type,
                    event.account,
                )
                store.execute(_INSERT, (*identity, body, now_ms, now_ms))


class DeliveryStore:
    """The deliveries of one ``gateway.db``."""

    def __init__(self, store: sqlite3.Connection, turn: threading.Lock) -> None:
        self._store = store
        self._turn = turn

    def due(self, endpoint_id: str, now_ms: int, limit: int) -> list[Delivery]:
        """The oldest due delivery of up to ``limit`` accounts; tests first, then by due time.

        An account has one delivery under way at a time, so its other due ones wait. Those of other
        accounts are found behind them, up to a bound.
        """
        query = """
            SELECT account, number FROM webhook_deliveries
            WHERE endpoint_id = ? AND state = 'pending' AND next_attempt_ms <= ?
            ORDER BY next_attempt_ms, number LIMIT ?
        """
        numbers: dict[str, int] = {}
        with (
            self._turn,
            closing(self._store.execute(query, (endpoint_id, now_ms, _LOOKED_THROUGH))) as found,
        ):
            for account, number in found:
                numbers.setdefault(account, number)
                if len(numbers) == limit:
                    break
        return self._select(
            f"number IN ({', '.join('?' * len(numbers))}) ORDER BY next_attempt_ms, number",
            list(numbers.values()),
        )

    def next_due_ms(self, endpoint_id: str, after_ms: int) -> int | None:
        """When the next delivery becomes due after a moment, None if none does."""
        query = """
            SELECT min(next_attempt_ms) FROM webhook_deliveries
            WHERE endpoint_id = ? AND state = 'pending' AND next_attempt_ms > ?
        """
        with self._turn:
            (found,) = self._store.execute(query, (endpoint_id, after_ms)).fetchone()
        return None if found is None else int(found)

    def note(self, delivery: Delivery, attempt: Attempt, outcome: Outcome, now: datetime) -> None:
        """Store an attempt, and the new state of the delivery and its endpoint.

        A delivery that was sent again during the attempt keeps its state. It starts the schedule
        anew, and an earlier attempt cannot make it dead.
        """
        now_ms, at = milliseconds(now), _iso_text(now)
        error = (
            None
            if attempt.is_success
            else attempt.error[:_ERROR_LENGTH_MAX] or f"status {attempt.status}"
        )
        # After a power cut the delivery may be made again, under the same id.
        with transaction(self._store, self._turn, waits_for_disk=False) as store:
            store.execute(
                """
                UPDATE webhook_deliveries
                SET attempts = attempts + 1, last_status = ?, last_error = ?
                WHERE id = ?
                """,
                (attempt.status, error, delivery.id),
            )
            store.execute(
                """
                UPDATE webhook_deliveries
                SET state = ?, tries = ?, next_attempt_ms = ?, ended_ms = ?
                WHERE id = ? AND attempts = ? AND tries = ?
                """,
                (
                    outcome.state,
                    delivery.tries + 1,
                    outcome.next_attempt_ms,
                    None if outcome.state == "pending" else now_ms,
                    delivery.id,
                    delivery.attempts + 1,
                    delivery.tries,
                ),
            )
            if attempt.is_success:
                store.execute(_NOTE_SUCCESS, (at, delivery.endpoint_id))
            else:
                store.execute(_NOTE_FAILURE, (at, error, at, delivery.endpoint_id))
            if attempt.is_gone:
                store.execute(
                    "UPDATE webhook_endpoints SET disabled_because = ? WHERE id = ?",
                    ("the receiver answered 410 Gone", delivery.endpoint_id),
                )

    def find(self, endpoint_id: str, delivery_id: str) -> Delivery | None:
        """One delivery."""
        found = self._select("endpoint_id = ? AND id = ?", (endpoint_id, delivery_id))
        return found[0] if found else None

    def newest(
        self, endpoint_id: str, state: State | None, before: int | None, limit: int
    ) -> list[Delivery]:
        """Up to ``limit`` deliveries of an endpoint before a number, the newest first."""
        where = """
            endpoint_id = ? AND (? IS NULL OR state = ?) AND (? IS NULL OR number < ?)
            ORDER BY number DESC LIMIT ?
        """
        return self._select(where, (endpoint_id, state, state, before, before, limit))

    def send_again(self, endpoint_id: str, delivery_id: str, now_ms: int) -> Delivery | None:
        """Make a delivery due at once, whatever its state, with the whole schedule before it.

        It keeps its id. None if there is no such delivery.
        """
        with transaction(self._store, self._turn) as store:
            store.execute(
                """
                UPDATE webhook_deliveries
                SET state = 'pending', tries = 0, next_attempt_ms = ?, ended_ms = NULL
                WHERE endpoint_id = ? AND id = ?
                """,
                (now_ms, endpoint_id, delivery_id),
            )
        return self.find(endpoint_id, delivery_id)

    def add_test(self, endpoint_id: str, now: datetime) -> Delivery:
        """Add a delivery that only tests the endpoint. Raises KeyError if there is no endpoint."""
        event_id, now_ms = f"test_{secrets.token_hex(8)}", milliseconds(now)
        delivery_id = message_id(endpoint_id, event_id)
        body = body_of(
            TEST_TYPE,
            _iso_text(now),
            json.dumps({"id": event_id, "endpoint": endpoint_id}).encode(),
        )
        with transaction(self._store, self._turn) as store:
            require_endpoint(store, endpoint_id)
            # Due since 1970, so that a test does not wait behind everything that is pending.
            store.execute(
                _INSERT, (delivery_id, endpoint_id, event_id, TEST_TYPE, "", body, 0, now_ms)
            )
        found = self.find(endpoint_id, delivery_id)
        assert found is not None, "it has just been written"
        return found

    def counts(self) -> dict[str, Counts]:
        """How many deliveries are pending and dead, by endpoint."""
        query = """
            SELECT endpoint_id, sum(state = 'pending'), sum(state = 'dead')
            FROM webhook_deliveries
            WHERE state IN ('pending', 'dead') GROUP BY endpoint_id
        """
        with self._turn:
            return {row[0]: Counts(row[1], row[2]) for row in self._store.execute(query)}

    def prune(self, now_ms: int) -> int:
        """Delete some deliveries that ended long ago; return how many."""
        delivered_ms, dead_ms = (
            now_ms - int(kept.total_seconds()) * 1_000
            for kept in (DELIVERED_KEPT_FOR, DEAD_KEPT_FOR)
        )
        query = """
            DELETE FROM webhook_deliveries WHERE number IN (
              SELECT number FROM webhook_deliveries
              WHERE ended_ms < ? AND (state = 'delivered' OR ended_ms < ?) LIMIT ?
            )
        """
        with transaction(self._store, self._turn, waits_for_disk=False) as store:
            return store.execute(query, (delivered_ms, dead_ms, _PRUNED_AT_ONCE)).rowcount

    def _select(self, where: str, values: Sequence[object]) -> list[Delivery]:
        with self._turn:
            return [
                Delivery(*row)
                for row in self._store.execute(
                    f"SELECT {_COLUMNS} FROM webhook_deliveries WHERE {where}", values
                )
            ]


def _iso_text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
