"""A gateway without Kafka and Redis: its app, its stores in a file, and a clock that is set."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import replace
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
from usageledger.gateway.access.rate_limits import RateLimits
from usageledger.gateway.app import ROUTERS, create_app
from usageledger.gateway.inspector import Inspector
from usageledger.gateway.parts import Gateway
from usageledger.gateway.readiness import Readiness
from usageledger.gateway.stores import Stores
from usageledger.gateway.streams.account_streams import Streams
from usageledger.gateway.webhooks.addresses import Destinations
from usageledger.history.reading import HistoryReader
from usageledger.history.tables import HISTORY_FILE
from usageledger.log.event_publisher import Outgoing, Sent
from usageledger.log.topics import Topics
from usageledger.operations.ledger_inspection import LedgerConnections
from usageledger.sdk.scopes import Scope

NOW = datetime(2026, 11, 25, 10, 0, tzinfo=UTC)


def without_kafka() -> LedgerConnections:
    """No broker answers."""
    raise KafkaConnectionError


async def publish_nowhere(records: Sequence[Outgoing]) -> Sequence[Sent]:
    """Kafka accepts nothing."""
    return [Sent(None, "this gateway has no Kafka") for _ in records]


class GatewayWorld:
    """``app`` answers requests through ``ask``; ``now`` is its time."""

    def __init__(self, directory: Path) -> None:
        self.now = NOW
        self.stores = Stores(directory / "gateway.db")
        self.keys = self.stores.keys
        self.history = HistoryReader(directory / HISTORY_FILE)
        accounts = Accounts(UnreachableAccounts(), partition_count=8, clock=Clock(lambda: self.now))
        self.gateway = Gateway(
            topics=Topics(),
            now=lambda: self.now,
            stores=self.stores,
            accounts=accounts,
            history=self.history,
            inspector=Inspector(without_kafka),
            publish=publish_nowhere,
            streams=Streams(
                accounts, self.stores.limits, self.stores.thread, lambda: self.now, lambda: None
            ),
            limits_trouble=lambda: None,
            wake_webhooks=lambda: None,
            webhook_destinations=Destinations(),
            rate_limits=RateLimits(),
            readiness=Readiness({}),
        )
        self.app: FastAPI = create_app(self.gateway, allowed_origins=["https://app.example"])

    def use(self, **parts: Any) -> None:
        """Replace parts of the gateway."""
        self.gateway = self.app.state.gateway = replace(self.gateway, **parts)

    def close(self) -> None:
        """Close its files."""
        self.history.close()
        self.stores.close()

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
