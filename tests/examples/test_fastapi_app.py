"""The app that blocks and prompts, under a real server and on a real ledger."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from examples import fastapi_app
from tests.examples.ledger import wait_for
from tests.examples.serving import running_app
from tests.servers import RunningGateway
from usageledger import AccountClient, UsageMeter


@pytest.fixture
def app(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    monkeypatch.setenv("USAGELEDGER_KAFKA", str(gateway.addresses.kafka))
    monkeypatch.setenv("USAGELEDGER_PREFIX", gateway.addresses.prefix)
    with running_app(fastapi_app.app) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def test_an_account_is_prompted_then_blocked_then_freed_by_the_upgrade(
    app: httpx.Client, tmp_path: Path
) -> None:
    account = f"editor_{uuid.uuid4().hex[:8]}"

    def render() -> httpx.Response:
        return app.post("/render", headers={"x-account": account})

    with (
        UsageMeter(source="editor", spool_directory=str(tmp_path)) as meter,
        AccountClient(source="billing") as billing,
    ):
        billing.subscribe(account, "pro")
        assert (render().status_code, "x-upgrade" in render().headers) == (200, False)

        meter.record(account=account, feature="ai_creator", quantity=170, id="clip_1")
        assert (
            wait_for(render, lambda answer: "x-upgrade" in answer.headers).headers["x-upgrade"]
            == "Max"
        )

        meter.record(account=account, feature="ai_creator", quantity=40, id="clip_2")
        blocked = wait_for(render, lambda answer: answer.status_code == 402)
        assert blocked.headers["content-type"] == "application/problem+json"
        assert (blocked.json()["code"], blocked.json()["remaining"]) == (
            "insufficient_credits",
            "-10",
        )
        assert blocked.json()["upgrade"]["plan"] == "max"
        assert app.get("/settings", headers={"x-account": account}).status_code == 200

        billing.change_plan(account, "max")
        assert (
            wait_for(render, lambda answer: answer.status_code == 200).json()["status"]
            == "rendering"
        )
        assert "x-upgrade" not in render().headers
