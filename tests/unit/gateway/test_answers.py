"""Rules of all the gateway's answers: names in paths, problem details, health, metrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import httpx
import pytest
from fastapi import Depends
from prometheus_client import generate_latest

from tests.worlds.gateway_world import GatewayWorld
from usageledger.counters.view import ViewError
from usageledger.gateway.access.app_keys import Caller
from usageledger.gateway.access.rate_limits import RateLimits
from usageledger.gateway.bodies import BYTES_MAX, EVENTS, EVENTS_BYTES_MAX
from usageledger.gateway.dependencies import AccountPath, Needs
from usageledger.gateway.problems import PROBLEMS, TYPE_PREFIX, Problem
from usageledger.gateway.readiness import Check, Lack, Readiness


@pytest.fixture
def world(tmp_path: Path) -> Iterator[GatewayWorld]:
    made = GatewayWorld(tmp_path)

    @made.app.get("/v1/accounts/{account:segment}/name")
    async def name(
        account: AccountPath, caller: Annotated[Caller, Depends(Needs("read"))]
    ) -> dict[str, str]:
        return {"account": account}

    @made.app.get("/v1/fails/{how:segment}")
    async def fails(how: str) -> None:
        raise {
            "view": ViewError("redis: gone"),
            "full": ViewError("Redis is full", cause="full"),
            "password": ViewError("no", retriable=False, cause="wrong_password"),
            "damaged": ViewError("the view is damaged", retriable=False),
            "problem": Problem("conflict", "it is so", more="said"),
            "bug": RuntimeError("secret detail"),
        }[how]

    yield made
    made.close()


@pytest.mark.parametrize(
    "account", ["acct_1", "team/7", "50%", "a b", "Zoë", "../keys", "a?b#c", "{account}", "%2F"]
)
def test_an_account_may_be_called_anything(world: GatewayWorld, account: str) -> None:
    answer = asyncio.run(
        world.ask(
            "GET", f"/v1/accounts/{quote(account, safe='')}/name", credential=world.key("read")
        )
    )
    assert (answer.status_code, answer.json()) == (200, {"account": account})


@pytest.mark.parametrize("account", [" a", "a ", "\n", "x" * 1_000, "\x7f"])
def test_what_cannot_name_an_account_is_said_to_be_so(world: GatewayWorld, account: str) -> None:
    answer = asyncio.run(
        world.ask(
            "GET", f"/v1/accounts/{quote(account, safe='')}/name", credential=world.key("read")
        )
    )
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "path/account"


@pytest.mark.parametrize(
    ("how", "code", "more"),
    [
        ("view", "counters_unavailable", {}),
        ("full", "counters_unavailable", {"cause": "full"}),
        ("password", "counters_unavailable", {"cause": "wrong_password"}),
        ("damaged", "internal", {}),
        ("problem", "conflict", {"more": "said"}),
        ("bug", "internal", {}),
    ],
)
def test_a_failure_is_a_problem_with_its_name_and_what_to_do(
    world: GatewayWorld, how: str, code: str, more: dict[str, str]
) -> None:
    answer = asyncio.run(world.ask("GET", f"/v1/fails/{how}", credential=world.key("read")))
    status, title = PROBLEMS[code]
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found.pop("detail")
    assert (
        found == {"type": TYPE_PREFIX + code, "title": title, "status": status, "code": code} | more
    )
    assert "secret detail" not in answer.text


def test_what_is_not_there_is_a_problem_too(world: GatewayWorld) -> None:
    found = asyncio.run(world.ask("GET", "/v2/keys")).json()
    assert (found["code"], found["status"]) == ("not_found", 404)
    refused = asyncio.run(world.ask("PUT", "/v1/keys", credential=world.key("admin")))
    assert refused.json()["code"] == "method_not_allowed"


def test_each_kind_of_problem_has_a_page(world: GatewayWorld) -> None:
    for code, (status, title) in PROBLEMS.items():
        page = asyncio.run(world.ask("GET", TYPE_PREFIX + code))
        assert page.status_code == 200
        assert title in page.text
        assert str(status) in page.text
    assert asyncio.run(world.ask("GET", f"{TYPE_PREFIX}other")).status_code == 404


def test_ready_is_who_misses_nothing_and_why_not_is_for_the_log(
    world: GatewayWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """A stranger could read the addresses of Redis and of Kafka."""

    async def fine() -> None:
        return None

    async def gone() -> Lack:
        return Lack("Error 111 connecting to 10.0.0.7:6379", "unreachable")

    checks: dict[str, Check] = {"redis": fine}
    world.use(readiness=Readiness(checks))
    assert asyncio.run(world.ask("GET", "/readyz")).status_code == 200
    checks["kafka"] = gone
    answers = [asyncio.run(world.ask("GET", "/readyz")) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503] * 3
    assert [(answer.json()["missing"], answer.json()["causes"]) for answer in answers] == [
        (["kafka"], {"kafka": "unreachable"})
    ] * 3
    assert not any("10.0.0.7" in answer.text for answer in answers)
    assert [
        record.getMessage() for record in caplog.records if "10.0.0.7" in record.getMessage()
    ] == ["not ready, kafka: Error 111 connecting to 10.0.0.7:6379"]
    assert asyncio.run(world.ask("GET", "/healthz")).status_code == 200


def test_a_redis_that_only_refuses_writes_leaves_the_gateway_ready_and_degraded(
    world: GatewayWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """A balancer would otherwise remove every gateway, and with them checks and meters."""
    used = iter(("65.1M", "65.2M", "65.3M"))

    async def full() -> Lack:
        return Lack(f"Redis is full ({next(used)})", "full", is_partial=True)

    world.use(readiness=Readiness({"redis": full}))
    for _ in range(3):
        answer = asyncio.run(world.ask("GET", "/readyz"))
        assert (answer.status_code, answer.json()) == (
            200,
            {"status": "ready", "degraded": ["redis"], "causes": {"redis": "full"}},
        )
    assert [record.getMessage() for record in caplog.records if "full" in record.getMessage()] == [
        "not ready, redis: Redis is full (65.1M)"
    ]


def test_metrics_name_routes_and_no_accounts(world: GatewayWorld) -> None:
    asyncio.run(world.ask("GET", "/v1/accounts/acct_secret/name", credential=world.key("read")))
    text = generate_latest().decode()
    assert 'route="/v1/accounts/{account}/name"' in text
    assert "acct_secret" not in text


def test_strangers_see_no_metrics(world: GatewayWorld) -> None:
    """Anybody could read them, and each request counted the store again."""
    assert asyncio.run(world.ask("GET", "/metrics")).status_code == 404


def test_a_caller_that_asks_too_often_is_refused_with_the_time_to_wait(world: GatewayWorld) -> None:
    world.use(rate_limits=RateLimits(per_key=3))
    key = world.key("admin")

    async def statuses() -> list[int]:
        # Within one window, or over the border of two: at most three each.
        return [(await world.ask("GET", "/v1/keys", credential=key)).status_code for _ in range(9)]

    found = asyncio.run(statuses())
    assert found[:3] == [200] * 3
    assert 429 in found


def test_an_account_token_asks_for_few_lists_a_second(world: GatewayWorld) -> None:
    """Three browsers that requested charges without a pause kept the gateway from answering its
    checks.
    """
    from usageledger.sdk.tokens import mint_account_token

    world.use(rate_limits=RateLimits(per_account=1_000))
    token = mint_account_token(world.key("read"), "a", now=world.now)

    async def statuses() -> list[int]:
        # Over the border of two windows at most: twice as many.
        return [
            (await world.ask("GET", "/v1/accounts/a/charges", credential=token)).status_code
            for _ in range(60)
        ]

    assert 429 in asyncio.run(statuses())[25:]


def test_a_limit_by_account_counts_tokens_of_one_account_together(world: GatewayWorld) -> None:
    from usageledger.sdk.tokens import mint_account_token

    world.use(rate_limits=RateLimits(per_account=2))
    key = world.key("read")
    tokens = [
        mint_account_token(key, "a", now=world.now, expires_in=timedelta(minutes=n))
        for n in range(1, 8)
    ]

    async def statuses() -> list[int]:
        return [
            (await world.ask("GET", "/v1/accounts/a/name", credential=token)).status_code
            for token in tokens
        ]

    assert 429 in asyncio.run(statuses())


@pytest.mark.parametrize(
    "path",
    ["/session", "/v1/quote", "/v1/accounts/a/check", "/v1/events", "/v1/keys", "/v1/webhooks"],
)
@pytest.mark.parametrize("says_its_length", [True, False])
def test_no_more_is_taken_of_a_request_than_it_may_have_whoever_sends_it(
    world: GatewayWorld, path: str, says_its_length: bool
) -> None:
    """A route held all of 200 MiB in memory."""
    key, taken, chunk = world.key("admin"), [0], 64 * 1024

    async def body() -> AsyncIterator[bytes]:
        for _ in range(200 * 1024 * 1024 // chunk):
            taken[0] += chunk
            yield b" " * chunk

    async def scenario() -> httpx.Response:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        if says_its_length:
            headers["Content-Length"] = str(200 * 1024 * 1024)
        transport = httpx.ASGITransport(world.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return await client.post(path, content=body(), headers=headers)

    answer = asyncio.run(scenario())
    assert (answer.status_code, answer.json()["code"], answer.headers["content-type"]) == (
        413,
        "too_large",
        "application/problem+json",
    )
    bytes_max = EVENTS_BYTES_MAX if path == EVENTS else BYTES_MAX
    assert taken[0] <= (0 if says_its_length else bytes_max + chunk)
