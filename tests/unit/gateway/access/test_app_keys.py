"""App keys, account tokens and sessions: which caller may do what."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import jwt
import pytest
from fastapi.dependencies.models import Dependant
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worlds.gateway_world import NOW, GatewayWorld
from usageledger.gateway.access.app_keys import NotAuthentic
from usageledger.gateway.dependencies import Needs
from usageledger.sdk.scopes import SCOPES, TOKEN_SCOPES, Scope
from usageledger.sdk.tokens import mint_account_token, signed_account_token, split_key, token_key

HOUR = timedelta(hours=1)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[GatewayWorld]:
    made = GatewayWorld(tmp_path)
    yield made
    made.close()


def test_a_key_has_its_scopes_and_admin_has_all(world: GatewayWorld) -> None:
    caller = world.keys.caller(world.key("check", "hold"), NOW)
    assert [scope for scope in SCOPES if caller.may(scope)] == ["check", "hold"]
    assert all(world.keys.caller(world.key("admin"), NOW).may(scope) for scope in SCOPES)


def test_a_secret_is_nowhere_in_the_database(world: GatewayWorld, tmp_path: Path) -> None:
    key = world.key("read")
    world.stores.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    _, secret = split_key(key)
    content = (tmp_path / "gateway.db").read_bytes()
    assert key.split("_")[1].encode() in content
    assert secret.encode() not in content


@pytest.mark.parametrize("spoiled_at", [0, 4, 5, 12, 13, -1])
def test_another_key_is_refused_and_not_repeated(world: GatewayWorld, spoiled_at: int) -> None:
    letters = list(world.key("read"))
    letters[spoiled_at] = "b" if letters[spoiled_at] != "b" else "c"
    spoiled = "".join(letters)
    with pytest.raises(NotAuthentic) as refused:
        world.keys.caller(spoiled, NOW)
    assert spoiled not in str(refused.value)


def test_a_rotated_key_works_on_until_the_overlap_ends(world: GatewayWorld) -> None:
    old = world.key("read")
    new = world.keys.rotate(split_key(old)[0], HOUR, NOW)
    for at in (NOW, NOW + HOUR - timedelta(microseconds=1)):
        assert world.keys.caller(old, at) == world.keys.caller(new, at)
    with pytest.raises(NotAuthentic):
        world.keys.caller(old, NOW + HOUR)
    assert world.keys.caller(new, NOW + 1000 * HOUR).may("read")


def test_rotating_again_shortens_an_overlap_and_never_lengthens_it(world: GatewayWorld) -> None:
    first = world.key("read")
    key_id = split_key(first)[0]
    world.keys.rotate(key_id, HOUR, NOW)
    world.keys.rotate(key_id, 5 * HOUR, NOW)
    with pytest.raises(NotAuthentic):
        world.keys.caller(first, NOW + HOUR)


def test_a_revoked_key_and_its_tokens_end_at_once(world: GatewayWorld) -> None:
    key = world.key("read")
    token = mint_account_token(key, "acct_1", now=NOW)
    world.keys.revoke(split_key(key)[0], NOW)
    for credential in (key, token):
        with pytest.raises(NotAuthentic):
            world.keys.caller(credential, NOW)
    assert [kept.revoked_at for kept in world.keys.page(0, 10)] == [NOW]


def test_a_key_made_elsewhere_works_and_its_next_secret_too(world: GatewayWorld) -> None:
    first, second = (f"ulk_0a1b2c3d_{letter * 43}" for letter in "xy")
    world.keys.ensure(first, "from the start", NOW)
    world.keys.ensure(first, "from the start", NOW)
    world.keys.ensure(second, "from the start", NOW)
    assert world.keys.caller(first, NOW).may("admin")
    assert world.keys.caller(second, NOW).may("admin")
    assert len(world.keys.page(0, 10)) == 1


def test_a_configured_key_that_was_revoked_stays_so_and_keeps_nobody_from_starting(
    world: GatewayWorld,
) -> None:
    """Inserting its id a second time made the gateway fail at every start."""
    key = f"ulk_0a1b2c3d_{'x' * 43}"
    assert world.keys.ensure(key, "from the start", NOW)
    world.keys.revoke("0a1b2c3d", NOW)
    for configured in (key, f"ulk_0a1b2c3d_{'y' * 43}"):
        assert not world.keys.ensure(configured, "from the start", NOW + HOUR)
        with pytest.raises(NotAuthentic):
            world.keys.caller(configured, NOW + HOUR)


def test_a_configured_secret_that_was_rotated_away_never_works_again(world: GatewayWorld) -> None:
    """A second rotation forgot the first secret, and a restart with the old setting made it an
    admin key again, although it may have leaked.
    """
    key = f"ulk_0a1b2c3d_{'x' * 43}"
    world.keys.ensure(key, "from the start", NOW)
    world.keys.rotate("0a1b2c3d", HOUR, NOW)
    assert world.keys.ensure(key, "from the start", NOW + HOUR / 2)
    assert not world.keys.ensure(key, "from the start", NOW + HOUR)
    newest = world.keys.rotate("0a1b2c3d", HOUR, NOW + 2 * HOUR)
    assert not world.keys.ensure(key, "from the start", NOW + 3 * HOUR)
    with pytest.raises(NotAuthentic):
        world.keys.caller(key, NOW + 3 * HOUR)
    assert world.keys.caller(newest, NOW + 3 * HOUR).may("admin")
    (listed,) = world.keys.page(0, 10)
    assert len(listed.secrets) == 2


def test_a_key_is_made_once_however_often_its_request_is_sent(world: GatewayWorld) -> None:
    """The lost answer held the secret, which nobody has any more.

    A client that asks again gets the advice to rotate the key.
    """
    admin, asked = world.key("admin"), {"name": "render", "scopes": ["check", "hold"]}

    async def ask(body: object) -> httpx.Response:
        return await world.ask(
            "POST",
            "/v1/keys",
            credential=admin,
            body=body,
            headers={"Idempotency-Key": "request-1"},
        )

    async def scenario() -> None:
        made = await ask(asked)
        again = await ask(asked)
        assert (made.status_code, again.status_code, again.json()["code"]) == (201, 409, "conflict")
        assert again.json()["id"] == made.json()["id"]
        assert made.json()["key"] not in again.text
        other = await ask(asked | {"name": "another"})
        assert (other.status_code, other.json()["code"]) == (
            409,
            "id_reused_with_different_content",
        )
        assert len(world.keys.page(0, 10)) == 2
        world.pass_time(timedelta(days=1, seconds=1))
        assert (await ask(asked)).status_code == 201

    asyncio.run(scenario())


def test_a_token_names_one_account_and_never_gets_a_scope_that_its_key_lacks(
    world: GatewayWorld,
) -> None:
    token = _signed(world.key("read"), "read", "hold", "report", "admin")
    caller = world.keys.caller(token, NOW)
    assert caller.account == "acct_1"
    assert caller.scopes == {"read"}


def test_an_admins_token_is_no_admin_and_reports_nothing(world: GatewayWorld) -> None:
    caller = world.keys.caller(_signed(world.key("admin"), "read", "report", "admin"), NOW)
    assert caller.scopes == {"read"}


def test_account_tokens_have_the_scopes_that_a_path_of_an_account_asks_for(
    world: GatewayWorld,
) -> None:
    asked = {
        needs.scope
        for route in world.routes()
        if "{account:" in route.path and (needs := _needs(route.dependant)) is not None
    }
    assert asked - {"admin"} == set(TOKEN_SCOPES)


@pytest.mark.parametrize("scopes", [["report"], ["read", "admin"], ["write"], [""], [], "read"])
def test_a_token_is_not_minted_with_a_scope_that_no_path_of_an_account_accepts(
    scopes: Any,
) -> None:
    """A backend minted tokens for `report`. They looked well, and every request was refused."""
    with pytest.raises(ValueError, match=r"check, hold, read|not one text"):
        mint_account_token(f"ulk_0a1b2c3d_{'x' * 43}", "acct_1", scopes=scopes)


@pytest.mark.parametrize("scopes", [["reed"], ["report", "write"], []])
def test_a_key_is_not_made_with_an_unknown_scope(world: GatewayWorld, scopes: Any) -> None:
    with pytest.raises(ValueError, match="report, check, hold, read, admin"):
        world.keys.create("typo", scopes, NOW)
    assert world.keys.page(0, 10) == []


def _signed(key: str, *scopes: str) -> str:
    """A token with any scopes, as another JWT library would mint it."""
    key_id, secret = split_key(key)
    return signed_account_token(key_id, token_key(secret), "acct_1", scopes, HOUR, NOW)


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"exp": NOW + timedelta(hours=2)}, "longer than an hour"),
        ({"aud": "another"}, "for somebody else"),
        ({"aud": "usageledger-session"}, "a session is no account token"),
        ({"sub": None}, "names nobody"),
        ({"iat": NOW + timedelta(minutes=1)}, "from the future"),
        ({"exp": NOW - timedelta(minutes=1)}, "over"),
    ],
)
def test_a_token_that_is_not_as_it_should_be_is_refused(
    world: GatewayWorld, claims: dict[str, object], why: str
) -> None:
    key = world.key("read")
    key_id, secret = split_key(key)
    said = {
        "aud": "usageledger",
        "sub": "acct_1",
        "scope": "read",
        "iat": NOW,
        "exp": NOW + HOUR,
    } | claims
    token = jwt.encode(
        {name: value for name, value in said.items() if value is not None},
        token_key(secret),
        "HS256",
        {"kid": key_id},
    )
    with pytest.raises(NotAuthentic):
        world.keys.caller(token, NOW)


def test_a_token_without_a_signature_is_refused(world: GatewayWorld) -> None:
    key_id, _ = split_key(world.key("read"))
    token = jwt.encode(
        {"aud": "usageledger", "sub": "a", "iat": NOW, "exp": NOW + HOUR},
        "",
        "none",
        {"kid": key_id},
    )
    with pytest.raises(NotAuthentic):
        world.keys.caller(token, NOW)


def test_any_jwt_library_mints_the_same_token() -> None:
    key = f"ulk_0a1b2c3d_{'x' * 43}"
    key_id, secret = split_key(key)
    token = mint_account_token(key, "acct_1", now=NOW)
    assert jwt.get_unverified_header(token)["kid"] == key_id
    assert jwt.decode(
        token,
        token_key(secret),
        ["HS256"],
        {"verify_exp": False, "verify_iat": False},
        audience="usageledger",
    ) == {
        "aud": "usageledger",
        "sub": "acct_1",
        "scope": "read",
        "iat": int(NOW.timestamp()),
        "exp": int((NOW + timedelta(minutes=15)).timestamp()),
    }


@pytest.mark.parametrize(
    "bad",
    [
        {"account": ""},
        {"expires_in": timedelta(hours=1, seconds=1)},
        {"expires_in": timedelta(0)},
        {"key": "ulk_1"},
    ],
)
def test_a_token_is_not_minted_from_what_makes_no_sense(bad: dict[str, object]) -> None:
    asked: dict[str, Any] = {"key": f"ulk_0a1b2c3d_{'x' * 43}", "account": "acct_1"} | bad
    with pytest.raises(ValueError):
        mint_account_token(asked.pop("key"), asked.pop("account"), **asked)


def test_the_operations_that_are_asked_are_those_of_the_document(world: GatewayWorld) -> None:
    """FastAPI 0.165 lists no route of an included router. The tests over all operations still
    passed, but called none.
    """
    asked = {
        (method.lower(), re.sub(r":\w+", "", route.path))
        for route in world.routes()
        for method in route.methods or ()
    }
    documented = {
        (method, path)
        for path, methods in world.app.openapi()["paths"].items()
        for method in methods
    }
    assert asked == documented
    assert len(asked) > 20


def test_every_operation_of_the_api_asks_who_is_there(world: GatewayWorld) -> None:
    open_to_all = [
        f"{route.methods} {route.path}"
        for route in world.routes()
        if _needs(route.dependant) is None
    ]
    assert open_to_all == []


def test_each_segment_of_a_path_that_names_something_is_decoded_as_one(world: GatewayWorld) -> None:
    """A plain ``{account}`` would be passed on undecoded, with its %2F. An account token of another
    name would then be accepted for it.
    """
    plain = [route.path for route in world.routes() if re.search(r"\{\w+\}", route.path)]
    assert plain == []


@settings(max_examples=10)
@given(
    owner=st.text(
        st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20
    ),
    data=st.data(),
)
def test_no_operation_lets_an_accounts_token_reach_another_account(
    tmp_path_factory: pytest.TempPathFactory, owner: str, data: st.DataObject
) -> None:
    other = data.draw(
        st.sampled_from(
            [owner + "/x", "x" + owner, owner[:-1] or "y", f"{owner}/..", owner.swapcase() + " "]
        )
    )
    world = GatewayWorld(tmp_path_factory.mktemp("gateway"))
    try:
        token = mint_account_token(world.key("admin"), owner, scopes=TOKEN_SCOPES, now=NOW)
        statuses = asyncio.run(_ask_everything(world, token, other))
        assert {
            operation: status for operation, status in statuses.items() if status not in (403, 404)
        } == {}
    finally:
        world.close()


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_does_what_its_scopes_say_and_nothing_else(world: GatewayWorld, scope: Scope) -> None:
    key = world.key(scope)
    statuses = asyncio.run(_ask_everything(world, key, "acct_1"))
    for route in world.routes():
        needed = _needs(route.dependant)
        assert needed is not None
        for method in sorted(route.methods or ()):
            is_refused = statuses[f"{method} {route.path}"] == 403
            assert is_refused == (scope not in ("admin", needed.scope)), (
                f"{method} {route.path} with {scope}"
            )


def test_without_a_key_nothing_is_said_but_how_to_get_one(world: GatewayWorld) -> None:
    answer = asyncio.run(world.ask("GET", "/v1/keys"))
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json()["code"] == "unauthenticated"
    assert "usageledger keys create" in answer.json()["detail"]


def test_a_key_in_a_url_is_no_key(world: GatewayWorld) -> None:
    key = world.key("admin")
    assert (
        asyncio.run(world.ask("GET", f"/v1/keys?key={key}&access_token={key}")).status_code == 401
    )


def test_who_guesses_keys_is_told_to_wait(world: GatewayWorld) -> None:
    async def scenario() -> list[int]:
        return [
            (await world.ask("GET", "/v1/keys", credential=f"ulk_0a1b2c3d_{n:043}")).status_code
            for n in range(62)
        ]

    statuses = asyncio.run(scenario())
    assert statuses[:60] == [401] * 60
    assert statuses[61] == 429


def test_who_has_a_key_does_not_wait_for_who_guesses_behind_the_same_address(
    world: GatewayWorld,
) -> None:
    """Many share the address of a reverse proxy.

    An ended token is no guess either: every page has one each quarter of an hour.
    """
    key = world.key("admin")
    ended = mint_account_token(key, "a", now=NOW - timedelta(hours=2))

    async def scenario() -> list[int]:
        for n in range(70):
            await world.ask("GET", "/v1/keys", credential=f"ulk_0a1b2c3d_{n:043}")
        return [
            (await world.ask("GET", "/v1/keys", credential=credential)).status_code
            for credential in (key, ended)
        ]

    assert asyncio.run(scenario()) == [200, 401]


def test_keys_are_listed_page_by_page(world: GatewayWorld) -> None:
    made = [split_key(world.key("admin"))[0] for _ in range(5)]
    key = world.key("admin")

    async def scenario() -> list[str]:
        seen, cursor = [], None
        while True:
            page = (
                await world.ask(
                    "GET",
                    f"/v1/keys?limit=2{'' if cursor is None else f'&cursor={cursor}'}",
                    credential=key,
                )
            ).json()
            assert len(page["items"]) <= 2
            seen += [item["id"] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                return seen

    assert asyncio.run(scenario()) == [*made, split_key(key)[0]]


def test_who_guesses_at_the_sign_in_is_told_to_wait_as_well(world: GatewayWorld) -> None:
    async def scenario() -> list[int]:
        return [
            (await world.ask("POST", "/session", body={"key": f"ulk_0a1b2c3d_{n:043}"})).status_code
            for n in range(62)
        ]

    statuses = asyncio.run(scenario())
    assert (statuses[0], statuses[61]) == (401, 429)


def test_another_sites_page_may_ask_only_if_it_is_named(world: GatewayWorld) -> None:
    async def allowed(origin: str) -> str | None:
        asked = {
            "Origin": origin,
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization",
        }
        answer = await world.ask("OPTIONS", "/v1/keys", headers=asked)
        found: str | None = answer.headers.get("access-control-allow-origin")
        return found

    assert asyncio.run(allowed("https://app.example")) == "https://app.example"
    assert asyncio.run(allowed("https://evil.example")) is None


async def _ask_everything(world: GatewayWorld, credential: str, account: str) -> dict[str, int]:
    """The status of every operation, asked about an account, with an empty body."""
    statuses = {}
    for route in world.routes():
        path = re.sub(r"\{account(:\w+)?\}", quote(account, safe=""), route.path)
        path = re.sub(r"\{\w+(:\w+)?\}", "x", path)
        for method in sorted(route.methods or ()):
            if path.endswith("/stream"):
                statuses[f"{method} {route.path}"] = await world.status_of_stream(path, credential)
                continue
            answer = await world.ask(
                method, path, credential=credential, body=None if method == "GET" else {}
            )
            statuses[f"{method} {route.path}"] = answer.status_code
    return statuses


def _needs(dependant: Dependant) -> Needs | None:
    """The `Needs` of a route, wherever it is among its dependencies."""
    for inner in dependant.dependencies:
        if isinstance(inner.call, Needs):
            return inner.call
        found = _needs(inner)
        if found is not None:
            return found
    return None
