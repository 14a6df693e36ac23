"""What a route asks for before it answers: the gateway's parts, and a caller who may do this."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

from fastapi import Depends, Path, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import WithJsonSchema

from usageledger.accounts.reader import Accounts
from usageledger.contracts.fields import NAME_SCHEMA, Name
from usageledger.gateway.access.app_keys import Caller, Keys, NotAuthentic, Scope
from usageledger.gateway.access.rate_limits import RateLimits
from usageledger.gateway.event_publisher import Report, without_kafka
from usageledger.gateway.inspector import Inspector
from usageledger.gateway.paths import register
from usageledger.gateway.problems import Problem
from usageledger.gateway.shared_answer import Fresh
from usageledger.gateway.store import StoreThread
from usageledger.gateway.streams.account_streams import Streams
from usageledger.gateway.streams.limit_store import LimitStore
from usageledger.gateway.webhooks.addresses import Reach
from usageledger.gateway.webhooks.deliveries import DeliveryStore
from usageledger.gateway.webhooks.endpoints import EndpointStore
from usageledger.history.reading import HistoryReader
from usageledger.log.topics import Topics

# Every module with routes asks for something here, so it comes before the first of them.
register()

SESSION_COOKIE = "usageledger_session"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="key",
    description="An app key (`ulk_…`), or an account token minted with one: `Authorization: Bearer "
    "…`. Never in a URL.",
)


class Counted(NamedTuple):
    """What ``gateway.db`` has: deliveries that wait, those that are dead, accounts that are
    blocked.
    """

    pending: int
    dead: int
    blocked: int


@dataclass(slots=True)
class Gateway:
    """The parts that routes use.

    ``readiness``: by name, what says why it is not ready, or nothing; ``missing``: what did so
    last.

    ``report`` puts events on Kafka, ``limits_trouble`` says why limit events are not known to be up
    to date, ``webhooks_changed`` tells who delivers that there is something to do: by default there
    is neither Kafka nor anybody who delivers.
    """

    store: sqlite3.Connection
    store_turn: threading.Lock
    keys: Keys
    accounts: Accounts
    history: HistoryReader
    inspector: Inspector
    topics: Topics = field(default_factory=Topics)
    rate_limits: RateLimits = field(default_factory=RateLimits)
    readiness: dict[str, Callable[[], Awaitable[str | None]]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    report: Report = without_kafka
    limits_trouble: Callable[[], str | None] = lambda: None
    webhooks_changed: Callable[[], None] = lambda: None
    webhook_reach: Reach = "public"
    store_thread: StoreThread = field(default_factory=StoreThread)
    limits: LimitStore = field(init=False)
    streams: Streams = field(init=False)
    webhook_endpoints: EndpointStore = field(init=False)
    webhook_deliveries: DeliveryStore = field(init=False)
    counted: Fresh[Counted] = field(init=False)

    def __post_init__(self) -> None:
        self.limits = LimitStore(self.store, self.store_turn)
        self.streams = Streams(self.accounts, self.limits, self.store_thread, self.now)
        self.webhook_endpoints = EndpointStore(self.store, self.store_turn)
        self.webhook_deliveries = DeliveryStore(self.store, self.store_turn)
        self.counted = Fresh(lambda: self.store_thread.run(self._count))

    def _count(self) -> Counted:
        counts = self.webhook_deliveries.counts().values()
        return Counted(
            sum(count.pending for count in counts),
            sum(count.dead for count in counts),
            self.limits.count(),
        )


def gateway_of(request: Request) -> Gateway:
    """The gateway that this app serves."""
    found: Gateway = request.app.state.gateway
    return found


async def _parts(request: Request) -> Gateway:
    """A coroutine, for FastAPI calls a plain function in another thread, which costs more than all
    else that is asked here.
    """
    return gateway_of(request)


Parts = Annotated[Gateway, Depends(_parts)]
AccountPath = Annotated[
    Name,
    WithJsonSchema({**NAME_SCHEMA, "examples": ["acct_4821"]}),
    Path(description="The account."),
]


class Needs:
    """Dependency: a caller with a scope.

    An account token passes where the path names its account, and nowhere else.

    So whatever route is added, an account token reads no other account by it: the rule stands here
    and not in the routes.
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
        try:
            if bearer is not None:
                return gateway.keys.caller(bearer.credentials, gateway.now())
            if session is not None and _is_from_our_pages(request.method, request.headers):
                return gateway.keys.caller_of_session(session, gateway.now())
        except NotAuthentic as error:
            refuse_or_count(gateway, request, error)
            raise _unauthenticated(str(error)) from None
        raise _unauthenticated(
            "send a key or an account token as `Authorization: Bearer …`; `usageledger keys "
            "create` makes keys"
        )


def refuse_or_count(gateway: Gateway, request: Request, error: NotAuthentic) -> None:
    """Count what may have been a guess; who has guessed too often is told to wait.

    A key that works never waits for others' guesses.

    Raises Problem.
    """
    if error.is_guess:
        gateway.rate_limits.refuse_guessing(address_of(request))
        gateway.rate_limits.count_failure(address_of(request))


def still_let_in(request: Request, gateway: Gateway) -> Callable[[], bool]:
    """For a request that goes on after it was let in: says whether its key, token or session still
    works.
    """
    scheme, _, credential = request.headers.get("authorization", "").partition(" ")
    session = request.cookies.get(SESSION_COOKIE, "")
    known = gateway.keys.caller if scheme.lower() == "bearer" else gateway.keys.caller_of_session
    shown = credential.strip() if scheme.lower() == "bearer" else session

    def works() -> bool:
        try:
            known(shown, gateway.now())
        except NotAuthentic:
            return False
        return True

    return works


def _unauthenticated(detail: str) -> Problem:
    return Problem("unauthenticated", detail, headers={"WWW-Authenticate": "Bearer"})


def _is_from_our_pages(method: str, headers: Mapping[str, str]) -> bool:
    """A session's cookie changes things only where our own pages ask for it; another site's form
    could send it too.
    """
    if method in _SAFE_METHODS:
        return True
    return urlsplit(headers.get("origin", "")).netloc == headers.get("host")


def address_of(request: Request) -> str:
    """Where a request comes from."""
    return "" if request.client is None else request.client.host
