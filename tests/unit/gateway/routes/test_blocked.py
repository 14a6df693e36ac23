"""The list of blocked accounts, and the limit events after which it was made."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from tests.worlds.gateway_events import NOW_MS, Announced
from tests.worlds.gateway_world import NOW, GatewayWorld
from usageledger.gateway.metrics import show_counts
from usageledger.gateway.webhooks.endpoints import EndpointSettings
from usageledger.sdk.tokens import mint_account_token


@pytest.fixture
def world(tmp_path: Path) -> Iterator[GatewayWorld]:
    made = GatewayWorld(tmp_path)
    yield made
    made.close()


def test_who_is_blocked_comes_by_name_and_by_pages(world: GatewayWorld) -> None:
    topics = [Announced(0), Announced(1)]
    for account in ("b", "d", "ä/x"):
        world.stores.limits.add({0: topics[0].crossing("limit.reached", account=account)}, NOW_MS)
    for account in ("a", "c"):
        world.stores.limits.add({1: topics[1].crossing("limit.reached", account=account)}, NOW_MS)
    world.stores.limits.add({1: topics[1].crossing("limit.cleared", account="c")}, NOW_MS)
    key = world.key("read")

    async def scenario() -> None:
        first = (await world.ask("GET", "/v1/blocked?limit=3", credential=key)).json()
        assert [item["account"] for item in first["items"]] == ["a", "b", "d"]
        assert first["from"] == {"last_event_ids": {"0": "0-2-0", "1": "1-2-0"}}
        second = (
            await world.ask(
                "GET", f"/v1/blocked?limit=3&cursor={first['next_cursor']}", credential=key
            )
        ).json()
        assert ([item["account"] for item in second["items"]], second["next_cursor"]) == (
            ["ä/x"],
            None,
        )

    asyncio.run(scenario())


def test_a_blocked_account_is_shown_as_its_limit_event_has_it(world: GatewayWorld) -> None:
    world.stores.limits.add(
        {0: Announced().crossing("limit.threshold", "limit.reached", account="a")}, NOW_MS
    )
    answer = asyncio.run(world.ask("GET", "/v1/blocked", credential=world.key("read"))).json()
    assert answer["items"] == [
        {
            "account": "a",
            "since": "2026-11-01T00:00:00Z",
            "reason": "usage",
            "plan": "pro",
            "remaining": "0",
            "upgrade": None,
            "suspension": None,
            "event_id": "0-0-1",
        }
    ]


def test_as_long_as_it_is_not_known_who_is_blocked_nobody_is_said_not_to_be(
    world: GatewayWorld,
) -> None:
    world.use(limits_trouble=lambda: "limit events have not been read yet")
    answer = asyncio.run(world.ask("GET", "/v1/blocked", credential=world.key("read")))
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")


def test_metrics_tell_how_many_are_blocked_and_what_waits_for_endpoints(
    world: GatewayWorld,
) -> None:
    world.stores.endpoints.create(EndpointSettings("https://app.example/"), NOW, caller="k")
    world.stores.limits.add(
        {0: Announced().crossing("limit.threshold", "limit.reached", account="a")}, NOW_MS
    )
    show_counts(world.stores.counts())
    told = generate_latest().decode().splitlines()
    assert "usageledger_accounts_blocked 1.0" in told
    assert 'usageledger_webhook_deliveries{state="pending"} 2.0' in told
    assert 'usageledger_webhook_deliveries{state="dead"} 0.0' in told


def test_an_accounts_token_does_not_list_others(world: GatewayWorld) -> None:
    token = mint_account_token(world.key("read"), "a", now=NOW)
    assert asyncio.run(world.ask("GET", "/v1/blocked", credential=token)).status_code == 403
