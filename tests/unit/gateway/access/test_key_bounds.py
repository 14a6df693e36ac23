"""Keys that are bound to sources and accounts, and keys with a quota of events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.worlds.gateway_world import NOW, GatewayWorld
from usageledger.gateway.access import rate_limits
from usageledger.gateway.access.app_keys import BoundAdmin
from usageledger.gateway.access.key_bounds import KeyBounds, checked_pattern
from usageledger.gateway.dependencies import Needs
from usageledger.log.event_publisher import Outgoing, Sent
from usageledger.sdk.tokens import mint_account_token

EU = KeyBounds(sources=("/render",), accounts=("acct_eu_*", "acct_test"))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[GatewayWorld]:
    made = GatewayWorld(tmp_path)
    yield made
    made.close()


class Kafka:
    """Accepts every record."""

    def __init__(self) -> None:
        self.records: list[Outgoing] = []

    async def publish(self, records: Sequence[Outgoing]) -> Sequence[Sent]:
        self.records += records
        return [Sent(number, "") for number, _ in enumerate(records)]


def usage(account: str = "acct_eu_1", source: str = "/render", id: str = "gen_1") -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "type": "usage.recorded",
        "id": id,
        "source": source,
        "subject": account,
        "time": NOW.isoformat(),
        "data": {"feature": "genai_video", "model": "veo_3", "quantity": "1"},
    }


def ask(world: GatewayWorld, method: str, path: str, key: str, body: object = None) -> Any:
    return asyncio.run(world.ask(method, path, credential=key, body=body))


def report(world: GatewayWorld, kafka: Kafka, key: str, body: object) -> httpx.Response:
    world.use(publish=kafka.publish)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def sent() -> httpx.Response:
        transport = httpx.ASGITransport(world.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
            return await client.post("/v1/events", content=content, headers=headers)

    return asyncio.run(sent())


@pytest.mark.parametrize(
    ("account", "is_included"),
    [
        ("acct_eu_1", True),
        ("acct_eu_", True),
        ("acct_test", True),
        ("acct_eu", False),
        ("acct_test1", False),
        ("ACCT_EU_1", False),
        ("xacct_eu_1", False),
        ("*", False),
    ],
)
def test_a_pattern_is_a_whole_name_or_a_prefix(account: str, is_included: bool) -> None:
    assert EU.includes_account(account) is is_included
    assert KeyBounds().includes_account(account), "without a pattern a key is not bound"


@pytest.mark.parametrize("pattern", ["", "acct_*_eu", "**", " acct", "acct\n", "x" * 201])
def test_a_pattern_that_would_not_match_as_it_was_meant_is_refused(
    world: GatewayWorld, pattern: str
) -> None:
    with pytest.raises(ValueError, match=r"pattern"):
        checked_pattern(pattern)
    asked = {"name": "render", "scopes": ["report"], "accounts": [pattern]}
    answer = ask(world, "POST", "/v1/keys", world.key("admin"), asked)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "body/accounts/0"


def test_a_key_with_bounds_is_listed_with_them_also_after_a_restart(world: GatewayWorld) -> None:
    admin = world.key("admin")
    asked = {
        "name": "render",
        "scopes": ["report"],
        "sources": ["/render"],
        "accounts": ["acct_eu_*"],
        "events_per_second": 5,
    }
    made = ask(world, "POST", "/v1/keys", admin, asked)
    assert made.status_code == 201
    world.keys._load()
    bounds = world.keys.caller(made.json()["key"], NOW).bounds
    assert bounds == KeyBounds(sources=("/render",), accounts=("acct_eu_*",), events_per_second=5)
    listed = ask(world, "GET", "/v1/keys", admin).json()["items"][-1]
    assert {name: listed[name] for name in asked} == asked
    rotated = world.keys.rotate(made.json()["id"], timedelta(0), NOW)
    assert world.keys.caller(rotated, NOW).bounds == bounds


def test_a_bound_key_cannot_have_admin_which_could_make_a_key_without_bounds(
    world: GatewayWorld,
) -> None:
    with pytest.raises(BoundAdmin):
        world.keys.create("billing", ["admin"], NOW, bounds=EU)
    asked = {"name": "billing", "scopes": ["admin"], "sources": ["/billing"]}
    answer = ask(world, "POST", "/v1/keys", world.key("admin"), asked)
    assert (answer.status_code, answer.json()["code"]) == (409, "bound_admin")


def test_a_bound_key_reaches_no_route_of_another_account(world: GatewayWorld) -> None:
    """Every route of the API is asked, so a new one is too."""
    key = world.keys.create("eu", ["report", "check", "hold", "read"], NOW, bounds=EU)
    token = mint_account_token(key, "acct_us_1", scopes=["check", "hold", "read"], now=NOW)
    asked = 0
    for route in world.routes():
        needs = [part.call for part in route.dependant.dependencies if isinstance(part.call, Needs)]
        if "{account:segment}" not in route.path or needs[0].scope == "admin":
            continue
        path = route.path.replace("{account:segment}", "acct_us_1")
        path = path.replace("{hold_id:segment}", "gen_1")
        for method in route.methods or ():
            for credential in (key, token):
                answer = ask(world, method, path, credential, {} if method == "POST" else None)
                if answer.status_code == 422 and answer.json()["code"] == "invalid_request":
                    continue  # the body is read first; the next test has whole bodies
                assert answer.status_code == 403, path
                if credential == key:
                    assert answer.json()["code"] == "outside_key_bounds"
                    assert "use a key for that account" in answer.json()["detail"]
                    asked += 1
    assert asked >= 5


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/check", {"feature": "genai_video", "model": "veo_3"}),
        ("/holds", {"id": "gen_1", "feature": "genai_video", "model": "veo_3"}),
        ("/holds/gen_1/release", None),
        ("/tokens", {"scopes": ["read"]}),
    ],
)
def test_checks_holds_releases_and_tokens_stay_within_the_bounds(
    world: GatewayWorld, path: str, body: object
) -> None:
    key = world.keys.create("eu", ["check", "hold", "read"], NOW, bounds=EU)
    outside = ask(world, "POST", f"/v1/accounts/acct_us_1{path}", key, body)
    assert (outside.status_code, outside.json()["code"]) == (403, "outside_key_bounds")
    inside = ask(world, "POST", f"/v1/accounts/acct_eu_1{path}", key, body)
    assert inside.status_code in (201, 503), "201, or 503 as there is no Redis here"


def test_a_key_that_is_bound_to_accounts_lists_no_others(world: GatewayWorld) -> None:
    key = world.keys.create("eu", ["read", "check"], NOW, bounds=EU)
    answer = ask(world, "GET", "/v1/blocked", key)
    assert (answer.status_code, answer.json()["code"]) == (403, "outside_key_bounds")
    only_sources = KeyBounds(sources=("/render",))
    of_source = world.keys.create("render", ["read"], NOW, bounds=only_sources)
    assert ask(world, "GET", "/v1/blocked", of_source).status_code == 200


def test_an_event_outside_of_the_bounds_is_refused_by_itself(world: GatewayWorld) -> None:
    kafka, key = Kafka(), world.keys.create("eu", ["report"], NOW, bounds=EU)
    batch = [usage(), usage("acct_us_1"), usage(source="/music"), usage(id="gen_2")]
    answer = report(world, kafka, key, batch)
    assert answer.status_code == 207
    items = answer.json()["items"]
    assert [item["result"] for item in items] == ["accepted", "invalid", "invalid", "accepted"]
    assert [(item.get("code"), item.get("pointer")) for item in items[1:3]] == [
        ("outside_key_bounds", "subject"),
        ("outside_key_bounds", "source"),
    ]
    assert "keys create" in items[1]["detail"]
    assert [record.key for record in kafka.records] == [b"acct_eu_1", b"acct_eu_1"]


@pytest.mark.parametrize("batch", [[usage("acct_us_1")], [usage("acct_us_1"), usage("acct_us_2")]])
def test_a_report_of_events_outside_of_the_bounds_is_forbidden(
    world: GatewayWorld, batch: list[object]
) -> None:
    kafka, key = Kafka(), world.keys.create("eu", ["report"], NOW, bounds=EU)
    answer = report(world, kafka, key, batch)
    assert (answer.status_code, answer.json()["code"]) == (403, "outside_key_bounds")
    assert kafka.records == []


def test_a_member_that_comes_twice_does_not_get_round_the_bounds(world: GatewayWorld) -> None:
    """The bounds are compared with the names that the ledger's own decoder reads."""
    kafka, key = Kafka(), world.keys.create("eu", ["report"], NOW, bounds=EU)
    text = json.dumps(usage())
    inside, outside = '"source": "/render"', '"source": "/music"'
    assert inside in text
    last = report(world, kafka, key, text.replace(inside, f"{inside}, {outside}").encode())
    assert last.status_code in (403, 422)
    first = report(world, kafka, key, text.replace(inside, f"{outside}, {inside}").encode())
    assert first.status_code in (200, 403, 422)
    for record in kafka.records:
        assert json.loads(record.value)["source"] == "/render", "a decoder reads the last one"


class Clock:
    now_s = 1_800_000_000.5

    def time(self) -> float:
        return self.now_s


def test_a_key_reports_up_to_its_quota_and_again_a_second_later(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, kafka = Clock(), Kafka()
    monkeypatch.setattr(rate_limits, "time", clock)
    quota = KeyBounds(events_per_second=5)
    key = world.keys.create("render", ["report"], NOW, bounds=quota)
    three = [usage(id=f"gen_{number}") for number in range(3)]
    assert report(world, kafka, key, three).status_code == 200
    refused = report(world, kafka, key, three)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert refused.headers["retry-after"] == "1"
    assert report(world, kafka, key, three[:2]).status_code == 200, "a refusal counts nothing"
    assert report(world, kafka, key, three[:1]).status_code == 429
    other = world.keys.create("music", ["report"], NOW, bounds=quota)
    assert report(world, kafka, other, three).status_code == 200, "each key has its own"
    clock.now_s += 1
    assert report(world, kafka, key, three).status_code == 200
    assert len(kafka.records) == 3 + 2 + 3 + 3


def test_a_report_larger_than_the_quota_says_to_split_it(world: GatewayWorld) -> None:
    kafka, quota = Kafka(), KeyBounds(events_per_second=2)
    key = world.keys.create("render", ["report"], NOW, bounds=quota)
    answer = report(world, kafka, key, [usage(id=f"gen_{number}") for number in range(3)])
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert "split" in answer.json()["detail"]
    assert kafka.records == []
