"""Keys that are bound to sources, accounts and a quota, on a whole ledger over HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from tests.servers import RunningGateway
from usageledger import NotTheHolder, UsageGate, mint_account_token

USE = {"feature": "chat_action", "quantity": "1"}

Call = Callable[..., httpx.Response]


@pytest.fixture
def region() -> str:
    """The beginning of the names of accounts that no other test uses."""
    return f"acct_{uuid.uuid4().hex[:8]}_"


def key_of_cli(gateway: RunningGateway, *arguments: str) -> dict[str, Any]:
    """Make a key as an operator does."""
    environment = os.environ | {"USAGELEDGER_GATEWAY_URL": gateway.url}
    environment["USAGELEDGER_KEY"] = gateway.key
    command = [sys.executable, "-m", "usageledger.cli", "keys", "create", *arguments, "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def caller(gateway: RunningGateway, key: str) -> Call:
    def call(method: str, path: str, body: object = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.request(method, gateway.url + path, json=body, headers=headers, timeout=30)

    return call


def usage(account: str, source: str, id: str) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "type": "usage.recorded",
        "id": id,
        "source": source,
        "subject": account,
        "time": datetime.now(UTC).isoformat(),
        "data": USE,
    }


def test_a_stolen_key_of_one_region_charges_and_reads_no_other(
    gateway: RunningGateway, region: str
) -> None:
    scopes = [word for scope in ("report", "check", "hold", "read") for word in ("--scope", scope)]
    bounds = ("--source", "/render", "--account", f"{region}*")
    call = caller(gateway, key_of_cli(gateway, "render", *scopes, *bounds)["key"])
    inside, outside = f"/v1/accounts/{region}1", "/v1/accounts/somebody_else"
    for method, path, body in [
        ("POST", "/check", USE),
        ("POST", "/holds", {"id": "gen_1", **USE}),
        ("GET", "/holds/gen_1", None),
        ("POST", "/holds/gen_1/release", None),
        ("GET", "/meter", None),
        ("GET", "/charges", None),
        ("POST", "/tokens", {"scopes": ["read"]}),
    ]:
        refused = call(method, outside + path, body)
        assert (refused.status_code, refused.json()["code"]) == (403, "outside_key_bounds")
        assert call(method, inside + path, body).is_success, path
    batch = [
        usage(f"{region}1", "/render", "gen_1"),
        usage("somebody_else", "/render", "gen_2"),
        usage(f"{region}1", "/billing", "gen_3"),
    ]
    answer = call("POST", "/v1/events", batch)
    assert answer.status_code == 207
    codes = [item.get("code") for item in answer.json()["items"]]
    assert codes == [None, "outside_key_bounds", "outside_key_bounds"]


def test_a_key_with_a_quota_reports_no_more_events_a_second(
    gateway: RunningGateway, region: str
) -> None:
    """Two windows at most are touched by these requests of one event each."""
    made = key_of_cli(gateway, "render", "--scope", "report", "--events-per-second", "2")
    call = caller(gateway, made["key"])
    batch = [usage(f"{region}1", "/render", f"gen_{number}") for number in range(3)]
    assert call("POST", "/v1/events", batch).status_code == 413
    answers = [call("POST", "/v1/events", batch[:2])]
    while answers[-1].status_code == 200 and len(answers) < 500:
        answers.append(call("POST", "/v1/events", batch[:2]))
    assert answers[-1].status_code == 429
    assert answers[-1].headers["retry-after"] == "1"


def test_a_hold_is_released_by_the_key_that_placed_it_or_an_admin(
    gateway: RunningGateway, region: str
) -> None:
    """Another service freed the credits of a generation that was running."""
    path = f"/v1/accounts/{region}1/holds"
    scopes = ("--scope", "hold", "--scope", "read")
    holder = caller(gateway, key_of_cli(gateway, "render", *scopes)["key"])
    other = caller(gateway, key_of_cli(gateway, "music", *scopes)["key"])
    admin = caller(gateway, gateway.key)
    for number, frees in enumerate((holder, admin)):
        assert holder("POST", path, {"id": f"gen_{number}", **USE}).status_code == 201
        refused = other("POST", f"{path}/gen_{number}/release")
        assert (refused.status_code, refused.json()["code"]) == (403, "not_the_holder")
        assert other("GET", f"{path}/gen_{number}").json()["state"] == "open"
        freed = frees("POST", f"{path}/gen_{number}/release")
        assert (freed.status_code, freed.json()["state"]) == (200, "released")


def test_a_browsers_token_releases_its_own_holds_and_none_of_its_backends(
    gateway: RunningGateway, region: str
) -> None:
    account = f"{region}1"
    path = f"/v1/accounts/{account}/holds"
    key = key_of_cli(gateway, "render", "--scope", "hold", "--scope", "read")["key"]
    backend = caller(gateway, key)
    browser = caller(gateway, mint_account_token(key, account, scopes=["hold"]))
    assert backend("POST", path, {"id": "of backend", **USE}).status_code == 201
    assert browser("POST", f"{path}/of%20backend/release").json()["code"] == "not_the_holder"
    for id, frees in (("one", browser), ("two", backend)):
        assert browser("POST", path, {"id": id, **USE}).status_code == 201
        assert frees("POST", f"{path}/{id}/release").json()["state"] == "released"


def test_the_hold_of_a_source_is_released_by_this_source_alone(
    gateway: RunningGateway, region: str
) -> None:
    def gate(source: str | None) -> UsageGate:
        addresses = gateway.addresses
        return UsageGate(
            kafka=addresses.kafka,
            redis_url=addresses.redis_url,
            prefix=addresses.prefix,
            source=source,
            on_unavailable="deny",
            timeout_s=10,
        )

    account = f"{region}1"
    with gate("/render") as render, gate("/music") as music, gate(None) as nameless:
        assert render.hold(account, "gen_1", "chat_action").allowed
        for other in (music, nameless):
            with pytest.raises(NotTheHolder, match="placed by another key or source"):
                other.release(account, "gen_1")
        key = key_of_cli(gateway, "video", "--scope", "hold")["key"]
        with (
            UsageGate(gateway=gateway.url, key=key, on_unavailable="deny", timeout_s=10) as http,
            pytest.raises(NotTheHolder, match="placed by another key or source"),
        ):
            http.release(account, "gen_1")
        assert render.release(account, "gen_1").state == "released"
        assert nameless.hold(account, "gen_2", "chat_action").allowed
        assert music.release(account, "gen_2").state == "released", "its holder is unknown"
