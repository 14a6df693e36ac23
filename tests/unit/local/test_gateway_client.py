"""The commands' client of a gateway: which gateway it asks, and how it reports a failure."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from usageledger.local.gateway_client import GatewayClient, GatewayFailed
from usageledger.runtime.settings import SettingsError

URL = "http://gateway.example"


def client(answer: Callable[[httpx.Request], httpx.Response]) -> GatewayClient:
    return GatewayClient(URL, "ulk_1", transport=httpx.MockTransport(answer))


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory without a stack, and no settings."""
    for name in ("USAGELEDGER_GATEWAY_URL", "USAGELEDGER_KEY", "USAGELEDGER_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_the_variables_name_a_gateway_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USAGELEDGER_GATEWAY_URL", URL)
    with pytest.raises(SettingsError, match="USAGELEDGER_KEY"):
        GatewayClient.find()
    monkeypatch.setenv("USAGELEDGER_KEY", "ulk_1")
    with GatewayClient.find() as found:
        assert found.url == URL


def test_a_directory_that_is_named_counts_more_than_the_variables(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("USAGELEDGER_GATEWAY_URL", URL)
    monkeypatch.setenv("USAGELEDGER_KEY", "ulk_1")
    with pytest.raises(SettingsError, match="no running stack in"):
        GatewayClient.find(tmp_path)


def test_what_a_gateway_says_is_told_in_its_words() -> None:
    problem = {
        "title": "There is no such thing",
        "detail": "there is no webhook endpoint 'x'",
        "code": "not_found",
    }
    with (
        client(lambda request: httpx.Response(404, json=problem)) as gateway,
        pytest.raises(GatewayFailed) as failed,
    ):
        gateway.remove_webhook("x")
    assert str(failed.value) == "There is no such thing: there is no webhook endpoint 'x'"


@pytest.mark.parametrize("content", [b"<html>", b"[]", b'{"error":1}'])
def test_what_is_no_gateway_is_told_as_such(content: bytes) -> None:
    with (
        client(lambda request: httpx.Response(502, content=content)) as gateway,
        pytest.raises(GatewayFailed, match="is that a usageledger"),
    ):
        gateway.keys()


def test_an_id_stays_one_segment_of_a_path() -> None:
    asked: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.raw_path)
        return httpx.Response(204)

    with client(answer) as gateway:
        gateway.revoke_key("../keys?x")
    assert asked == [b"/v1/keys/..%2Fkeys%3Fx/revoke"]


def test_an_endpoint_is_asked_for_once_more_under_the_same_key_if_the_answer_is_lost() -> None:
    keys: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        if len(keys) == 1:
            raise httpx.ReadError("the connection was reset")
        return httpx.Response(201, json={"id": "wh_1", "secret": "whsec_1"})

    with client(answer) as gateway:
        assert gateway.add_webhook("https://app.example", (), (), "")["id"] == "wh_1"
    assert len(keys) == 2
    assert keys[0] == keys[1]


def test_a_gateway_that_does_not_answer_is_named() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with client(answer) as gateway, pytest.raises(GatewayFailed, match=URL):
        gateway.webhooks()


def test_lists_are_read_to_their_end() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        cursor = int(request.url.params.get("cursor", "5"))
        page = {
            "items": [{"id": f"msg_{cursor}"}],
            "next_cursor": str(cursor - 1) if cursor > 3 else None,
        }
        return httpx.Response(200, content=json.dumps(page))

    with client(answer) as gateway:
        assert [found["id"] for found in gateway.deliveries("wh_1", "dead")] == [
            "msg_5",
            "msg_4",
            "msg_3",
        ]
