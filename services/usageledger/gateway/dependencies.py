"""The dependencies of routes: parts of the gateway, and a caller with a scope.

A route's signature names the parts that it touches and the scope that it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Path, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import WithJsonSchema

from usageledger.accounts.reader import Accounts
from usageledger.contracts.fields import NAME_SCHEMA, Name
from usageledger.gateway.access.app_keys import Caller, Keys, NotAuthentic, Scope
from usageledger.gateway.access.rate_limits import RateLimits
from usageledger.gateway.inspector import Inspector
from usageledger.gateway.parts import Gateway
from usageledger.gateway.paths import register
from usageledger.gateway.problems import Problem
from usageledger.gateway.readiness import Readiness
from usageledger.gateway.shared_answer import SharedAnswer
from usageledger.gateway.store import StoreThread
from usageledger.gateway.stores import StoreCounts
from usageledger.gateway.streams.account_streams import Streams
from usageledger.gateway.streams.limit_store import LimitStore
from usageledger.gateway.webhooks.addresses import Reach
from usageledger.gateway.webhooks.deliveries import DeliveryStore
from usageledger.gateway.webhooks.endpoints import EndpointStore
from usageledger.history.reading import HistoryReader
from usageledger.log.event_publisher import Publish
from usageledger.log.topics import Topics

# Every module with routes imports this one, so `:segment` is known before the first route.
register()

SESSION_COOKIE = "usageledger_session"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="key",
    description="An app key (`ulk_…`), or an account token minted with one: `Authorization: Bearer "
    "…`. Never send it in a URL.",
)

AccountPath = Annotated[
    Name,
    WithJsonSchema({**NAME_SCHEMA, "examples": ["acct_4821"]}),
    Path(description="The account."),
]


def gateway_of(request: Request) -> Gateway:
    """The gateway that this app serves."""
    found: Gateway = request.app.state.gateway
    return found


def _part(choose: Callable[[Gateway], object]) -> Any:
    # A coroutine: FastAPI would call a plain function in another thread, which costs more than
    # everything else that happens before a route.
    async def part(request: Request) -> object:
        return choose(gateway_of(request))

    return Depends(part)


TheAccounts = Annotated[Accounts, _part(lambda gateway: gateway.accounts)]
TheHistory = Annotated[HistoryReader, _part(lambda gateway: gateway.history)]
TheInspector = Annotated[Inspector, _part(lambda gateway: gateway.inspector)]
TheTopics = Annotated[Topics, _part(lambda gateway: gateway.topics)]
ThePublisher = Annotated[Publish, _part(lambda gateway: gateway.publish)]
TheStreams = Annotated[Streams, _part(lambda gateway: gateway.streams)]
TheRateLimits = Annotated[RateLimits, _part(lambda gateway: gateway.rate_limits)]
TheReadiness = Annotated[Readiness, _part(lambda gateway: gateway.readiness)]
TheStoreThread = Annotated[StoreThread, _part(lambda gateway: gateway.stores.thread)]
TheKeys = Annotated[Keys, _part(lambda gateway: gateway.stores.keys)]
TheLimits = Annotated[LimitStore, _part(lambda gateway: gateway.stores.limits)]
TheEndpoints = Annotated[EndpointStore, _part(lambda gateway: gateway.stores.endpoints)]
TheDeliveries = Annotated[DeliveryStore, _part(lambda gateway: gateway.stores.deliveries)]
TheStoreCounts = Annotated[SharedAnswer[StoreCounts], _part(lambda gateway: gateway.store_counts)]
TheWebhookReach = Annotated[Reach, _part(lambda gateway: gateway.webhook_reach)]
WakeWebhooks = Annotated[Callable[[], None], _part(lambda gateway: gateway.wake_webhooks)]
TheClock = Annotated[Callable[[], datetime], _part(lambda gateway: gateway.now)]


async def _limits_check(request: Request) -> Callable[[], None]:
    gateway = gateway_of(request)

    def require_current_limits() -> None:
        if (trouble := gateway.limits_trouble()) is not None:
            raise Problem(
                "not_ready", f"{trouble}: ask again in a moment", headers={"Retry-After": "1"}
            )

    return require_current_limits


RequireCurrentLimits = Annotated[Callable[[], None], Depends(_limits_check)]
"""Raises Problem `not_ready` while the limit events are not known to be up to date."""


class Needs:
    """Dependency: a caller with a scope.

    An account token passes where the path names its account, and nowhere else. The rule is here
    and not in the routes, so no route that is added lets a token read another account.
    """

    def __init__(self, scope: Scope) -> None:
        self.scope: Scope = scope

    async def __call__(
        self,
        request: Request,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None,
    ) -> Caller:
        gateway = gateway_of(request)
        caller = self._identified(request, gateway, bearer)
        gateway.rate_limits.count(caller)
        if caller.account is not None and request.path_params.get("account") != caller.account:
            raise Problem(
                "forbidden",
                "an account token works on the paths of its own account alone: use an app key here",
            )
        if not caller.may(self.scope):
            raise Problem(
                "forbidden",
                f"this needs the scope {self.scope!r}: use a key that has it",
                scope=self.scope,
            )
        return caller

    def _identified(
        self, request: Request, gateway: Gateway, bearer: HTTPAuthorizationCredentials | None
    ) -> Caller:
        session = request.cookies.get(SESSION_COOKIE)
        keys = gateway.stores.keys
        try:
            if bearer is not None:
                return keys.caller(bearer.credentials, gateway.now())
            if session is not None and _is_from_our_pages(request.method, request.headers):
                return keys.caller_of_session(session, gateway.now())
        except NotAuthentic as error:
            refuse_or_count(gateway.rate_limits, request, error)
            raise _unauthenticated(str(error)) from None
        raise _unauthenticated(
            "send a key or an account token as `Authorization: Bearer …`; `usageledger keys "
            "create` makes keys"
        )


MayReport = Annotated[Caller, Depends(Needs("report"))]
MayCheck = Annotated[Caller, Depends(Needs("check"))]
MayHold = Annotated[Caller, Depends(Needs("hold"))]
MayRead = Annotated[Caller, Depends(Needs("read"))]
MayAdminister = Annotated[Caller, Depends(Needs("admin"))]


def refuse_or_count(rate_limits: RateLimits, request: Request, error: NotAuthentic) -> None:
    """Count a credential that may have been guessed, and refuse an address that guesses too often.

    A client with a working key never waits because of others' guesses.

    Raises Problem.
    """
    if error.is_guess:
        address = "" if request.client is None else request.client.host
        rate_limits.refuse_guessing(address)
        rate_limits.count_failure(address)


def credential_check(
    request: Request, keys: Keys, now: Callable[[], datetime]
) -> Callable[[], bool]:
    """A function that says whether the request's key, token or session still works.

    For a request that goes on for long after it was let in.
    """
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    is_bearer = scheme.lower() == "bearer"
    credential = bearer.strip() if is_bearer else request.cookies.get(SESSION_COOKIE, "")
    identify = keys.caller if is_bearer else keys.caller_of_session

    def still_works() -> bool:
        try:
            identify(credential, now())
        except NotAuthentic:
            return False
        return True

    return still_works


async def _credential_check(request: Request) -> Callable[[], bool]:
    gateway = gateway_of(request)
    return credential_check(request, gateway.stores.keys, gateway.now)


CredentialCheck = Annotated[Callable[[], bool], Depends(_credential_check)]


def _unauthenticated(detail: str) -> Problem:
    return Problem("unauthenticated", detail, headers={"WWW-Authenticate": "Bearer"})


def _is_from_our_pages(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a request with a session's cookie is one of our own pages'.

    A form on another site could send the cookie too, so a request that changes something must name
    our origin.
    """
    if method in _SAFE_METHODS:
        return True
    return urlsplit(headers.get("origin", "")).netloc == headers.get("host")
