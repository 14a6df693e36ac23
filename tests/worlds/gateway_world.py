"""A gateway without Kafka and Redis: its app, its keys in a file of the test, and a clock that is
moved.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.routing import APIRoute
from kafka.errors import KafkaConnectionError

from tests.worlds.account_sources import UnreachableAccounts
from usageledger.accounts.queries import Clock
from usageledger.accounts.reader import Accounts
from usageledger.gateway.access.app_keys import Keys, Scope
from usageledger.gateway.app import ROUTERS, create_app
from usageledger.gateway.dependencies import Gateway
from usageledger.gateway.inspector import Connections, Inspector
from usageledger.gateway.store import open_store
from usageledger.history.reading import HistoryReader
from usageledger.history.tables import HISTORY_FILE
from usageledger.log.published_catalogs import PublishedCatalogs

NOW = datetime(2026, 11, 25, 10, 0, tzinfo=UTC)


def without_kafka() -> Connections:
    """Whoever asks Kafka is told that nobody answers."""
    raise KafkaConnectionError


class GatewayWorld:
    """``app`` answers requests by ``ask``; ``now`` is its time."""

    def __init__(self, directory: Path) -> None:
        self.now = NOW
        self.store: sqlite3.Connection = open_store(directory / "gateway.db")
        turn = threading.Lock()
        self.keys = Keys(self.store, turn)
        catalogs = PublishedCatalogs("127.0.0.1:1", "")
        accounts = Accounts(UnreachableAccounts(), partition_count=8, clock=Clock(lambda: self.now))
        self.history = HistoryReader(directory / HISTORY_FILE)
        self.gateway = Gateway(
            store=self.store,
            store_turn=turn,
            keys=self.keys,
            accounts=accounts,
            history=self.history,
            inspector=Inspector(without_kafka, "", catalogs),
            now=lambda: self.now,
        )
        self.app: FastAPI = create_app(self.gateway, allowed_origins=["https://app.example"])

    def key(self, *scopes: Scope) -> str:
        """A key with these scopes."""
        return self.keys.create("test", scopes, self.now)

    def pass_time(self, by: timedelta) -> None:
        """Let time pass."""
        self.now += by

    def routes(self) -> list[APIRoute]:
        """The routes of the API, whatever router they come from.

        An app does not list what it has included, so the routers are asked.
        """
        every = [route for router in ROUTERS for route in router.routes]
        return [
            route
            for route in every
            if isinstance(route, APIRoute) and route.path.startswith("/v1/")
        ]

    async def status_of_stream(self, path: str, credential: str | None) -> int:
        """How a request for a stream is answered, whose client is gone at once. httpx would wait
        for the stream's end.
        """
        headers = (
            [] if credential is None else [(b"authorization", f"Bearer {credential}".encode())]
        )
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": headers,
        }
        statuses: list[int] = []

        async def receive() -> dict[str, object]:
            return {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        await self.app(scope, receive, send)
        return statuses[0]

    async def ask(
        self,
        method: str,
        path: str,
        *,
        credential: str | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """One request and its answer."""
        sent = dict(headers or {})
        if credential is not None:
            sent["Authorization"] = f"Bearer {credential}"
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return await client.request(method, path, json=body, headers=sent)
