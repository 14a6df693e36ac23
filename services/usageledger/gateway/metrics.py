"""The gateway's own metrics, for Prometheus. Its telemetry port serves them."""

from __future__ import annotations

import time

from prometheus_client import Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from usageledger.gateway.stores import StoreCounts

REQUESTS = Counter(
    "usageledger_http_requests",
    "Requests answered, by route, method and status",
    ["route", "method", "status"],
)
SECONDS = Histogram(
    "usageledger_http_request_seconds",
    "Time until an answer begins, by route",
    ["route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
REPORTED = Counter(
    "usageledger_events_reported", "Events reported over HTTP, by result", ["result"]
)
FOLLOWED = Counter(
    "usageledger_limit_events_followed",
    "Limit events read from Kafka, without repeats",
    ["type"],
)
IGNORED = Counter(
    "usageledger_limit_records_ignored",
    "Records of limit.events that are no limit events",
    ["partition"],
)
FOLLOWED_TO = Gauge(
    "usageledger_limit_events_next_offset",
    "The offset of limit.events that is read next",
    ["partition"],
)
CONNECTIONS = Gauge("usageledger_connections_open", "Connections to the gateway")
CONNECTIONS_REFUSED = Counter(
    "usageledger_connections_refused",
    "Connections that were not accepted, by reason: a cap, a failed handshake, an error",
    ["why"],
)
CONNECTIONS_CUT = Counter(
    "usageledger_connections_cut",
    "Connections that the gateway ended: a head, a body or the rest of one came too slowly, an "
    "answer was not read, or another connection needed the room",
    ["why"],
)
STREAMS = Gauge("usageledger_streams_open", "Clients of account streams")
STREAMS_CUT = Counter(
    "usageledger_streams_cut", "Streams that the gateway ended, by reason", ["why"]
)
BLOCKED = Gauge(
    "usageledger_accounts_blocked", "Accounts that are blocked, according to the limit events"
)
WEBHOOK_DELIVERIES = Gauge(
    "usageledger_webhook_deliveries",
    "Webhook deliveries that are pending, and those that are dead",
    ["state"],
)
WEBHOOK_ATTEMPTS = Counter(
    "usageledger_webhook_attempts",
    "Attempts to deliver a webhook, by result",
    ["result"],
)
WEBHOOK_SECONDS = Histogram(
    "usageledger_webhook_seconds",
    "Time that webhook endpoints took to answer",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15),
)


def show_counts(counts: StoreCounts) -> None:
    """Show these counts as metrics."""
    WEBHOOK_DELIVERIES.labels("pending").set(counts.pending)
    WEBHOOK_DELIVERIES.labels("dead").set(counts.dead)
    BLOCKED.set(counts.blocked)


class CountedRequests:
    """ASGI middleware that counts requests by route.

    A route is named by its pattern, because accounts are too many, and not for everybody to see.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began_s = time.perf_counter()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = scope.get("route")
                route = getattr(found, "path_format", "none")
                REQUESTS.labels(route, scope["method"], message["status"]).inc()
                SECONDS.labels(route).observe(time.perf_counter() - began_s)
            await send(message)

        await self._app(scope, receive, counted)
