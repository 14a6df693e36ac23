"""Which requests need a credential, and that nothing else of them is read before it is checked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.routing import APIRoute

from tests.worlds.gateway_world import GatewayWorld
from usageledger.gateway.access.rate_limits import RateLimits
from usageledger.gateway.access.strangers import API, counted_address
from usageledger.gateway.app import ROUTERS
from usageledger.gateway.dependencies import Needs
from usageledger.gateway.safe_headers import SAFE_HEADERS
from usageledger.sdk.tokens import mint_account_token


@pytest.fixture
def world(tmp_path: Path) -> Iterator[GatewayWorld]:
    made = GatewayWorld(tmp_path)
    yield made
    made.close()


def routes() -> list[APIRoute]:
    every = [route for router in ROUTERS for route in router.routes]
    return [route for route in every if isinstance(route, APIRoute)]


def test_the_routes_of_the_api_ask_for_a_scope_and_no_others_do() -> None:
    """The check in front of the routes goes by the path."""
    asking = {
        route.path
        for route in routes()
        if any(isinstance(found.call, Needs) for found in route.dependant.dependencies)
    }
    assert asking == {route.path for route in routes() if route.path.startswith(API)}
    assert {route.path for route in routes()} - asking >= {"/healthz", "/readyz", "/console"}


@pytest.mark.parametrize("credential", [None, f"ulk_0a1b2c3d_{'w' * 43}", "no token"])
@pytest.mark.parametrize("path", ["/v1/quote", "/v1/events", "/v1/keys", "/v1/webhooks", "/v1/x"])
def test_without_a_valid_credential_nothing_of_a_body_is_read(
    world: GatewayWorld, path: str, credential: str | None
) -> None:
    """FastAPI parsed a stranger's JSON before it asked for the key: 12 strangers made a check
    wait half a second.
    """
    read = [0]

    async def body() -> AsyncIterator[bytes]:
        read[0] += 1
        yield b"[" * 1_000

    async def scenario() -> httpx.Response:
        transport = httpx.ASGITransport(world.app, raise_app_exceptions=False)
        headers = {} if credential is None else {"Authorization": f"Bearer {credential}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return await client.post(path, content=body(), headers=headers)

    answer = asyncio.run(scenario())
    assert (answer.status_code, answer.json()["code"], read) == (401, "unauthenticated", [0])
    assert answer.headers["www-authenticate"] == "Bearer"


def test_a_page_of_another_origin_reads_that_its_token_has_ended(world: GatewayWorld) -> None:
    headers = {"Origin": "https://app.example"}
    answer = asyncio.run(world.ask("GET", "/v1/accounts/a/meter", credential="x", headers=headers))
    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == "https://app.example"


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/healthz", {}),
        ("GET", "/console", {"Authorization": "Bearer x"}),
        ("POST", "/session", {}),
        ("GET", "/nothing", {}),
        ("POST", "/v1/quote", {}),
        ("POST", "/v1/quote", {"Cookie": "a=b"}),
        ("POST", "/v1/quote", {"Authorization": "Basic eDp5"}),
        ("OPTIONS", "/v1/quote", {"Origin": "https://app.example"}),
    ],
)
def test_an_address_without_a_credential_has_a_limit_of_its_own(
    world: GatewayWorld, method: str, path: str, headers: dict[str, str]
) -> None:
    world.use(rate_limits=RateLimits(per_stranger=3))
    key = world.key("admin")

    async def scenario() -> list[int]:
        # Within one window, or over the border of two: at most three each.
        asked = [await world.ask(method, path, headers=headers) for _ in range(9)]
        own = await world.ask("GET", "/v1/keys", credential=key)
        return [*(answer.status_code for answer in asked), own.status_code]

    *strangers, own = asyncio.run(scenario())
    assert 429 not in strangers[:3]
    assert 429 in strangers
    assert own == 200, "a client with a key does not wait for the strangers at its address"


def test_tokens_that_have_ended_count_as_strangers(world: GatewayWorld) -> None:
    from datetime import timedelta

    world.use(rate_limits=RateLimits(per_stranger=3))
    token = mint_account_token(world.key("read"), "a", now=world.now)
    world.pass_time(timedelta(hours=2))

    async def statuses() -> list[int]:
        path = "/v1/accounts/a/meter"
        return [(await world.ask("GET", path, credential=token)).status_code for _ in range(9)]

    assert set(asyncio.run(statuses())) == {401, 429}


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:aaaa::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:bbbb::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("a socket:1", "a socket:1"),
    ],
)
def test_the_addresses_of_one_network_count_together(host: str, counted: str) -> None:
    """One client of IPv6 has 2^64 addresses, and could use a new one for each request."""
    assert counted_address(host) == counted


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *((min(route.methods or ()), route.path_format) for route in routes()),
        ("PUT", "/v1/keys"),
        ("GET", "/none"),
    ],
)
def test_every_answer_says_that_no_cache_keeps_it_and_what_type_it_has(
    world: GatewayWorld, method: str, path: str
) -> None:
    for credential in (None, world.key("admin")):
        if path.endswith("/stream") and credential is not None:
            continue
        answer = asyncio.run(world.ask(method, path, credential=credential))
        assert answer.headers["x-content-type-options"] == "nosniff"
        is_file = answer.status_code in (200, 304) and "etag" in answer.headers
        assert answer.headers["cache-control"] == ("no-cache" if is_file else "no-store")


def test_a_fault_of_ours_has_the_headers_too(world: GatewayWorld) -> None:
    @world.app.get("/fails")
    async def fails() -> None:
        raise RuntimeError

    answer = asyncio.run(world.ask("GET", "/fails"))
    assert answer.status_code == 500
    assert (
        answer.headers.items()
        >= {name.lower(): SAFE_HEADERS[name] for name in SAFE_HEADERS}.items()
    )
