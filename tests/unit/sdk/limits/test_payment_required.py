"""A blocked account's request is answered 402, with the remedy; any other request passes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Request
from starlette.types import Receive, Scope, Send

from tests.notation import Partition
from usageledger.gateway import problems
from usageledger.ledger.limit_address import read_limit_event
from usageledger.ledger.limit_events import limit_events
from usageledger.sdk.limits.async_subscriber import AsyncLimitSubscriber
from usageledger.sdk.limits.errors import SubscriberFailed
from usageledger.sdk.limits.limit_event import LimitEvent, parse_limit_event
from usageledger.sdk.limits.payment_required import (
    MEDIA_TYPE,
    TITLES,
    TYPE_PREFIX,
    AccountOf,
    BlockWithoutCredits,
    KnowsWhoIsBlocked,
    RequireCredits,
    answer_payment_required,
    problem_of,
)
from usageledger.sdk.limits.subscriber import LimitSubscriber


class Blocked:
    """A subscriber that knows why some accounts are blocked."""

    def __init__(self, *events: LimitEvent) -> None:
        self._by_account = {event.account: event for event in events}

    def why_blocked(self, account: str) -> LimitEvent | None:
        return self._by_account.get(account)


class Ended:
    def why_blocked(self, account: str) -> LimitEvent | None:
        raise SubscriberFailed("the subscriber has ended")


def limit_event(*lines: str) -> LimitEvent:
    """The last limit event that a ledger of these lines announces."""
    partition = Partition()
    for line in lines:
        sealed = partition.take(line)
    return parse_limit_event(read_limit_event(limit_events(sealed[-1].entry)[-1].value)[0])


OUT_ON_PRO = limit_event("2026-01-31T10:00 subscribe pro", "+1d use chat_action 203.5")
OUT_ON_FREE = limit_event("2026-01-31T10:00 use chat_action 200 account=free")
OUT_ON_TOP = limit_event(
    "2026-01-31T10:00 subscribe scale_4x account=top", "+1d use chat_action 5600 account=top"
)
SUSPENDED = limit_event(
    "2026-01-31T10:00 subscribe pro account=s", "+1d suspend payment_failed account=s"
)
SUBSCRIBER = Blocked(OUT_ON_PRO, OUT_ON_FREE, OUT_ON_TOP, SUSPENDED)


def named_in_the_query(request: Request) -> str | None:
    return request.query_params.get("account")


async def found_by_asking(request: Request) -> str | None:
    return named_in_the_query(request)


def with_the_dependency(
    account: AccountOf = named_in_the_query, subscriber: Any = SUBSCRIBER
) -> FastAPI:
    app = FastAPI()
    answer_payment_required(app)
    require_credits = RequireCredits(subscriber, account)

    @app.post("/render")
    async def render(account: str | None = Depends(require_credits)) -> dict[str, str | None]:
        return {"rendered_for": account}

    return app


def with_the_middleware(
    account: AccountOf = named_in_the_query, subscriber: Any = SUBSCRIBER, **settings: Any
) -> FastAPI:
    app = FastAPI()
    app.add_middleware(BlockWithoutCredits, subscriber=subscriber, account=account, **settings)

    @app.api_route("/{path:path}", methods=["POST"])
    async def anything(path: str, account: str | None = None) -> dict[str, str | None]:
        return {"rendered_for": account}

    return app


def ask(app: FastAPI, path: str = "/render", **query: str) -> httpx.Response:
    async def answer() -> httpx.Response:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://app"
        ) as client:
            return await client.post(path, params=query)

    return asyncio.run(answer())


@pytest.mark.parametrize("account", [named_in_the_query, found_by_asking])
@pytest.mark.parametrize("app_with", [with_the_dependency, with_the_middleware])
def test_a_blocked_account_is_answered_402_with_the_upgrade_and_any_other_passes(
    app_with: Any, account: AccountOf
) -> None:
    app = app_with(account)
    answer = ask(app, account="a")
    assert (
        answer.status_code,
        answer.headers["content-type"],
        answer.headers["cache-control"],
    ) == (402, MEDIA_TYPE, "no-store")
    assert answer.json() == {
        "type": "/problems/insufficient_credits",
        "title": "The account does not have enough credits",
        "status": 402,
        "detail": "The account has used up its credits: upgrade to Max for $24.99, or wait until "
        "2026-02-28 10:00 UTC, "
        "when its credits are renewed.",
        "code": "insufficient_credits",
        "account": "a",
        "plan": "pro",
        "reason": "usage",
        "suspension": None,
        "remaining": "-4",
        "resets_at": "2026-02-28T10:00:00+00:00",
        "upgrade": {"plan": "max", "name": "Max", "price_cents": 2499, "allotment": "500"},
    }
    for query in ({"account": "b"}, {}):
        answer = ask(app, **query)
        assert (answer.status_code, answer.json()) == (200, {"rendered_for": query.get("account")})


@pytest.mark.parametrize(
    ("event", "detail", "upgrade"),
    [
        (OUT_ON_FREE, "The account has used up its credits: upgrade to Pro for $9.99.", "pro"),
        (
            OUT_ON_TOP,
            "The account has used up its credits: wait until 2026-02-28 10:00 UTC, when its "
            "credits are renewed.",
            None,
        ),
        (
            SUSPENDED,
            "The account is suspended (payment_failed): it can be used again once that is settled.",
            None,
        ),
    ],
)
def test_the_detail_says_what_frees_the_account(
    event: LimitEvent, detail: str, upgrade: str | None
) -> None:
    problem = problem_of(event)
    assert problem["detail"] == detail
    assert (problem["upgrade"] and problem["upgrade"]["plan"]) == upgrade


def test_a_suspended_account_is_told_why() -> None:
    problem = ask(with_the_middleware(), account="s").json()
    assert (problem["code"], problem["reason"], problem["suspension"]) == (
        "suspended",
        "suspended",
        "payment_failed",
    )
    assert (problem["remaining"], problem["upgrade"]) == ("200", None)


def test_the_problems_have_the_gateways_names() -> None:
    assert (TYPE_PREFIX, MEDIA_TYPE) == (problems.TYPE_PREFIX, problems.MEDIA_TYPE)
    assert {code: problems.PROBLEMS[code][1] for code in TITLES} == TITLES
    assert {problems.PROBLEMS[code][0] for code in TITLES} == {402}


def test_without_the_handler_the_problem_is_the_detail_of_an_http_error() -> None:
    app = FastAPI()
    app.post("/", dependencies=[Depends(RequireCredits(SUBSCRIBER, named_in_the_query))])(
        lambda: "passed"
    )
    answer = ask(app, "/", account="free")
    assert (answer.status_code, answer.json()) == (402, {"detail": problem_of(OUT_ON_FREE)})


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/render", 402),
        ("/render/", 402),
        ("/render/video", 402),
        ("/renderer", 200),
        ("/meter", 200),
        ("/", 200),
        ("/images/7", 402),
    ],
)
def test_the_middleware_looks_at_the_paths_that_it_is_given(path: str, status: int) -> None:
    assert (
        ask(with_the_middleware(paths=("/render", "/images/")), path, account="a").status_code
        == status
    )


@pytest.mark.parametrize("subscriber_of", [LimitSubscriber, AsyncLimitSubscriber])
def test_either_subscriber_is_asked_and_while_it_does_not_know_nobody_passes(
    subscriber_of: Callable[..., KnowsWhoIsBlocked],
) -> None:
    app = with_the_middleware(subscriber=subscriber_of(kafka="localhost:9"))
    with pytest.raises(RuntimeError, match="wait_ready"):
        ask(app, account="a")


def test_the_middleware_lets_pass_what_is_no_request() -> None:
    passed: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(scope["type"])

    async def no_message(*_: Any) -> Any:
        raise AssertionError("the middleware asks for nothing and says nothing")

    middleware = BlockWithoutCredits(app, subscriber=SUBSCRIBER, account=lambda _request: "a")
    asyncio.run(middleware({"type": "lifespan"}, no_message, no_message))
    assert passed == ["lifespan"]


@pytest.mark.parametrize("app_with", [with_the_dependency, with_the_middleware])
def test_a_subscriber_that_has_ended_lets_nobody_pass_unseen(app_with: Any) -> None:
    with pytest.raises(SubscriberFailed):
        ask(app_with(subscriber=Ended()), account="b")


@pytest.mark.parametrize(
    ("account", "extensions", "first_message"),
    [
        (
            "a",
            {"websocket.http.response": {}},
            {"type": "websocket.http.response.start", "status": 402},
        ),
        ("a", {}, {"type": "websocket.close", "code": 1008}),
        ("a", None, {"type": "websocket.close", "code": 1008}),
        ("other", {}, {"type": "websocket.accept"}),
    ],
)
@pytest.mark.parametrize("account_of", [named_in_the_query, found_by_asking])
def test_a_blocked_account_opens_no_websocket(
    account: str,
    extensions: dict[str, Any] | None,
    first_message: dict[str, Any],
    account_of: AccountOf,
) -> None:
    """The middleware checked only http. An app that generates over a websocket went on for blocked
    accounts.
    """
    sent: list[dict[str, Any]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "websocket",
        "path": "/render",
        "query_string": f"account={account}".encode(),
        "headers": [],
    }
    if extensions is not None:
        scope["extensions"] = extensions
    asyncio.run(
        BlockWithoutCredits(app, subscriber=SUBSCRIBER, account=account_of)(scope, receive, send)
    )
    assert sent[0].items() >= first_message.items()
