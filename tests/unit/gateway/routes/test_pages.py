"""The files of web/: how they are served, what a page may load, and which files other sites may.

Also the tokens that the pages ask for.
"""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.unit.package.test_architecture import SERVICES
from tests.worlds.gateway_world import NOW, GatewayWorld
from usageledger.gateway.access.credentials import SESSION_COOKIE
from usageledger.sdk.tokens import mint_account_token

WEB = SERVICES / "usageledger" / "web"
OTHER_SITE = {"Origin": "https://evil.example"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[GatewayWorld]:
    made = GatewayWorld(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(
    "path",
    [
        "/console",
        "/accounts/acct_1/meter",
        "/accounts/team%2F7/meter",
        "/usage-meter.js",
        "/pages/pages.css",
    ],
)
def test_a_page_loads_runs_and_asks_nothing_but_our_own(world: GatewayWorld, path: str) -> None:
    answer = asyncio.run(world.ask("GET", path))
    assert answer.status_code == 200
    policy = dict(
        directive.split(" ", 1)
        for directive in answer.headers["content-security-policy"].split("; ")
    )
    assert policy.pop("default-src") == "'none'"
    assert policy.pop("img-src") == "'self' data:"
    assert {policy.pop(name) for name in ("frame-ancestors", "base-uri")} == {"'none'"}
    assert set(policy) == {"script-src", "style-src", "connect-src", "form-action"}
    assert set(policy.values()) == {"'self'"}
    assert (answer.headers["x-content-type-options"], answer.headers["referrer-policy"]) == (
        "nosniff",
        "no-referrer",
    )


def test_who_opens_the_gateways_address_is_led_to_the_console(world: GatewayWorld) -> None:
    answer = asyncio.run(world.ask("GET", "/"))
    assert (answer.status_code, answer.headers["location"]) == (307, "/console")


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/usage-meter.js", "text/javascript; charset=utf-8"),
        ("/usage-meter.css", "text/css; charset=utf-8"),
        ("/console", "text/html; charset=utf-8"),
    ],
)
def test_a_file_is_asked_for_each_time_and_sent_only_if_it_has_changed(
    world: GatewayWorld, path: str, media_type: str
) -> None:
    first = asyncio.run(world.ask("GET", path))
    assert (first.headers["content-type"], first.headers["cache-control"]) == (
        media_type,
        "no-cache",
    )
    again = asyncio.run(world.ask("GET", path, headers={"If-None-Match": first.headers["etag"]}))
    assert (again.status_code, again.content) == (304, b"")
    assert (
        asyncio.run(world.ask("GET", path, headers={"If-None-Match": '"another"'})).content
        == first.content
    )


def test_a_file_goes_out_as_it_is_or_compressed_as_the_browser_likes(world: GatewayWorld) -> None:
    plain = asyncio.run(
        world.ask("GET", "/usage-meter.js", headers={"Accept-Encoding": "identity"})
    )
    packed = asyncio.run(world.ask("GET", "/usage-meter.js", headers={"Accept-Encoding": "gzip"}))
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert plain.content == packed.content == (WEB / "usage-meter.js").read_bytes()
    assert (
        int(packed.headers["content-length"])
        == len(gzip.compress(plain.content, mtime=0))
        < int(plain.headers["content-length"]) / 2
    )


def test_other_sites_may_load_every_file_of_the_component(world: GatewayWorld) -> None:
    """The script that an app embeds imports the others. If one of them is refused, the meter
    breaks.
    """
    files = [path.name for path in WEB.iterdir() if path.suffix in {".js", ".css"}]
    assert {"usage-meter.js", "usage-meter-stream.js", "usage-meter.de.js"} <= set(files)
    for name in files:
        answer = asyncio.run(world.ask("GET", f"/{name}", headers=OTHER_SITE))
        assert answer.status_code == 200, name
        assert (
            answer.headers["access-control-allow-origin"],
            answer.headers["cross-origin-resource-policy"],
            answer.headers["cache-control"],
        ) == ("*", "cross-origin", "no-cache"), name


def test_the_component_imports_only_files_that_other_sites_may_load() -> None:
    """It imports, fetches and preloads only files beside it: no page of ours, no other origin."""
    for path in WEB.glob("*.js"):
        text = path.read_text(encoding="utf-8")
        imported = re.findall(r'(?:\bfrom|^import) "(.+?)"', text, re.MULTILINE)
        assert all(re.fullmatch(r"\./usage-meter[\w.-]*\.js", name) for name in imported), path.name
        # By name or by template. An address is always resolved against the script's own address.
        assert len(re.findall(r"\bnew URL\(", text)) == text.count("import.meta.url"), path.name


def test_one_round_trip_brings_the_whole_component() -> None:
    """A module that only another module imports would be requested one round trip later."""
    script = (WEB / "usage-meter.js").read_text(encoding="utf-8")
    languages = {path.name for path in WEB.glob("usage-meter.??.js")} - {"usage-meter.en.js"}
    modules = {path.name for path in WEB.glob("*.js")} - languages - {"usage-meter.js"}
    assert set(re.findall(r'"\./(usage-meter[\w.-]+\.js)";', script)) == modules
    page = (WEB / "pages" / "meter.html").read_text(encoding="utf-8")
    assert set(re.findall(r'"modulepreload" href="/(.+?)"', page)) == modules | {"usage-meter.js"}


def test_no_other_site_may_load_our_pages(world: GatewayWorld) -> None:
    paths = [f"/pages/{path.name}" for path in (WEB / "pages").iterdir()]
    for path in ["/console", "/accounts/a/meter", *paths]:
        answer = asyncio.run(world.ask("GET", path, headers=OTHER_SITE))
        assert answer.status_code == 200, path
        assert "access-control-allow-origin" not in answer.headers, path
        assert "cross-origin-resource-policy" not in answer.headers, path


@pytest.mark.parametrize(
    "path",
    [
        "/pages/..%2Fkeys.py",
        "/pages/%2Fetc%2Fpasswd",
        "/pages/nothing.js",
        "/usage-meter.py",
        "/usage-meter.xx.js",
        "/usage-meter",
        "/usage-meter%2F..%2Fpages%2Fconsole.js",
        "/README.md",
        "/pages/README.md",
        "/gateway.d.ts",
        "/pages/usage-meter.js",
    ],
)
def test_a_path_that_names_no_page_is_not_served(world: GatewayWorld, path: str) -> None:
    assert asyncio.run(world.ask("GET", path)).json()["code"] == "not_found"


def test_only_known_media_types_are_served(world: GatewayWorld) -> None:
    """README.md and the types beside the scripts are for developers."""
    for path in WEB.rglob("*"):
        if path.is_file() and path.suffix not in {".css", ".html", ".js"}:
            address = f"/{path.relative_to(WEB)}"
            assert asyncio.run(world.ask("GET", address)).status_code == 404, address


def test_no_script_reads_markup_and_no_page_holds_script_or_style() -> None:
    """Data from outside becomes text nodes; the policy forbids inline scripts and styles."""
    scripts = {path.name: path.read_text(encoding="utf-8") for path in WEB.rglob("*.js")}
    assert len(scripts) > 20
    assert {
        name
        for name, text in scripts.items()
        if re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", text)
    } == set()
    pages = list(WEB.rglob("*.html"))
    assert len(pages) == 2
    for path in pages:
        assert not re.search(
            r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", path.read_text(encoding="utf-8")
        ), path.name


def test_a_key_mints_a_token_for_one_account_and_no_more_scopes_than_it_has(
    world: GatewayWorld,
) -> None:
    async def scenario() -> None:
        key = world.key("read")
        minted = await world.ask(
            "POST", "/v1/accounts/team%2F7/tokens", credential=key, body={"expires_in": 60}
        )
        assert minted.status_code == 201
        assert minted.json()["expires_at"] == (NOW + timedelta(minutes=1)).strftime(
            "%Y-%m-%dT%H:%M:%SZ"
        )
        caller = world.keys.caller(minted.json()["token"], NOW)
        assert (caller.account, set(caller.scopes)) == ("team/7", {"read"})
        more = await world.ask(
            "POST", "/v1/accounts/a/tokens", credential=key, body={"scopes": ["read", "hold"]}
        )
        assert (more.status_code, more.json()["scope"]) == (403, "hold")
        nonsense: tuple[dict[str, object], ...] = (
            {"scopes": ["admin"]},
            {"scopes": []},
            {"expires_in": 3_601},
            {"expires_in": 0},
        )
        for bad in nonsense:
            assert (
                await world.ask(
                    "POST", "/v1/accounts/a/tokens", credential=world.key("admin"), body=bad
                )
            ).status_code == 422

    asyncio.run(scenario())


def test_a_minted_token_ends_with_its_time_and_with_its_key(world: GatewayWorld) -> None:
    async def scenario() -> None:
        key = world.key("admin")
        minted = await world.ask(
            "POST", "/v1/accounts/a/tokens", credential=key, body={"expires_in": 60}
        )
        token = minted.json()["token"]
        world.pass_time(timedelta(seconds=66))
        assert (
            await world.ask("POST", "/v1/accounts/a/tokens", credential=token, body={})
        ).status_code == 401

    asyncio.run(scenario())


def test_a_token_makes_no_token(world: GatewayWorld) -> None:
    """Otherwise whoever holds a token could renew it for ever."""
    token = mint_account_token(world.key("admin"), "a", now=NOW)
    answer = asyncio.run(world.ask("POST", "/v1/accounts/a/tokens", credential=token, body={}))
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_a_rotated_keys_tokens_are_made_with_its_newest_secret(world: GatewayWorld) -> None:
    async def scenario() -> None:
        old = world.key("read")
        world.pass_time(timedelta(seconds=1))
        world.keys.rotate(old.split("_")[1], timedelta(minutes=1), world.now)
        minted = await world.ask(
            "POST", "/v1/accounts/a/tokens", credential=old, body={"expires_in": 600}
        )
        world.pass_time(timedelta(minutes=2))
        assert world.keys.caller(minted.json()["token"], world.now).account == "a"

    asyncio.run(scenario())


def test_the_pages_learn_who_is_signed_in_without_an_error(world: GatewayWorld) -> None:
    async def scenario() -> None:
        assert (await world.ask("GET", "/session")).json() == {"is_signed_in": False, "scopes": []}
        signed_in = await world.ask("POST", "/session", body={"key": world.key("read", "check")})
        cookie = {"Cookie": signed_in.headers["set-cookie"].partition(";")[0]}
        assert (await world.ask("GET", "/session", headers=cookie)).json() == {
            "is_signed_in": True,
            "scopes": ["check", "read"],
        }
        wrong = {"Cookie": f"{SESSION_COOKIE}=made-up"}
        assert (await world.ask("GET", "/session", headers=wrong)).json() == {
            "is_signed_in": False,
            "scopes": [],
        }

    asyncio.run(scenario())
