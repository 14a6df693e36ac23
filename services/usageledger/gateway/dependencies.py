"""The dependencies of routes: parts of the gateway, and a caller with a scope.

A route's signature names the parts that it touches and the scope that it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, Path, Request
from fastapi.openapi.models import HTTPBearer as HTTPBearerModel
from fastapi.security.base import SecurityBase
from pydantic import WithJsonSchema

from usageledger.accounts.reader import Accounts
from usageledger.contracts.fields import NAME_SCHEMA, Name
from usageledger.gateway.access.app_keys import Caller, Keys, NotAuthentic
from usageledger.gateway.access.credentials import bearer_of, caller_of, caller_of_session
from usageledger.gateway.access.rate_limits import RateLimits
from usageledger.gateway.access.sessions import Sessions
from usageledger.gateway.inspector import Inspector
from usageledger.gateway.parts import Gateway
from usageledger.gateway.paths import register
from usageledger.gateway.problems import Problem
from usageledger.gateway.readiness import Readiness
from usageledger.gateway.store import StoreThread
from usageledger.gateway.streams.account_streams import Streams
from usageledger.gateway.streams.limit_store import LimitStore
from usageledger.gateway.webhooks.addresses import Destinations
from usageledger.gateway.webhooks.deliveries import DeliveryStore
from usageledger.gateway.webhooks.endpoints import EndpointStore
from usageledger.history.reading import HistoryReader
from usageledger.log.event_publisher import Publish
from usageledger.log.topics import Topics
from usageledger.sdk.scopes import Scope

# Every module with routes imports this one, so `:segment` is known before the first route.
register()

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
TheSessions = Annotated[Sessions, _part(lambda gateway: gateway.stores.sessions)]
TheLimits = Annotated[LimitStore, _part(lambda gateway: gateway.stores.limits)]
TheEndpoints = Annotated[EndpointStore, _part(lambda gateway: gateway.stores.endpoints)]
TheDeliveries = Annotated[DeliveryStore, _part(lambda gateway: gateway.stores.deliveries)]
TheDestinations = Annotated[Destinations, _part(lambda gateway: gateway.webhook_destinations)]
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


class Needs(SecurityBase):
    """Dependency: a caller with a scope.

    An account token passes where the path names its account, and nowhere else. A key that is bound
    to accounts passes where the path names one of them. It also passes where ``path_names_account``
    is False: such a route is about no account, or checks each account itself. The rules are here
    and not in the routes, so a route that is added lets neither read another account.
    """

    # For the OpenAPI document.
    scheme_name = "key"
    model = HTTPBearerModel(
        description="An app key (`ulk_…`), or an account token minted with one: `Authorization: "
        "Bearer …`. Never send it in a URL."
    )

    def __init__(self, scope: Scope, *, path_names_account: bool = True) -> None:
        self.scope: Scope = scope
        self._path_names_account = path_names_account

    async def __call__(self, request: Request) -> Caller:
        caller = caller_of(request)
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
        if self._path_names_account:
            _refuse_outside(caller, request.path_params.get("account"))
        return caller


def _refuse_outside(caller: Caller, account: str | None) -> None:
    bounds = caller.bounds
    if account is not None and not bounds.includes_account(account):
        raise Problem(
            "outside_key_bounds", bounds.why_account_is_outside(account), accounts=bounds.accounts
        )
    if account is None and bounds.accounts:
        raise Problem(
            "outside_key_bounds",
            "this key is bound to accounts, and this is about all of them: ask for one account, or "
            "use a key without --account",
            accounts=bounds.accounts,
        )


MayReport = Annotated[Caller, Depends(Needs("report", path_names_account=False))]
"""The route compares each event with the caller's bounds."""
MayQuote = Annotated[Caller, Depends(Needs("check", path_names_account=False))]
MayReadCatalogs = Annotated[Caller, Depends(Needs("read", path_names_account=False))]
MayCheck = Annotated[Caller, Depends(Needs("check"))]
MayHold = Annotated[Caller, Depends(Needs("hold"))]
MayRead = Annotated[Caller, Depends(Needs("read"))]
MayAdminister = Annotated[Caller, Depends(Needs("admin"))]


def credential_check(
    request: Request, keys: Keys, sessions: Sessions, now: Callable[[], datetime]
) -> Callable[[], bool]:
    """A function that says whether the request's key, token or session still works.

    For a request that goes on for long after it was let in.
    """
    bearer = bearer_of(request.headers)

    def still_works() -> bool:
        try:
            if bearer is None:
                caller_of_session(request, sessions, now())
            else:
                keys.caller(bearer, now())
        except NotAuthentic:
            return False
        return True

    return still_works


async def _credential_check(request: Request) -> Callable[[], bool]:
    gateway = gateway_of(request)
    return credential_check(request, gateway.stores.keys, gateway.stores.sessions, gateway.now)


CredentialCheck = Annotated[Callable[[], bool], Depends(_credential_check)]
