"""Sessions of our own pages: where they work, and when they end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.worlds.gateway_world import NOW, GatewayWorld
from usageledger.gateway.access.app_keys import NotAuthentic
from usageledger.gateway.access.credentials import SESSION_COOKIE
from usageledger.gateway.access.sessions import IDLE_MAX, SESSION_LIFETIME, SESSIONS_OF_A_KEY_MAX
from usageledger.gateway.stores import Stores
from usageledger.sdk.tokens import split_key

HERE = "http://gateway"
HOUR = timedelta(hours=1)
MOMENT = timedelta(milliseconds=1)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[GatewayWorld]:
    made = GatewayWorld(tmp_path)
    yield made
    made.close()


async def cookie_of(world: GatewayWorld, key: str, origin: str = HERE) -> dict[str, str]:
    signed_in = await world.ask("POST", "/session", body={"key": key}, headers={"Origin": origin})
    assert signed_in.status_code == 204
    cookie = signed_in.headers["set-cookie"]
    assert "httponly" in cookie.lower()
    assert "samesite=strict" in cookie.lower()
    assert ("secure" in cookie.lower()) == origin.startswith("https")
    return {"Cookie": cookie.partition(";")[0]}


async def status(world: GatewayWorld, headers: dict[str, str]) -> int:
    return (await world.ask("GET", "/v1/keys", headers=headers)).status_code


def test_a_session_that_was_signed_out_works_no_more_wherever_its_cookie_is(
    world: GatewayWorld,
) -> None:
    async def scenario() -> None:
        key = world.key("admin")
        stolen, other = await cookie_of(world, key), await cookie_of(world, key)
        assert await status(world, stolen) == 200
        out = await world.ask("DELETE", "/session", headers=stolen | {"Origin": HERE})
        assert out.status_code == 204
        assert await status(world, stolen) == 401
        assert await status(world, other) == 200

    asyncio.run(scenario())


def test_no_other_site_changes_signs_in_or_signs_out(world: GatewayWorld) -> None:
    async def scenario() -> None:
        key = world.key("admin")
        session, evil = await cookie_of(world, key), {"Origin": "https://evil.example"}
        asked = {"name": "n", "scopes": ["read"]}
        for origin, expected in (
            ({}, 401),
            (evil, 401),
            ({"Origin": "https://gateway"}, 401),
            ({"Origin": "null"}, 401),
            ({"Origin": HERE}, 201),
        ):
            answer = await world.ask("POST", "/v1/keys", body=asked, headers=session | origin)
            assert answer.status_code == expected, origin
        assert await status(world, session | evil) == 401
        for method, body in (("POST", {"key": key}), ("DELETE", None)):
            refused = await world.ask(method, "/session", body=body, headers=session | evil)
            assert refused.status_code == 403
        assert await status(world, session) == 200

    asyncio.run(scenario())


def test_a_session_works_at_the_origin_where_it_was_begun_alone(world: GatewayWorld) -> None:
    async def scenario() -> None:
        session = await cookie_of(world, world.key("admin"))
        assert await status(world, session) == 200
        for host in ("gateway:8080", "other.example"):
            assert await status(world, session | {"Host": host}) == 401

    asyncio.run(scenario())


def test_a_session_over_tls_has_a_secure_cookie(world: GatewayWorld) -> None:
    async def scenario() -> None:
        session = await cookie_of(world, world.key("admin"), "https://gateway")
        assert await status(world, session) == 200

    asyncio.run(scenario())


def test_a_revoked_key_ends_all_its_sessions_at_once(world: GatewayWorld) -> None:
    async def scenario() -> None:
        key = world.key("admin")
        sessions = [await cookie_of(world, key) for _ in range(2)]
        world.keys.revoke(split_key(key)[0], world.now)
        assert [await status(world, session) for session in sessions] == [401, 401]
        (left,) = world.stores.connection.execute("SELECT count(*) FROM page_sessions").fetchone()
        assert left == 0

    asyncio.run(scenario())


def test_a_session_ends_with_the_secret_that_it_was_begun_with(world: GatewayWorld) -> None:
    key = world.key("admin")
    session = world.stores.sessions.begin(key, HERE, NOW)
    world.keys.rotate(split_key(key)[0], HOUR / 2, NOW)
    world.stores.sessions.caller(session, "gateway", NOW + HOUR / 2 - MOMENT)
    with pytest.raises(NotAuthentic):
        world.stores.sessions.caller(session, "gateway", NOW + HOUR / 2)


def test_a_session_ends_when_it_is_idle_and_when_it_is_old(world: GatewayWorld) -> None:
    key, sessions = world.key("admin"), world.stores.sessions
    idle, used = (sessions.begin(key, HERE, NOW) for _ in range(2))
    now = NOW
    while now + IDLE_MAX - MOMENT < NOW + SESSION_LIFETIME:
        now += IDLE_MAX - MOMENT
        sessions.caller(used, "gateway", now)
    sessions.caller(used, "gateway", NOW + SESSION_LIFETIME - MOMENT)
    for ended, at in ((used, NOW + SESSION_LIFETIME), (idle, NOW + IDLE_MAX)):
        with pytest.raises(NotAuthentic):
            sessions.caller(ended, "gateway", at)
    sessions.prune(NOW + SESSION_LIFETIME)
    (left,) = world.stores.connection.execute("SELECT count(*) FROM page_sessions").fetchone()
    assert left == 0


def test_a_restart_keeps_sessions_and_the_database_shows_none(tmp_path: Path) -> None:
    first = Stores(tmp_path / "gateway.db")
    key = first.keys.create("test", ["admin"], NOW)
    kept, ended = (first.sessions.begin(key, HERE, NOW) for _ in range(2))
    first.sessions.end(ended)
    written = list(first.connection.iterdump())
    assert not any(kept in line for line in written)
    first.close()
    again = Stores(tmp_path / "gateway.db")
    caller, origin = again.sessions.caller(kept, "gateway", NOW)
    assert (caller.may("admin"), origin) == (True, HERE)
    with pytest.raises(NotAuthentic):
        again.sessions.caller(ended, "gateway", NOW)
    again.close()


def test_a_key_has_a_hundred_sessions_and_the_oldest_gives_way(world: GatewayWorld) -> None:
    key, sessions = world.key("admin"), world.stores.sessions
    begun = [sessions.begin(key, HERE, NOW) for _ in range(SESSIONS_OF_A_KEY_MAX + 1)]
    with pytest.raises(NotAuthentic):
        sessions.caller(begun[0], "gateway", NOW)
    sessions.caller(begun[1], "gateway", NOW)


def test_a_session_is_no_key(world: GatewayWorld) -> None:
    session = world.stores.sessions.begin(world.key("admin"), HERE, NOW)
    with pytest.raises(NotAuthentic):
        world.keys.caller(session, NOW)
    wrong = {"Cookie": f"{SESSION_COOKIE}=made-up"}
    assert asyncio.run(status(world, wrong)) == 401
