"""A request's credential, which is checked before the request's body is read.

FastAPI reads and parses a body before it asks a route's dependencies. A stranger's JSON would
therefore be parsed, whatever its size. This check runs in front of the routes.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from usageledger.gateway.access.app_keys import Caller, NotAuthentic
from usageledger.gateway.access.rate_limits import RateLimits
from usageledger.gateway.access.sessions import Sessions
from usageledger.gateway.access.strangers import API, address_of, count_stranger, pause_reading
from usageledger.gateway.problems import Problem, answer_to

if TYPE_CHECKING:
    from usageledger.gateway.parts import Gateway

SESSION_COOKIE = "usageledger_session"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_CALLER = "usageledger_caller"


class CredentialsFirst:
    """ASGI middleware: a request of the API without a valid credential gets its refusal at once.

    The others get their `Caller`, which `caller_of` returns.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(API):
            gateway: Gateway = scope["app"].state.gateway
            try:
                caller = _identified(HTTPConnection(scope), gateway)
                gateway.rate_limits.count(caller)
            except Problem as problem:
                return await answer_to(problem)(scope, receive, send)
            scope.setdefault("state", {})[_CALLER] = caller
        await self._app(scope, receive, send)


def caller_of(request: HTTPConnection) -> Caller:
    """The caller of a request that was let in. Raises KeyError for a path outside the API."""
    found: Caller = request.scope["state"][_CALLER]
    return found


def refuse_or_count(rate_limits: RateLimits, scope: Scope, error: NotAuthentic) -> None:
    """Count a credential that does not work, and refuse an address that sends too many.

    A client with a working key never waits because of others' guesses.

    Raises Problem.
    """
    if not error.is_guess:
        return count_stranger(rate_limits, scope)
    address = address_of(scope)
    try:
        rate_limits.refuse_guessing(address)
    except Problem:
        pause_reading(scope)
        raise
    rate_limits.count_failure(address)


def bearer_of(headers: Mapping[str, str]) -> str | None:
    """The key or token of an ``Authorization`` header; None if there is none."""
    scheme, _, credential = headers.get("authorization", "").partition(" ")
    return credential.strip() if scheme.lower() == "bearer" else None


def caller_of_session(request: HTTPConnection, sessions: Sessions, now: datetime) -> Caller:
    """The caller that the request's cookie signed in. Raises NotAuthentic.

    A form on another site could send the cookie too. So a request that changes something must name
    the origin where the session was begun, and no request may name another one.
    """
    cookie, host = request.cookies.get(SESSION_COOKIE, ""), request.headers.get("host", "")
    caller, begun_at = sessions.caller(cookie, host, now)
    named = request.headers.get("origin")
    is_safe = named is None and request.scope.get("method", "GET") in _SAFE_METHODS
    if not is_safe and named != begun_at:
        raise NotAuthentic(
            "a session works from the pages of its own origin alone: sign in here", is_guess=False
        )
    return caller


def origin_of(request: HTTPConnection) -> str:
    """The origin of our pages as this request reaches them. Raises Problem for another site's.

    A browser names it. For others it is the address that they asked.
    """
    host = request.headers.get("host", "")
    named = request.headers.get("origin", f"{request.url.scheme}://{host}")
    if urlsplit(named).netloc != host:
        raise Problem("forbidden", "only our own pages sign in and out: open /console")
    return named


def _identified(request: HTTPConnection, gateway: Gateway) -> Caller:
    bearer, keys = bearer_of(request.headers), gateway.stores.keys
    session = None if bearer is not None else request.cookies.get(SESSION_COOKIE)
    try:
        if bearer is not None:
            return keys.caller(bearer, gateway.now())
        if session is not None:
            return caller_of_session(request, gateway.stores.sessions, gateway.now())
    except NotAuthentic as error:
        refuse_or_count(gateway.rate_limits, request.scope, error)
        raise _unauthenticated(str(error)) from None
    if "cookie" in request.headers or "authorization" in request.headers:
        # Without either header it was counted already.
        count_stranger(gateway.rate_limits, request.scope)
    raise _unauthenticated(
        "send a key or an account token as `Authorization: Bearer …`; `usageledger keys "
        "create` makes keys"
    )


def _unauthenticated(detail: str) -> Problem:
    return Problem("unauthenticated", detail, headers={"WWW-Authenticate": "Bearer"})
