"""402 answers for blocked accounts, under FastAPI and Starlette.

`usageledger.fastapi` exports the public names, with an example. Needs the extra ``gateway``.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC
from decimal import Decimal
from typing import Any, Protocol

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from usageledger.sdk.limits.limit_event import LimitEvent, Upgrade

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "/problems/"
POLICY_VIOLATION = 1008
TITLES = {
    "insufficient_credits": "The account does not have enough credits",
    "suspended": "The account is suspended",
}

AccountOf = Callable[[Request], str | Awaitable[str | None] | None]
"""Finds the account that a request is for. A request for which it returns None passes."""


class KnowsWhoIsBlocked(Protocol):
    """`LimitSubscriber`, `AsyncLimitSubscriber`, or a test's substitute for them."""

    def why_blocked(self, account: str) -> LimitEvent | None:
        """Return the event that blocked the account, or None if it is not blocked."""
        ...


class PaymentRequired(HTTPException):
    """The account is blocked: answer 402. ``problem`` is the answer's body, see `problem_of`.

    `answer_payment_required` makes an app send the problem itself as the body. Without it, FastAPI
    nests the problem under ``detail``.
    """

    def __init__(self, event: LimitEvent) -> None:
        self.problem = problem_of(event)
        super().__init__(402, self.problem)


class RequireCredits:
    """A dependency that raises `PaymentRequired` for a blocked account.

    For any other request it returns the account. It passes on what ``subscriber`` raises without a
    view: SubscriberFailed once the subscriber has ended, RuntimeError before it is ready.
    """

    def __init__(self, subscriber: KnowsWhoIsBlocked, account: AccountOf) -> None:
        self._subscriber = subscriber
        self._account = account

    async def __call__(self, request: Request) -> str | None:
        account, event = await _blocking_event(self._subscriber, self._account, request)
        if event is not None:
            raise PaymentRequired(event)
        return account


class BlockWithoutCredits:
    """ASGI middleware that answers 402 in the app's place for a blocked account.

    A blocked account's websocket is refused too. The app itself has to close a websocket that is
    already open when its account becomes blocked.

    ``paths`` limits this to requests for these paths and for paths below them; by default all
    requests are checked. Let requests pass that show the meter or buy the upgrade.

    It raises what ``subscriber`` raises without a view, as `RequireCredits` does.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        subscriber: KnowsWhoIsBlocked,
        account: AccountOf,
        paths: Sequence[str] = (),
    ) -> None:
        self._app = app
        self._subscriber = subscriber
        self._account = account
        self._paths = tuple(path.rstrip("/") for path in paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and self._covers(scope["path"]):
            # A websocket opens with an HTTP request, which `account` reads like any other.
            request = Request(
                scope if scope["type"] == "http" else {**scope, "type": "http", "method": "GET"}
            )
            _, event = await _blocking_event(self._subscriber, self._account, request)
            if event is not None:
                await _refusal_app(scope, event)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _covers(self, path: str) -> bool:
        return not self._paths or any(
            path == covered or path.startswith(f"{covered}/") for covered in self._paths
        )


def _refusal_app(scope: Scope, event: LimitEvent) -> ASGIApp:
    if scope["type"] == "http" or "websocket.http.response" in (scope.get("extensions") or {}):
        return problem_response(problem_of(event))
    # A close before the websocket is accepted: servers answer it with 403.
    return WebSocketClose(POLICY_VIOLATION)


def answer_payment_required(app: FastAPI) -> None:
    """Make an app answer `PaymentRequired` with a problem (RFC 9457) as the body."""

    @app.exception_handler(PaymentRequired)
    async def on_payment_required(request: Request, error: PaymentRequired) -> JSONResponse:
        return problem_response(error.problem)


def problem_response(problem: dict[str, Any]) -> JSONResponse:
    """Return a problem as an uncacheable response: the account may be freed at any moment."""
    return JSONResponse(
        problem, problem["status"], headers={"Cache-Control": "no-store"}, media_type=MEDIA_TYPE
    )


def problem_of(event: LimitEvent) -> dict[str, Any]:
    """Return the body of a 402 answer: why the account is blocked, and what frees it.

    Credits are decimal strings; the price is in cents. ``upgrade`` is the lowest plan that frees
    the account, or null if none does. ``resets_at`` is when its period ends, or null on Free.
    """
    code = "insufficient_credits" if event.suspension_reason is None else "suspended"
    return {
        "type": TYPE_PREFIX + code,
        "title": TITLES[code],
        "status": 402,
        "detail": _advice(event),
        "code": code,
        "account": event.account,
        "plan": event.plan,
        "reason": event.reason,
        "suspension": event.suspension_reason,
        "remaining": _decimal_text(event.remaining),
        "resets_at": None if event.resets_at is None else event.resets_at.isoformat(),
        "upgrade": None if event.upgrade is None else _upgrade_json(event.upgrade),
    }


async def _blocking_event(
    subscriber: KnowsWhoIsBlocked, account_of: AccountOf, request: Request
) -> tuple[str | None, LimitEvent | None]:
    account = account_of(request)
    if inspect.isawaitable(account):
        account = await account
    return account, None if account is None else subscriber.why_blocked(account)


def _advice(event: LimitEvent) -> str:
    if event.suspension_reason is not None:
        return (
            f"The account is suspended ({event.suspension_reason}): it can be used again once that "
            "is settled."
        )
    ways = []
    if event.upgrade is not None:
        ways.append(
            f"upgrade to {event.upgrade.name} for {_dollars_text(event.upgrade.price_cents)}"
        )
    if event.resets_at is not None:
        ways.append(
            f"wait until {event.resets_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC, when its credits "
            "are renewed"
        )
    return f"The account has used up its credits: {', or '.join(ways) or 'ask support for more'}."


def _upgrade_json(upgrade: Upgrade) -> dict[str, Any]:
    return {
        "plan": upgrade.plan,
        "name": upgrade.name,
        "price_cents": upgrade.price_cents,
        "allotment": _decimal_text(upgrade.allotment),
    }


def _decimal_text(credits: Decimal) -> str:
    return format(credits, "f")


def _dollars_text(cents: int) -> str:
    return f"${cents // 100}.{cents % 100:02d}"
