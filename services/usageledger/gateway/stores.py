"""Everything that is kept in ``gateway.db``, by what it is about."""

from __future__ import annotations

import threading
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from usageledger.gateway.access.app_keys import Keys
from usageledger.gateway.access.sessions import Sessions
from usageledger.gateway.idempotency import forget_old
from usageledger.gateway.store import StoreThread, open_store, transaction
from usageledger.gateway.streams.limit_store import LimitStore
from usageledger.gateway.webhooks.deliveries import DeliveryStore
from usageledger.gateway.webhooks.endpoints import EndpointStore
from usageledger.ledger.timestamps import milliseconds


class StoreCounts(NamedTuple):
    """How many deliveries are pending, how many are dead, and how many accounts are blocked."""

    pending: int
    dead: int
    blocked: int


class Stores:
    """The stores of one ``gateway.db``. Blocking: an event loop calls them in ``thread``.

    Raises sqlite3.Error, and StoreTooNew for the file of a later release.
    """

    def __init__(self, path: Path) -> None:
        self.connection = open_store(path)
        self._turn = threading.Lock()
        self.keys = Keys(self.connection, self._turn)
        self.sessions = Sessions(self.connection, self._turn, self.keys)
        self.limits = LimitStore(self.connection, self._turn)
        self.endpoints = EndpointStore(self.connection, self._turn)
        self.deliveries = DeliveryStore(self.connection, self._turn)
        self.thread = StoreThread()

    def counts(self) -> StoreCounts:
        """The counts at this moment."""
        counts = self.deliveries.counts().values()
        return StoreCounts(
            sum(count.pending for count in counts),
            sum(count.dead for count in counts),
            self.limits.count(),
        )

    def forget_requests(self, now: datetime) -> None:
        """Delete the idempotency keys that are too old to belong to a retry."""
        with transaction(self.connection, self._turn) as store:
            forget_old(store, now)

    async def prune(self, now: datetime) -> int:
        """Delete some of what is too old; return how many limit events and deliveries that were.

        Each store is a call of its own in ``thread``, so requests wait for one at most.
        """
        pruned = 0
        for store in (self.limits, self.deliveries):
            pruned += await self.thread.run(store.prune, milliseconds(now))
        await self.thread.run(self.forget_requests, now)
        await self.thread.run(self.sessions.prune, now)
        return pruned

    def close(self) -> None:
        """End the thread, then close the file. Calls that have not begun are dropped."""
        self.thread.close()
        self.connection.close()
