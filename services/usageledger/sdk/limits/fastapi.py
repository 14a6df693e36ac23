"""For FastAPI and Starlette: requests of accounts that are blocked are answered 402, with the
upgrade that frees them in the body.

::

    subscriber = LimitSubscriber(kafka="localhost:9092")      # or AsyncLimitSubscriber
    app = FastAPI()
    answer_payment_required(app)

    @app.post("/render", dependencies=[Depends(RequireCredits(subscriber, account=lambda request: request.state.account))])
    async def render(): ...

or for everything below a path, whatever serves it:

::

    app.add_middleware(BlockWithoutCredits, subscriber=subscriber, account=account_of, paths=("/render",))

The answer is a problem (RFC 9457, ``application/problem+json``), under the names that the gateway
uses. Who is blocked is known in memory, so a request waits for nobody. Needs fastapi, as the extra
``gateway`` has it.
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
    "insufficient_credits": "The account has not enough credits",
    "suspended": "The account is suspended",
}

AccountOf = Callable[[Request], str | Awaitable[str | None] | None]
"""Finds the account that a request is for; None where it is for none, and then it passes."""


class KnowsWhoIsBlocked(Protocol):
    """`LimitSubscriber`, `AsyncLimitSubscriber`, and whatever stands in for them in a test."""

    def why_blocked(self, account: str) -> LimitEvent | None:
        """The event by which the account came to be blocked; None if it is not."""
        ...


class PaymentRequired(HTTPException):
    """The account is blocked. ``problem`` is the body of the answer, see `problem_of`.

    `answer_payment_required` has an app answer it as a problem; without that FastAPI puts the
    problem under ``detail``.
    """

    def __init__(self, event: LimitEvent) -> None:
        self.problem = problem_of(event)
        super().__init__(402, self.problem)


class RequireCredits:
    """A dependency that raises `PaymentRequired` for an account that is blocked, and returns the
    account otherwise.

    It raises what ``subscriber`` raises where it has no view: SubscriberFailed once it has ended,
    RuntimeError before it is ready.
    """

    def __init__(self, subscriber: KnowsWhoIsBlocked, account: AccountOf) -> None:
        self._subscriber = subscriber
        self._account = account

    async def __call__(self, request: Request) -> str | None:
        account, event = await _blocked(self._subscriber, self._account, request)
        if event is not None:
            raise PaymentRequired(event)
        return account


class BlockWithoutCredits:
    """ASGI middleware that answers 402 in place of the app where the account is blocked.

    A websocket is not opened either; one that is open when its account comes to be blocked is the
    app's to close.

    ``paths``: only requests whose path is one of these or lies below one; all, if none is named. A
    request to show the meter or to buy the upgrade had better pass.
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
        if scope["type"] in ("http", "websocket") and self._is_meant(scope["path"]):
            # What opens a websocket is a request as well.
            request = Request(
                scope if scope["type"] == "http" else {**scope, "type": "http", "method": "GET"}
            )
            _, event = await _blocked(self._subscriber, self._account, request)
            if event is not None:
                await _refusal(scope, event)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_meant(self, path: str) -> bool:
        return not self._paths or any(
            path == meant or path.startswith(f"{meant}/") for meant in self._paths
        )


def _refusal(scope: Scope, event: LimitEvent) -> ASGIApp:
    if scope["type"] == "http" or "websocket.http.response" in (scope.get("extensions") or {}):
        return problem_response(problem_of(event))
    return WebSocketClose(POLICY_VIOLATION)  # before it was accepted, which servers answer with 403


def answer_payment_required(app: FastAPI) -> None:
    """Have an app answer `PaymentRequired` as a problem."""

    @app.exception_handler(PaymentRequired)
    async def on_payment_required(request: Request, error: PaymentRequired) -> JSONResponse:
        return problem_response(error.problem)


def problem_response(problem: dict[str, Any]) -> JSONResponse:
    """A problem as a response, which no cache keeps: the account may be freed the next moment."""
    return JSONResponse(
        problem, problem["status"], headers={"Cache-Control": "no-store"}, media_type=MEDIA_TYPE
    )


def problem_of(event: LimitEvent) -> dict[str, Any]:
    """What a blocked account is told. Credits are decimal strings, the price is in cents.

    ``upgrade`` is the lowest plan that frees the account, null where none does; ``resets_at`` when
    its period ends, null on Free.
    """
    code = "insufficient_credits" if event.suspension_reason is None else "suspended"
    return {
        "type": TYPE_PREFIX + code,
        "title": TITLES[code],
        "status": 402,
        "detail": _what_to_do(event),
        "code": code,
        "account": event.account,
        "plan": event.plan,
        "reason": event.reason,
        "suspension": event.suspension_reason,
        "remaining": _written(event.remaining),
        "resets_at": None if event.resets_at is None else event.resets_at.isoformat(),
        "upgrade": None if event.upgrade is None else _offer(event.upgrade),
    }


async def _blocked(
    subscriber: KnowsWhoIsBlocked, account_of: AccountOf, request: Request
) -> tuple[str | None, LimitEvent | None]:
    account = account_of(request)
    if inspect.isawaitable(account):
        account = await account
    return account, None if account is None else subscriber.why_blocked(account)


def _what_to_do(event: LimitEvent) -> str:
    if event.suspension_reason is not None:
        return (
            f"The account is suspended ({event.suspension_reason}): it can be used again once that "
            "is settled."
        )
    ways = []
    if event.upgrade is not None:
        ways.append(f"upgrade to {event.upgrade.name} for {_dollars(event.upgrade.price_cents)}")
    if event.resets_at is not None:
        ways.append(
            f"wait until {event.resets_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC, when its credits "
            "are renewed"
        )
    return f"The account has used up its credits: {', or '.join(ways) or 'ask support for more'}."


def _offer(upgrade: Upgrade) -> dict[str, Any]:
    return {
        "plan": upgrade.plan,
        "name": upgrade.name,
        "price_cents": upgrade.price_cents,
        "allotment": _written(upgrade.allotment),
    }


def _written(credits: Decimal) -> str:
    return format(credits, "f")


def _dollars(cents: int) -> str:
    return f"${cents // 100}.{cents % 100:02d}"
