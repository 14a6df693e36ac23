"""The gateway's app: its routers, its error answers, and the origins that may ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware

from usageledger.gateway.access.credentials import CredentialsFirst
from usageledger.gateway.access.strangers import StrangersWithinLimits
from usageledger.gateway.bodies import BodiesWithinBounds
from usageledger.gateway.metrics import CountedRequests
from usageledger.gateway.openapi import openapi_document
from usageledger.gateway.parts import Gateway
from usageledger.gateway.paths import PathsAsSent
from usageledger.gateway.problems import add_handlers
from usageledger.gateway.routes import (
    accounts,
    blocked,
    catalogs,
    charges,
    checks,
    events,
    health,
    keys,
    lag,
    meter,
    pages,
    refusals,
    streams,
    webhooks,
)
from usageledger.gateway.safe_headers import SafeAnswers

ROUTERS: Sequence[APIRouter] = (
    checks.router,
    meter.router,
    charges.router,
    events.router,
    streams.router,
    blocked.router,
    webhooks.router,
    accounts.router,
    refusals.router,
    lag.router,
    catalogs.router,
    keys.router,
    health.router,
    pages.router,
)

DESCRIPTION = """
Credits for AI generations: ask before a generation starts, reserve what it may cost, report what
it used, be told at once when an account runs out, and show its usage meter. Credits are decimal
strings, times are RFC 3339 in UTC, errors are RFC 9457 problem details.
"""


def create_app(gateway: Gateway, *, allowed_origins: Sequence[str] = ()) -> FastAPI:
    """The app that serves this gateway.

    ``allowed_origins``: the origins whose pages may ask, beside our own. They send tokens, never
    cookies.
    """
    app = bare_app()
    app.state.gateway = gateway
    # The last one that is added is the first to see a request.
    app.add_middleware(BodiesWithinBounds)
    # Inside CORS: a page of another origin must be able to read that its token has ended.
    app.add_middleware(CredentialsFirst)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(allowed_origins),
        allow_methods=["GET", "POST", "PATCH", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"],
        expose_headers=["Retry-After"],
        max_age=600,
    )
    app.add_middleware(StrangersWithinLimits)
    app.add_middleware(CountedRequests)
    app.add_middleware(PathsAsSent)
    app.add_middleware(SafeAnswers)
    return app


def bare_app() -> FastAPI:
    """The app with its routes and no gateway behind them, for the OpenAPI document."""
    app = FastAPI(
        title="usageledger",
        version="1",
        description=" ".join(DESCRIPTION.split()),
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    add_handlers(app)
    for router in ROUTERS:
        app.include_router(router)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = openapi_document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to change it
    return app
